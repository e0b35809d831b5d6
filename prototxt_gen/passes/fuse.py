"""fuse-scale: a Scale or Power and the Scale or Power that follows it, as one layer.

    Scale  y = g x + b, g and b by channel      Power  y = (t + s x)^p

    Scale g1, b1, then Scale g2, b2             Scale  g1 g2,  b1 g2 + b2
    Scale g1, b1, then Power s, t, p = 1        Scale  g1 s,  b1 s + t
    Power s, t, p = 1, then Scale g2, b2        Scale  s g2,  t g2 + b2
    Power s1, t1, p1 = 1, then Power s2, t2, p2    Power  s1 s2,  t1 s2 + t2,  p2

A chain of them becomes one. The layer that is left makes the last one's blob.
"""

from __future__ import annotations

from typing import Any, List, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model
from prototxt_gen.passes.base import PassResult, Skipped, registry
from prototxt_gen.passes.chain import Chain, coverage, refuse_shared_writes, refuse_training
from prototxt_gen.passes.norms import vectors


@registry.add("fuse-scale")
def fuse_scale(model: Model) -> PassResult:
    """Fuse chains of Scale and Power. Without weights the structure alone is fused.

    Raises Error for a net for training with two such layers in line of which one is a Scale, since it would learn
    otherwise.
    """
    refuse_shared_writes(model.net)
    chain = Chain(model)
    edits: List[str] = []
    skipped: List[Skipped] = []
    for index in chain.indices("Scale", "Power"):
        layer = chain.layers[index]
        maker = chain.maker(index) if layer.bottom else None
        if maker is None or chain.layers[maker].type not in ("Scale", "Power"):
            continue
        first = chain.layers[maker]
        reason = _why_not(first, layer) or _why_apart(chain, maker, index)
        if reason:
            skipped.append(Skipped(layer.name, reason))
            continue
        if "Scale" in (first.type, layer.type):
            refuse_training(model.net, f"'{first.name}' and '{layer.name}' learn otherwise in one")
        _fuse(chain, maker, index)
        edits.append(f"layer '{layer.name}': fused with '{first.name}' before it")
    done = {"Scale and Power in line": (len(edits), len(edits) + len(skipped))}
    return PassResult(chain.model(), tuple(edits), tuple(skipped), coverage("fused", done))


def _why_not(first: Any, second: Any) -> str:
    """Say why the two are no one Scale or Power."""
    if first.type == "Power" and first.power_param.power != 1:
        return "the Power before it raises to a power"
    if first.type == "Scale" and second.type == "Power" and second.power_param.power != 1:
        return "it raises to a power"
    scales = [one for one in (first, second) if one.type == "Scale"]
    if any(len(one.bottom) != 1 for one in scales):
        return "the factor of a Scale is a second bottom"
    axes = [(one.scale_param.axis, one.scale_param.num_axes) for one in scales]
    if len(set(axes)) > 1:
        return "the two factors lie along different axes"
    return "it has propagate_down" if second.propagate_down else ""


def _why_apart(chain: Chain, first: int, second: int) -> str:
    for index in (first, second):
        if chain.layers[index].type == "Scale" and chain.shares(index) is not None:
            return "the parameters of a Scale are shared"
    apart = chain.why_apart(first, second)
    if apart:
        return f"it follows a {chain.layers[first].type} {apart}"
    held = {chain.layers[index].name in chain.blobs for index in (first, second) if chain.layers[index].type == "Scale"}
    if len(held) > 1 or (chain.blobs and held == {False}):
        return "the weights hold nothing of a Scale"
    return ""


def _fuse(chain: Chain, first: int, second: int) -> None:
    one, two = chain.layers[first], chain.layers[second]
    kept = one if one.type == "Scale" else two
    message = type(kept)()
    message.CopyFrom(kept)
    blobs = None
    if kept.type == "Power":
        before, power = one.power_param, message.power_param
        power.shift = before.shift * power.scale + power.shift
        power.scale = before.scale * power.scale
    else:
        if (_adds(one) or _adds(two)) and not kept.scale_param.bias_term:
            message.scale_param.bias_term = True
            if two.type == "Scale" and two.scale_param.HasField("bias_filler"):
                message.scale_param.bias_filler.CopyFrom(two.scale_param.bias_filler)
        blobs = _blobs(chain, one, two, kept) if kept.name in chain.blobs else None
    message.bottom[:] = one.bottom
    message.top[:] = one.top
    message.loss_weight[:] = two.loss_weight
    message.propagate_down[:] = one.propagate_down
    chain.replace(first, message)
    chain.absorb(first, second)
    if blobs is not None:
        chain.blobs[kept.name] = blobs


def _blobs(chain: Chain, one: Any, two: Any, kept: Any) -> Tuple[Any, ...]:
    g1, b1 = _map(chain, one)
    g2, b2 = _map(chain, two)
    held = chain.blobs[kept.name]
    if kept is one and two.type == "Scale" and g1.size != g2.size:
        raise Error(f"it has {g2.size} factors, '{one.name}' before it {g1.size}", f"layer '{two.name}'")
    arrays = [g1 * g2]
    if b1 is not None or b2 is not None:
        arrays.append((0 if b1 is None else b1 * g2) + (0 if b2 is None else b2) + 0 * arrays[0])
    return tuple(array.astype(held[0].dtype).reshape(held[0].shape) for array in arrays)


def _adds(layer: Any) -> bool:
    return layer.scale_param.bias_term if layer.type == "Scale" else layer.power_param.shift != 0


def _map(chain: Chain, layer: Any) -> Tuple[Any, Any]:
    """Return g and b of y = g x + b in float64; b is None where the layer adds nothing."""
    if layer.type == "Power":
        param = layer.power_param
        return param.scale, param.shift if param.shift else None
    found = vectors(chain.blobs[layer.name], layer.name, "Scale", 1 + layer.scale_param.bias_term)
    return found[0], found[1] if layer.scale_param.bias_term else None
