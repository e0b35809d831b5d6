"""Which dialect a binary net is written in, told by the numbers and types of its layers' fields."""

from __future__ import annotations

from collections import Counter
from typing import Any, Mapping, Tuple

from prototxt_gen.core.dialects import DIALECTS, Dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.upgrade import Upgraded, upgrade_net

# The fields of LayerParameter that not all forks have under one number, and the types of layers that read them.
CONTESTED = {
    "interp_param": ("Interp",),
    "bn_param": ("BN",),
    "augmented_data_param": ("AugmentedData",),
    "swish_param": ("Swish",),
    "clip_param": ("Clip",),
    "input_param": ("Input",),
    "crop_param": ("Crop",),
    "parameter_param": ("Parameter",),
    "recurrent_param": ("LSTM", "RNN"),
}
_INPUTS = ("input", "input_dim", "input_shape")
_TYPE = 2  # LayerParameter.type
Numbers = Mapping[Tuple[str, int], int]  # (type of layer, field's number) -> times


def missing_types(dialect: Dialect) -> Tuple[str, ...]:
    """Return the layer types of other dialects that a dialect lacks."""
    return tuple(kind for field, kinds in CONTESTED.items() if field in dialect.lacks for kind in kinds)


def misfits(numbers: Numbers, dialect: Dialect) -> Counter:
    """Count what a dialect cannot make sense of: a type or number it lacks, a type and a field that disagree."""
    missing = missing_types(dialect)
    fields = dialect.message("LayerParameter").DESCRIPTOR.fields_by_number
    found: Counter = Counter()
    for (layer_type, number), times in numbers.items():
        if number == _TYPE and layer_type in missing:
            found[f"no layers of type '{layer_type}' are known"] += times
        elif number not in fields:
            found[f"layers of type '{layer_type}' have a field {number}"] += times
        elif layer_type not in CONTESTED.get(fields[number].name, (layer_type,)):
            found[f"layers of type '{layer_type}' have a field {fields[number].name}"] += times
    return found


def upgrade_in_dialect(net: Any, where: str = "") -> Upgraded:
    """Upgrade a net as ``upgrade_net`` does, its input fields left alone where its dialect has no Input layer."""
    if not net.input or "input_param" in net.DESCRIPTOR.fields_by_name["layer"].message_type.fields_by_name:
        return upgrade_net(net, where)
    bare = type(net)()
    bare.CopyFrom(net)
    for name in _INPUTS:
        bare.ClearField(name)
    upgraded = upgrade_net(bare, where)
    for name in _INPUTS:
        getattr(upgraded.message, name).MergeFrom(getattr(net, name))
    return upgraded


def check_dialect(numbers: Numbers, dialect: Dialect, where: str) -> None:
    """Raise Error where other dialects fit the layers' fields better than the one the file was read in.

    A file that no dialect fits whole is read as well as another would: its fork is not known here.
    """
    own = misfits(numbers, dialect)
    if not own:
        return
    counts = {name: sum(misfits(numbers, one).values()) for name, one in DIALECTS.items()}
    best = [name for name, count in counts.items() if count == min(counts.values())]
    if dialect.name in best:
        return
    what = f"is not of dialect '{dialect.name}', where {next(iter(own))}"
    verdict = "it reads as" if not min(counts.values()) else "it fits better as"
    raise Error(what, where, f"{verdict} {' or '.join(best)}: --dialect {best[0]}")
