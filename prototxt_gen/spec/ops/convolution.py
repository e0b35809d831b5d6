"""Convolution, Deconvolution, and the columns that they work on."""

from __future__ import annotations

import math
from typing import Any, List, Sequence, Tuple

from prototxt_gen.spec.rules import CAFFE, OWN, Buffer, Made, Misfit, Param, Place, Shape, rules
from prototxt_gen.spec.shapes import axis_of, count, format_shape


@rules.add("Convolution", bottoms=(1, None), tops=(1, None))
def convolution(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """(N, C, spatial) -> (N, out, spatial'), each bottom alike. Blobs: weights (out, C / group, kernel), bias (out,).

    spatial' = (spatial + 2 pad - (dilation (kernel - 1) + 1)) / stride + 1, rounded towards 0.
    MACs: one per weight and output position. The column of one image is kept; a 1x1 convolution allocates one in its
    backward pass, and works without. On the CPU our Caffe's engine has no column: its threads share a few MB.
    """
    window = _Window(layer.convolution_param, bottoms[0])
    window.check_filters(layer, bottoms)
    sizes = window.convolved()
    weights = (window.out, window.channels // window.group, *window.kernel)
    macs = len(bottoms) * window.items * math.prod(sizes) * math.prod(weights)
    column = window.channels * math.prod(window.kernel) * math.prod(sizes)
    spared = (OWN, CAFFE) if window.is_1x1 else (OWN,) if window.has_own_engine else ()
    return Made([window.top(sizes)] * len(bottoms), window.params(weights), macs,
                window.buffers(Buffer("column", column, diff=window.is_1x1, spared=spared), sizes))


@rules.add("Deconvolution", bottoms=(1, None), tops=(1, None))
def deconvolution(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """(N, C, spatial) -> (N, out, spatial'), each bottom alike. Blobs: weights (C, out / group, kernel), bias (out,).

    spatial' = stride (spatial - 1) + dilation (kernel - 1) + 1 - 2 pad. MACs: one per weight and input position.
    """
    window = _Window(layer.convolution_param, bottoms[0])
    window.check_filters(layer, bottoms)
    sizes = [stride * (size - 1) + extent - 2 * pad
             for size, (_, stride, pad, extent) in zip(window.plane, window.axes)]
    weights = (window.channels, window.out // window.group, *window.kernel)
    positions = math.prod(window.plane)
    column = window.out * math.prod(window.kernel) * positions
    return Made([window.top(sizes)] * len(bottoms), window.params(weights),
                len(bottoms) * window.items * positions * math.prod(weights),
                window.buffers(Buffer("column", column), sizes))


@rules.add("Im2col", bottoms=1, tops=1)
def im2col(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """(N, C, spatial) -> (N, C x kernel, spatial'), spatial' as for Convolution."""
    window = _Window(layer.convolution_param, bottoms[0])
    if not window.plane:
        raise Misfit("its bottom has no spatial axes")
    window.out = window.channels * math.prod(window.kernel)
    return Made([window.top(window.convolved())])


class _Window:
    """The sizes that a ConvolutionParameter gives; ``axes`` holds (kernel, stride, pad, extent) of each axis."""

    def __init__(self, param: Any, bottom: Shape) -> None:
        axis = axis_of(bottom, param.axis)
        self.front, self.channels, self.plane = bottom[:axis], bottom[axis], bottom[axis + 1:]
        self.items, self.out, self.group, self.bias = count(self.front), param.num_output, param.group, param.bias_term
        spatial = len(self.plane)
        self.kernel = _per_axis(param, "kernel_size", "kernel_h", "kernel_w", spatial, None)
        strides = _per_axis(param, "stride", "stride_h", "stride_w", spatial, 1)
        pads = _per_axis(param, "pad", "pad_h", "pad_w", spatial, 0)
        dilations = _per_axis(param, "dilation", None, None, spatial, 1)
        if any(size < 1 for size in self.kernel):
            raise Misfit("kernel_size is 0")
        if any(stride < 1 for stride in strides):
            raise Misfit("a stride is 0")
        self.axes = [(k, s, p, d * (k - 1) + 1) for k, s, p, d in zip(self.kernel, strides, pads, dilations)]
        self.has_own_engine = (spatial == 2 and axis == 1 and param.engine == param.DEFAULT
                               and not param.force_nd_im2col)
        self.is_1x1 = all(k == 1 and s == 1 and p == 0 for k, s, p, _ in self.axes)

    def check_filters(self, layer: Any, bottoms: Sequence[Shape]) -> None:
        if len(layer.top) != len(bottoms):
            raise Misfit(f"it makes one top for each bottom: {len(bottoms)}, not {len(layer.top)}")
        if any(shape != bottoms[0] for shape in bottoms):
            raise Misfit("its bottoms must have one shape")
        if not self.out:
            raise Misfit("num_output is 0 or missing")
        if self.group < 1 or self.channels % self.group or self.out % self.group:
            raise Misfit(f"{self.channels} channels and {self.out} outputs do not divide into {self.group} groups")

    def convolved(self) -> List[int]:
        """The division rounds towards 0, so a window may reach beyond the plane by less than its stride."""
        return [_towards_zero(size + 2 * pad - extent, stride) + 1
                for size, (_, stride, pad, extent) in zip(self.plane, self.axes)]

    def top(self, sizes: Sequence[int]) -> Shape:
        if any(size < 1 for size in sizes):
            raise Misfit(f"its window {format_shape(self.kernel)} does not fit: the top would be {format_shape(sizes)}")
        return (*self.front, self.out, *sizes)

    def params(self, weights: Shape) -> List[Param]:
        return [Param(weights), Param((self.out,))] if self.bias else [Param(weights)]

    def buffers(self, column: Buffer, sizes: Sequence[int]) -> List[Buffer]:
        return [column, Buffer("bias_multiplier", math.prod(sizes))] if self.bias else [column]


def _per_axis(param: Any, name: str, high: Any, wide: Any, spatial: int, default: Any) -> Tuple[int, ...]:
    """Read a field that holds one value for all axes, one per axis, or stands as a pair of _h and _w."""
    values = list(getattr(param, name))
    if high and (param.HasField(high) or param.HasField(wide)):
        if spatial != 2 or values:
            raise Misfit(f"{high} and {wide} are for two spatial axes, in place of {name}")
        return (getattr(param, high), getattr(param, wide))
    if not values and default is not None:
        values = [default]
    if len(values) not in (1, spatial):
        raise Misfit(f"{name} has {len(values)} values for {spatial} spatial axes")
    return tuple(values * spatial if len(values) == 1 else values)


def _towards_zero(number: int, divisor: int) -> int:
    """Divide as C++ does."""
    return number // divisor if number >= 0 else -(-number // divisor)
