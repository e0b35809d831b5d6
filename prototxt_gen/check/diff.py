"""Two nets compared by meaning.

Layers are matched by name, then by structure: same type, same fields, same producers. A matched pair is compared by
what its fields mean to Caffe (``diff_fields``) and by what it reads (``diff_view``), in every phase, stage and level
that the nets tell apart. What is left over was added or removed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from prototxt_gen.check.diff_fields import default_of, flatten
from prototxt_gen.check.diff_pairs import CONSEQUENCE, Change, Effect, FieldChange, Pairs
from prototxt_gen.check.diff_view import view
from prototxt_gen.core.graph import PHASES, layers_in, net_state
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.spec.infer import Shape


@dataclass(frozen=True)
class Totals:
    """Parameters (learned and kept) and multiply-adds of A and B in one state."""

    state: str
    parameters: Tuple[int, int]
    macs: Tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """``differences`` of meaning; ``notes`` on what means the same; ``consequences`` for layers that are the same."""

    differences: Tuple[Change, ...]
    consequences: Tuple[Change, ...]
    notes: Tuple[str, ...]
    totals: Tuple[Totals, ...]

    @property
    def same(self) -> bool:
        """True when the nets mean the same."""
        return not self.differences


def compare(a: Any, b: Any, phase: Optional[int] = None, given: Optional[Mapping[str, Shape]] = None) -> Comparison:
    """Compare two NetParameters, old ones upgraded first; ``given`` holds shapes of blobs that the files do not tell.

    Raises Error for an old net that Caffe does not upgrade.
    """
    a, b = upgrade_net(a, "A").message, upgrade_net(b, "B").message
    if a.SerializePartialToString(deterministic=True) == b.SerializePartialToString(deterministic=True):
        return Comparison((), (), (), ())
    found: Dict[Change, List[str]] = {}
    effects: Dict[Change, Tuple[Effect, Optional[int]]] = {}
    notes: Dict[str, None] = dict.fromkeys(_net_notes(a, b))
    totals: List[Totals] = []
    states = list(_states(a, b, phase))
    for label, number, stages, level, kept in states:
        views = [view(net, one, number, dict(given or {}), stages, level) for net, one in zip((a, b), kept)]
        pairs = Pairs(*views)
        for change in pairs.changes():
            plain = replace(change, effect=Effect(), position=None)
            found.setdefault(plain, []).append(label)
            effects.setdefault(plain, (change.effect, change.position))
        notes.update(dict.fromkeys(pairs.notes()))
        infos = [one.info for one in views]
        if all(infos):
            counts = [one.learnable + one.statistics for one in infos]
            totals.append(Totals(label, (counts[0], counts[1]), (infos[0].macs, infos[1].macs)))
    changes = list(_net_changes(a, b))
    for plain, labels in found.items():
        effect, position = effects[plain]
        where = () if len(labels) == len(states) else tuple(labels)
        changes.append(replace(plain, effect=effect, position=position, states=where))
    differences = tuple(one for one in changes if one.kind != CONSEQUENCE)
    consequences = tuple(one for one in changes if one.kind == CONSEQUENCE)
    return Comparison(differences, consequences, tuple(notes), tuple(totals))


_LAST_LEVEL = 2**31 - 1  # of int32


def _states(a: Any, b: Any, phase: Optional[int]) -> Iterator[Tuple[str, int, Tuple[str, ...], int, List[List[int]]]]:
    """Yield the states that keep different layers: each phase, alone and with each stage and level of the rules."""
    rules = [rule for net in (a, b) for layer in net.layer for rule in (*layer.include, *layer.exclude)]
    stages = sorted({one for rule in rules for one in (*rule.stage, *rule.not_stage)})
    bounds = {getattr(rule, name) for rule in rules for name in ("min_level", "max_level") if rule.HasField(name)}
    levels = {level for bound in bounds for level in (bound - 1, bound, bound + 1) if abs(level) < _LAST_LEVEL}
    seen = set()
    for name, number in PHASES.items():
        if phase not in (None, number):
            continue
        for label, some, level in [("", (), 0), *((f" with stage '{one}'", (one,), 0) for one in stages),
                                   *((f" at level {one}", (), one) for one in sorted(levels - {0}))]:
            kept = [_kept(net, net_state(number, net, some, level)) for net in (a, b)]
            key = (number, *map(tuple, kept))
            if key not in seen:
                seen.add(key)
                yield name.upper() + label, number, some, level, kept


def _kept(net: Any, state: Any) -> List[int]:
    # The very objects that layers_in yields are those of net.layer: their order gives the numbers.
    kept = iter(layers_in(net, state))
    waiting = next(kept, None)
    numbers = []
    for index, layer in enumerate(net.layer):
        if layer is waiting:
            numbers.append(index)
            waiting = next(kept, None)
    return numbers


_NET_FIELDS = {"force_backward": "difference", "debug_info": "difference", "name": "note", "state": "note"}


def _net_fields(a: Any, b: Any, kind: str) -> Iterator[FieldChange]:
    both = []
    for net in (a, b):
        fields: Dict[str, Any] = {}
        for field, value in net.ListFields():
            if _NET_FIELDS.get(field.name) == kind:
                flatten(field, value, "", fields)
        both.append(fields)
    for path in sorted({*both[0], *both[1]}):
        values = [fields.get(path, default_of(a, path)) for fields in both]
        if values[0] != values[1]:
            yield FieldChange(path, *values)


def _net_changes(a: Any, b: Any) -> Iterator[Change]:
    fields = tuple(_net_fields(a, b, "difference"))
    if fields:
        yield Change("net", "", "", fields=fields)


def _net_notes(a: Any, b: Any) -> Iterator[str]:
    for field in _net_fields(a, b, "note"):
        what = "the net's name" if field.path == "name" else f"the net's own {field.path}"
        yield f"{what} is '{field.old}' in A, '{field.new}' in B"
