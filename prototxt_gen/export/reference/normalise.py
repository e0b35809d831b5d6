"""Normalisation, and the affine layers that go with it."""

from __future__ import annotations

from typing import Any, Tuple

from prototxt_gen.export.reference.convolution import Window
from prototxt_gen.export.reference.pooling import average
from prototxt_gen.export.reference.registry import Step, layers


@layers.add("BN")
def bn(step: Step) -> Any:
    """Merged batch norm with slope g, bias b, moving mean m, moving statistic v, over all axes but the second.

    1. TRAIN and not frozen: y = g (x - mu) / sqrt(var + eps) + b, mu and the biased var of this batch;
    2. else, v an inverse standard deviation: y = g (x - m) v + b;
    3. else, v a variance: y = g (x - m) / sqrt(v + eps) + b.
    """
    import numpy as np

    x, param = step.x, step.layer.bn_param
    g, b, m, v = (blob.reshape(-1, *[1] * (x.ndim - 2)) for blob in step.blobs)
    if step.is_train and not param.frozen:  # case 1
        m, variance = batch_statistics(x)
        scale = 1 / np.sqrt(variance + param.eps)
    elif step.bn_statistic == "inv-std":  # case 2
        scale = v
    elif step.bn_statistic == "variance":  # case 3
        scale = 1 / np.sqrt(v + param.eps)
    else:
        raise step.refuse("the dialect does not tell what the fourth blob of BN holds", "--bn-statistic tells")
    return (x - m.astype(x.dtype)) * (g * scale.astype(x.dtype)) + b


@layers.add("BatchNorm")
def batch_norm(step: Step) -> Any:
    """y = (x - mean) / sqrt(variance + eps): of this batch, or blobs 0 and 1 divided by blob 2 (0 where that is 0).

    The batch's own are taken in TRAIN, the moving ones in TEST, unless use_global_stats says which.
    """
    import numpy as np

    x, param = step.x, step.layer.batch_norm_param
    moving = param.use_global_stats if param.HasField("use_global_stats") else not step.is_train
    if moving:
        weight = step.blobs[2][0]
        factor = 1 / weight if weight else weight
        mean, variance = (blob.reshape(-1, *[1] * (x.ndim - 2)) * factor for blob in step.blobs[:2])
    else:
        mean, variance = batch_statistics(x)
    return (x - mean.astype(x.dtype)) / np.sqrt(variance + param.eps).astype(x.dtype)


def batch_statistics(x: Any) -> Tuple[Any, Any]:
    """Return mean and biased variance over all axes but the second, each (C, 1...), in float64."""
    import numpy as np

    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes, dtype=np.float64, keepdims=True)
    return mean[0], np.square(x - mean).mean(axes, keepdims=True)[0]


@layers.add("Scale")
def scale(step: Step) -> Any:
    """x times a factor broadcast from ``axis`` on, a second bottom or blob 0; plus the last blob with ``bias_term``."""
    param = step.layer.scale_param
    factor = step.bottoms[1] if len(step.bottoms) == 2 else step.blobs[0]
    y = step.x * broadcast(factor, param.axis, step.x.ndim)
    return y + broadcast(step.blobs[-1], param.axis, y.ndim) if param.bias_term else y


@layers.add("Bias")
def bias(step: Step) -> Any:
    """x plus a summand broadcast from ``axis`` on, a second bottom or blob 0."""
    summand = step.bottoms[1] if len(step.bottoms) == 2 else step.blobs[0]
    return step.x + broadcast(summand, step.layer.bias_param.axis, step.x.ndim)


def broadcast(array: Any, axis: int, axes: int) -> Any:
    """Return an array whose first axis meets axis ``axis`` of one with so many axes."""
    after = axes - axis % axes - array.ndim
    return array.reshape(*array.shape, *[1] * after) if array.ndim else array


@layers.add("MVN")
def mvn(step: Step) -> Any:
    """y = x - mean, divided by sqrt(var) + eps with ``normalize_variance``; of each plane, or each item."""
    import numpy as np

    param = step.layer.mvn_param
    x = step.x.reshape(step.shapes[0])
    axes = (1, 2, 3) if param.across_channels else (2, 3)
    y = x - x.mean(axes, dtype=np.float64, keepdims=True)
    if param.normalize_variance:
        y = y / (np.sqrt(np.square(y).mean(axes, keepdims=True)) + param.eps)
    return y


@layers.add("LRN")
def lrn(step: Step) -> Any:
    """n = local_size values around each:

    1. across channels: y = x (k + alpha / n sum x^2)^-beta;
    2. within a channel: y = x (1 + alpha / n^2 sum x^2)^-beta, over n x n; k has no part in it.
    """
    import numpy as np

    param, x = step.layer.lrn_param, step.x
    n, square = param.local_size, np.square(x)
    half = (n - 1) // 2
    if param.norm_region == param.ACROSS_CHANNELS:  # case 1
        padded = np.pad(square, [(0, 0), (half, half), (0, 0), (0, 0)])
        total = sum(padded[:, i:i + x.shape[1]] for i in range(n))
        return x * (param.k + param.alpha / n * total) ** -param.beta
    mean = average(square, Window((n, n), (1, 1), (half, half), (1, 1)), x.shape[2:])  # case 2
    return x * (1 + param.alpha * mean) ** -param.beta


@layers.add("Softmax")
def softmax(step: Step) -> Any:
    """e^x over its sum along ``axis``."""
    return softmax_of(step.x, step.layer.softmax_param.axis)


def softmax_of(x: Any, axis: int) -> Any:
    """Return e^x over its sum along an axis; the largest value is taken off first."""
    import numpy as np

    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)
