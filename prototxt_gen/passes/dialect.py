"""dialect: a net and its weights from one fork's schema to another's.

Every field goes to the field of the same name, whatever its number; nothing is rounded. BN's blobs get the shape of
the target, (1, C, 1, 1) or (1, C). Where the target decides what BN's fourth blob holds, and the given blob holds the
other,

    v = 1 / sqrt(s + eps)          inverse standard deviation v of a variance s
    s = max(1 / v^2 - eps, 0)      variance s of an inverse standard deviation v

Where the target does not decide, the blob stays as it is. A dialect without the Input layer has ``input`` fields.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

from prototxt_gen.core.caffemodel_dialect import missing_types
from prototxt_gen.core.dialects import Dialect, find_dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.passes.base import PassResult, registry
from prototxt_gen.passes.norms import INV_STD, inverse_std, statistic_of

_BN_SHAPES = {"(1, C, 1, 1)": (1, -1, 1, 1), "(1, C)": (1, -1)}
_WAYS_OUT = {
    "AugmentedData": "--pass train-to-deploy first",
    "BN": "--pass split-bn first",
    "Interp": "no pass writes Interp as other layers; prototxt-gen export --to onnx carries it out of Caffe",
}


@registry.add("dialect")
def dialect(model: Model, *, to: str, bn_statistic: Optional[str] = None) -> PassResult:
    """Write the net, and its weights, in the dialect of another fork.

    ``bn_statistic``: what BN's fourth blob holds in the model given, "inv-std" or "variance"; by default what its
    dialect says. Raises Error for layers of types that the target lacks.
    """
    target = find_dialect(to)
    if model.net.layers:
        raise Error("the net is written as files of 2014 were", hint="--pass upgrade first")
    if target is model.dialect:
        return PassResult(model)
    edits: List[str] = []
    net = _with_input_fields(model.net, edits) if "Input" in missing_types(target) else model.net
    _refuse_missing(net, target)
    net = _retyped(net, target, edits)
    if net.input and "Input" in missing_types(model.dialect) and "Input" not in missing_types(target):
        net = upgrade_net(net).message
        edits.append("input fields: an Input layer")
    blobs = _blobs(model, target, bn_statistic, edits)
    return PassResult(replace(model, net=net, dialect=target, blobs=blobs), tuple(edits))


def _refuse_missing(net: Any, target: Dialect) -> None:
    missing = missing_types(target)
    names: Dict[str, List[str]] = {}
    for layer in net.layer:
        if layer.type in missing:
            names.setdefault(layer.type, []).append(layer.name)
    for kind, layers in names.items():
        listing = ", ".join(f"'{name}'" for name in layers[:3]) + (f" and {len(layers) - 3} more" * (len(layers) > 3))
        hint = _WAYS_OUT.get(kind, f"no pass writes {kind} as other layers")
        raise Error(f"dialect '{target.name}' has no layer {kind}: {listing}", f"layer '{layers[0]}'", hint)


def _with_input_fields(net: Any, edits: List[str]) -> Any:
    """Write Input layers as ``input`` and ``input_shape``, for a dialect that has no such layer."""
    inputs = [layer for layer in net.layer if layer.type == "Input"]
    if not inputs:
        return net
    new = type(net)()
    new.CopyFrom(net)
    del new.layer[:]
    new.layer.extend(layer for layer in net.layer if layer.type != "Input")
    if len(net.input) != len(net.input_shape):
        raise Error("the net has Input layers and input fields without shapes", hint="--pass upgrade first")
    for layer in inputs:
        where, shapes = f"layer '{layer.name}'", list(layer.input_param.shape)
        if layer.include or layer.exclude:
            raise Error("an input field is in every phase, and this layer is not", where, "--pass split-phases first")
        if len(shapes) not in (1, len(layer.top)):
            raise Error(f"it has {len(shapes)} shapes for {len(layer.top)} tops", where)
        new.input.extend(layer.top)
        new.input_shape.extend(shapes if len(shapes) > 1 else shapes * len(layer.top))
        edits.append(f"layer '{layer.name}': input fields, for want of an Input layer")
    return new


def _retyped(net: Any, target: Dialect, edits: List[str]) -> Any:
    """Copy a net into another dialect's messages. All but LayerParameter are the same there."""
    rest = type(net)()
    rest.CopyFrom(net)
    del rest.layer[:]
    new = target.message("NetParameter")()
    new.MergeFromString(_known(rest, "the net", edits))
    for layer in net.layer:
        _retype_layer(layer, new.layer.add(), target, edits)
    return new


def _retype_layer(layer: Any, new: Any, target: Dialect, edits: List[str]) -> None:
    plain = type(layer)()
    plain.CopyFrom(layer)
    moved = []
    for field, value in layer.ListFields():
        there = new.DESCRIPTOR.fields_by_name.get(field.name)
        if there is None:
            edits.append(f"layer '{layer.name}': {field.name} left out, which '{target.name}' lacks")
        elif there.number != field.number:
            moved.append((field.name, _known(value, f"layer '{layer.name}'", edits)))
        else:
            continue
        plain.ClearField(field.name)
    new.MergeFromString(_known(plain, f"layer '{layer.name}'", edits))
    for name, data in moved:
        getattr(new, name).SetInParent()
        getattr(new, name).MergeFromString(data)


def _known(message: Any, label: str, edits: List[str]) -> bytes:
    """Return a message without fields of no name: a number alone may mean something else elsewhere."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() != message.ByteSize():
        edits.append(f"{label}: fields of unknown meaning left out")
    return known.SerializePartialToString()


def _blobs(model: Model, target: Dialect, bn_statistic: Optional[str], edits: List[str]) -> Dict[str, Tuple[Any, ...]]:
    blobs = dict(model.blobs)
    shape = _BN_SHAPES.get(target.bn_blob_shape or "")
    done: Counter = Counter()
    for layer in {one.name: one for one in model.net.layer if one.type == "BN" and one.name in blobs}.values():
        sizes = [one.size for one in blobs[layer.name] if one.size == max(one.shape, default=1)]
        if len(blobs[layer.name]) != 4 or len(sizes) != 4 or len(set(sizes)) != 1:
            raise Error("BN has 4 blobs of C values, and the weights hold others", f"layer '{layer.name}'")
        slope, bias, mean, fourth = blobs[layer.name]
        if target.bn_statistic is not None:
            holds = statistic_of(model, bn_statistic, layer.name)
            if holds != target.bn_statistic:
                fourth = _converted(fourth, target.bn_statistic, layer)
                done[f"fourth blob, {holds}, written as {target.bn_statistic}"] += 1
        elif model.dialect.bn_statistic or bn_statistic:
            holds = statistic_of(model, bn_statistic, layer.name)
            done[f"fourth blob still {holds}; dialect '{target.name}' does not tell, --bn-statistic {holds} does"] += 1
        new = (slope, bias, mean, fourth)
        blobs[layer.name] = new if shape is None else tuple(one.reshape(shape) for one in new)
        if any(old.shape != one.shape for old, one in zip(model.blobs[layer.name], blobs[layer.name])):
            done[f"blobs {target.bn_blob_shape}"] += 1
    edits += [f"{number} BN: {what}" for what, number in done.items()]
    return blobs


def _converted(fourth: Any, target: str, layer: Any) -> Any:
    """Return BN's fourth blob as ``target`` from the other statistic, reckoned in float64."""
    import numpy as np

    eps = layer.bn_param.eps
    with np.errstate(all="ignore"):  # of odd values: infinities and NaN stay such
        given = np.asarray(fourth, np.float64)
        if target == INV_STD:
            found = inverse_std(given, eps, layer.name)
        else:
            found = np.maximum(1 / np.square(given) - eps, 0)
        return found.astype(fourth.dtype)
