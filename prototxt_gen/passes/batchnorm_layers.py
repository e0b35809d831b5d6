"""The messages of BN, and of BatchNorm and Scale, made from one another: everything but the weights.

Names, phases, fillers, learning rates. Where the two sides have other defaults, the default is written out; a ``param``
that only says what the layer does by itself is written in a way that lets merging find and drop it again.
"""

from __future__ import annotations

from typing import Any, List, Optional, Tuple


def split_layer(layer: Any, scale_name: str) -> Tuple[Any, Any]:
    """Return BatchNorm and Scale in place of a BN.

    ``engine`` has no place in them. A frozen BN's slope and bias get lr_mult 0, as it computes no differences for them.
    """
    kind = type(layer)
    norm, scale = kind(name=layer.name, type="BatchNorm"), kind(name=scale_name, type="Scale")
    param, given = layer.bn_param, len(layer.param)
    norm.bottom.extend(layer.bottom)
    norm.top.extend(layer.top)
    scale.bottom.extend(layer.top)
    scale.top.extend(layer.top)
    scale.loss_weight.extend(layer.loss_weight)
    norm.propagate_down.extend(layer.propagate_down)
    for one in (norm, scale):
        one.include.extend(layer.include)
        one.exclude.extend(layer.exclude)
        if layer.HasField("phase"):
            one.phase = layer.phase
    norm.batch_norm_param.moving_average_fraction = param.momentum
    if param.HasField("eps"):
        norm.batch_norm_param.eps = param.eps
    if param.frozen:
        norm.batch_norm_param.use_global_stats = True
    if given > 2:
        # Without them BatchNorm sees to its statistics by itself, as BN does.
        for position in (2, 3, 4):
            _add_fixed(norm, layer.param[position] if position < min(given, 4) else None)
        if given > 3 and layer.param[3].name:
            norm.param[2].name = f"{layer.param[3].name}/factor"
    scale.param.extend(layer.param[:2])
    if param.frozen:
        # BN computes no differences for them; here a rate of 0 holds them.
        while len(scale.param) < 2:
            scale.param.add()
        for spec in scale.param:
            spec.lr_mult = 0
    # A BN without fillers starts from slope 0, a Scale from 1.
    if param.HasField("slope_filler"):
        scale.scale_param.filler.CopyFrom(param.slope_filler)
    else:
        scale.scale_param.filler.value = 0
    scale.scale_param.bias_term = True
    if param.HasField("bias_filler"):
        scale.scale_param.bias_filler.CopyFrom(param.bias_filler)
    return norm, scale


def merge_layer(layer: Any, scale: Optional[Any]) -> Any:
    """Return the BN of a BatchNorm and its Scale; without one, slope 1 and bias 0 do not learn."""
    bn = type(layer)(name=layer.name, type="BN")
    param = layer.batch_norm_param
    bn.bottom.extend(layer.bottom)
    bn.top.extend(layer.top)
    bn.include.extend(layer.include)
    bn.exclude.extend(layer.exclude)
    bn.propagate_down.extend(layer.propagate_down)
    if layer.HasField("phase"):
        bn.phase = layer.phase
    default = type(bn.bn_param)()
    if param.moving_average_fraction != default.momentum:
        bn.bn_param.momentum = param.moving_average_fraction
    if param.HasField("eps"):
        bn.bn_param.eps = param.eps
    if param.use_global_stats:
        bn.bn_param.frozen = True
    if scale is None:
        bn.bn_param.slope_filler.value = 1
        bn.param.extend([_spec(layer, 0, 0)] * 2)
    else:
        bn.loss_weight.extend(scale.loss_weight)
        _merge_scale(bn, scale)
    if layer.param:
        while len(bn.param) < 2:
            bn.param.add()
        for position in range(2):
            _add_fixed(bn, layer.param[position] if position < len(layer.param) else None)
    elif bn.bn_param.frozen:
        _strip(bn)
    return bn


def _merge_scale(bn: Any, scale: Any) -> None:
    """Copy what a Scale says of gamma and beta."""
    given = scale.scale_param
    bn.param.extend(scale.param[:1 + given.bias_term])
    if not given.HasField("filler"):
        bn.bn_param.slope_filler.type = "constant"
        bn.bn_param.slope_filler.value = 1
    elif given.filler != type(given.filler)(value=0):
        bn.bn_param.slope_filler.CopyFrom(given.filler)
    if given.bias_term and given.HasField("bias_filler"):
        bn.bn_param.bias_filler.CopyFrom(given.bias_filler)
    if not given.bias_term:
        # Scale has no bias, so that BN's stays at 0.
        while len(bn.param) < 1:
            bn.param.add()
        bn.param.append(_spec(bn, 0, 0))


def _strip(bn: Any) -> None:
    """Take away trailing ``param { lr_mult: 0 }``: split-bn writes them for a frozen BN that has no ``param``.

    One from a file has its ``decay_mult``, too.
    """
    automatic = _spec(bn, 0)
    while bn.param and bn.param[-1] == automatic:
        del bn.param[-1]


def param_names(layer: Any, number: int) -> List[str]:
    """Return the names by which a layer's first parameters may be shared; empty for none."""
    return [layer.param[position].name if position < len(layer.param) else "" for position in range(number)]


def _spec(layer: Any, lr_mult: float, decay_mult: Optional[float] = None) -> Any:
    spec = type(layer)().param.add(lr_mult=lr_mult)
    if decay_mult is not None:
        spec.decay_mult = decay_mult
    return spec


def _add_fixed(layer: Any, spec: Optional[Any]) -> None:
    """Add a ``param`` that learns nothing: a copy of ``spec``, or one of zeros."""
    added = layer.param.add()
    if spec is not None:
        added.CopyFrom(spec)
    if spec is None or spec.lr_mult:
        added.lr_mult = added.decay_mult = 0
