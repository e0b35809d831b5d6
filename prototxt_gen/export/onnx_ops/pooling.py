"""Pooling, with Caffe's windows exactly, and the pyramid of it.

Window i of an axis of n values reads positions i s - p up to, not including, i s - p + k. Its start and the number of
windows are Caffe's; ONNX rounds down, so the last window gets the padding behind that it needs:
e = max(0, (windows - 1) s + k - n - p). Rows that no window reads stay unread.

MAX looks at the n values only. AVE divides by the part of the window that lies within the n values and their padding p:
min(i s - p + k, n + p) - (i s - p); ONNX's average over k x k values is multiplied by k / that, on both axes.
"""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

from prototxt_gen.export.onnx_ops.layer import Layer, converters, merged

Pair = Tuple[int, int]
LOWEST = -3.4028234663852886e38  # -FLT_MAX, which Caffe's maximum starts from


@converters.add("Pooling")
def pooling(layer: Layer) -> Sequence[str]:
    """MaxPool or AveragePool over windows, or the global ones. A second top holds the maximum's index in its plane."""
    param = layer.proto.pooling_param
    if param.pool == param.STOCHASTIC:
        raise layer.error("stochastic pooling has no ONNX operator", "pool: AVE or MAX can be exported")
    if param.global_pooling and len(layer.tops) == 1:
        return layer.op("GlobalMaxPool" if param.pool == param.MAX else "GlobalAveragePool", layer.x)
    size = layer.fixed(layer.bottoms[0], 2)
    kernel, stride, pad = _settings(param, size)
    plane = _Plane(size, layer.tops[0].shape[2:], kernel, stride, pad)
    if param.pool == param.AVE:
        return plane.average(layer, layer.x)
    return plane.maximum(layer, layer.x, len(layer.tops))


@converters.add("SPP")
def spp(layer: Layer) -> str:
    """Pooling to 2^l x 2^l bins for each level l, flattened and joined; see ``spec.ops.pooling`` for the windows."""
    # Here and not above: a rule's module must not come before the registry of rules has begun to load.
    from prototxt_gen.spec.ops.pooling import pooled

    param, size = layer.proto.spp_param, layer.fixed(layer.bottoms[0], 2)
    if param.pool == param.STOCHASTIC:
        raise layer.error("stochastic pooling has no ONNX operator", "pool: AVE or MAX can be exported")
    levels = []
    batch, channels = layer.bottoms[0].dims[:2]
    for level in range(param.pyramid_height):
        kernel = (-(-size[0] // 2**level), -(-size[1] // 2**level))
        pad = ((kernel[0] * 2**level - size[0] + 1) // 2, (kernel[1] * 2**level - size[1] + 1) // 2)
        bins = pooled(size, kernel, kernel, pad)
        plane = _Plane(size, bins, kernel, kernel, pad)
        y = plane.average(layer, layer.x) if param.pool == param.AVE else plane.maximum(layer, layer.x)[0]
        if param.pyramid_height > 1:
            y = layer.reshape(y, (batch, channels, *bins), (batch, merged((channels, *bins))))
        levels.append(y)
    return levels[0] if len(levels) == 1 else layer.op("Concat", *levels, axis=1)


class _Plane:
    """The windows over a plane of ``size``; ``windows`` is their number. All pairs are (vertical, horizontal)."""

    def __init__(self, size: Sequence[int], windows: Sequence[int], kernel: Pair, stride: Pair, pad: Pair) -> None:
        self.size, self.windows, self.kernel, self.stride, self.pad = size, windows, kernel, stride, pad
        self.behind = [max(0, (many - 1) * s + k - n - p)
                       for n, many, k, s, p in zip(size, windows, kernel, stride, pad)]

    def maximum(self, layer: Layer, x: str, outputs: int = 1) -> List[str]:
        """Add MaxPool; a second output is the index of the maximum within its plane."""
        x, pads = self._padded(layer, x, LOWEST)
        if outputs == 1:
            return [layer.op("MaxPool", x, kernel_shape=self.kernel, strides=self.stride, pads=pads)]
        if not any(pads) and any(self.behind):
            raise layer.error("a window lies behind its bottom, where the maximum has no index",
                              "make stride no larger than the kernel, or drop the second top")
        y, where = layer.ops("MaxPool", [x], 2, kernel_shape=self.kernel, strides=self.stride, pads=pads)
        # ONNX counts through the whole tensor.
        place = layer.op("Mod", where, layer.integers("plane", self.size[0] * self.size[1]))
        return [y, layer.op("Cast", place, to=1)]

    def average(self, layer: Layer, x: str) -> str:
        """Add AveragePool and, where windows are clipped behind the padding, the factors that correct for it."""
        import numpy

        x, pads = self._padded(layer, x, 0)
        y = layer.op("AveragePool", x, kernel_shape=self.kernel, strides=self.stride, pads=pads, count_include_pad=1)
        factors = [self._factors(axis) for axis in (0, 1)]
        if all((one == 1).all() for one in factors):
            return y
        return layer.op("Mul", y, layer.floats("divisor", numpy.outer(*factors)[None, None]))

    def _factors(self, axis: int) -> Any:
        """Return kernel / divisor for each window along an axis; a window that begins behind all padding has none."""
        import numpy

        start = numpy.arange(self.windows[axis]) * self.stride[axis] - self.pad[axis]
        end = numpy.minimum(start + self.kernel[axis], self.size[axis] + self.pad[axis])
        with numpy.errstate(divide="ignore"):
            return self.kernel[axis] / (end - start)

    def _padded(self, layer: Layer, x: str, value: float) -> Tuple[str, List[int]]:
        """Return the tensor and the padding that is left to the operator, which must be smaller than the kernel."""
        if all(more < k for more, k in zip(self.behind, self.kernel)):
            return x, [*self.pad, *self.behind]
        amounts = layer.integers("pads", [0, 0, *self.pad, 0, 0, *self.behind])
        return layer.op("Pad", x, amounts, layer.floats("padding", value)), [0, 0, 0, 0]


def _settings(param: Any, size: Sequence[int]) -> Tuple[Pair, Pair, Pair]:
    """Return kernel, stride and pad of a pooling_param that ``spec.infer`` has found sound."""
    pairs = []
    for name, short in (("kernel_size", "kernel"), ("stride", "stride"), ("pad", "pad")):
        high, wide = f"{short}_h", f"{short}_w"
        if param.HasField(high):
            pairs.append((getattr(param, high), getattr(param, wide)))
        else:
            pairs.append((getattr(param, name), getattr(param, name)))
    if param.global_pooling:
        pairs[0] = (size[0], size[1])
    return pairs[0], pairs[1], pairs[2]
