"""split-bn and merge-bn: the merged BN layer as Caffe's pair of BatchNorm and Scale, and back.

BN's slope g, bias b, moving mean m and moving inverse standard deviation v; the pair's mean M, variance S, factor f,
gamma G and beta B:

    split   M = m,   S = max(1 / v^2 - eps, 0),   f = 1,   G = g v sqrt(S + eps),   B = b
    merge   g = G,   b = B,   m = M / f,   v = 1 / sqrt(S / f + eps)

G = g wherever 1 / v^2 >= eps, up to rounding; where it is less, no variance gives back v, and G makes up for it, so
that TEST computes the same. In an engine that keeps a variance as BN's fourth blob (statistic "variance"), it is S.

In TRAIN both compute the same values, but the moving statistics differ from there on. BN: m <- momentum m +
(1 - momentum) mu, and likewise v with the inverse standard deviation of the batch. The pair: M <- fraction M + mu,
f <- fraction f + 1, and S with the unbiased variance of the batch, n / (n - 1) times the biased one that it normalises
with (n values per channel). With f = 1 a split model forgets its old statistics faster in the first steps of further
training.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model
from prototxt_gen.passes.base import PassResult, Skipped, registry
from prototxt_gen.passes.batchnorm_layers import merge_layer, param_names, split_layer
from prototxt_gen.passes.chain import Chain, coverage, loss_of
from prototxt_gen.passes.norms import INV_STD, inverse_std, moments, need_bn, statistic_of, vectors, why_no_affine

ROUNDING = 1e-6  # a relative change of gamma that float32 explains
SHARED = "its parameters are shared with a layer that does not become the same"


@registry.add("split-bn")
def split_bn(model: Model, *, bn_statistic: Optional[str] = None) -> PassResult:
    """Write every BN as BatchNorm, called as the BN was, and Scale in place, called ``<name>/scale``.

    ``bn_statistic``: what the fourth blob holds, "inv-std" or "variance"; by default what the dialect says. Skips a BN
    that shares parameters with a layer that does not share the same ones.
    """
    chain, out, names = Chain(model), [], {}
    edits: List[str] = []
    skipped: List[Skipped] = []
    layers = chain.indices("BN")
    need_bn(model, layers)
    for index, layer in enumerate(chain.layers):
        if layer.type != "BN":
            out.append(layer)
            continue
        reason = _why_unsplit(chain, index)
        if reason:
            skipped.append(Skipped(layer.name, reason))
            out.append(layer)
            continue
        if layer.name not in names:
            names[layer.name] = chain.unique_name(f"{layer.name}/scale")
            note = _split_blobs(model, layer, names[layer.name], chain.blobs, bn_statistic)
            edits.append(f"layer '{layer.name}': split into BatchNorm and Scale '{names[layer.name]}'{note}")
        if any(spec.lr_mult for spec in layer.param[2:]):
            edits.append(f"layer '{layer.name}': lr_mult of the statistics was not 0; BatchNorm takes nothing else")
        out.extend(split_layer(layer, names[layer.name]))
    done = {"BN": (len(layers) - len(skipped), len(layers))}
    return PassResult(chain.model(out), tuple(edits), tuple(skipped), coverage("split", done))


@registry.add("merge-bn")
def merge_bn(model: Model, *, bn_statistic: Optional[str] = None) -> PassResult:
    """Write every BatchNorm, with the Scale that alone reads it, as one BN of the BatchNorm's name.

    A BatchNorm without such a Scale becomes a BN whose slope 1 and bias 0 do not learn. ``bn_statistic``: what the
    fourth blob shall hold, "inv-std" or "variance"; by default what the dialect says.
    """
    chain = Chain(model)
    edits: List[str] = []
    skipped: List[Skipped] = []
    layers = chain.indices("BatchNorm")
    need_bn(model, layers)
    pairs = {index: _scale_of(chain, index) for index in layers}
    trains = bool(layers) and loss_of(model.net) is not None
    reasons = {index: _why_unmerged(chain, index, pairs[index][0] if trains else None) for index in layers}
    _refuse_open_sharing(chain, pairs, reasons)
    merged: Dict[str, Any] = {}
    for index in layers:
        layer, (scale, why_alone) = chain.layers[index], pairs[index]
        if reasons[index]:
            skipped.append(Skipped(layer.name, reasons[index]))
            continue
        scale_layer = None if scale is None else chain.layers[scale]
        if layer.name in model.blobs and layer.name not in merged:
            merged[layer.name] = _merged_blobs(model, layer, scale_layer, bn_statistic)
        message = merge_layer(layer, scale_layer)
        if scale is None:
            edits.append(f"layer '{layer.name}': made BN with slope 1 and bias 0, {why_alone}")
        else:
            edits.append(f"layer '{layer.name}': merged with '{scale_layer.name}'")
            chain.absorb(index, scale)
            message.bottom[:] = layer.bottom
            message.top[:] = layer.top
        chain.replace(index, message)
    chain.blobs.update(merged)
    done = {"BatchNorm": (len(layers) - len(skipped), len(layers))}
    return PassResult(chain.model(), tuple(edits), tuple(skipped), coverage("merged", done))


# Splitting.

def _why_unsplit(chain: Chain, index: int) -> str:
    """Layers can still share parameters where all of them share the same ones, with the same eps."""
    layer = chain.layers[index]
    for other in () if chain.has_own_name(index) else chain.namesakes(index):
        if other.type != "BN" or other.bn_param.eps != layer.bn_param.eps:
            return "another layer has its name, and is not alike"
    names = param_names(layer, 4)
    for name in filter(None, names):
        for other in sorted(chain.sharing(name)):
            one = chain.layers[other]
            if one.type != "BN" or param_names(one, 4) != names or one.bn_param.eps != layer.bn_param.eps:
                return SHARED
    if bool(names[2]) != bool(names[3]):
        return "it shares one of its two statistics"
    return ""


def _split_blobs(model: Model, layer: Any, scale_name: str, blobs: Dict[str, Any], bn_statistic: Optional[str]) -> str:
    """Put the pair's blobs in place of the BN's; return what the user should know of them."""
    import numpy as np

    if layer.name not in model.blobs:
        return ""
    held = model.blobs[layer.name]
    statistic = statistic_of(model, bn_statistic, layer.name)
    g, b, m, fourth = vectors(held, layer.name, "BN", 4)
    dtype, eps, note = held[0].dtype, layer.bn_param.eps, ""
    s = fourth
    if statistic == INV_STD:
        v = fourth
        if not np.isfinite(v).all():
            raise Error("its moving inverse standard deviation has values that are not finite", f"layer '{layer.name}'")
        with np.errstate(divide="ignore"):
            s = np.where(v > 0, np.maximum(1 / (v * v) - eps, 0), 0)
        # v = 0 gives an infinite variance, and v near 0 one beyond float32: gamma 0 says the same.
        s = np.where(s < float(np.finfo(dtype).max), s, 0)
        factor = v * np.sqrt(s + eps)
        off = np.abs(factor - 1) > ROUNDING
        if off.any():
            names = param_names(layer, 4)
            if names[0] and not names[3]:
                what = f"{off.sum()} channels need a gamma of their own (v > 1 / sqrt(eps)), and its slope is shared"
                raise Error(what, f"layer '{layer.name}'")
            g = np.where(off, g * factor, g)
            note = (f"; in {off.sum()} of {off.size} channels no variance gives its v (up to {v.max():.6g}; "
                    f"1 / sqrt(eps) is {1 / math.sqrt(eps):.6g}), gamma makes up for it"
                    f"{'' if v.max() < 2 / math.sqrt(eps) else '; is the fourth blob a variance? --bn-statistic'}")
    blobs[layer.name] = tuple(one.astype(dtype) for one in (m, s, np.ones(1)))
    blobs[scale_name] = tuple(one.astype(dtype) for one in (g, b))
    return note


# Merging.

def _scale_of(chain: Chain, index: int) -> Tuple[Optional[int], str]:
    """Return the Scale that goes with a BatchNorm, or None and why there is none."""
    readers = chain.readers(index)
    if not readers:
        return None, "nothing reads it"
    scale = chain.layers[readers[0]]
    if scale.type != "Scale":
        return None, f"{scale.type} reads it"
    apart = chain.why_apart(index, readers[0])
    if apart:
        return None, f"it is a BatchNorm {apart}"
    wrong = why_no_affine(scale)
    if scale.propagate_down:
        wrong = wrong or "it has propagate_down"
    if not chain.has_own_name(readers[0]):
        wrong = wrong or "another layer has its name"
    return (None, f"its Scale stays: {wrong}") if wrong else (readers[0], "")


def _why_unmerged(chain: Chain, index: int, learning: Optional[int]) -> str:
    """Say why a BatchNorm stays; ``learning``: its Scale in a net for training."""
    layer = chain.layers[index]
    param = layer.batch_norm_param
    train_only = bool(layer.include) and all(rule.HasField("phase") and rule.phase == 0 for rule in layer.include)
    if param.HasField("use_global_stats") and not param.use_global_stats and not train_only:
        return "it normalises by each batch in TEST, too (use_global_stats: false), which BN cannot"
    if param.use_global_stats and learning is not None:
        scale = chain.layers[learning]
        rates = [spec.lr_mult for spec in scale.param] + [1, 1]
        if any(rates[:1 + scale.scale_param.bias_term]):
            return "its statistics are fixed while its Scale learns, which BN cannot"
    if param.eps <= 0:
        return "its eps is 0, which BN refuses"
    if not 0 <= param.moving_average_fraction <= 1:
        return "its moving_average_fraction lies outside 0 to 1, which BN refuses"
    if any(layer.loss_weight):
        return "it has a loss weight"
    if not chain.has_own_name(index):
        return "another layer has its name; --pass split-phases first"
    names = param_names(layer, 3)
    if bool(names[0]) != bool(names[1]):
        return "it shares one of its two statistics"
    return ""


def _refuse_open_sharing(chain: Chain, pairs: Dict[int, Any], reasons: Dict[int, str]) -> None:
    """A shared parameter may change its shape only where every layer that shares it is merged alike."""
    names: Dict[int, List[Any]] = {}  # with eps, which is part of v
    for index, (scale, _) in pairs.items():
        of_scale = [""] * 2 if scale is None else param_names(chain.layers[scale], 2)
        eps = chain.layers[index].batch_norm_param.eps
        names[index] = [*param_names(chain.layers[index], 3), *of_scale, eps]
    partner = {scale: index for index, (scale, _) in pairs.items() if scale is not None}
    changed = True
    while changed:
        changed = False
        for index in [one for one in pairs if not reasons[one]]:
            for name in filter(None, names[index][:-1]):
                for other in sorted(chain.sharing(name)):
                    owner = partner.get(other, other)
                    if owner in pairs and not reasons[owner] and names[owner] == names[index]:
                        continue
                    reasons[index] = SHARED
                    changed = True


def _merged_blobs(model: Model, layer: Any, scale: Optional[Any], bn_statistic: Optional[str]) -> Tuple[Any, ...]:
    import numpy as np

    statistic = statistic_of(model, bn_statistic, layer.name)
    held = model.blobs[layer.name]
    m, s = moments(held, layer.name)
    g, b = np.ones_like(m), np.zeros_like(m)
    if scale is not None:
        has_bias = scale.scale_param.bias_term
        if scale.name not in model.blobs:
            raise Error(f"the weights hold none of it, but those of '{layer.name}' before it", f"layer '{scale.name}'")
        found = vectors(model.blobs[scale.name], scale.name, "Scale", 1 + has_bias)
        if found[0].size != m.size:
            raise Error(f"it has {found[0].size} channels, '{layer.name}' {m.size}", f"layer '{scale.name}'")
        g, b = found[0], found[1] if has_bias else b
    fourth = inverse_std(s, layer.batch_norm_param.eps, layer.name) if statistic == INV_STD else s
    shape = (1, -1) if model.dialect.bn_blob_shape == "(1, C)" else (1, -1, 1, 1)
    return tuple(one.astype(held[0].dtype).reshape(shape) for one in (g, b, m, fourth))
