"""Normalisation and the affine layers that go with it. None of them counts MACs: no matrix product is among them."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

from prototxt_gen.spec.rules import Buffer, Made, Misfit, Param, Place, Shape, rules
from prototxt_gen.spec.shapes import axis_of, count, legacy, planes, plural


@rules.add("BN", bottoms=1, tops=1)
def bn(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Merged batch norm: (N, C, ...) -> same. Blobs, each (1, C, 1, 1): slope, bias, moving mean, moving statistic.

    While it uses the batch's statistics it keeps them, and in place a copy of its bottom.
    """
    shape = bottoms[0]
    if len(shape) < 2:
        raise Misfit("its bottom must have at least 2 axes (N, C, ...)")
    blob = (1, shape[1], 1, 1)
    buffers: List[Buffer] = []
    if place.is_train and not layer.bn_param.frozen:
        buffers += [Buffer("mean", shape[1]), Buffer("inv_std", shape[1])]
        if layer.bottom[0] == layer.top[0]:
            buffers.append(Buffer("bottom_copy", count(shape)))
    return Made(bottoms, [Param(blob), Param(blob), Param(blob, True), Param(blob, True)], buffers=buffers)


@rules.add("BatchNorm", bottoms=1, tops=1)
def batch_norm(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Normalisation alone: (N, C, ...) -> same. Blobs, all statistics: mean (C,), variance (C,), their weight (1,).

    On the CPU it keeps two arrays of its bottom's size in either phase, and a third where it runs backward in place.
    """
    shape = bottoms[0]
    if len(shape) < 2:
        raise Misfit("its bottom must have at least 2 axes (N, C, ...)")
    items, channels, values = shape[0], shape[1], count(shape)
    buffers = [
        Buffer("mean", channels), Buffer("variance", channels), Buffer("temp", values), Buffer("x_norm", values),
        Buffer("batch_sum_multiplier", items), Buffer("num_by_chans", items * channels),
        Buffer("spatial_sum_multiplier", count(shape, 2)),
    ]
    if layer.bottom[0] == layer.top[0]:
        buffers.append(Buffer("x_norm_diff", values, diff=True))
    return Made(bottoms, [Param((channels,), True), Param((channels,), True), Param((1,), True)], buffers=buffers)


@rules.add("Scale", bottoms=(1, 2), tops=1)
def scale(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Any shape, times a factor broadcast from ``axis`` on -> same.

    The factor is a second bottom, or a blob of the bottom's ``num_axes`` axes from ``axis`` on (-1: all that follow).
    Blobs: factor (only without a second bottom), bias of the factor's shape (only with ``bias_term``).
    """
    param, shape = layer.scale_param, bottoms[0]
    axis, factor = _broadcast(param, bottoms)
    params = [Param(factor)] if len(bottoms) == 1 else []
    outer, inner = count(shape, 0, axis), count(shape, axis + len(factor))
    buffers = [Buffer("sum_multiplier", max(outer, inner))]
    if param.bias_term:
        params.append(Param(factor))
        buffers.append(Buffer("bias_multiplier", inner))
    if layer.bottom[0] == layer.top[0]:
        buffers.append(Buffer("bottom_copy", count(shape)))
    if inner != 1 and outer != 1 and outer * count(factor) != 1 and count(factor) != count(shape):
        buffers.append(Buffer("sum_result", outer * count(factor), diff=True))
    return Made(bottoms[:1], params, buffers=buffers)


@rules.add("Bias", bottoms=(1, 2), tops=1)
def bias(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Any shape, plus a summand broadcast from ``axis`` on -> same. Blob: the summand, where it is no second bottom."""
    axis, summand = _broadcast(layer.bias_param, bottoms)
    buffers = [Buffer("bias_multiplier", count(bottoms[0], axis + len(summand)))]
    return Made(bottoms[:1], [Param(summand)] if len(bottoms) == 1 else [], buffers=buffers)


@rules.add("MVN", bottoms=1, tops=1)
def mvn(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """At most four axes -> (N, C, H, W), ones standing for those that are missing."""
    param, shape = layer.mvn_param, legacy(bottoms[0])
    buffers = [Buffer("mean", shape[0] * shape[1]), Buffer("temp", count(shape)),
               Buffer("sum_multiplier", count(shape, 1 if param.across_channels else 2))]
    if param.normalize_variance:
        buffers.append(Buffer("variance", shape[0] * shape[1]))
    return Made([shape], buffers=buffers)


@rules.add("LRN", bottoms=1, tops=1)
def lrn(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Local response normalisation: (N, C, H, W) -> same. Keeps one array of that size, or three within channels."""
    param, shape = layer.lrn_param, planes(bottoms[0])
    if param.local_size % 2 == 0:
        raise Misfit(f"local_size is {param.local_size}, and must be odd")
    if param.norm_region == param.ACROSS_CHANNELS:
        return Made(bottoms, buffers=[Buffer("scale", count(shape))])
    kept = [Buffer(name, count(shape)) for name in ("square", "pool", "power")]
    diffs = [Buffer(f"{name}_diff", count(shape), diff=True)
             for name in ("input", "square_input", "square", "pool", "power")]
    return Made(bottoms, buffers=kept + diffs)


def _broadcast(param: Any, bottoms: Sequence[Shape]) -> Tuple[int, Shape]:
    """Return the first axis and the shape of an array that is broadcast over the first bottom."""
    shape = bottoms[0]
    if len(bottoms) == 2:
        other = bottoms[1]
        axis = axis_of(shape, param.axis) if other else 0
        if shape[axis: axis + len(other)] != other:
            raise Misfit(f"its second bottom must match the first from axis {axis} on")
        return axis, other
    axis = axis_of(shape, param.axis)
    end = len(shape) if param.num_axes == -1 else axis + param.num_axes
    if not axis <= end <= len(shape):
        raise Misfit(f"from axis {axis} on, the bottom does not have {plural(param.num_axes, 'axis', 'axes')}")
    # A scalar meets every axis alike.
    return (axis, shape[axis:end]) if end > axis else (0, ())
