"""Writing caffemodels: lengths first, then the arrays straight from memory to the file."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

from prototxt_gen.core import wire
from prototxt_gen.core.caffemodel_blobs import MAX_SIZE, blob_head
from prototxt_gen.core.caffemodel_dialect import upgrade_in_dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model, Write, write_whole
from prototxt_gen.core.upgrade_tables import V1_TYPES

LAYOUTS = ("current", "v1")
_V1_NUMBERS = {today: enum for enum, today in V1_TYPES.items() if today}
Part = Tuple[bytes, Any]  # bytes, and the array that follows them or None


def write_weights(path: str, model: Model, layout: str = "current") -> None:
    """Write a model as a binary caffemodel, whole or not at all; see ``weights_writer``."""
    write_whole(path, weights_writer(path, model, layout))


def weights_writer(path: str, model: Model, layout: str = "current") -> Write:
    """Return what writes a model as a binary caffemodel; float64 blobs stay float64.

    Layout ``current``: ``layer`` with blobs of any shape. ``v1``: ``layers`` with blobs of four sizes, for Caffe of
    2014; what its layers have no field or type for is left out. Raises Error, naming ``path``, for more than
    2 GiB, for blobs that the layout cannot hold and for blobs whose layer the net lacks.
    """
    parts = _parts(model, layout, path)
    size = sum(len(head) + (0 if array is None else array.nbytes) for head, array in parts)
    if size > MAX_SIZE:
        hint = "protobuf has no larger files: Caffe itself keeps such models as .caffemodel.h5"
        raise Error(f"would have {size} bytes, and a caffemodel ends at 2 GiB", path, hint)
    return lambda file: _write(file, parts)


def _write(file: Any, parts: Sequence[Part]) -> None:
    import numpy as np

    for head, array in parts:
        file.write(head)
        if array is not None:
            kind = "<f8" if array.dtype.itemsize == 8 else "<f4"
            file.write(np.ascontiguousarray(array, kind).reshape(-1).view(np.uint8).data)


def _parts(model: Model, layout: str, where: str) -> List[Part]:
    if layout not in LAYOUTS:
        raise Error(f"no layout is called '{layout}'", hint=f"layouts: {', '.join(LAYOUTS)}")
    net = upgrade_in_dialect(model.net, where).message
    homeless = [name for name in model.blobs if name not in {layer.name for layer in net.layer}]
    if homeless:
        raise Error(f"the net has no layer '{homeless[0]}' for its weights", where)
    parts: List[Part] = [(_without_layers(net), None)]
    for layer in net.layer:
        arrays = model.blobs.get(layer.name, ())
        labels = [f"blob {index} of layer '{layer.name}'" for index in range(len(arrays))]
        try:
            if layout == "v1":
                parts += _old_layer(type(net), layer, arrays, labels)
            else:
                parts += _layer(layer, arrays, labels)
        except Error as error:
            raise Error(error.what, where, error.hint) from None
    return parts


def _without_layers(net: Any) -> bytes:
    rest = type(net)()
    for field, value in net.ListFields():
        if field.name != "layer":
            _assign(rest, field.name, value)
    return rest.SerializePartialToString(deterministic=True)


def _layer(layer: Any, arrays: Sequence[Any], labels: Sequence[str]) -> List[Part]:
    if not layer.IsInitialized():
        raise Error(f"layer '{layer.name}' lacks {', '.join(layer.FindInitializationErrors())}, which Caffe requires")
    return _framed(100, layer.SerializeToString(deterministic=True), 7, arrays, labels, old=False)


def _old_layer(net_class: Any, layer: Any, arrays: Sequence[Any], labels: Sequence[str]) -> List[Part]:
    """A layer as V1LayerParameter, the way that ``upgrade`` goes backwards."""
    new = net_class().layers.add(name=layer.name)
    old = new.DESCRIPTOR
    for field, value in layer.ListFields():
        if field.name not in ("type", "param") and field.name in old.fields_by_name:
            _assign(new, field.name, value)
    if layer.type in _V1_NUMBERS:
        new.type = old.enum_values_by_name[_V1_NUMBERS[layer.type]].number
    for field, today, default in (("param", "name", ""), ("blob_share_mode", "share_mode", 0),
                                  ("blobs_lr", "lr_mult", 1), ("weight_decay", "decay_mult", 1)):
        if any(spec.HasField(today) for spec in layer.param):
            values = [getattr(spec, today) if spec.HasField(today) else default for spec in layer.param]
            getattr(new, field).extend(values)
    return _framed(2, new.SerializePartialToString(deterministic=True), 6, arrays, labels, old=True)


def _framed(
    number: int, described: bytes, blobs: int, arrays: Sequence[Any], labels: Sequence[str], old: bool
) -> List[Part]:
    """Put lengths around a layer's description and its blobs."""
    inner: List[Part] = []
    length = len(described)
    for array, label in zip(arrays, labels):
        head = blob_head(array, old, label)
        framed = wire.encode_head(blobs, len(head) + array.nbytes) + head
        inner.append((framed, array))
        length += len(framed) + array.nbytes
    return [(wire.encode_head(number, length) + described, None), *inner]


def _assign(message: Any, name: str, value: Any) -> None:
    """Give a field of a message what another message has under that name."""
    target = getattr(message, name)
    if hasattr(value, "CopyFrom"):
        target.CopyFrom(value)
    elif hasattr(target, "extend"):
        target.extend(value)
    else:
        setattr(message, name, value)
