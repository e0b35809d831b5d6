"""Layers that work value by value, and Eltwise."""

from __future__ import annotations

import math

from prototxt_gen.export.onnx_ops.layer import Layer, converters

SIMPLE = {"AbsVal": "Abs", "BNLL": "Softplus", "Dropout": "Identity", "Sigmoid": "Sigmoid", "TanH": "Tanh"}


@converters.add(*SIMPLE)
def simple(layer: Layer) -> str:
    """One operator without settings. Dropout does nothing in TEST."""
    return layer.op(SIMPLE[layer.proto.type], layer.x)


@converters.add("ReLU")
def relu(layer: Layer) -> str:
    """y = max(x, 0) + slope min(x, 0)."""
    slope = layer.proto.relu_param.negative_slope
    return layer.op("LeakyRelu", layer.x, alpha=slope) if slope else layer.op("Relu", layer.x)


@converters.add("ELU")
def elu(layer: Layer) -> str:
    """y = x where x > 0, else alpha (exp(x) - 1)."""
    return layer.op("Elu", layer.x, alpha=layer.proto.elu_param.alpha)


@converters.add("PReLU")
def prelu(layer: Layer) -> str:
    """y = max(x, 0) + slope min(x, 0), one slope per channel or one for all."""
    slope = layer.blobs[0]
    ones = () if layer.proto.prelu_param.channel_shared else (1,) * (len(layer.shape) - 2)
    return layer.op("PRelu", layer.x, layer.floats("slope", slope.reshape(-1, *ones)))


@converters.add("Swish")
def swish(layer: Layer) -> str:
    """y = x sigmoid(beta x)."""
    inner = layer.multiply(layer.x, layer.proto.swish_param.beta, "beta")
    return layer.op("Mul", layer.x, layer.op("Sigmoid", inner))


@converters.add("Clip")
def clip(layer: Layer) -> str:
    """y = max(min, min(x, max))."""
    param = layer.proto.clip_param
    return layer.op("Clip", layer.x, layer.floats("min", param.min), layer.floats("max", param.max))


@converters.add("Threshold")
def threshold(layer: Layer) -> str:
    """y = 1 where x > threshold, else 0."""
    above = layer.op("Greater", layer.x, layer.floats("threshold", layer.proto.threshold_param.threshold))
    return layer.op("Cast", above, to=1)


@converters.add("Power")
def power(layer: Layer) -> str:
    """y = (shift + scale x)^power; where scale or power is 0 Caffe does not look at x."""
    param = layer.proto.power_param
    if param.power == 0 or param.scale == 0:
        value = 1.0 if param.power == 0 else _float_power(param.shift, param.power)
        constant = layer.floats("value", value)
        return layer.op("Clip", layer.x, constant, constant)
    y = layer.plus(layer.multiply(layer.x, param.scale, "scale"), param.shift, "shift")
    return y if param.power == 1 else layer.op("Pow", y, layer.floats("exponent", param.power))


@converters.add("Exp")
def exp(layer: Layer) -> str:
    """y = base^(shift + scale x), base e where it is -1; computed as base^shift exp(log(base) scale x)."""
    param = layer.proto.exp_param
    log_base = 1.0 if param.base == -1 else math.log(param.base)
    y = layer.op("Exp", layer.multiply(layer.x, log_base * param.scale, "scale"))
    return layer.multiply(y, math.exp(log_base * param.shift), "factor")


@converters.add("Log")
def log(layer: Layer) -> str:
    """y = log(shift + scale x) / log(base), base e where it is -1."""
    param = layer.proto.log_param
    y = layer.op("Log", layer.plus(layer.multiply(layer.x, param.scale, "scale"), param.shift, "shift"))
    return layer.multiply(y, 1.0 if param.base == -1 else 1 / math.log(param.base), "factor")


@converters.add("Eltwise")
def eltwise(layer: Layer) -> str:
    """Sum with coefficients, product or maximum of the bottoms."""
    param = layer.proto.eltwise_param
    names = [bottom.name for bottom in layer.bottoms]
    if param.operation == param.MAX:
        return layer.op("Max", *names)
    if param.operation == param.SUM and param.coeff:
        names = [layer.multiply(name, coeff, "coeff") for name, coeff in zip(names, param.coeff)]
    y = names[0]
    for name in names[1:]:
        y = layer.op("Mul" if param.operation == param.PROD else "Add", y, name)
    return y


def _float_power(base: float, exponent: float) -> float:
    """Return a power as C's pow has it: infinite or not a number where Python raises."""
    import numpy

    with numpy.errstate(all="ignore"):
        return float(numpy.float64(base) ** numpy.float64(exponent))
