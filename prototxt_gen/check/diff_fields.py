"""What the fields of a layer say to Caffe: one form for all ways of writing the same thing.

``layer_fields`` gives the fields of a layer that differ from their defaults, by path. A field at its default equals an
unset one, except where Caffe asks whether it is set: some of those questions are answered here (which window, which
normalisation, which filler), the others are in ``PRESENCE``, with what hangs on them.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, Sequence, Tuple

from prototxt_gen.core.graph import TEST

Fields = Dict[str, Any]

# (message, field) whose being set means something even at the default, and what. From src/caffe/layers, has_<field>().
PRESENCE = {
    ("AccuracyParameter", "ignore_label"): "a label is left out only where one is named",
    ("ArgMaxParameter", "axis"): "without it the maximum is taken over all axes",
    ("InfogainLossParameter", "source"): "Caffe refuses two bottoms without it",
    ("InterpParameter", "height"): "a given size is one of the forms",
    ("InterpParameter", "shrink_factor"): "a factor is one of the forms",
    ("InterpParameter", "width"): "a given size is one of the forms",
    ("InterpParameter", "zoom_factor"): "a factor is one of the forms",
    ("LossParameter", "ignore_label"): "a label is left out only where one is named",
    ("TileParameter", "tiles"): "Caffe refuses a layer without it",
    ("TransformationParameter", "mean_file"): "a set file is read, whatever its name",
}

# Compared elsewhere: names and wiring, rules of phases, weights; or resolved over the whole net.
_ELSEWHERE = {"name", "type", "bottom", "top", "phase", "include", "exclude", "blobs", "loss_weight", "param"}

# What no value among the settled fields means.
_SETTLED = {"convolution_param.stride": 1, "convolution_param.pad": 0, "convolution_param.dilation": 1,
            "crop_param.offset": 0, "loss_weight": 0}

LOSSES = {"ContrastiveLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss", "MultinomialLogisticLoss",
          "SigmoidCrossEntropyLoss", "SoftmaxWithLoss"}


def layer_fields(layer: Any, phase: int) -> Fields:
    """Return the fields of a layer's own that differ from their defaults in a phase."""
    fields: Fields = {}
    for field, value in layer.ListFields():
        if field.name not in _ELSEWHERE:
            flatten(field, value, "", fields)
    if layer.HasField("phase") and layer.phase != phase:
        fields["phase"] = "TEST" if layer.phase == TEST else "TRAIN"
    if layer.type in _BY_TYPE:
        _BY_TYPE[layer.type](layer, fields, phase)
    return fields


def flatten(field: Any, value: Any, prefix: str, fields: Fields) -> None:
    """Write a field into ``fields``, a message by the fields in it. The schema nests a handful of levels, no more."""
    path = prefix + field.name
    if isinstance(field.default_value, list):
        if field.message_type is None:
            fields[path] = tuple(_name(field, one) for one in value)
            return
        for index, one in enumerate(value):
            before = len(fields)
            for inner, inner_value in one.ListFields():
                flatten(inner, inner_value, f"{path}[{index}].", fields)
            if len(fields) == before:
                fields[f"{path}[{index}]"] = "{}"
    elif field.message_type is not None:
        for inner, inner_value in value.ListFields():
            flatten(inner, inner_value, path + ".", fields)
    elif value != field.default_value or (field.containing_type.name, field.name) in PRESENCE:
        fields[path] = _name(field, value)


def default_of(message: Any, path: str) -> Any:
    """Return what no value at a path of ``layer_fields`` means; None where that is no value at all."""
    if path in _SETTLED:
        return _SETTLED[path]
    descriptor, field = message.DESCRIPTOR, None
    for part in path.split("."):
        field = descriptor.fields_by_name.get(part.partition("[")[0]) if descriptor is not None else None
        if field is None:
            return None
        descriptor = field.message_type
    if field.message_type is not None or isinstance(field.default_value, list):
        return None
    if (field.containing_type.name, field.name) in PRESENCE:
        return None
    return _name(field, field.default_value)


def _name(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.hex() if isinstance(value, bytes) else plain(value)


def plain(value: Any) -> Any:
    """Return a value, but text for a number that is not finite: NaN differs from itself, and JSON has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _settle(fields: Fields, path: str, value: Any, default: Any) -> None:
    """Put the settled value of a field in place of what was written."""
    fields.pop(path, None)
    if value != default:
        fields[path] = value


def _one_for_all(values: Sequence[Any]) -> Any:
    """Return one value where all axes have the same, else a tuple; None for none."""
    if not values:
        return None
    return values[0] if all(one == values[0] for one in values) else tuple(values)


def _window(fields: Fields, path: str, param: Any, name: str, sides: Tuple[str, str], default: Any) -> None:
    """``kernel_size: 3`` is ``kernel_h: 3 kernel_w: 3`` is ``kernel_size: 3 kernel_size: 3``."""
    given = getattr(param, name)
    if not hasattr(given, "append"):
        given = [given] if param.HasField(name) else []
    pair = any(param.HasField(side) for side in sides)
    if pair and given:
        return  # Caffe refuses both: they are compared as written
    for side in sides:
        fields.pop(f"{path}.{side}", None)
    values = [getattr(param, side) for side in sides] if pair else list(given) or [default]
    _settle(fields, f"{path}.{name}", _one_for_all(values), default)


def _convolution(layer: Any, fields: Fields, phase: int) -> None:
    _windows("convolution_param", layer.convolution_param, fields)
    dilation = list(layer.convolution_param.dilation) or [1]
    _settle(fields, "convolution_param.dilation", _one_for_all(dilation), 1)


def _pooling(layer: Any, fields: Fields, phase: int) -> None:
    _windows("pooling_param", layer.pooling_param, fields)


def _windows(path: str, param: Any, fields: Fields) -> None:
    _window(fields, path, param, "kernel_size", ("kernel_h", "kernel_w"), None)
    _window(fields, path, param, "stride", ("stride_h", "stride_w"), 1)
    _window(fields, path, param, "pad", ("pad_h", "pad_w"), 0)


def _axis(path: str, old: str) -> Callable[[Any, Fields, int], None]:
    """Concat and Slice: the old name of ``axis`` counts where it is set."""
    def settle(layer: Any, fields: Fields, phase: int) -> None:
        param = getattr(layer, path)
        if param.HasField(old) and not param.HasField("axis"):
            fields.pop(f"{path}.{old}", None)
            _settle(fields, f"{path}.axis", getattr(param, old), param.axis)

    return settle


def _filler(path: str, value: float) -> Callable[[Any, Fields, int], None]:
    """Scale and PReLU: without a filler they start from a constant that is not the filler's default."""
    def settle(layer: Any, fields: Fields, phase: int) -> None:
        if not getattr(layer, path).HasField("filler"):
            fields[f"{path}.filler.value"] = value

    return settle


def _normalization(default: str) -> Callable[[Any, Fields, int], None]:
    """Losses: ``normalization``, else the old ``normalize``, else the layer's own default."""
    def settle(layer: Any, fields: Fields, phase: int) -> None:
        param = layer.loss_param
        value = default
        if param.HasField("normalization"):
            value = _name(param.DESCRIPTOR.fields_by_name["normalization"], param.normalization)
        elif param.HasField("normalize"):
            value = "VALID" if param.normalize else "BATCH_SIZE"
        fields.pop("loss_param.normalize", None)
        fields["loss_param.normalization"] = value

    return settle


def _batchnorm(layer: Any, fields: Fields, phase: int) -> None:
    param = layer.batch_norm_param
    given = param.HasField("use_global_stats")
    fields["batch_norm_param.use_global_stats"] = param.use_global_stats if given else phase == TEST


def _eltwise(layer: Any, fields: Fields, phase: int) -> None:
    # Only a sum has coefficients; Caffe refuses those of a product.
    if layer.eltwise_param.operation == layer.eltwise_param.SUM and set(layer.eltwise_param.coeff) == {1}:
        fields.pop("eltwise_param.coeff", None)


def _crop(layer: Any, fields: Fields, phase: int) -> None:
    _settle(fields, "crop_param.offset", _one_for_all(list(layer.crop_param.offset) or [0]), 0)


_BY_TYPE: Dict[str, Callable[[Any, Fields, int], None]] = {
    "BatchNorm": _batchnorm,
    "Concat": _axis("concat_param", "concat_dim"),
    "Convolution": _convolution,
    "Crop": _crop,
    "Deconvolution": _convolution,
    "Eltwise": _eltwise,
    "Im2col": _convolution,
    "PReLU": _filler("prelu_param", 0.25),
    "Pooling": _pooling,
    "Scale": _filler("scale_param", 1.0),
    "SigmoidCrossEntropyLoss": _normalization("BATCH_SIZE"),
    "Slice": _axis("slice_param", "slice_dim"),
    "SoftmaxWithLoss": _normalization("VALID"),
}
