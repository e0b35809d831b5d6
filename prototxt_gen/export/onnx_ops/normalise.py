"""Normalisation and affine layers, as they work in TEST.

BN:        y = g (x - m) v + b, v the inverse standard deviation in the fourth blob, or 1 / sqrt(it + eps) of a variance
BatchNorm: y = (x - m) / sqrt(var + eps), m = blob0 / f, var = blob1 / f, and 0 where f = 0
LRN:       y = x (k + a / n sum of x^2 over n channels)^-beta; within a channel x (1 + a mean of x^2 over n x n)^-beta
MVN:       y = (x - mean) / (sqrt(var) + eps)
"""

from __future__ import annotations

from typing import Any, Sequence

from prototxt_gen.export.onnx_ops.layer import Dims, Layer, converters
from prototxt_gen.spec.shapes import Shape, legacy


@converters.add("BN")
def bn(layer: Layer) -> str:
    """BatchNormalization with slope g v, variance 1 and epsilon 0: exact for any v, also where 1 / v^2 < eps."""
    import numpy

    g, b, m, statistic = (blob.astype(numpy.float64).ravel() for blob in layer.blobs)
    v = statistic
    if layer.bn_statistic == "variance":
        v = 1 / numpy.sqrt(statistic + layer.proto.bn_param.eps)
    elif layer.bn_statistic != "inv-std":
        raise layer.error("nothing says what BN's fourth blob holds: the dialect leaves it open",
                          "give --bn-statistic inv-std (the fork's own engine) or variance (cuDNN-engine models)")
    return _normalization(layer, g * v, b, m, numpy.ones_like(v), 0.0)


@converters.add("BatchNorm")
def batch_norm(layer: Layer) -> str:
    """BatchNormalization with the kept statistics; with ``use_global_stats: false`` from the batch itself."""
    import numpy

    param = layer.proto.batch_norm_param
    if param.HasField("use_global_stats") and not param.use_global_stats:
        return _batch_statistics(layer, param.eps)
    mean, variance, (f,) = (blob.astype(numpy.float64).ravel() for blob in layer.blobs)
    factor = 1 / f if f else 0.0
    ones = numpy.ones_like(mean)
    return _normalization(layer, ones, numpy.zeros_like(mean), mean * factor, variance * factor, param.eps)


@converters.add("Scale")
def scale(layer: Layer) -> str:
    """Mul by the factor, and Add of the bias where there is one."""
    param, blobs = layer.proto.scale_param, list(layer.blobs)
    if len(layer.bottoms) == 2:
        axis, like = _axis(param.axis, layer.shape, layer.bottoms[1].shape), layer.bottoms[1].shape
        factor = _unsqueezed(layer, axis)
    else:
        like = blobs[0].shape
        axis = _axis(param.axis, layer.shape, like)
        factor = layer.floats("factor", _broadcast(blobs.pop(0), layer.shape, axis, like))
    y = layer.op("Mul", layer.x, factor)
    return layer.op("Add", y, layer.floats("bias", _broadcast(blobs[0], layer.shape, axis, like))) if blobs else y


@converters.add("Bias")
def bias(layer: Layer) -> str:
    """Add of the summand."""
    axis = layer.proto.bias_param.axis
    if len(layer.bottoms) == 2:
        return layer.op("Add", layer.x, _unsqueezed(layer, _axis(axis, layer.shape, layer.bottoms[1].shape)))
    like = layer.blobs[0].shape
    values = _broadcast(layer.blobs[0], layer.shape, _axis(axis, layer.shape, like), like)
    return layer.op("Add", layer.x, layer.floats("bias", values))


@converters.add("LRN")
def lrn(layer: Layer) -> str:
    """LRN across channels is ONNX's; within a channel its formula stands in single operators."""
    param, n = layer.proto.lrn_param, layer.proto.lrn_param.local_size
    if param.norm_region == param.ACROSS_CHANNELS:
        return layer.op("LRN", layer.x, size=n, alpha=param.alpha, beta=param.beta, bias=param.k)
    square = layer.op("Mul", layer.x, layer.x)
    mean = layer.op("AveragePool", square, kernel_shape=[n, n], strides=[1, 1], pads=[n // 2] * 4, count_include_pad=1)
    base = layer.plus(layer.multiply(mean, param.alpha, "alpha"), 1, "one")
    return layer.op("Mul", layer.x, layer.op("Pow", base, layer.floats("exponent", -param.beta)))


@converters.add("MVN")
def mvn(layer: Layer) -> str:
    """Mean and variance of each plane, or of each item ``across_channels``."""
    param, dims = layer.proto.mvn_param, layer.bottoms[0].dims
    full: Dims = (*dims, 1, 1, 1, 1)[: len(legacy(layer.shape))]
    x = layer.reshape(layer.x, dims, full)
    axes = layer.integers("axes", [1, 2, 3] if param.across_channels else [2, 3])
    centred = layer.op("Sub", x, layer.op("ReduceMean", x, axes))
    if not param.normalize_variance:
        return centred
    variance = layer.op("ReduceMean", layer.op("Mul", centred, centred), axes)
    return layer.op("Div", centred, layer.plus(layer.op("Sqrt", variance), param.eps, "eps"))


def _normalization(layer: Layer, slope: Any, bias: Any, mean: Any, variance: Any, epsilon: float) -> str:
    inputs = [layer.floats(role, values)
              for role, values in (("slope", slope), ("bias", bias), ("mean", mean), ("variance", variance))]
    return layer.op("BatchNormalization", layer.x, *inputs, epsilon=epsilon)


def _batch_statistics(layer: Layer, eps: float) -> str:
    """Normalise by mean and biased variance of the batch, over all axes but the channels."""
    axes = layer.integers("axes", [axis for axis in range(len(layer.shape)) if axis != 1])
    centred = layer.op("Sub", layer.x, layer.op("ReduceMean", layer.x, axes))
    variance = layer.op("ReduceMean", layer.op("Mul", centred, centred), axes)
    return layer.op("Div", centred, layer.op("Sqrt", layer.plus(variance, eps, "eps")))


def _axis(axis: int, shape: Shape, like: Shape) -> int:
    """Return the first axis that an array of shape ``like`` is broadcast from; a scalar meets every axis alike."""
    return axis % len(shape) if like else 0


def _broadcast(values: Any, shape: Shape, axis: int, like: Shape) -> Any:
    """Return an array with ones behind it, so that it lines up with ``shape`` from ``axis`` on."""
    return values.reshape(*like, *[1] * (len(shape) - axis - len(like))) if like else values.reshape(())


def _unsqueezed(layer: Layer, axis: int) -> str:
    """Return the second bottom with axes of size 1 behind it, so that it lines up with the first from ``axis`` on."""
    other = layer.bottoms[1]
    behind: Sequence[int] = range(len(other.shape), len(layer.shape) - axis) if other.shape else ()
    return layer.op("Unsqueeze", other.name, layer.integers("axes", list(behind))) if behind else other.name
