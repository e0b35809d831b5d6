"""Pooling over windows, and over a pyramid of them.

A window starts at i stride - pad and takes ``kernel`` values, of which those inside the plane count. AVE divides by the
number of values between the start and min(start + kernel, size + pad): padding counts, what lies beyond it does not.
"""

from __future__ import annotations

from typing import Any, Sequence, Tuple

from prototxt_gen.export.reference.convolution import Window
from prototxt_gen.export.reference.registry import Step, layers

Pair = Tuple[int, int]
LOWEST = -3.4028234663852886e38  # -FLT_MAX, with which Caffe starts the search for the largest value


@layers.add("Pooling")
def pooling(step: Step) -> Any:
    """(N, C, H, W) -> (N, C, H', W'); a second top holds the index in the plane of each largest value."""
    param = step.layer.pooling_param
    plane, positions = step.x.shape[2:], step.shapes[0][2:]
    if param.pool == param.STOCHASTIC:
        raise step.refuse("stochastic pooling draws at random while training, and Caffe runs it on GPUs only")
    kernel = plane if param.global_pooling else _pair(param, "kernel_size", "kernel")
    window = Window(kernel, _pair(param, "stride", "stride"), _pair(param, "pad", "pad"), (1, 1))
    if param.pool == param.AVE:
        return average(step.x, window, positions)
    return list(largest(step.x, window, positions, with_index=len(step.layer.top) > 1))


@layers.add("SPP")
def spp(step: Step) -> Any:
    """(N, C, H, W) -> the poolings of all levels, level by level; level l cuts each axis into 2^l bins."""
    import numpy as np

    from prototxt_gen.spec.ops.pooling import pooled

    param, parts = step.layer.spp_param, []
    plane = step.x.shape[2:]
    if param.pool == param.STOCHASTIC:
        raise step.refuse("stochastic pooling draws at random while training, and Caffe runs it on GPUs only")
    for level in range(param.pyramid_height):
        kernel = tuple(-(-size // 2**level) for size in plane)
        pad = tuple((k * 2**level - size + 1) // 2 for k, size in zip(kernel, plane))
        window, positions = Window(kernel, kernel, pad, (1, 1)), pooled(plane, kernel, kernel, pad)
        if param.pool == param.AVE:
            parts.append(average(step.x, window, positions))
        else:
            parts += largest(step.x, window, positions)
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1).reshape(step.shapes[0])


def average(x: Any, window: Window, positions: Sequence[int]) -> Any:
    """Return the mean of each window, padding counted as zeros."""
    import numpy as np

    padded, total = _padded(x, window, positions, 0), 0
    for _, met in window.places(positions):
        total = total + padded[(..., *met)]
    counts = []
    for size, k, stride, pad, n in zip(x.shape[2:], window.kernel, window.stride, window.pad, positions):
        start = np.arange(n) * stride - pad
        counts.append(np.minimum(start + k, size + pad) - start)
    return total / np.multiply.outer(*counts).astype(x.dtype)


def largest(x: Any, window: Window, positions: Sequence[int], with_index: bool = False) -> Sequence[Any]:
    """Return the largest value of each window, and where wanted its index in the plane, -1 for an empty window."""
    import numpy as np

    padded = _padded(x, window, positions, LOWEST)
    best = np.full((*x.shape[:2], *positions), LOWEST, x.dtype)
    if not with_index:
        for _, met in window.places(positions):
            np.maximum(best, padded[(..., *met)], out=best)
        return [best]
    index = np.full(best.shape, -1, x.dtype)
    inside = np.arange(x.shape[2] * x.shape[3], dtype=x.dtype).reshape(1, 1, *x.shape[2:])
    numbers = _padded(inside, window, positions, -1)
    for _, met in window.places(positions):
        value = padded[(..., *met)]
        index = np.where(value > best, numbers[(..., *met)], index)
        best = np.maximum(best, value)
    return [best, index]


def _padded(x: Any, window: Window, positions: Sequence[int], value: float) -> Any:
    import numpy as np

    reach = window.reach(positions)
    edges = [(pad, max(far - pad - size, 0)) for far, pad, size in zip(reach, window.pad, x.shape[2:])]
    return np.pad(x, [(0, 0), (0, 0), *edges], constant_values=value)


def _pair(param: Any, name: str, short: str) -> Pair:
    if param.HasField(f"{short}_h"):
        return getattr(param, f"{short}_h"), getattr(param, f"{short}_w")
    return getattr(param, name), getattr(param, name)
