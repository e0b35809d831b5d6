"""Convolution, Deconvolution and pooling over windows."""

from __future__ import annotations

import math
from typing import Any, List, Sequence, Tuple

from prototxt_gen.spec.infer import Buffer, Made, Misfit, Param, Place, Shape, rules


@rules.add("Convolution", bottoms=(1, None), tops=(1, None))
def convolution(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """(N, C, spatial) -> (N, num_output, spatial'), each bottom alike. Blobs: weights (out, C / group, kernel), bias (out,).

    spatial' = (spatial + 2 pad - (dilation (kernel - 1) + 1)) / stride + 1, rounded down.
    MACs: one per weight and output position.
    """
    window = _Window(layer.convolution_param, bottoms[0])
    tops = [window.top(shape, [(size + 2 * pad - extent) // stride + 1 for size, (_, stride, pad, extent)
                               in zip(shape[window.axis + 1:], window.axes)]) for shape in bottoms]
    weights = (window.out, window.channels // window.group, *window.kernel)
    per_position = math.prod(weights)
    macs = sum(math.prod(top[: window.axis]) * math.prod(top[window.axis + 1:]) * per_position for top in tops)
    column = window.channels * math.prod(window.kernel) * math.prod(tops[0][window.axis + 1:])
    return Made(tops, window.params(weights), macs, window.buffers(column))


class _Window:
    """The sizes that a ConvolutionParameter gives on a bottom; ``axes`` holds (kernel, stride, pad, extent) per axis."""

    def __init__(self, param: Any, bottom: Shape) -> None:
        self.axis = param.axis if param.axis >= 0 else param.axis + len(bottom)
        spatial = len(bottom) - self.axis - 1
        if spatial < 0:
            raise Misfit(f"its channel axis is {param.axis}, and the bottom has {len(bottom)} axes")
        self.channels, self.out, self.group = bottom[self.axis], param.num_output, param.group
        if not self.out:
            raise Misfit("num_output is 0 or missing")
        if self.group < 1 or self.channels % self.group or self.out % self.group:
            raise Misfit(f"{self.channels} channels and {self.out} outputs do not divide into {self.group} groups")
        self.kernel = _per_axis(param, "kernel_size", "kernel_h", "kernel_w", spatial, None)
        strides = _per_axis(param, "stride", "stride_h", "stride_w", spatial, 1)
        pads = _per_axis(param, "pad", "pad_h", "pad_w", spatial, 0)
        dilations = _per_axis(param, "dilation", None, None, spatial, 1)
        self.axes = [(k, s, p, d * (k - 1) + 1) for k, s, p, d in zip(self.kernel, strides, pads, dilations)]
        self.bias = param.bias_term
        self.is_1x1 = all(k == 1 and s == 1 and p == 0 for k, s, p, _ in self.axes)
        if any(s < 1 for s in strides):
            raise Misfit("a stride is 0")

    def top(self, shape: Shape, sizes: Sequence[int]) -> Shape:
        if any(size < 1 for size in sizes):
            raise Misfit(f"its window is larger than the plane: the top would be {'x'.join(map(str, sizes))}")
        return (*shape[: self.axis], self.out, *sizes)

    def params(self, weights: Shape) -> List[Param]:
        return [Param(weights), Param((self.out,))] if self.bias else [Param(weights)]

    def buffers(self, column: int) -> List[Buffer]:
        """The column buffer of one image, which 1x1 convolutions do without."""
        return [] if self.is_1x1 else [Buffer("column", column)]


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
    sizes = tuple(values * spatial if len(values) == 1 else values)
    if default is None and any(size < 1 for size in sizes):
        raise Misfit(f"{name} is 0")
    return sizes
