"""Pooling over windows, and over a pyramid of them."""

from __future__ import annotations

import math
from typing import Any, List, Sequence, Tuple

from prototxt_gen.spec.rules import OWN, Buffer, Made, Misfit, Place, Shape, rules
from prototxt_gen.spec.shapes import count, planes, plural

Pair = Tuple[int, int]


@rules.add("Pooling", bottoms=1, tops=(1, None))
def pooling(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """(N, C, H, W) -> (N, C, H', W'); a second top of MAX holds which value won, else the layer keeps that.

    H' = (H + 2 pad - kernel) / stride + 1, rounded up unless round_mode is FLOOR; where there is padding, a last window
    that would start behind the bottom and its leading padding is dropped.
    """
    param = layer.pooling_param
    batch, channels, *plane = planes(bottoms[0])
    kernel, stride, pad = _window(param, plane)
    top = (batch, channels, *pooled(plane, kernel, stride, pad, param.round_mode == param.FLOOR))
    most = 2 if param.pool == param.MAX else 1
    if len(layer.top) > most:
        raise Misfit(f"this kind of pooling makes at most {plural(most, 'top')}, not {len(layer.top)}")
    keeps_index = param.pool == param.MAX and len(layer.top) == 1
    return Made([top] * len(layer.top), buffers=_index(param, kernel, count(top)) if keeps_index else [])


def _index(param: Any, kernel: Pair, values: int) -> Sequence[Buffer]:
    """Which value won: an int each, or for our Caffe on the CPU a byte where windows have fewer than 255 positions."""
    if param.engine != param.DEFAULT or math.prod(kernel) >= 255:
        return [Buffer("max_index", values)]
    in_bytes = -(-values // 4)
    return [Buffer("max_position", in_bytes), Buffer("max_index", values - in_bytes, spared=(OWN,))]


@rules.add("SPP", bottoms=1, tops=1)
def spp(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Spatial pyramid pooling: (N, C, H, W) -> (N, C x bins), or (N, C, 1, 1) where the pyramid has one level.

    Level l asks for 2^l x 2^l bins: kernel = stride = H / 2^l rounded up, pad = half of what the bins reach too far,
    rounded up; what pooling makes of it may be fewer.
    """
    param = layer.spp_param
    batch, channels, *plane = planes(bottoms[0])
    if not 1 <= param.pyramid_height <= 31:
        raise Misfit("pyramid_height must lie between 1 and 31")
    if min(plane) < 1:
        raise Misfit("its bottom holds no values")
    bins = []
    for level in range(param.pyramid_height):
        kernel = tuple(-(-size // 2**level) for size in plane)
        pad = tuple((k * 2**level - size + 1) // 2 for k, size in zip(kernel, plane))
        _check_pad(pad, kernel)
        bins.append(math.prod(pooled(plane, kernel, kernel, pad)))
    pooled_values = batch * channels * sum(bins)
    buffers = [Buffer("max_index", pooled_values)] if param.pool == param.MAX else []
    if len(bins) == 1:
        return Made([(batch, channels, 1, 1)], buffers=buffers)
    buffers += [Buffer("pooled", pooled_values), Buffer("pooled_diff", pooled_values, diff=True),
                Buffer("split_diff", len(bins) * count(bottoms[0]), diff=True)]
    return Made([(batch, channels * sum(bins))], buffers=buffers)


def pooled(plane: Sequence[int], kernel: Pair, stride: Pair, pad: Pair, floor: bool = False) -> List[int]:
    """Return the height and width of a pooled plane."""
    sizes = []
    for size, k, s, p in zip(plane, kernel, stride, pad):
        room = size + 2 * p - k
        out = (room // s if floor else -(-room // s)) + 1
        # Either axis's padding makes Caffe look at both.
        if any(pad) and (out - 1) * s >= size + p:
            out -= 1
        sizes.append(out)
    if any(out < 1 for out in sizes):
        raise Misfit(f"its window {kernel[0]}x{kernel[1]} is larger than the plane {plane[0]}x{plane[1]}")
    return sizes


def _window(param: Any, plane: Sequence[int]) -> Tuple[Pair, Pair, Pair]:
    """Return kernel, stride and pad, each (vertical, horizontal)."""
    pairs = []
    for name, short in (("kernel_size", "kernel"), ("stride", "stride"), ("pad", "pad")):
        high, wide = f"{short}_h", f"{short}_w"
        both = param.HasField(high), param.HasField(wide)
        if any(both) and (param.HasField(name) or not all(both)):
            raise Misfit(f"{short} is given by {name}, or by both {high} and {wide}")
        single = getattr(param, name)
        pairs.append((getattr(param, high), getattr(param, wide)) if all(both) else (single, single))
    kernel, stride, pad = pairs
    if param.global_pooling:
        if param.HasField("kernel_size") or param.HasField("kernel_h") or stride != (1, 1) or pad != (0, 0):
            raise Misfit("global_pooling takes the whole plane: no kernel, pad 0, stride 1")
        kernel = (plane[0], plane[1])
    if min(kernel) < 1:
        raise Misfit("kernel_size is 0 or missing")
    if min(stride) < 1:
        raise Misfit("a stride is 0")
    if any(pad):
        if param.pool == param.STOCHASTIC:
            raise Misfit("stochastic pooling takes no padding")
        _check_pad(pad, kernel)
    return kernel, stride, pad


def _check_pad(pad: Pair, kernel: Pair) -> None:
    if any(pad) and any(p >= k for p, k in zip(pad, kernel)):
        raise Misfit("its padding must be smaller than its kernel")
