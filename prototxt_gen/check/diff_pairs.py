"""The layers of two nets in one state, matched and compared: what changed, came, went, or is called otherwise."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from prototxt_gen.check.diff_fields import LOSSES, default_of
from prototxt_gen.check.diff_view import Source, Unit, View
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.spec.infer import Shape
from prototxt_gen.spec.rules import rules

CONSEQUENCE = "consequence"  # the kind of a layer that is the same, and not what it holds or makes
# Types with parameters, for nets whose shapes are not known.
_WEIGHTED = {"BN", "BatchNorm", "Bias", "Convolution", "Deconvolution", "Embed", "InnerProduct", "LSTM", "PReLU",
             "Parameter", "RNN", "Scale"}
_LAYER = DEFAULT_DIALECT.message("LayerParameter")


@dataclass(frozen=True)
class FieldChange:
    """One field of a layer. None stands for a field that is not set and has no default."""

    path: str
    old: Any
    new: Any


@dataclass(frozen=True)
class TopChange:
    """The shape of a top in A and B, None where it is not there; ``blob`` is its name in B, in A where B lacks it."""

    blob: str
    old: Optional[Shape]
    new: Optional[Shape]


@dataclass(frozen=True)
class Effect:
    """What becomes of a layer: values learned and kept, multiply-adds of the whole batch, tops with another shape."""

    parameters: int = 0
    macs: int = 0
    tops: Tuple[TopChange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.parameters or self.macs or self.tops)


@dataclass(frozen=True)
class Change:
    """One layer, or the net, that differs. ``kind``: changed, added, removed, renamed, net, consequence.

    ``layer`` is its name in A, or in B where only B has it; ``position`` its number in B's file, None where B lacks it.
    ``reads`` holds the producers before and after where they differ; ``states`` tells where it was seen, empty for
    everywhere.
    """

    kind: str
    layer: str
    type: str
    new_name: str = ""
    fields: Tuple[FieldChange, ...] = ()
    reads: Tuple[Tuple[str, ...], ...] = ()
    effect: Effect = Effect()
    position: Optional[int] = None
    states: Tuple[str, ...] = ()


class Pairs:
    """The units of two views, matched."""

    def __init__(self, a: View, b: View) -> None:
        self.a, self.b = a, b
        self.to_b: Dict[Unit, Unit] = {}
        by_key = {unit.key: unit for unit in b.units}
        for unit in a.units:
            if unit.key in by_key:
                self.to_b[unit] = by_key[unit.key]
        self._match_by_structure()
        self.to_a = {other: unit for unit, other in self.to_b.items()}

    def _match_by_structure(self) -> None:
        taken = set(self.to_b.values())
        loose: Dict[Any, List[Unit]] = {}
        for unit in self.b.units:
            if unit not in taken:
                loose.setdefault(_shape_of(unit, unit.sources, unit.shares), []).append(unit)
        for candidates in loose.values():
            candidates.reverse()  # taken from the end, in file order
        for unit in self.a.units:
            if unit in self.to_b or not loose:
                continue
            sources = [self._in_b(source) for source in unit.sources]
            shares = {blob: (self.to_b.get(owner), other) for blob, (owner, other) in unit.shares.items()}
            candidates = loose.get(_shape_of(unit, sources, shares))
            if candidates:
                self.to_b[unit] = candidates.pop()

    def _in_b(self, source: Source) -> Source:
        """Return what a source of A is in B; a source of its own where B has no such layer."""
        maker, top = source
        if maker is None:
            return source
        return (self.to_b[maker], top) if maker in self.to_b else (maker, top)

    def changes(self) -> Iterator[Change]:
        """Yield what differs: in A's order what A has, then what only B has."""
        for unit in self.a.units:
            other = self.to_b.get(unit)
            if other is None:
                yield Change("removed", unit.name, unit.type, reads=(_names(unit.sources),), effect=_effect(unit, None))
                continue
            effect = _effect(unit, other)
            fields = tuple(self._fields(unit, other))
            reads = ()
            if not self._same_reads(unit, other):
                reads = (_names(unit.sources), _names(other.sources))
            # Weights are found by the layer's name: a layer without any is called as one likes.
            named = "" if unit.name == other.name or not _has_params(unit) else other.name
            if fields or reads or named:
                kind = "changed" if fields or reads else "renamed"
                yield Change(kind, unit.name, unit.type, named, fields, reads, effect, other.position)
            elif effect:
                yield Change(CONSEQUENCE, unit.name, unit.type, effect=effect, position=other.position)
        for unit in self.b.units:
            if unit not in self.to_a:
                yield Change("added", unit.name, unit.type, reads=(_names(unit.sources),), effect=_effect(None, unit),
                             position=unit.position)

    def _fields(self, unit: Unit, other: Unit) -> Iterator[FieldChange]:
        if unit.type != other.type:
            yield FieldChange("type", unit.type, other.type)
        tops = [len(one.tops) or (1 if one.type in LOSSES else 0) for one in (unit, other)]  # Caffe adds a loss's top
        if tops[0] != tops[1]:
            yield FieldChange("tops", *tops)
        for path in [*unit.fields, *(one for one in other.fields if one not in unit.fields)]:
            values = [one.fields.get(path, default_of(_LAYER, path)) for one in (unit, other)]
            if values[0] != values[1]:
                yield FieldChange(path, *values)
        for blob in sorted({*unit.shares, *other.shares}):
            owners = [one.shares.get(blob) for one in (unit, other)]
            moved = owners[0] and (self.to_b.get(owners[0][0], owners[0][0]), owners[0][1])
            if moved != owners[1]:
                yield FieldChange(f"param[{blob}] shared with", *(one and one[0].name for one in owners))

    def _same_reads(self, unit: Unit, other: Unit) -> bool:
        mine, theirs = [self._in_b(source) for source in unit.sources], other.sources
        return mine == theirs or (_commutes(unit, other) and Counter(mine) == Counter(theirs))

    def notes(self) -> Iterator[str]:
        """Yield what is written otherwise and means the same."""
        pairs = list(self.to_b.items())
        renamed = [(a.name, b.name) for a, b in pairs if a.name != b.name and not _has_params(a) and a.type != "Input"]
        yield from _listed(renamed, "layer without parameters is renamed", "layers without parameters are renamed")
        blobs = [(x, y) for a, b in pairs if a.in_place == b.in_place for x, y in zip(a.tops, b.tops) if x != y]
        yield from _listed(list(dict.fromkeys(blobs)), "blob is named otherwise", "blobs are named otherwise")
        for here, label in ((True, "A"), (False, "B")):
            names = [(a.name, "") for a, b in pairs if a.in_place != b.in_place and a.in_place == here]
            yield from _listed(names, f"layer works in place in {label} only", f"layers work in place in {label} only")
        swapped = [(a.name, "") for a, b in pairs if _commutes(a, b) and self._same_reads(a, b)
                   and [self._in_b(one) for one in a.sources] != b.sources]
        yield from _listed(swapped, "Eltwise reads its bottoms in another order",
                           "Eltwise read their bottoms in another order")
        for one, label in ((self.a, "A"), (self.b, "B")):
            if one.trouble:
                yield f"no shapes and counts: {label}: {one.trouble}"


def _commutes(unit: Unit, other: Unit) -> bool:
    weighted = any("eltwise_param.coeff" in one.fields for one in (unit, other))
    return unit.type == other.type == "Eltwise" and not weighted


def _shape_of(unit: Unit, sources: Sequence[Source], shares: Mapping[int, Any]) -> Any:
    """What must be equal for two layers to be one under another name."""
    return (unit.type, len(unit.tops), frozenset(unit.fields.items()), tuple(sources), frozenset(shares.items()))


def _has_params(unit: Unit) -> bool:
    if unit.info is not None and unit.info.known:
        return bool(unit.info.params)
    return unit.type in _WEIGHTED or unit.type not in rules


def _names(sources: Sequence[Source]) -> Tuple[str, ...]:
    """Name what is read: by the layer that makes it, with the blob where it makes several."""
    return tuple(f"blob {top}" if maker is None else maker.name if len(maker.tops) == 1 else
                 f"{maker.name}/{maker.tops[top]}" for maker, top in sources)


def _listed(pairs: Sequence[Tuple[str, str]], one: str, several: str, shown: int = 3) -> Iterator[str]:
    if pairs:
        names = ", ".join(f"'{old}' -> '{new}'" if new else f"'{old}'" for old, new in pairs[:shown])
        more = ", ..." if len(pairs) > shown else ""
        yield f"{len(pairs)} {one if len(pairs) == 1 else several}: {names}{more}"


def _effect(old: Optional[Unit], new: Optional[Unit]) -> Effect:
    """Compare what a layer holds and makes; nothing where either is unknown."""
    if any(one is not None and (one.info is None or not one.info.known) for one in (old, new)):
        return Effect()
    tops = []
    for index in range(min(len(one.tops) for one in (old, new) if one is not None)):
        shapes = [one.top_shape(index) if one is not None else None for one in (old, new)]
        if shapes[0] != shapes[1]:
            tops.append(TopChange((new or old).tops[index], shapes[0], shapes[1]))
    counts = [sum(math.prod(param.shape) for param in one.info.params) if one else 0 for one in (old, new)]
    macs = [one.info.macs if one else 0 for one in (old, new)]
    return Effect(counts[1] - counts[0], macs[1] - macs[0], tuple(tops))
