"""Old nets and solvers come out as Caffe's own upgrade tools write them, message for message."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import dumps, loads
from prototxt_gen.core.upgrade import upgrade_net, upgrade_solver
from prototxt_gen.core.upgrade_tables import V0_FIELDS, V0_TRANSFORM, V0_TYPES, V1_TYPES

NetParameter = DEFAULT_DIALECT.message("NetParameter")
SolverParameter = DEFAULT_DIALECT.message("SolverParameter")
V1LayerParameter = DEFAULT_DIALECT.message("V1LayerParameter")
OLD_NETS = sorted((Path(__file__).parent / "old_nets").glob("*.prototxt"))

WITH_CAFFE = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def tool(caffe_build, tmp_path_factory):
    """Run one of Caffe's upgrade tools on a message; return what it writes, or None where it aborts."""
    folder = tmp_path_factory.mktemp("upgrade")

    def run(name, message):
        binary = name.endswith("binary")
        old, new = folder / "old", folder / "new"
        old.write_bytes(message.SerializeToString() if binary else dumps(message).encode())
        new.unlink(missing_ok=True)
        done = subprocess.run([str(caffe_build.binary.with_name(name)), str(old), str(new)], capture_output=True)
        if not new.exists():
            assert done.returncode < 0, done.stderr.decode()
            return None
        return type(message).FromString(new.read_bytes()) if binary else loads(new.read_text(), type(message))

    return run


@pytest.mark.parametrize("path", OLD_NETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["upgrade_net_proto_text", "upgrade_net_proto_binary"])
def test_files_of_each_age(path, name, tool):
    net = loads(path.read_text(), NetParameter)
    before = net.SerializeToString(deterministic=True)
    new, notes = upgrade_net(net)
    assert notes and new == tool(name, net)
    assert net.SerializeToString(deterministic=True) == before
    assert not new.layers and not new.input


def test_a_net_of_today_is_returned_as_it_is():
    net = loads('layer { name: "bn" type: "BatchNorm" param { lr_mult: 0 } }', NetParameter)
    assert upgrade_net(net).message is net and upgrade_net(net).notes == ()


def test_notes_name_the_ages_and_what_is_dropped():
    net = loads((Path(__file__).parent / "old_nets" / "v0_alexnet_train.prototxt").read_text(), NetParameter)
    assert upgrade_net(net).notes == (
        "upgraded from V0 layers",
        "layer 'odd' (tanh) has no use for 'stride': dropped",
        "layer 'odd' (tanh) has no use for 'local_size': dropped",
    )
    net = loads((Path(__file__).parent / "old_nets" / "input_fields_deploy.prototxt").read_text(), NetParameter)
    assert upgrade_net(net).notes == ("upgraded from input fields, BatchNorm with param blocks",)


@pytest.mark.parametrize("text, what", [
    ('layers { layer { name: "a" type: "convolution" } }', "layer 'a' (convolution): V0 nets have no such type"),
    ('layer { name: "a" } layers { name: "b" }', "the net has both 'layer' and 'layers'"),
    ('layers { layer { name: "a" type: "relu" } bottom: "x" }', "layer 'a' (relu) reads blob 'x', which no layer"),
    ('layers { layer { name: "d" type: "data" } top: "d" }'
     'layers { layer { name: "p" type: "padding" } bottom: "d" top: "p" }'
     'layers { layer { name: "a" type: "relu" } bottom: "p" }', "only conv and pool may"),
    ('layers { layer { name: "d" type: "data" } top: "d" }'
     'layers { layer { name: "p" type: "padding" } bottom: "d" top: "p" }'
     'layers { layer { name: "a" type: "conv" } bottom: "p" bottom: "d" }', "both take one bottom"),
])
def test_where_caffe_aborts_the_fault_is_named(text, what, tool):
    net = loads(text, NetParameter)
    assert tool("upgrade_net_proto_text", net) is None
    with pytest.raises(Error) as caught:
        upgrade_net(net, "old.prototxt")
    assert what in caught.value.what and caught.value.where == "old.prototxt"


@pytest.mark.parametrize("text", [
    'input: "a" input: "b" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1',
    'input: "a" input: "b" input_shape { dim: 1 }',
])
def test_an_input_without_its_sizes(text):
    with pytest.raises(Error, match="input 'b' has"):
        upgrade_net(loads(text, NetParameter))


@pytest.mark.parametrize("value", SolverParameter.DESCRIPTOR.enum_types_by_name["SolverType"].values_by_name)
def test_every_solver_type(value, tool):
    solver = loads(f'net: "n.prototxt" base_lr: 0.1 solver_type: {value}', SolverParameter)
    new, notes = upgrade_solver(solver)
    assert new == tool("upgrade_solver_proto_text", solver)
    assert notes and new.type and solver.HasField("solver_type")


def test_a_solver_of_today_and_one_of_both_ages(tool):
    today = loads('net: "n.prototxt" type: "Adam"', SolverParameter)
    assert upgrade_solver(today) == (today, ()) and tool("upgrade_solver_proto_text", today) == today
    both = loads('type: "Adam" solver_type: ADAM', SolverParameter)
    assert tool("upgrade_solver_proto_text", both) is None
    with pytest.raises(Error, match="both set"):
        upgrade_solver(both)


def test_the_tables_are_whole():
    """Every V1 type and every V0 option has its rule; new_num and new_channels were never read."""
    assert set(V1_TYPES) == set(V1LayerParameter.DESCRIPTOR.enum_types_by_name["LayerType"].values_by_name)
    v0 = {field.name for field in DEFAULT_DIALECT.message("V0LayerParameter").DESCRIPTOR.fields}
    elsewhere = {"name", "type", "blobs", "blobs_lr", "weight_decay", "hdf5_output_param", "new_num", "new_channels"}
    assert v0 == set(V0_FIELDS) | set(V0_TRANSFORM) | elsewhere


def values(field):
    """A strategy of Python values for one field."""
    if field.message_type is not None:
        one = messages(field.message_type)
    elif field.enum_type is not None:
        one = st.sampled_from([value.number for value in field.enum_type.values])
    else:
        one = {
            "str": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4),
            "bytes": st.binary(max_size=4),
            "bool": st.booleans(),
            "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
            "int": st.integers(0, 2**31 - 1),
        }[_PYTHON_TYPES.get(field.cpp_type, "int") if field.type != field.TYPE_BYTES else "bytes"]
    return st.lists(one, max_size=3) if isinstance(field.default_value, list) else one


_FIELD = type(V1LayerParameter.DESCRIPTOR.fields[0])
_PYTHON_TYPES = {_FIELD.CPPTYPE_STRING: "str", _FIELD.CPPTYPE_BOOL: "bool", _FIELD.CPPTYPE_FLOAT: "float",
                 _FIELD.CPPTYPE_DOUBLE: "float"}


def messages(descriptor, leave_out=()):
    """A strategy of dictionaries of any fields of a message, for its constructor."""
    kept = [one for one in descriptor.fields if one.name not in leave_out]
    fields = {one.name: st.deferred(lambda one=one: values(one)) for one in kept}
    return st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names}))


def v1_layers():
    anything = messages(V1LayerParameter.DESCRIPTOR, leave_out=["layer"])
    data = st.sampled_from([("DATA", "data_param"), ("IMAGE_DATA", "image_data_param"),
                            ("WINDOW_DATA", "window_data_param"), ("DATA", "image_data_param")])
    old = st.fixed_dictionaries({}, optional={
        "scale": st.floats(0, 1, width=32), "mean_file": st.just("m"), "crop_size": st.integers(0, 9),
        "mirror": st.booleans()})
    typed_data = st.tuples(data, old).map(lambda one: {"type": one[0][0], one[0][1]: one[1]})
    return st.one_of(anything, typed_data)


@WITH_CAFFE
@given(layers=st.lists(v1_layers(), min_size=1, max_size=4), inputs=st.integers(0, 2), shapes=st.booleans())
def test_any_v1_net(layers, inputs, shapes, tool):
    net = NetParameter(name="any", layers=layers, input=[f"in{i}" for i in range(inputs)])
    for i in range(inputs):
        if shapes:
            net.input_shape.add(dim=[i + 1, 2])
        else:
            net.input_dim.extend([i + 1, 2, 3, 4])
    assert upgrade_net(net).message == tool("upgrade_net_proto_binary", net)


@st.composite
def v0_nets(draw):
    """Chains of V0 layers with any options, padding before some of the convolutions and poolings."""
    net = NetParameter(name="any", input=["x"], input_dim=[1, 2, 3, 4])
    blob = "x"
    descriptor = DEFAULT_DIALECT.message("V0LayerParameter").DESCRIPTOR
    for index in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(sorted(V0_TYPES)))
        if kind in ("conv", "pool") and draw(st.booleans()):
            net.layers.add(layer={"type": "padding", "pad": draw(st.integers(0, 3))}, bottom=[blob], top=[f"p{index}"])
            blob = f"p{index}"
        options = draw(messages(descriptor, leave_out=["name", "type"]))
        net.layers.add(layer={"name": f"l{index}", "type": kind, **options}, bottom=[blob], top=[f"b{index}"])
        blob = f"b{index}"
    return net


@WITH_CAFFE
@given(net=v0_nets())
def test_any_v0_net(net, tool):
    assert upgrade_net(net).message == tool("upgrade_net_proto_binary", net)
