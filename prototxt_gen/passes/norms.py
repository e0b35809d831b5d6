"""What the normalising layers compute in TEST, from their blobs, as arithmetic in float64. Channel by channel:

    BN          y = g (x - m) v + b                          blobs g, b, m, v
                y = g (x - m) / sqrt(s + eps) + b            blobs g, b, m, s, where the engine keeps a variance s
    BatchNorm   y = (x - m / f) / sqrt(s / f + eps)          blobs m, s, f; 0 in place of m / f and s / f where f = 0
    Scale       y = g x + b                                  blobs g, b

v, the inverse standard deviation, has eps inside: v = 1 / sqrt(s + eps). Hence s = 1 / v^2 - eps, which no variance can
be where v > 1 / sqrt(eps).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model

INV_STD, VARIANCE = "inv-std", "variance"


class Affine(NamedTuple):
    """y = scale x + shift, arrays (C,). ``shift`` is None where the layer has none."""

    scale: Any
    shift: Optional[Any]


def statistic_of(model: Model, bn_statistic: Optional[str], layer: str) -> str:
    """Return what BN's fourth blob holds: as the user says, else as the dialect does; Error where neither does."""
    statistic = bn_statistic or model.dialect.bn_statistic
    if statistic is None:
        what = f"dialect '{model.dialect.name}' does not tell what BN's fourth blob holds"
        hint = "--bn-statistic inv-std, or variance for a model of a cuDNN engine"
        raise Error(what, f"layer '{layer}'", hint)
    if statistic not in (INV_STD, VARIANCE):
        raise Error(f"bn_statistic is '{statistic}'", hint=f"it is {INV_STD} or {VARIANCE}")
    return statistic


def need_bn(model: Model, layers: Sequence[int]) -> None:
    """Raise Error where the model's dialect has no BN, and ``layers`` of the net are to be or to become one."""
    if layers and "bn_param" not in model.dialect.message("LayerParameter").DESCRIPTOR.fields_by_name:
        where = f"layer '{model.net.layer[layers[0]].name}'"
        hint = "--pass dialect --to attention first"
        raise Error(f"dialect '{model.dialect.name}' has no layer BN (no bn_param)", where, hint)


def inverse_std(variance: Any, eps: float, layer: str) -> Any:
    """Return 1 / sqrt(variance + eps); Error where that has no value."""
    import numpy as np

    wrong = ~(variance + eps > 0)
    if wrong.any():
        what = f"the variance of {wrong.sum()} of its channels is {variance[wrong][0]:.6g}, and cannot be"
        raise Error(what, f"layer '{layer}'", "--bn-statistic says what BN's fourth blob holds")
    return 1 / np.sqrt(variance + eps)


def vectors(blobs: Sequence[Any], layer: str, kind: str, number: int) -> Tuple[Any, ...]:
    """Return a layer's blobs as float64 vectors; Error where they are not ``number`` of one size."""
    import numpy as np

    if len(blobs) != number:
        raise Error(f"{kind} has {number} blobs, and the weights hold {len(blobs)}", f"layer '{layer}'")
    flat = tuple(np.asarray(blob, dtype=np.float64).reshape(-1) for blob in blobs)
    if any(one.size != flat[0].size for one in flat):
        sizes = ", ".join(str(one.size) for one in flat)
        raise Error(f"the blobs of a {kind} have one size, not {sizes}", f"layer '{layer}'")
    return flat


def moments(blobs: Sequence[Any], layer: str) -> Tuple[Any, Any]:
    """Return the mean and the variance that BatchNorm's three blobs stand for, float64 (C,)."""
    import numpy as np

    if len(blobs) != 3:
        raise Error(f"BatchNorm has 3 blobs, and the weights hold {len(blobs)}", f"layer '{layer}'")
    m, s = vectors(blobs[:2], layer, "BatchNorm", 2)
    f = float(np.asarray(blobs[2], dtype=np.float64).reshape(-1)[0])
    return (m / f, s / f) if f else (0 * m, 0 * s)


def affine(layer: Any, blobs: Sequence[Any], statistic: str) -> Affine:
    """Return what a BN, BatchNorm or Scale (with its own factor) does in TEST."""
    if layer.type == "BN":
        g, b, m, fourth = vectors(blobs, layer.name, "BN", 4)
        v = fourth if statistic == INV_STD else inverse_std(fourth, layer.bn_param.eps, layer.name)
        return Affine(g * v, b - g * v * m)
    if layer.type == "BatchNorm":
        m, s = moments(blobs, layer.name)
        v = inverse_std(s, layer.batch_norm_param.eps, layer.name)
        return Affine(v, -m * v)
    has_bias = layer.scale_param.bias_term
    found = vectors(blobs, layer.name, "Scale", 1 + has_bias)
    return Affine(found[0], found[1] if has_bias else None)


def why_no_affine(layer: Any) -> str:
    """Say why a BN, BatchNorm or Scale is no fixed map of each channel in TEST; empty where it is one."""
    if layer.type == "BatchNorm":
        param = layer.batch_norm_param
        by_batch = param.HasField("use_global_stats") and not param.use_global_stats
        return "it normalises by each batch in TEST, too (use_global_stats: false)" if by_batch else ""
    if layer.type == "Scale":
        if len(layer.bottom) != 1:
            return "its factor is a second bottom"
        if layer.scale_param.axis != 1 or layer.scale_param.num_axes != 1:
            return "its factor does not lie along the channels"
    return ""
