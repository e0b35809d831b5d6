"""Shapes, parameters and multiply-adds of a net, computed without running it.

``infer`` walks the layers as Caffe's Net::Init does (state filter, Split insertion, blobs by name) and asks the rule of
each layer type for what it makes (``spec.rules``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from prototxt_gen.core.dialects import DEFAULT_DIALECT, in_full_schema
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.graph import insert_splits, layers_in, net_state
from prototxt_gen.spec.rules import Buffer, Made, Param, Place, rules
from prototxt_gen.spec.shapes import Misfit, Shape, Unknown, format_shape

__all__ = [
    "Buffer", "LayerInfo", "Made", "Misfit", "NetInfo", "Param", "Place", "Shape", "format_shape", "infer", "rules",
]

AUTOMATIC = "(automatic)"  # Caffe's name for the top of a loss that gives none


@dataclass(frozen=True)
class LayerInfo:
    """One layer as Caffe sets it up. ``bottoms`` and ``tops`` are blob names, the shapes stand in the same order.

    ``known`` is false where gaps are allowed and no rule tells what the layer makes, or what it reads is unknown;
    unknown shapes are None.
    ``in_place`` holds the positions of the tops that overwrite the bottom in the same position.
    """

    name: str
    type: str
    bottoms: Tuple[str, ...]
    tops: Tuple[str, ...]
    bottom_shapes: Tuple[Optional[Shape], ...]
    top_shapes: Tuple[Optional[Shape], ...]
    params: Tuple[Param, ...]
    macs: int
    buffers: Tuple[Buffer, ...]
    in_place: Tuple[int, ...]
    inserted: bool  # a Split that Caffe adds
    known: bool
    layer: Any = field(repr=False, compare=False)

    @property
    def learnable(self) -> int:
        """Number of learnable values."""
        return sum(math.prod(one.shape) for one in self.params if not one.statistic)

    @property
    def statistics(self) -> int:
        """Number of values that are kept, not learned."""
        return sum(math.prod(one.shape) for one in self.params if one.statistic)


@dataclass(frozen=True)
class NetInfo:
    """What ``infer`` found. ``blobs`` maps names to final shapes, Caffe's Split blobs included, None where unknown."""

    name: str
    phase: int
    layers: Tuple[LayerInfo, ...]
    blobs: Mapping[str, Optional[Shape]]

    @property
    def macs(self) -> int:
        """Multiply-adds of one forward pass of the whole batch."""
        return sum(layer.macs for layer in self.layers)

    @property
    def learnable(self) -> int:
        """Learnable values, parameters shared between layers counted once."""
        return sum(math.prod(param.shape) for param in self.own_params() if not param.statistic)

    @property
    def statistics(self) -> int:
        """Values that are kept and not learned, shared ones counted once."""
        return sum(math.prod(param.shape) for param in self.own_params() if param.statistic)

    def own_params(self) -> Iterable[Param]:
        """Yield the parameter blobs, each shared one (ParamSpec.name) once."""
        seen = set()
        for info in self.layers:
            for index, param in enumerate(info.params):
                name = info.layer.param[index].name if index < len(info.layer.param) else ""
                if name and name in seen:
                    continue
                seen.add(name)
                yield param

    @property
    def unknown(self) -> List[LayerInfo]:
        """Layers whose type has no rule, or that read what such a layer makes."""
        return [layer for layer in self.layers if not layer.known]


def infer(
    net: Any,
    phase: int,
    *,
    given: Optional[Mapping[str, Shape]] = None,
    stages: Iterable[str] = (),
    level: int = 0,
    allow_unknown: bool = False,
    where: str = "",
) -> NetInfo:
    """Infer a net in one phase (``graph.TRAIN`` or ``graph.TEST``).

    ``given`` maps blob names to shapes: for data layers whose source tells no size, for the ``input`` of old files, and
    in place of what Input layers say.
    Raises Error where Caffe would refuse the net, where ``given`` names a blob that nothing makes, and for a type
    without a rule unless ``allow_unknown``.
    """
    place = Place(phase, dict(given or {}))
    layers = [*_input_layers(net, place, where), *layers_in(net, net_state(phase, net, stages, level))]
    _check_bottoms(layers, where)
    _check_given(place.given, layers, where)
    blobs: Dict[str, Optional[Shape]] = {}
    makers: Dict[str, LayerInfo] = {}
    infos: List[LayerInfo] = []
    owners: Dict[str, Tuple[LayerInfo, Shape]] = {}
    original = {layer.name for layer in layers}
    for layer in insert_splits(layers):
        inserted = layer.type == "Split" and layer.name not in original
        _check_tops(layer, makers, where)
        info = _infer_layer(layer, blobs, place, allow_unknown, inserted, where)
        _check_sharing(info, owners, where)
        for name, shape in zip(info.tops, info.top_shapes):
            blobs[name] = shape
            makers[name] = info
        infos.append(info)
    return NetInfo(net.name, phase, tuple(infos), blobs)


def _check_given(given: Mapping[str, Shape], layers: Sequence[Any], where: str) -> None:
    inputs = [top for layer in layers if not layer.bottom for top in layer.top]
    # Layers with bottoms may leave their shapes to the caller, too: Python, and types without a rule.
    tops = {top for layer in layers for top in layer.top}
    for name in given:
        if name not in tops:
            hint = did_you_mean(name, inputs, f"inputs: {', '.join(inputs)}")
            raise Error(f"the net has no input '{name}'", where, hint)


def _infer_layer(
    layer: Any, blobs: Dict[str, Optional[Shape]], place: Place, allow_unknown: bool, inserted: bool, where: str
) -> LayerInfo:
    bottoms = [blobs[name] for name in layer.bottom]
    in_place = tuple(i for i, name in enumerate(layer.top) if i < len(layer.bottom) and layer.bottom[i] == name)
    made = _apply(layer, bottoms, place, allow_unknown, where)
    known = made is not None
    made = made or Made([None] * len(layer.top))
    tops = tuple(layer.top) or (AUTOMATIC,) * len(made.tops)
    return LayerInfo(
        layer.name, layer.type, tuple(layer.bottom), tops, tuple(bottoms),
        tuple(None if shape is None else tuple(shape) for shape in made.tops), tuple(made.params), made.macs,
        tuple(made.buffers), in_place, inserted, known, layer,
    )


def _apply(layer: Any, bottoms: List[Optional[Shape]], place: Place, allow_unknown: bool, where: str) -> Optional[Made]:
    label = f"layer '{layer.name}' ({layer.type})"
    if layer.type not in rules:
        if allow_unknown:
            given = [place.given.get(name) for name in layer.top]
            return Made(given) if given and all(given) else None
        hint = did_you_mean(layer.type, rules.types(), "--allow-unknown leaves a gap there")
        raise Error(f"{label}: no rule is known for this type", where, hint)
    if any(shape is None for shape in bottoms):
        return None
    try:
        # A dialect may know a type, and lack the message with its settings.
        made = rules.apply(in_full_schema(layer), bottoms, place)
    except Misfit as misfit:
        if allow_unknown and isinstance(misfit, Unknown):
            return None
        shapes = ", ".join(f"'{name}' {format_shape(shape)}" for name, shape in zip(layer.bottom, bottoms))
        raise Error(f"{label}: {misfit}" + (f"; it reads {shapes}" if shapes else ""), where, misfit.hint) from None
    return made


def _input_layers(net: Any, place: Place, where: str) -> List[Any]:
    """Return the legacy ``input`` fields as the Input layer that Caffe's own upgrade makes of them."""
    if not net.input:
        return []
    layer = DEFAULT_DIALECT.message("LayerParameter")(name="input", type="Input", top=net.input)
    for index, name in enumerate(net.input):
        dims = net.input_dim[4 * index: 4 * index + 4]
        shape = layer.input_param.shape.add()
        if name in place.given:
            shape.dim.extend(place.given[name])
        elif index < len(net.input_shape):
            shape.dim.extend(net.input_shape[index].dim)
        elif len(dims) < 4:
            # Caffe reads behind the end of the list.
            hint = f"--input {name}=1,3,224,224 tells the shape"
            raise Error(f"input '{name}' has {len(dims)} of 4 values of input_dim, and no input_shape", where, hint)
        else:
            shape.dim.extend(dims)
    return [layer]


def _check_tops(layer: Any, makers: Mapping[str, LayerInfo], where: str) -> None:
    """A blob has one maker; where it is read by several, a layer among them cannot work in place."""
    fresh = [name for i, name in enumerate(layer.top) if i >= len(layer.bottom) or layer.bottom[i] != name]
    for i, name in enumerate(fresh):
        if name not in makers and name not in fresh[:i]:
            continue
        what, hint = f"layer '{layer.name}' ({layer.type}) makes blob '{name}'", "give its top a name of its own"
        if any(makers[bottom].inserted and makers[bottom].bottoms[0] == name for bottom in layer.bottom):
            raise Error(f"{what} in place, and other layers read that blob too", where, hint)
        maker = makers[name].name if name in makers else layer.name
        raise Error(f"{what}, which layer '{maker}' makes already", where, hint)


def _check_sharing(info: LayerInfo, owners: Dict[str, Tuple[LayerInfo, Shape]], where: str) -> None:
    """Layers may share a parameter by its name: of one shape, or of one count where share_mode is PERMISSIVE."""
    for spec, param in zip(info.layer.param, info.params):
        if not spec.name:
            continue
        owner, shape = owners.setdefault(spec.name, (info, param.shape))
        permissive = spec.share_mode == spec.PERMISSIVE
        if shape != param.shape and not (permissive and math.prod(shape) == math.prod(param.shape)):
            what = f"layer '{info.name}' ({info.type}) shares parameter '{spec.name}' of layer '{owner.name}'"
            raise Error(f"{what}: {format_shape(param.shape)} here, {format_shape(shape)} there", where)


def _check_bottoms(layers: Sequence[Any], where: str) -> None:
    made: Dict[str, None] = {}
    for layer in layers:
        for name in layer.bottom:
            if name not in made:
                what = f"layer '{layer.name}' ({layer.type}) reads blob '{name}', which no layer before it makes"
                raise Error(what, where, did_you_mean(name, made))
        made.update(dict.fromkeys(layer.top))
