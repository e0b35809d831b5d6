"""Whatever is in a file, the commands that read nets answer, or raise the one error type; in bounded time and memory."""

import re
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prototxt_gen.check.diff import compare
from prototxt_gen.check.diff_weights import compare_weights
from prototxt_gen.check.lint import Options, lint, registry
from prototxt_gen.check.paper import check_paper
from prototxt_gen.check.summary import summary_document, summary_rows
from prototxt_gen.cli.arguments import load_net
from prototxt_gen.core import wire
from prototxt_gen.core.caffemodel import read_weights, with_weights, write_weights
from prototxt_gen.core.caffemodel_dialect import upgrade_in_dialect
from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import Model, dumps, loads
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS, vary
from prototxt_gen.passes.dialect import dialect as change_dialect
from prototxt_gen.spec.infer import infer
from prototxt_gen.spec.memory import largest_batch, memory
from prototxt_gen.spec.weights import fit_weights

HERE = Path(__file__).parent
TEXTS = [path.read_text() for folder in ("spec/nets", "core/old_nets") for path in sorted((HERE / folder).glob("*.prototxt"))]
SMALL = build(vary(NETWORKS["attention56-cifar"], dict(modules="1,0,0", widths="4,4,4,4"))).net
TEXTS.append(dumps(SMALL))
HOSTILE = ["0", "-1", "1", "3", "2147483647", "-2147483648", "4294967295", "9223372036854775807", "1e38", "nan", "inf",
           "true", '""', '"x"', "TRAIN", "MAX"]
WORDS = sorted(set(re.findall(r"[a-zA-Z_][a-zA-Z_0-9]+", " ".join(TEXTS))))
# A hang, not slowness: no net here takes a tenth of it.
SECONDS = 20
BYTES_PER_BYTE, BYTES = 10, 64 * 2**20


@st.composite
def broken_texts(draw):
    """A real net with a few slips: lines lost, doubled or moved, numbers and words replaced, the end cut off."""
    lines = draw(st.sampled_from(TEXTS)).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["drop", "double", "swap", "number", "word", "cut"]))
        if kind == "drop" and len(lines) > 1:
            del lines[at]
        elif kind == "double":
            lines.insert(at, lines[at])
        elif kind == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == "number":
            lines[at] = re.sub(r"(?<=: )\S+", lambda _: draw(st.sampled_from(HOSTILE)), lines[at])
        elif kind == "word":
            lines[at] = re.sub(r"\w+", lambda _: draw(st.sampled_from(WORDS)), lines[at], count=1)
        else:
            lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
    return "\n".join(lines)


NUMBERS = [0, 1, -1, 2, 3, 7, 64, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, 0.5, -0.5, 1e38, float("nan"), float("inf")]


def fields_of(message):
    """Return every (message, field) of a net that holds something, however deep, on a stack of our own."""
    found, waiting = [], [message]
    while waiting:
        one = waiting.pop()
        for field, value in one.ListFields():
            found.append((one, field))
            if field.message_type:
                waiting += value if hasattr(value, "extend") else [value]
    return found


@st.composite
def broken_messages(draw):
    """A real net, old or new, with a few of its values replaced by others that the schema allows."""
    net = loads(draw(st.sampled_from(TEXTS)), DEFAULT_DIALECT.message("NetParameter"))
    for _ in range(draw(st.integers(1, 4))):
        message, field = draw(st.sampled_from(fields_of(net) or [(net, net.DESCRIPTOR.fields_by_name["name"])]))
        repeated = hasattr(getattr(message, field.name), "extend")
        action = draw(st.sampled_from(["clear", "set", "set", "again"]))
        if action == "clear":
            message.ClearField(field.name)
        elif field.message_type:
            if repeated and action == "again":
                getattr(message, field.name).add()
        else:
            kind = draw(st.sampled_from(WORDS if field.cpp_type == field.CPPTYPE_STRING else NUMBERS))
            value = draw(st.sampled_from([one.number for one in field.enum_type.values])) if field.enum_type else kind
            try:
                if repeated:
                    getattr(message, field.name).append(value)
                else:
                    setattr(message, field.name, value)
            except (TypeError, ValueError):
                continue
    return dumps(net)


def read_in_every_way(path):
    """Do what the commands do with a net file. Each may raise Error; anything else is a fault."""
    try:
        lint(path.read_text(), str(path), Options(registry.rules()))
    except (Error, UnicodeDecodeError):
        pass
    try:
        net = load_net(str(path), quiet=True).net
    except Error:
        return
    for phase in (TRAIN, TEST):
        try:
            info = infer(net, phase, given={"data": (2, 3, 32, 32)}, allow_unknown=True)
            summary_document(info)
            summary_rows(info, 1)
            memory(info)
            largest_batch(net, 2**30, phase, allow_unknown=True)
        except Error:
            pass
    for question in (lambda: check_paper(net, "attention56"), lambda: compare(SMALL, net), lambda: compare(net, SMALL)):
        try:
            question()
        except Error:
            pass


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(broken_messages(), broken_texts()))
def test_broken_nets(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "net.prototxt"
    path.write_text(text)
    start = time.process_time()
    read_in_every_way(path)
    assert time.process_time() - start < SECONDS


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_broken_binaries(tmp_path_factory, data):
    content = bytearray(SMALL.SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "net.caffemodel"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    read_in_every_way(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "net"
    path.write_bytes(content)
    read_in_every_way(path)


def weights_of(net):
    """A model with values for every blob of a net, as wide as they must be."""
    draw, blobs = np.random.RandomState(0), {}
    for layer in infer(net, TRAIN).layers:
        if layer.params:
            blobs[layer.name] = tuple(draw.standard_normal(one.shape).astype(np.float32) for one in layer.params)
    return Model(net, blobs=blobs)


@pytest.fixture(scope="module")
def caffemodels(tmp_path_factory):
    """The bytes of one small net with weights in each layout."""
    model, found = weights_of(loads(CONVNET, DEFAULT_DIALECT.message("NetParameter"))), []
    for layout in ("current", "v1"):
        path = tmp_path_factory.mktemp("weights") / layout
        write_weights(str(path), model, layout)
        found.append(path.read_bytes())
    return found


CONVNET = """name: "small" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 1, 4, 4] } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "bn" type: "BN" bottom: "conv" top: "bn" bn_param { frozen: true } }
layer { name: "up" type: "Interp" bottom: "bn" top: "up" interp_param { height: 5 width: 5 } }
layer { name: "ip" type: "InnerProduct" bottom: "up" top: "ip" inner_product_param { num_output: 3 } }"""
ODD_BYTES = [b"\x00", b"\xff" * 9 + b"\x01", b"\x80", b"\x7f", wire.encode_varint(2**31), wire.encode_varint(2**40),
             wire.encode_varint(2**60), wire.encode_head(100, 0), wire.encode_head(7, 0), wire.encode_head(5, 2**31)]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_broken_caffemodels(caffemodels, tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(caffemodels)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content)))
        end = data.draw(st.sampled_from([at, at + 1, at + 4, len(content)]))
        content[at:end] = data.draw(st.one_of(st.sampled_from(ODD_BYTES), st.binary(max_size=4)))
    path = tmp_path_factory.getbasetemp() / "broken.caffemodel"
    path.write_bytes(content)
    for dialect in DIALECTS.values():
        try:
            model = read_weights(str(path), dialect)
            model, _ = with_weights(Model(upgrade_in_dialect(model.net).message, dialect), model)
            write_weights(str(path) + ".again", model)
            again = read_weights(str(path) + ".again", dialect).blobs
        except Error as error:
            assert error.what
            continue
        assert {name: [one.tobytes() for one in arrays] for name, arrays in model.blobs.items()} == {
            name: [one.tobytes() for one in arrays] for name, arrays in again.items()}
        for question in (lambda: fit_weights(model), lambda: compare_weights(model, model),
                         lambda: change_dialect(model, to="happynear"), lambda: change_dialect(model, to="bvlc"),
                         lambda: change_dialect(model, to="attention", bn_statistic="variance")):
            try:
                question()
            except Error as error:
                assert error.what
    read_in_every_way(path)


HUGE = [
    'layer {{ name: "x" type: "SPP" bottom: "data" top: "x" spp_param {{ pyramid_height: {n} }} }}',
    'layer {{ name: "x" type: "Convolution" bottom: "data" top: "x" convolution_param {{ num_output: {n} kernel_size: 1 }} }}',
    'layer {{ name: "x" type: "Tile" bottom: "data" top: "x" tile_param {{ tiles: {n} }} }}',
    'layer {{ name: "x" type: "Interp" bottom: "data" top: "x" interp_param {{ zoom_factor: {n} }} }}',
    'layer {{ name: "x" type: "LSTM" bottom: "data" bottom: "data" top: "x" recurrent_param {{ num_output: {n} }} }}',
    'layer {{ name: "x" type: "Reshape" bottom: "data" top: "x" reshape_param {{ shape {{ dim: {n} }} axis: {n} }} }}',
    'layer {{ name: "x" type: "DummyData" top: "x" dummy_data_param {{ num: {n} channels: {n} height: {n} width: {n} }} }}',
]


@pytest.mark.parametrize("layer", HUGE)
@pytest.mark.parametrize("number", [64, 2**31 - 1, 2**32 - 1])
def test_huge_numbers_cost_no_memory(tmp_path, layer, number):
    path = tmp_path / "net.prototxt"
    path.write_text('input: "data" input_dim: 4 input_dim: 3 input_dim: 32 input_dim: 32\n' + layer.format(n=number))
    tracemalloc.start()
    try:
        start = time.process_time()
        read_in_every_way(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < SECONDS
    assert peak < BYTES + BYTES_PER_BYTE * path.stat().st_size
