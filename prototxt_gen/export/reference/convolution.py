"""Convolution, Deconvolution and Im2col, by columns and matrix products.

The column of an item holds, for each channel and each place in the kernel, the values that place meets at every
position of the window: (C, kernel..., positions...). With filters W, one row per output, and the column as a matrix:

    Convolution    y = W col(x) + b
    Deconvolution  y = col^T(W^T x) + b,   col^T adding each value where col would read it
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Iterator, NamedTuple, Sequence, Tuple

from prototxt_gen.export.reference.registry import Step, layers

Sizes = Tuple[int, ...]


class Window(NamedTuple):
    """Kernel, stride, pad and dilation of each spatial axis."""

    kernel: Sizes
    stride: Sizes
    pad: Sizes
    dilation: Sizes

    def places(self, positions: Sequence[int]) -> Iterator[Tuple[Sizes, Tuple[slice, ...]]]:
        """Yield each place in the kernel, and the values of the padded plane that it meets."""
        for place in itertools.product(*map(range, self.kernel)):
            starts = [offset * dilation for offset, dilation in zip(place, self.dilation)]
            yield place, tuple(slice(start, start + stride * (n - 1) + 1, stride)
                               for start, stride, n in zip(starts, self.stride, positions))

    def reach(self, positions: Sequence[int]) -> Sizes:
        """Return the size of the padded plane that so many positions reach over."""
        return tuple(stride * (n - 1) + dilation * (k - 1) + 1
                     for k, stride, dilation, n in zip(self.kernel, self.stride, self.dilation, positions))


@layers.add("Convolution")
def convolution(step: Step) -> Any:
    """Bottoms (items..., C, spatial), weights (out, C / group, kernel), bias (out,)."""
    return [_each_item(step, bottom, shape, _convolve) for bottom, shape in zip(step.bottoms, step.shapes)]


@layers.add("Deconvolution")
def deconvolution(step: Step) -> Any:
    """Bottoms (items..., C, spatial), weights (C, out / group, kernel), bias (out,)."""
    return [_each_item(step, bottom, shape, _deconvolve) for bottom, shape in zip(step.bottoms, step.shapes)]


@layers.add("Im2col")
def im2col(step: Step) -> Any:
    """The columns themselves: (items..., C x kernel, spatial')."""
    import numpy as np

    axis = step.layer.convolution_param.axis % step.x.ndim
    window = window_of(step.layer.convolution_param, step.x.ndim - axis - 1)
    positions = step.shapes[0][axis + 1:]
    items = step.x.reshape(-1, *step.x.shape[axis:])
    return np.reshape([columns(item, window, positions) for item in items], step.shapes[0])


def _each_item(step: Step, bottom: Any, shape: Sizes, work: Any) -> Any:
    import numpy as np

    param = step.layer.convolution_param
    axis = param.axis % bottom.ndim
    window = window_of(param, bottom.ndim - axis - 1)
    top = np.empty((math.prod(shape[:axis]), *shape[axis:]), step.dtype)
    for item, out in zip(bottom.reshape(-1, *bottom.shape[axis:]), top):
        out[...] = work(item, step.blobs[0], window, param.group, out.shape)
        if param.bias_term:
            out += step.blobs[1].reshape(-1, *[1] * (out.ndim - 1))
    return top.reshape(shape)


def _convolve(item: Any, weights: Any, window: Window, group: int, shape: Sizes) -> Any:
    import numpy as np

    column = columns(item, window, shape[1:]).reshape(group, -1, math.prod(shape[1:]))
    rows = weights.reshape(group, shape[0] // group, -1)
    return np.matmul(rows, column).reshape(shape)


def _deconvolve(item: Any, weights: Any, window: Window, group: int, shape: Sizes) -> Any:
    import numpy as np

    positions = item.shape[1:]
    rows = weights.reshape(group, item.shape[0] // group, -1).transpose(0, 2, 1)
    column = np.matmul(rows, item.reshape(group, -1, math.prod(positions)))
    column = column.reshape(shape[0], *window.kernel, *positions)
    # What lies beyond the reach of the window stays 0.
    plane = [max(reach, pad + size) for reach, pad, size in zip(window.reach(positions), window.pad, shape[1:])]
    padded = np.zeros((shape[0], *plane), item.dtype)
    for place, met in window.places(positions):
        padded[(slice(None), *met)] += column[(slice(None), *place)]
    return padded[(slice(None), *(slice(pad, pad + size) for pad, size in zip(window.pad, shape[1:])))]


def columns(item: Any, window: Window, positions: Sequence[int]) -> Any:
    """Return (C, kernel..., positions...) of an item (C, spatial...), with zeros around it."""
    import numpy as np

    if all(k == 1 and s == 1 and p == 0 for k, s, p in zip(window.kernel, window.stride, window.pad)):
        return item
    # The last window may reach beyond plane and padding.
    ends = [max(reach - pad - size, 0) for reach, pad, size in zip(window.reach(positions), window.pad, item.shape[1:])]
    padded = np.pad(item, [(0, 0), *zip(window.pad, ends)])
    column = np.empty((item.shape[0], *window.kernel, *positions), item.dtype)
    for place, met in window.places(positions):
        column[(slice(None), *place)] = padded[(slice(None), *met)]
    return column


def window_of(param: Any, spatial: int) -> Window:
    """Read a ConvolutionParameter for so many spatial axes."""
    return Window(_sizes(param, "kernel_size", "kernel", spatial, 1), _sizes(param, "stride", "stride", spatial, 1),
                  _sizes(param, "pad", "pad", spatial, 0), _sizes(param, "dilation", None, spatial, 1))


def _sizes(param: Any, name: str, pair: Any, spatial: int, default: int) -> Sizes:
    if pair and (param.HasField(f"{pair}_h") or param.HasField(f"{pair}_w")):
        return getattr(param, f"{pair}_h"), getattr(param, f"{pair}_w")
    values = tuple(getattr(param, name)) or (default,)
    return values * spatial if len(values) == 1 else values
