"""The registry of layer rules: what a rule is given, what it says, and which layer type it is for.

A rule is a function registered with ``@rules.add``; the rules themselves live in ``spec.ops``.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from prototxt_gen.core.graph import TRAIN
from prototxt_gen.spec.shapes import Misfit, Shape, check, format_shape, plural


class Param(NamedTuple):
    """One parameter blob of a layer. A statistic is kept by the layer itself and not learned."""

    shape: Shape
    statistic: bool = False


# Where a net runs: on a GPU, or on the CPU with our Caffe's own engines or with Caffe's.
GPU, OWN, CAFFE = "GPU", "CPU", "CPU with Caffe's engines"


class Buffer(NamedTuple):
    """Memory that a layer keeps for itself, in values of four bytes.

    ``diff``: only where a backward pass runs. ``spared`` are those of GPU, OWN and CAFFE that leave it alone.
    """

    name: str
    values: int
    diff: bool = False
    spared: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """What a rule says of one layer: shapes of its tops, parameter blobs in Caffe's order, multiply-adds, buffers.

    ``macs`` counts the multiply-adds of matrix products and convolutions, as the paper's 'FLOPs' do: none
    for layers that scale, add or compare.
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
        self._complete = False

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
        for shape in made.tops:
            check(shape)
        for index, param in enumerate(made.params):
            check(param.shape)
            if math.prod(param.shape) == 0:
                raise Misfit(f"its parameter blob {index} would be {format_shape(param.shape)}, without values")
        _check_lists(layer, made)
        return made

    def _all(self) -> Dict[str, Owner]:
        if not self._complete:
            from prototxt_gen.spec import ops

            for module in pkgutil.iter_modules(ops.__path__):
                importlib.import_module(f"{ops.__name__}.{module.name}")
            self._complete = True
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
