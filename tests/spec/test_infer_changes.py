"""Written nets with one option changed: Caffe sets up what we infer, and refuses what we refuse."""

from pathlib import Path

from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import dumps, read_model
from prototxt_gen.spec.infer import infer

# Of the nets in this folder, those that read no files.
NETS = ("fcn", "groups_and_lrn", "inception", "recurrent", "resnet", "siamese", "values")
CHANGES = ("one more", "none", "away")


def numbers(message):
    """Yield (message, field, position or None) for each number, truth value or choice set in a message."""
    for field, value in message.ListFields():
        if field.name.endswith("filler") or field.name == "input_dim":
            continue
        is_list = hasattr(value, "extend")
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            for one in value if is_list else [value]:
                yield from numbers(one)
        elif field.cpp_type not in (field.CPPTYPE_STRING, field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            for position in range(len(value)) if is_list else [None]:
                yield message, field.name, position


def change(message, name, position, how):
    if position is not None:
        values = getattr(message, name)
        if how == "away":
            del values[position]
        else:
            values[position] = values[position] + 1 if how == "one more" else 0
    elif how == "away":
        message.ClearField(name)
    else:
        value = getattr(message, name)
        is_number = type(value) is int and not message.DESCRIPTOR.fields_by_name[name].enum_type
        setattr(message, name, value + 1 if how == "one more" and is_number else type(value)(0))


def changed_nets():
    """Each number of each net changed in one of three ways, in turn."""
    turn = 0
    for name in NETS:
        net = read_model(str(Path(__file__).with_name("nets") / f"{name}.prototxt")).net
        for index in range(sum(1 for _ in numbers(net))):
            copy = type(net)()
            copy.CopyFrom(net)
            message, field, position = list(numbers(copy))[index]
            how = CHANGES[turn % len(CHANGES)]
            turn += 1
            try:
                change(message, field, position, how)
            except ValueError:  # a choice that has no value 0
                continue
            yield f"{name} {index}: {message.DESCRIPTOR.name} {field} {position} {how}", copy


def ours(net):
    try:
        info = infer(net, TEST)
    except Error:
        return None
    params = {one.name: [list(param.shape) for param in one.params] for one in info.layers if one.params}
    return {"blobs": {name: list(shape) for name, shape in info.blobs.items()}, "params": params}


def test_one_changed_option_changes_ours_as_it_changes_caffes(load_in_caffe):
    changed = dict(changed_nets())
    found = load_in_caffe([(dumps(net), TEST) for net in changed.values()])["nets"]
    wrong, refused = [], 0
    for (what, net), theirs in zip(changed.items(), found):
        if theirs is not None and any(0 in shape for shape in theirs["blobs"].values()):
            continue  # a net that cannot run; test_infer_layers.py
        mine = ours(net)
        refused += mine is None
        if mine != theirs:
            wrong.append(f"{what}: ours {mine and mine['blobs']}, Caffe's {theirs and theirs['blobs']}")
    assert not wrong, "\n".join(wrong)
    assert 50 < refused < len(changed) - 50
