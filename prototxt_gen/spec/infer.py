"""Shapes, parameters and multiply-adds of a net, computed without running it.

``infer`` walks the layers as Caffe's Net::Init does (state filter, Split insertion, blobs by name) and asks the rule of
each layer type for what it makes. A rule is a function registered with ``@rules.add``; the rules live in ``spec.ops``.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.graph import TRAIN, insert_splits, layers_in, net_state
from prototxt_gen.spec.shapes import Misfit, Shape, Unknown, check, format_shape, plural

__all__ = [
    "Buffer", "LayerInfo", "Made", "Misfit", "NetInfo", "Param", "Place", "Shape", "format_shape", "infer", "rules",
]

AUTOMATIC = "(automatic)"  # Caffe's name for the top of a loss that gives none


class Param(NamedTuple):
    """One parameter blob of a layer. A statistic is kept by the layer itself and not learned."""

    shape: Shape
    statistic: bool = False


class Buffer(NamedTuple):
    """Memory that a layer keeps for itself, in values of four bytes. ``diff``: only where a backward pass runs."""

    name: str
    values: int
    diff: bool = False


@dataclass(frozen=True)
class Made:
    """What a rule says of one layer: shapes of its tops, parameter blobs in Caffe's order, multiply-adds, buffers.

    ``macs`` counts the multiply-adds of matrix products and convolutions, as the paper's 'FLOPs' do; zero is written.
    ``loss`` is the loss weight of the first top where the file gives none.
    """

    tops: Sequence[Shape]
    params: Sequence[Param] = ()
    macs: int = 0
    buffers: Sequence[Buffer] = ()
    loss: float = 0


class Place(NamedTuple):
    """Where a rule is applied. ``given`` maps tops to shapes that the caller knows and the file does not tell."""

    phase: int
    given: Mapping[str, Shape]

    @property
    def is_train(self) -> bool:
        """True in the phase TRAIN."""
        return self.phase == TRAIN


Rule = Callable[[Any, Sequence[Shape], Place], Made]
Number = Union[int, Tuple[int, Optional[int]]]  # exactly so many, or (at least, at most)


class Owner(NamedTuple):
    """A rule and how many bottoms and tops Caffe demands of its layer type."""

    rule: Rule
    bottoms: Number
    tops: Number


class Rules:
    """The rules by layer type: one owner each."""

    def __init__(self) -> None:
        self._owners: Dict[str, Owner] = {}

    def add(self, *types: str, bottoms: Number = (0, None), tops: Number = (0, None)) -> Callable[[Rule], Rule]:
        """Register a rule for one or more layer types, with the numbers of bottoms and tops that they take."""
        def register(rule: Rule) -> Rule:
            for name in types:
                if name in self._owners:
                    raise ValueError(f"layer type '{name}' has a rule already")
                self._owners[name] = Owner(rule, bottoms, tops)
            return rule

        return register

    def __contains__(self, name: str) -> bool:
        return name in self._all()

    def __getitem__(self, name: str) -> Rule:
        return self._all()[name].rule

    def types(self) -> List[str]:
        """Return the names of all layer types with a rule."""
        return sorted(self._all())

    def apply(self, layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
        """Return what a layer of a known type makes; raise Misfit where Caffe would refuse to set it up."""
        owner = self._all()[layer.type]
        _check_number("bottom", len(layer.bottom), owner.bottoms)
        # Caffe makes up the tops of a loss that are missing.
        if layer.top or not layer.type.endswith("Loss"):
            _check_number("top", len(layer.top), owner.tops)
        made = owner.rule(layer, bottoms, place)
        for shape in [*made.tops, *(param.shape for param in made.params)]:
            check(shape)
        _check_lists(layer, made)
        return made

    def _all(self) -> Dict[str, Owner]:
        if not self._owners:
            from prototxt_gen.spec import ops

            for module in pkgutil.iter_modules(ops.__path__):
                importlib.import_module(f"{ops.__name__}.{module.name}")
        return self._owners


def _check_number(what: str, found: int, wanted: Number) -> None:
    least, most = (wanted, wanted) if isinstance(wanted, int) else wanted
    if found < least or (most is not None and found > most):
        number = plural(least, what) if least == most else f"at least {plural(least, what)}"
        if most is not None and most != least:
            number = f"{least} to {plural(most, what)}"
        raise Misfit(f"it takes {number}, not {found}")


def _check_lists(layer: Any, made: Made) -> None:
    """Check the fields of a layer that go with its parameters, tops and bottoms, as Caffe does."""
    if len(layer.param) > len(made.params):
        raise Misfit(f"it has {len(layer.param)} param for {plural(len(made.params), 'parameter blob')}")
    # A loss without loss_weight gives itself one, and Caffe demands one for each top.
    weights = layer.loss_weight or [made.loss] * bool(made.loss)
    # A Split that was inserted carries the weight of its first top only.
    if layer.type != "Split" and len(weights) not in (0, len(made.tops)):
        raise Misfit(f"it has {len(layer.loss_weight)} loss_weight for {plural(len(made.tops), 'top')}")
    if len(layer.propagate_down) not in (0, len(layer.bottom)):
        raise Misfit(f"it has {len(layer.propagate_down)} propagate_down for {plural(len(layer.bottom), 'bottom')}")


rules = Rules()


@dataclass(frozen=True)
class LayerInfo:
    """One layer as Caffe sets it up. ``bottoms`` and ``tops`` are blob names, the shapes stand in the same order.

    ``made`` is None where no rule is known and gaps are allowed; a layer behind such a gap is unknown too.
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

    ``given`` maps blob names to shapes: for data layers whose source tells no size, and for the ``input`` of old files.
    Raises Error where Caffe would refuse the net, and for a type without a rule unless ``allow_unknown``.
    """
    place = Place(phase, dict(given or {}))
    layers = [*_input_layers(net, place), *layers_in(net, net_state(phase, net, stages, level))]
    _check_bottoms(layers, where)
    blobs: Dict[str, Optional[Shape]] = {}
    infos: List[LayerInfo] = []
    owners: Dict[str, Tuple[LayerInfo, Shape]] = {}
    original = {layer.name for layer in layers}
    for layer in insert_splits(layers):
        inserted = layer.type == "Split" and layer.name not in original
        info = _infer_layer(layer, blobs, place, allow_unknown, inserted, where)
        _check_sharing(info, owners, where)
        for name, shape in zip(info.tops, info.top_shapes):
            blobs[name] = shape
        infos.append(info)
    return NetInfo(net.name, phase, tuple(infos), blobs)


def _infer_layer(
    layer: Any, blobs: Dict[str, Optional[Shape]], place: Place, allow_unknown: bool, inserted: bool, where: str
) -> LayerInfo:
    bottoms = [blobs[name] for name in layer.bottom]
    in_place = tuple(i for i, name in enumerate(layer.top) if i < len(layer.bottom) and layer.bottom[i] == name)
    for i, name in enumerate(layer.top):
        if name in blobs and i not in in_place:
            what = f"layer '{layer.name}' ({layer.type}) makes blob '{name}', which is made already"
            raise Error(what, where)
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
        made = rules.apply(layer, bottoms, place)
    except Misfit as misfit:
        if allow_unknown and isinstance(misfit, Unknown):
            return None
        shapes = ", ".join(f"'{name}' {format_shape(shape)}" for name, shape in zip(layer.bottom, bottoms))
        raise Error(f"{label}: {misfit}" + (f"; it reads {shapes}" if shapes else ""), where, misfit.hint) from None
    return made


def _input_layers(net: Any, place: Place) -> List[Any]:
    """Return the legacy ``input`` fields as the Input layer that Caffe's own upgrade makes of them."""
    if not net.input:
        return []
    layer = type(net)().layer.add(name="input", type="Input", top=net.input)
    for index, name in enumerate(net.input):
        dims = net.input_dim[4 * index: 4 * index + 4]
        shape = layer.input_param.shape.add()
        if name in place.given:
            shape.dim.extend(place.given[name])
        elif index < len(net.input_shape):
            shape.CopyFrom(net.input_shape[index])
        else:
            shape.dim.extend(dims)
    return [layer]


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
