"""to-python: the script of any net prints an equal net, and reads as one would write it by hand."""

import contextlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model, dumps, loads, read_model
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.export.to_python import to_python
from prototxt_gen.export.to_python_values import float32
from prototxt_gen.spec.netspec import param_fields

ROOT = Path(__file__).resolve().parents[2]
NetParameter = DEFAULT_DIALECT.message("NetParameter")


def is_net(path):
    try:
        read_model(str(path))
    except Error:
        return False
    return "solver" not in path.name


FILES = [
    *sorted(ROOT.glob("generated/*/*.prototxt")),
    *sorted(ROOT.glob("tests/spec/nets/*.prototxt")),
    *sorted(ROOT.glob("tests/core/old_nets/*.prototxt")),
    *sorted(ROOT.glob("tests/check/lint/**/*.prototxt")),
]
NETS = [path for path in FILES if is_net(path)]


def run(script):
    """Run a script here and return what it prints."""
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.simplefilter("error")
        exec(compile(script, "script", "exec"), {})
    return printed.getvalue()


def script_of(text):
    return to_python(Model(loads(text, NetParameter)))


def layer_lines(text):
    """The statements of a script's layers."""
    return [line for line in script_of(text).splitlines() if line.startswith("n") and " = L." in line]


def test_there_are_nets_to_test():
    assert len(NETS) > 60


@pytest.mark.parametrize("path", NETS, ids=lambda path: "/".join(path.parts[-3:]))
def test_prints_the_file_and_keeps_the_margin(path):
    model = read_model(str(path))
    script = to_python(model)
    assert run(script) == dumps(upgrade_net(model.net).message)
    assert max(map(len, script.splitlines())) <= 120


def test_runs_in_a_process_of_its_own(tmp_path):
    net = read_model(str(ROOT / "tests/core/old_nets/v1_caffenet_train_val.prototxt")).net
    net.name = "Größe \U0001f600"
    path = tmp_path / "net.py"
    path.write_text(to_python(Model(net)), encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "error", str(path)], capture_output=True, check=True,
                          env={**os.environ, "PYTHONUTF8": "1"})
    assert loads(done.stdout.decode(), NetParameter) == upgrade_net(net).message


def test_reads_as_one_would_write_it():
    assert script_of("""
        name: "Small"
        layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
                data_param { source: "train_lmdb" batch_size: 8 backend: LMDB } }
        layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
                data_param { source: "test_lmdb" batch_size: 5 backend: LMDB } }
        layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
                convolution_param { num_output: 4 kernel_size: 3 kernel_size: 5 weight_filler { type: "xavier" } } }
        layer { name: "conv1/relu" type: "ReLU" bottom: "conv1" top: "conv1" relu_param { negative_slope: 0.1 } }
        layer { name: "fc" type: "InnerProduct" bottom: "conv1" top: "scores" inner_product_param { num_output: 10 } }
        layer { name: "silence" type: "Silence" bottom: "label" }
        """) == """\
from prototxt_gen import NetSpec, layers as L, params as P
from prototxt_gen.core.io import dumps

TRAIN, TEST = 0, 1

n = NetSpec()
n.data, n.label = L.Data(source="train_lmdb", batch_size=8, backend=P.Data.LMDB, include=dict(phase=TRAIN), ntop=2)
n.data_test = L.Data(
    source="test_lmdb", batch_size=5, backend=P.Data.LMDB, include=dict(phase=TEST), top=["data", "label"], ntop=0,
    name="data")
n.conv1 = L.Convolution(n.data, num_output=4, kernel_size=[3, 5], weight_filler=dict(type="xavier"))
n["conv1/relu"] = L.ReLU(n.conv1, negative_slope=0.1, in_place=True)
n.scores = L.InnerProduct(n["conv1/relu"], num_output=10, name="fc")
n.silence = L.Silence(n.label, ntop=0)

net = n.to_proto()
net.name = "Small"
print(dumps(net), end="")
"""


@pytest.mark.parametrize("text, lines", [
    ('layer { name: "a" type: "ReLU" bottom: "x" top: "y" }', ['n.y = L.ReLU(bottom="x", name="a")']),
    ('layer { name: "a" type: "Split" top: "a" top: "b" }', ['n.a, n.b = L.Split(ntop=2)']),
    ('layer { name: "a" type: "Input" top: "tops" } layer { name: "class" type: "ReLU" bottom: "tops" top: "_c" }',
     ['n["tops"] = L.Input(name="a")', 'n["_c"] = L.ReLU(n["tops"], name="class")']),
    ('layer { name: "a" type: "My-Own" top: "a" }', ['n.a = L.Layer(type="My-Own")']),
    ('layer { name: "a" type: "Deconvolution" top: "a" convolution_param { num_output: 2 } }',
     ['n.a = L.Deconvolution(convolution_param=dict(num_output=2))']),
    ('layer { name: "a" type: "ReLU" top: "a" relu_param { } }', ['n.a = L.ReLU(relu_param=dict())']),
    ('layer { name: "a" type: "Input" top: "a" } layer { name: "a" type: "Power" bottom: "a" top: "a" }',
     ['n.a = L.Input()', 'n.a_2 = L.Power(n.a, in_place=True, name="a")']),
    ('layer { name: "a" type: "Input" top: "a" } layer { name: "b" type: "Bias" bottom: "a" bottom: "a" top: "a" }',
     ['n.a = L.Input()', 'n.b = L.Bias(n.a, n.a, top="a", ntop=0)']),
    ('layer { name: "it\'s" type: "ReLU" top: "\\"q\\"" top: "\\n" }',
     ["""n['"q"'], n["\\n"] = L.ReLU(ntop=2, name="it's")"""]),
    ('layer { name: "a" type: "X" loss_weight: 1e-5 loss_weight: inf loss_weight: -0.0 loss_weight: 3e7 }',
     ['n.a = L.X(loss_weight=[1e-05, float("inf"), -0.0, 30000000.0], ntop=0)']),
    ('layer { type: "ReLU" } layer { name: "" type: "ReLU" }',
     ['n.relu = L.ReLU(ntop=0)', 'n.relu_2 = L.ReLU(ntop=0, name="")']),
])
def test_corners(text, lines):
    assert layer_lines(text) == lines
    assert loads(run(script_of(text)), NetParameter) == loads(text, NetParameter)


def test_pycaffe_runs_the_script_with_its_import_changed(run_caffe_python, tmp_path):
    """The words are pycaffe's own: only what prints is ours."""
    wanted = {}
    for path in [*ROOT.glob("tests/spec/nets/*.prototxt"), ROOT / "generated/attention56/train.prototxt"]:
        model = read_model(str(path))
        script = to_python(model).replace("from prototxt_gen import", "from caffe.net_spec import")
        script = script.replace("from prototxt_gen.core.io import dumps\n", "").replace("dumps(net)", "net")
        (tmp_path / f"{path.stem}.py").write_text(script)
        wanted[path.stem] = upgrade_net(model.net).message
    run_caffe_python(f"""
        import contextlib, pathlib
        for path in pathlib.Path({str(tmp_path)!r}).glob("*.py"):
            with open(path.with_suffix(".prototxt"), "w") as file, contextlib.redirect_stdout(file):
                exec(compile(path.read_text(), str(path), "exec"), {{}})
        """)
    assert len(wanted) > 5
    for name, net in wanted.items():
        assert loads((tmp_path / f"{name}.prototxt").read_text(), NetParameter) == net


REPEATED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
""" + "".join(f"""
layer {{ name: "{name}/conv" type: "Convolution" bottom: "{bottom}" top: "{name}/conv"
        convolution_param {{ num_output: {outputs} kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "{name}/relu" type: "ReLU" bottom: "{name}/conv" top: "{name}/conv" }}
layer {{ name: "{name}" type: "Eltwise" bottom: "{name}/conv" bottom: "{bottom}" top: "{name}" }}
""" for name, bottom, outputs in zip("abcdefg", ["data", *"abcdef"], [3, 3, 4, 5, 5, 6, 7]))


def test_repeated_blocks_become_a_function():
    script = script_of(REPEATED)
    assert """

def a_block(name, bottom, num_output):
    n[name + "/conv"] = L.Convolution(
        bottom, num_output=num_output, pad=1, kernel_size=3, weight_filler=dict(type="xavier"))
    n[name + "/relu"] = L.ReLU(n[name + "/conv"], in_place=True)
    n[name] = L.Eltwise(n[name + "/relu"], bottom)


n = NetSpec()
n.data = L.Input(shape=dict(dim=[1, 3, 8, 8]))
a_block("a", n.data, num_output=3)
a_block("b", n.a, num_output=3)
a_block("c", n.b, num_output=4)
a_block("d", n.c, num_output=5)
a_block("e", n.d, num_output=5)
a_block("f", n.e, num_output=6)
a_block("g", n.f, num_output=7)

net""" in script
    assert loads(run(script), NetParameter) == loads(REPEATED, NetParameter)


@pytest.mark.parametrize("old, new", [
    ('bottom: "b" top: "c/conv"', 'bottom: "a" top: "c/conv"'),
    ('name: "c/conv" type: "Convolution"', 'name: "c/conv" type: "Convolution" phase: TEST'),
    ('name: "c/relu" type: "ReLU"', 'name: "c/relu" type: "TanH"'),
    ('name: "c/relu"', 'name: "c/act"'),
])
def test_a_block_that_differs_is_written_out(old, new):
    text = REPEATED.replace(old, new)
    script = script_of(text)
    assert text != REPEATED and 'a_block("d", n.c, num_output=5)' in script and 'n.c = L.Eltwise' in script
    assert loads(run(script), NetParameter) == loads(text, NetParameter)


def test_attention92_takes_a_seventh_of_the_lines():
    lines = to_python(read_model(str(ROOT / "generated/attention92/train.prototxt"))).splitlines()
    assert len(lines) < 1700 / 7  # 1700 with a statement for every layer
    assert 'attentionc_block("AttentionC_2", n["AttentionC_1/bn/relu"], n.AttentionC_1)' in lines


def test_what_is_no_layer_is_set_on_the_message():
    text = """
        name: "N" force_backward: false debug_info: true state { phase: TRAIN level: 2 stage: "a" stage: "b" }
        input_shape { dim: 1 dim: 3 } input_shape { } layer { top: "a" } layer { type: "ReLU" } layer { name: "c" }"""
    script = script_of(text)
    assert 'net.state.stage.extend(["a", "b"])' in script and "net.state.phase = TRAIN" in script
    assert "net.force_backward = False" in script
    assert loads(run(script), NetParameter) == loads(text, NetParameter)
    assert loads(run(script_of("state { }")), NetParameter) == loads("state { }", NetParameter)
    assert run(script_of("")) == ""


def test_other_dialects():
    dialect = DIALECTS["happynear"]
    net = loads('layer { name: "a" type: "BN" top: "a" bn_param { frozen: true } }', dialect.message("NetParameter"))
    script = to_python(Model(net, dialect))
    assert 'n = NetSpec(DIALECTS["happynear"])' in script and "n.a = L.BN(frozen=True)" in script
    assert run(script) == dumps(net)


def test_strings_that_no_prototxt_can_hold_are_refused():
    net = NetParameter.FromString(b"\x0a\x02\xff\xfe")
    with pytest.raises(Error, match="is not UTF-8"):
        to_python(Model(net))


def test_keywords_of_layers_reach_the_right_message():
    """No field of a type's own message has a name that NetSpec reads otherwise, in any dialect."""
    for dialect in DIALECTS.values():
        fields = dialect.message("LayerParameter").DESCRIPTOR.fields_by_name
        for own in param_fields(dialect.name).values():
            for name in fields[own].message_type.fields_by_name:
                assert name not in fields and name not in ("ntop", "in_place") and not name.endswith("param"), name


@given(st.floats(width=32, allow_nan=False))
def test_floats_are_the_shortest_that_are_exact(value):
    layer = DEFAULT_DIALECT.message("LayerParameter")(loss_weight=[value])
    source = float32(layer.loss_weight[0])
    again = type(layer)(loss_weight=[eval(source)])
    assert again.SerializeToString() == layer.SerializeToString()
    assert len(source) <= max(len(repr(value)), len('float("-inf")'))


names = st.sampled_from(["a", "b", "data", "a/b", "tops", "to_proto", "class", "ﬁ", ""]) | st.text(max_size=4)
types = st.sampled_from(sorted(param_fields(DEFAULT_DIALECT.name)) + ["None", "Layer", "__x", ""]) | names


def messages(descriptor, depth=0):
    """Random messages of a type as dicts of some of its fields."""
    def one(field):
        if field.message_type is not None:
            return messages(field.message_type, depth + 1)
        if field.enum_type is not None:
            return st.sampled_from([value.number for value in field.enum_type.values])
        if field.name in ("top", "bottom", "name"):
            return names
        if field.name == "type" and descriptor.name == "LayerParameter":
            return types
        low, high = {"int32": (-2**31, 2**31 - 1), "int64": (-2**63, 2**63 - 1)}.get(kind(field), (0, 2**32 - 1))
        nan = st.just(float("nan"))  # text has one of them
        return {"string": names, "bool": st.booleans(), "float": st.floats(width=32, allow_nan=False) | nan,
                "double": st.floats(allow_nan=False) | nan}.get(kind(field), st.integers(low, high))

    fields = {}
    for field in descriptor.fields:
        if field.name != "layers":
            repeated = hasattr(getattr(DEFAULT_DIALECT.message(descriptor.name)(), field.name), "extend")
            limit = 6 if field.name == "layer" else 3
            fields[field.name] = st.lists(one(field), max_size=limit) if repeated else one(field)
    always = {name: fields.pop(name) for name in ("top", "bottom", "layer", "type") if name in fields and depth < 2}
    some = st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True) if fields else st.just([])
    return some.flatmap(lambda chosen: st.fixed_dictionaries({**always, **{name: fields[name] for name in chosen}}))


small = st.integers(0, 2)
layer_types = st.sampled_from(["ReLU", "Convolution", "Split"])
parts = st.lists(st.tuples(small, small, small, layer_types), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(parts, min_size=1, max_size=3), st.lists(st.tuples(small, small, names, small), max_size=12))
def test_repeated_parts_come_back(kinds, uses):
    """Nets of parts used again and again under changing names, with values that differ here and there."""
    net = NetParameter()
    for number, (which, value, name, form) in enumerate(uses):
        prefix = [f"part{number}", f"{name}/{number}", f"group/{number // 2}/sub{number % 2}"][form]
        for position, (bottom, top, option, type_name) in enumerate(kinds[which % len(kinds)]):
            tops = [f"{prefix}/{position}", f"{prefix}/{bottom}", prefix][top]
            made = [one for layer in net.layer for one in layer.top]
            layer = net.layer.add(name=f"{prefix}/{position}", type=type_name, top=[tops])
            layer.bottom.extend(made[-1 - bottom :][:1])
            if type_name == "Convolution":
                layer.convolution_param.num_output = value if option else 7
                layer.convolution_param.weight_filler.type = "xavier"
                layer.param.add(name=name if option == 2 else "shared")
    printed = loads(run(to_python(Model(net))), NetParameter)
    assert printed == net


def kind(field):
    return {field.TYPE_STRING: "string", field.TYPE_BOOL: "bool", field.TYPE_FLOAT: "float",
            field.TYPE_DOUBLE: "double", field.TYPE_INT32: "int32", field.TYPE_INT64: "int64"}.get(field.type, "uint32")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages(NetParameter.DESCRIPTOR))
def test_any_message_comes_back(fields):
    net = NetParameter(**fields)
    try:
        net = upgrade_net(net).message
    except Error:
        return
    printed = loads(run(to_python(Model(net))), NetParameter)
    assert printed.SerializePartialToString(deterministic=True) == net.SerializePartialToString(deterministic=True)
