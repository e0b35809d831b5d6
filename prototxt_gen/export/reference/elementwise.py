"""Layers that work value by value, and Eltwise over several bottoms."""

from __future__ import annotations

from functools import reduce
from typing import Any

from prototxt_gen.export.reference.registry import Step, layers


@layers.add("ReLU")
def relu(step: Step) -> Any:
    """max(x, 0) + negative_slope min(x, 0)."""
    import numpy as np

    slope, y = step.layer.relu_param.negative_slope, np.maximum(step.x, 0)
    return y + slope * np.minimum(step.x, 0) if slope else y


@layers.add("PReLU")
def prelu(step: Step) -> Any:
    """max(x, 0) + slope min(x, 0), a slope for each channel or one for all."""
    import numpy as np

    slope = step.blobs[0]
    if slope.ndim:
        slope = slope.reshape(-1, *[1] * (step.x.ndim - 2))
    return np.maximum(step.x, 0) + slope * np.minimum(step.x, 0)


@layers.add("Sigmoid")
def sigmoid_layer(step: Step) -> Any:
    """1 / (1 + e^-x)."""
    return sigmoid(step.x)


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x), which never overflows when written as a hyperbolic tangent."""
    import numpy as np

    return 0.5 * np.tanh(0.5 * x) + 0.5


@layers.add("TanH")
def tanh(step: Step) -> Any:
    """Hyperbolic tangent."""
    import numpy as np

    return np.tanh(step.x)


@layers.add("ELU")
def elu(step: Step) -> Any:
    """x above 0, else alpha (e^x - 1)."""
    import numpy as np

    return np.maximum(step.x, 0) + step.layer.elu_param.alpha * np.expm1(np.minimum(step.x, 0))


@layers.add("Swish")
def swish(step: Step) -> Any:
    """x sigmoid(beta x)."""
    return step.x * sigmoid(step.layer.swish_param.beta * step.x)


@layers.add("AbsVal")
def absval(step: Step) -> Any:
    """|x|."""
    return abs(step.x)


@layers.add("BNLL")
def bnll(step: Step) -> Any:
    """log(1 + e^x)."""
    import numpy as np

    return np.maximum(step.x, 0) + np.log1p(np.exp(-abs(step.x)))


@layers.add("Threshold")
def threshold(step: Step) -> Any:
    """1 above the threshold, else 0."""
    return step.x > step.layer.threshold_param.threshold


@layers.add("Clip")
def clip(step: Step) -> Any:
    """max(min(x, max), min)."""
    import numpy as np

    param = step.layer.clip_param
    return np.maximum(np.minimum(step.x, param.max), param.min)


@layers.add("Power")
def power(step: Step) -> Any:
    """(shift + scale x)^power; 1 where power is 0."""
    param = step.layer.power_param
    return (param.shift + param.scale * step.x) ** param.power


@layers.add("Exp")
def exp(step: Step) -> Any:
    """base^(shift + scale x), base -1 standing for e."""
    import numpy as np

    param = step.layer.exp_param
    inner = param.shift + param.scale * step.x
    return np.exp(inner if param.base == -1 else inner * np.log(param.base))


@layers.add("Log")
def log(step: Step) -> Any:
    """log of shift + scale x to the given base, -1 standing for e."""
    import numpy as np

    param = step.layer.log_param
    y = np.log(param.shift + param.scale * step.x)
    return y if param.base == -1 else y / np.log(param.base)


@layers.add("Dropout")
def dropout(step: Step) -> Any:
    """x in TEST: Caffe scales up what it keeps while training."""
    if step.is_train:
        raise step.refuse("it drops values at random in phase TRAIN", "run the net in phase TEST")
    return step.x


@layers.add("Eltwise")
def eltwise(step: Step) -> Any:
    """Sum with coefficients, product or maximum of the bottoms."""
    import numpy as np

    param = step.layer.eltwise_param
    if param.operation == param.PROD:
        return reduce(np.multiply, step.bottoms)
    if param.operation == param.MAX:
        return reduce(np.maximum, step.bottoms)
    if not param.coeff:
        return reduce(np.add, step.bottoms)
    return reduce(np.add, (coeff * bottom for coeff, bottom in zip(param.coeff, step.bottoms)))
