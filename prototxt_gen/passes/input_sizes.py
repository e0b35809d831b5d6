"""Where a file says the shape of an input: fields of the net, Input layers, and the data layers of each kind."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Set

from prototxt_gen.core.data_layers import IMAGE_TYPES, transform_of
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.spec.shapes import Shape, format_shape, plural

SHAPED = {"Input": "input_param", "DummyData": "dummy_data_param"}  # a shape for each top, or one for all


def shaped_inputs(net: Any) -> Set[str]:
    """Return the inputs that have a shape, whoever fills them: fields of the net, and tops of Input layers."""
    return {*net.input, *(top for layer in net.layer if layer.type == "Input" for top in layer.top)}


def set_shape(net: Any, name: str, shape: Shape) -> List[str]:
    """Give an input of a net another shape, in every phase; return a line for each place that was edited.

    Raises Error where nothing makes an input of this name, or where the file cannot say that shape.
    """
    if not shape or min(shape) < 1:
        raise Error(f"input '{name}' cannot be {format_shape(shape)}", hint="all sizes must be positive")
    edits = []
    if name in net.input:
        old = _set_field(net, list(net.input).index(name), shape)
        edits.append(f"input '{name}': {old} -> {format_shape(shape)}")
    for layer in net.layer:
        if name in layer.top and not layer.bottom:
            edits.append(f"layer '{layer.name}': {_set_layer(layer, list(layer.top).index(name), shape)}")
    if not edits:
        inputs = [*net.input, *(top for layer in net.layer if not layer.bottom for top in layer.top)]
        raise Error(f"the net has no input '{name}'", hint=did_you_mean(name, inputs, f"inputs: {', '.join(inputs)}"))
    return edits


def _set_field(net: Any, index: int, shape: Shape) -> str:
    if not net.input_shape:
        dims = list(net.input_dim)
        if len(dims) != 4 * len(net.input):
            what = f"input_dim has {len(dims)} values for {plural(len(net.input), 'input')}"
            raise Error(what, hint="write four for each")
        if len(shape) == 4:
            net.input_dim[4 * index:4 * index + 4] = shape
            return format_shape(dims[4 * index:4 * index + 4])
        net.ClearField("input_dim")
        for start in range(0, len(dims), 4):
            net.input_shape.add(dim=dims[start:start + 4])
    if index >= len(net.input_shape):
        raise Error(f"input '{net.input[index]}' has no input_shape")
    old = format_shape(net.input_shape[index].dim)
    net.input_shape[index].dim[:] = shape
    return old


def _set_layer(layer: Any, top: int, shape: Shape) -> str:
    """Set the shape of one top of a layer without bottoms; return old and new value."""
    where = f"layer '{layer.name}'"
    if layer.type in SHAPED:
        param = getattr(layer, SHAPED[layer.type])
        if layer.type == "DummyData" and not param.shape:
            raise Error("its size is given by num, channels, height and width", where, "write shape")
        if not param.shape:
            # A shape for each of several tops, or none.
            if len(layer.top) > 1:
                raise Error("it gives none of its tops a shape", where)
            param.shape.add()
        if len(param.shape) == 1:
            for _ in range(len(layer.top) - 1):
                param.shape.add(dim=param.shape[0].dim)
        old = format_shape(param.shape[top].dim) if param.shape[top].dim else "no shape"
        param.shape[top].dim[:] = shape
        return f"{old} -> {format_shape(shape)}"
    if len(shape) != 4 or top > 0:
        raise Error(f"'{layer.top[top]}' of {layer.type} cannot be {format_shape(shape)}", where,
                    "only its images, (N, C, H, W), have a size")
    if layer.type == "MemoryData":
        return _set(layer.memory_data_param, dict(zip(("channels", "height", "width"), shape[1:])))
    if layer.type not in IMAGE_TYPES:
        raise Error(f"what '{layer.top[top]}' is, only the data of {layer.type} tell", where)
    return _set_crop(layer, shape, where)


def _set_crop(layer: Any, shape: Shape, where: str) -> str:
    height, width = shape[2:]
    images = layer.image_data_param
    given: Optional[Dict[str, int]] = None
    if layer.type == "ImageData" and not layer.transform_param.crop_size and images.new_height:
        given = {"new_height": height, "new_width": width}
    elif height != width:
        raise Error(f"{layer.type} cuts out squares, not {height}x{width}", where)
    if given is not None:
        return _set(images, given)
    if layer.type == "ImageData" and images.new_height and min(images.new_height, images.new_width) < height:
        what = f"its images are {images.new_height}x{images.new_width}, too small for a crop_size of {height}"
        raise Error(what, where, "new_height and new_width come first")
    return _set(transform_of(layer), {"crop_size": height})


def _set(param: Any, values: Dict[str, int]) -> str:
    parts = []
    for name, value in values.items():
        parts.append(f"{name} {getattr(param, name)} -> {value}")
        setattr(param, name, value)
    return ", ".join(parts)
