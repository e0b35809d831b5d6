"""The schema agrees with the pinned Caffe source, and each dialect with its fork's field numbers."""

import subprocess

import pytest
from google.protobuf import descriptor_pb2

from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS, file_descriptor, find_dialect
from prototxt_gen.core.errors import Error

# Read off the caffe.proto of each fork.
FORK_NUMBERS = {
    "attention": {"interp_param": 147, "bn_param": 148},
    "bvlc": {"swish_param": 147, "clip_param": 148, "input_param": 143, "recurrent_param": 146},
    "happynear": {"bn_param": 200},
    "pspnet": {"interp_param": 143, "bn_param": 152},
}


def facts(file):
    """All that a schema fixes, whatever the order it is written in: fields, types, defaults, enum values."""
    found = {}

    def enum(path, one):
        for value in one.value:
            found[f"{path}.{one.name}.{value.name}"] = value.number

    for message in file.message_type:
        for field in message.field:
            found[f"{message.name}.{field.name}"] = (
                field.number, field.label, field.type, field.type_name, field.default_value, field.options.packed)
        for one in message.enum_type:
            enum(message.name, one)
    for one in file.enum_type:
        enum("", one)
    return found


def as_float_defaults(found):
    """Compare defaults by value: 1e-5 and 1e-05 are one."""
    def value(entry):
        if isinstance(entry, tuple) and entry[2] in (1, 2) and entry[4]:
            return (*entry[:4], float(entry[4]), entry[5])
        return entry
    return {name: value(entry) for name, entry in found.items()}


def test_bvlc_dialect_agrees_with_the_pinned_source_field_by_field(caffe_source, tmp_path):
    out = tmp_path / "pinned.desc"
    folder = caffe_source / "src/caffe/proto"
    subprocess.run(["protoc", f"--proto_path={folder}", f"--descriptor_set_out={out}", "caffe.proto"], check=True)
    pinned = facts(descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0])
    ours = facts(file_descriptor(DIALECTS["bvlc"]))
    added = {name for name in ours if name.startswith(("BNParameter.", "InterpParameter.", "AugmentedDataParameter."))}
    assert as_float_defaults({k: v for k, v in ours.items() if k not in added}) == as_float_defaults(pinned)
    assert len(pinned) > 500
    # The dialect that this Caffe is built with differs in two numbers and three added fields only.
    own = facts(file_descriptor(DEFAULT_DIALECT))
    assert {name for name in own if own[name] != ours.get(name)} == {
        f"LayerParameter.{name}"
        for name in ("swish_param", "clip_param", "bn_param", "interp_param", "augmented_data_param")}


@pytest.mark.parametrize("name", DIALECTS)
def test_field_numbers_of_the_forks(name):
    fields = DIALECTS[name].message("LayerParameter").DESCRIPTOR.fields_by_name
    for field, number in FORK_NUMBERS[name].items():
        assert fields[field].number == number
    for field in DIALECTS[name].lacks:
        assert field not in fields
    assert len({one.number for one in fields.values()}) == len(fields)


def test_own_numbers_are_above_2000():
    fields = DEFAULT_DIALECT.message("LayerParameter").DESCRIPTOR.fields_by_name
    for name in ("swish_param", "clip_param", "augmented_data_param"):
        assert fields[name].number > 2000


def test_dialects_live_beside_one_another():
    layers = {name: dialect.message("LayerParameter")(name="x", type="BN") for name, dialect in DIALECTS.items()}
    layers["attention"].bn_param.frozen = True
    layers["happynear"].bn_param.frozen = True
    attention, happynear = (layers[name].SerializeToString() for name in ("attention", "happynear"))
    assert attention != happynear
    other = DIALECTS["happynear"].message("LayerParameter").FromString(attention)
    assert not other.HasField("bn_param") and other.SerializeToString() == attention


def test_dialects_live_beside_a_loaded_pycaffe(run_caffe_python):
    text = run_caffe_python("""
        import caffe
        from caffe.proto import caffe_pb2
        from prototxt_gen.core.dialects import DIALECTS
        for dialect in DIALECTS.values():
            print(dialect.message("LayerParameter") is not caffe_pb2.LayerParameter, end=" ")
        mine = DIALECTS["attention"].message("NetParameter")(name="x")
        print(caffe_pb2.NetParameter.FromString(mine.SerializeToString()).name)
        """).stdout
    assert text.split() == ["True"] * len(DIALECTS) + ["x"]


def test_unknown_dialect_is_an_error_with_a_suggestion():
    with pytest.raises(Error, match="no dialect is called 'attentoin'") as caught:
        find_dialect("attentoin")
    assert caught.value.hint == "did you mean 'attention'?"
