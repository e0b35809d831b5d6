"""Caffemodels of every age, read as Caffe reads them; what we write, Caffe loads."""

import math
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prototxt_gen.core import wire
from prototxt_gen.core.caffemodel import parse_weights, read_weights, with_weights, write_weights
from prototxt_gen.core.caffemodel_blobs import MAX_SIZE
from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model, loads
from prototxt_gen.core.upgrade import upgrade_net

NetParameter = DEFAULT_DIALECT.message("NetParameter")


def parse(text):
    return parse_weights(loads(text, NetParameter).SerializeToString())


def model_of(**blobs):
    net = NetParameter()
    for name in blobs:
        net.layer.add(name=name, type="InnerProduct")
    return Model(net, blobs={name: (array,) for name, array in blobs.items()})


def same_blobs(a, b):
    def facts(blobs):
        return {name: [(one.dtype, one.shape, one.tobytes()) for one in some] for name, some in blobs.items()}

    return facts(a) == facts(b)


V0 = """input: "x" layers { layer { name: "fc" type: "innerproduct" num_output: 2
    blobs { num: 1 channels: 1 height: 2 width: 3 data: [1, 2, 3, 4, 5, 6] }
    blobs { num: 1 channels: 1 height: 1 width: 2 data: [7, 8] } } bottom: "x" top: "y" }"""
V1 = """input: "x" layers { name: "fc" type: INNER_PRODUCT
    blobs { num: 1 channels: 1 height: 2 width: 3 data: [1, 2, 3, 4, 5, 6] }
    blobs { num: 1 channels: 1 height: 1 width: 2 data: [7, 8] } bottom: "x" top: "y"
    inner_product_param { num_output: 2 } }"""
V2 = """input: "x" layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y"
    blobs { shape { dim: [2, 3] } data: [1, 2, 3, 4, 5, 6] } blobs { shape { dim: 2 } data: [7, 8] }
    inner_product_param { num_output: 2 } }"""


@pytest.mark.parametrize("text", [V0, V1, V2], ids=["V0", "V1", "V2"])
def test_all_ages_are_one_model(text):
    model = parse(text)
    weights, bias = model.blobs["fc"]
    assert weights.tolist() == [[1, 2, 3], [4, 5, 6]] and bias.tolist() == [7, 8]
    assert weights.dtype == bias.dtype == np.float32
    net = upgrade_net(model.net).message
    assert net == upgrade_net(parse(V2).net).message and not any(layer.blobs for layer in net.layer)


@pytest.mark.parametrize("kind, index, sizes, shape", [
    ("CONVOLUTION", 0, (1, 1, 1, 6), (1, 1, 1, 6)),
    ("CONVOLUTION", 0, (3, 2, 1, 1), (3, 2, 1, 1)),
    ("CONVOLUTION", 1, (1, 1, 1, 6), (6,)),
    ("DECONVOLUTION", 0, (1, 1, 2, 3), (1, 1, 2, 3)),
    ("INNER_PRODUCT", 0, (1, 1, 2, 3), (2, 3)),
    ("INNER_PRODUCT", 0, (1, 1, 1, 6), (1, 6)),
    ("INNER_PRODUCT", 0, (2, 3, 1, 1), (2, 3, 1, 1)),
    ("NONE", 0, (1, 1, 1, 6), (6,)),
    ("NONE", 0, (1, 6, 1, 1), (1, 6, 1, 1)),
])
def test_old_sizes_become_shapes(kind, index, sizes, shape):
    first = "blobs { shape { dim: 1 } data: 0 }" * index
    blob = "num: {} channels: {} height: {} width: {}".format(*sizes)
    model = parse(f'layers {{ name: "x" type: {kind} {first} blobs {{ {blob} data: [1, 2, 3, 4, 5, 6] }} }}')
    assert model.blobs["x"][index].shape == shape


def test_bn_keeps_four_old_sizes():
    blob = "blobs { num: 1 channels: 1 height: 1 width: 1 data: 1 }"
    assert [one.shape for one in parse(f'layer {{ name: "bn" type: "BN" {blob * 4} }}').blobs["bn"]] == [(1,) * 4] * 4


def unpacked(values, number, kind, raw):
    return b"".join(wire.encode_tag(number, kind) + np.array(value, raw).tobytes() for value in values)


def test_packed_unpacked_and_mixed_values():
    floats, doubles = [1, -2, 3.5] * 50, [1e300, -0.0, math.nan]
    shape = wire.encode_head(7, 3) + wire.encode_tag(1, wire.VARINT) + wire.encode_varint(150)
    packed = wire.encode_head(5, 400) + np.array(floats[:100], "<f4").tobytes()
    rest = unpacked(floats[100:], 5, wire.FIXED32, "<f4")
    diff = unpacked(floats, 6, wire.FIXED32, "<f4") + wire.encode_head(9, 8) + bytes(8)
    small = wire.encode_head(7, 2) + wire.encode_tag(1, wire.VARINT) + b"\3"
    wide = small + unpacked(doubles, 8, wire.FIXED64, "<f8") + unpacked([9, 9], 5, wire.FIXED32, "<f4")
    layer = wire.encode_head(1, 1) + b"x"
    for blob in (shape + packed + diff + rest, wide):
        layer += wire.encode_head(7, len(blob)) + blob
    first, second = parse_weights(wire.encode_head(100, len(layer)) + layer).blobs["x"]
    assert first.tolist() == floats and first.dtype == np.float32
    assert second.tobytes() == np.array(doubles).tobytes() and second.dtype == np.float64


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([5, 6, 8]), st.booleans(), st.integers(0, 300)), max_size=5))
def test_values_in_any_pieces_are_those_that_protobuf_reads(pieces):
    blob = b""
    for field, packed, count in pieces:
        raw, kind = ("<f8", wire.FIXED64) if field == 8 else ("<f4", wire.FIXED32)
        values = np.arange(count, dtype=raw)
        content = values.tobytes()
        blob += wire.encode_head(field, len(content)) + content if packed else unpacked(values, field, kind, raw)
    true = DEFAULT_DIALECT.message("BlobProto").FromString(blob)
    values = list(true.double_data or true.data)
    if not values:
        return
    shape = wire.encode_varint(len(values))
    blob += wire.encode_head(7, 2 + len(shape)) + wire.encode_head(1, len(shape)) + shape
    layer = wire.encode_head(7, len(blob)) + blob
    assert parse_weights(wire.encode_head(100, len(layer)) + layer).blobs[""][0].tolist() == values


def test_four_old_sizes_win_over_a_shape_and_of_one_name_the_last_layer():
    blob = "blobs { num: 1 channels: 1 height: 1 width: 2 shape { dim: 7 } data: [1, %d] }"
    model = parse("".join(f'layer {{ name: "x" {blob % number} }}' for number in (2, 3)) + 'layer { name: "x" }')
    assert [one.tolist() for one in model.blobs["x"]] == [[1, 3]]


@pytest.mark.parametrize("blob, what", [
    ("shape { dim: 3 } data: 1", "blob 0 of layer 'x' holds 1 values, and its shape says 3"),
    ("data: [1, 2]", "holds 2 values, and its shape says 1"),
    ("shape { dim: -1 } data: 1", "blob 0 of layer 'x' has no shape of Caffe's: -1"),
    ("num: -1 channels: -1 height: 1 width: 1 data: 1", "has no shape of Caffe's: -1x-1x1x1"),
    ("shape { dim: [1152921504606846976, 1152921504606846976] } data: 1", "has no shape of Caffe's"),
    ("shape { dim: [2147483647, 2147483647, 4] }", "holds 0 values, and its shape says 18446744056529682436"),
    ("shape { dim: [0, 2147483647] }", "holds no values: its shape is 0x2147483647"),
    ("shape { " + "dim: 1 " * 33 + " } data: 1", "has no shape of Caffe's: 1x1"),
    ("diff: 1", "holds 0 values"),
])
def test_blobs_that_are_not_what_they_say(blob, what):
    for text in (f'layer {{ name: "x" blobs {{ {blob} }} }}', f'layers {{ name: "x" blobs {{ {blob} }} }}'):
        with pytest.raises(Error) as caught:
            parse(text)
        assert what in str(caught.value)


def test_values_in_a_field_of_another_fork():
    blob = wire.encode_head(12, 4) + bytes(4)
    layer = wire.encode_head(1, 1) + b"x" + wire.encode_head(7, len(blob)) + blob
    with pytest.raises(Error, match="holds its values in field 12 of BlobProto, as another fork writes it"):
        parse_weights(wire.encode_head(100, len(layer)) + layer)


shapes = st.lists(st.integers(1, 4), max_size=5).map(tuple)
blobs = arrays.arrays(st.sampled_from([np.float32, np.float64]), shapes)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), st.lists(blobs, min_size=1, max_size=3).map(tuple), min_size=1))
def test_writing_then_reading_gives_the_model_back(tmp_path_factory, given_blobs):
    net = NetParameter(name="n")
    for name in given_blobs:
        net.layer.add(name=name, type="InnerProduct").inner_product_param.num_output = 2
    path = str(tmp_path_factory.getbasetemp() / "round.caffemodel")
    write_weights(path, Model(net, blobs=given_blobs))
    again = read_weights(path)
    assert again.net == net and same_blobs(again.blobs, given_blobs)
    with open(path, "rb") as file:
        whole = NetParameter.FromString(file.read())
    for layer in whole.layer:
        for blob, array in zip(layer.blobs, given_blobs[layer.name]):
            assert np.array(blob.double_data or blob.data, array.dtype).tobytes() == array.tobytes()
            assert tuple(blob.shape.dim) == array.shape


def test_the_v1_layout_is_what_caffe_of_2014_reads(tmp_path):
    text = """name: "old" layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" include { phase: TEST }
        param { name: "w" lr_mult: 2 } param { decay_mult: 0 share_mode: PERMISSIVE }
        inner_product_param { num_output: 2 } }
        layer { name: "bn" type: "BN" bottom: "y" top: "y" }"""
    fc, bn = (np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([7, 8])), (np.ones((1, 2, 1, 1), np.float32),) * 4
    path = str(tmp_path / "old.caffemodel")
    write_weights(path, Model(loads(text, NetParameter), blobs=dict(fc=fc, bn=bn)), "v1")
    whole = NetParameter.FromString((tmp_path / "old.caffemodel").read_bytes())
    first = whole.layers[0]
    assert not whole.layer and [first.blobs[0].num, first.blobs[0].height, first.blobs[0].width] == [1, 2, 3]
    assert not first.blobs[0].HasField("shape") and list(first.blobs_lr) == [2, 1] and list(first.param) == ["w", ""]
    again = read_weights(path)
    assert [one.shape for one in again.blobs["fc"]] == [(2, 3), (2,)]
    upgraded = upgrade_net(again.net).message
    assert upgraded.layer[0].inner_product_param.num_output == 2 and upgraded.layer[0].param[0].name == "w"
    assert upgraded.layer[0].param[1].share_mode == 1 and upgraded.layer[0].include[0].phase == 1
    # V1 has no BN: the layer keeps its name and its blobs.
    assert (upgraded.layer[1].name, upgraded.layer[1].type) == ("bn", "") and len(again.blobs["bn"]) == 4
    with pytest.raises(Error, match="blob 0 of layer 'x' has 5 axes: 1x1x1x1x1"):
        write_weights(path, model_of(x=np.ones((1,) * 5, np.float32)), "v1")
    assert same_blobs(read_weights(path).blobs, again.blobs) and os.listdir(tmp_path) == ["old.caffemodel"]


@pytest.mark.parametrize("model, what", [
    (model_of(x=np.broadcast_to(np.float32(0), (MAX_SIZE // 8, 1)), y=np.broadcast_to(0.0, (MAX_SIZE // 8, 1))),
     "would have 32[0-9]* bytes, and a caffemodel ends at 2 GiB"),
    (model_of(x=np.zeros(3, np.float16)), "blob 0 of layer 'x' is of type float16"),
    (model_of(x=np.zeros((0, 3), np.float32)), "blob 0 of layer 'x' holds no values: its shape is 0x3"),
    (replace(model_of(), blobs={"z": (np.zeros(1),)}), "the net has no layer 'z' for its weights"),
    (Model(NetParameter(layer=[dict(name="c", clip_param=dict(min=1))])), "layer 'c' lacks clip_param.max"),
])
def test_what_cannot_be_written_leaves_no_file(tmp_path, model, what):
    with pytest.raises(Error, match=what):
        write_weights(str(tmp_path / "x"), model)
    assert not os.listdir(tmp_path)


def test_a_failure_on_the_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(Error, match="x: cannot be written: File too large"):
            write_weights(str(path), model_of(x=np.zeros(100_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_with_weights_matches_names():
    net = loads('layer { name: "a" } layer { name: "b" } layer { name: "c" }', NetParameter)
    weights = model_of(b=np.zeros(1), d=np.zeros(2), a=np.zeros(3))
    model, notes = with_weights(Model(net), weights)
    assert set(model.blobs) == {"a", "b"} and model.blobs["a"][0] is weights.blobs["a"][0]
    assert notes == ("weights of 'd' left out: the net has no such layer",)
    with pytest.raises(Error, match="w: holds weights for no layer of the net\nhint: it has x"):
        with_weights(Model(net), model_of(x=np.zeros(1)), "w")
    with pytest.raises(Error, match="holds no weights"):
        with_weights(Model(net), Model(net))


@pytest.mark.parametrize("text", [V0, V1, V2], ids=["V0", "V1", "V2"])
def test_weights_of_any_age_go_into_nets_of_any_age(text):
    net = replace(parse(text), blobs={})
    for weights in map(parse, (V0, V1, V2)):
        assert same_blobs(with_weights(net, weights)[0].blobs, weights.blobs)


def test_shared_parameters_stand_with_their_owner():
    spec = 'param { name: "w" } param { name: "b" }'
    net = loads(f'layer {{ name: "a" {spec} }} layer {{ name: "p" {spec} }}', NetParameter)
    weights = replace(model_of(a=np.zeros(1)), blobs={"a": (np.zeros(1), np.zeros(2))})
    model, _ = with_weights(Model(net), weights)
    assert all(x is y for x, y in zip(model.blobs["p"], model.blobs["a"]))


def test_the_wrong_dialect_is_named_with_the_right_one():
    bvlc = DIALECTS["bvlc"].message("NetParameter")()
    bvlc.layer.add(name="s", type="Swish").swish_param.beta = 2
    data = bvlc.SerializeToString()
    with pytest.raises(Error) as caught:
        parse_weights(data, DEFAULT_DIALECT, "f")
    assert str(caught.value) == ("f: is not of dialect 'attention', "
                                 "where layers of type 'Swish' have a field interp_param\n"
                                 "hint: it reads as bvlc: --dialect bvlc")
    assert parse_weights(data, DIALECTS["bvlc"]).net.layer[0].swish_param.beta == 2
    ours = NetParameter(layer=[dict(name="i", type="Interp", interp_param=dict(height=5))])
    with pytest.raises(Error, match="it reads as attention: --dialect attention"):
        parse_weights(ours.SerializeToString(), DIALECTS["bvlc"])
    happynear = DIALECTS["happynear"].message("NetParameter")()
    happynear.layer.add(name="b", type="BN").bn_param.frozen = True
    with pytest.raises(Error, match="layers of type 'BN' have a field 200\nhint: it reads as happynear"):
        parse_weights(happynear.SerializeToString())
    # A fork that nobody here knows is read as well as it can be.
    layer = wire.encode_head(2, 7) + b"Permute" + wire.encode_head(202, 2) + b"\x08\x01"
    assert parse_weights(wire.encode_head(100, len(layer)) + layer).net.layer[0].type == "Permute"


MEASURE = """
import re, sys
import numpy
from prototxt_gen.core.caffemodel import read_weights, write_weights
def peak():
    # ru_maxrss would begin with the peak of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
start = peak()
write_weights(sys.argv[2], read_weights(sys.argv[1]))
print(peak() - start)
"""


@pytest.mark.parametrize("layout", ["current", "v1"])
def test_reading_and_writing_needs_three_times_the_file_at_most(tmp_path, layout):
    values = np.random.RandomState(0).standard_normal((16, 2**20)).astype(np.float32)
    path = tmp_path / "w"
    write_weights(str(path), model_of(**{f"l{number}": row for number, row in enumerate(values)}), layout)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path), str(tmp_path / "again")], check=True,
                          capture_output=True, text=True)
    # The mapped file and the arrays are twice its size.
    assert 1 < int(done.stdout) / path.stat().st_size < 2.5


def test_hdf5_without_h5py(tmp_path, monkeypatch):
    path = tmp_path / "w.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(Error) as caught:
        read_weights(str(path))
    assert "h5py" in caught.value.what and caught.value.hint == "pip install 'prototxt-gen[hdf5]'"
