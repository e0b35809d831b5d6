"""The findings of ``diff`` in words: a line each."""

from __future__ import annotations

from typing import Any, Iterator, List, Sequence, Tuple

from prototxt_gen.check.diff import Change, Comparison
from prototxt_gen.check.diff_pairs import Effect, TopChange
from prototxt_gen.check.diff_weights import BlobChange
from prototxt_gen.spec.infer import format_shape

_SHOWN = 3  # consequences named on their line


def describe(change: Change) -> str:
    """Return a change as a line: ``conv2: num_output 64 -> 128  (+36.9 k parameters, ...)``."""
    words = [f"{_short(one.path)} {_value(one.old)} -> {_value(one.new)}" for one in change.fields]
    if change.kind in ("added", "removed"):
        read = ", ".join(f"'{one}'" for one in change.reads[0])
        words.append(f"{change.kind}, {change.type}" + (f" of {read}" if read else ""))
    elif change.reads:
        words.extend(_rewired(*change.reads))
    if change.new_name:
        words.append(f"renamed to '{change.new_name}', and weights are found by name")
    line = f"{change.layer or 'the net'}: {', '.join(words)}"
    effect = _effect(change.effect)
    line += f"  ({effect})" if effect else ""
    return f"{line}  [{', '.join(change.states)}]" if change.states else line


def trailer(comparison: Comparison) -> Iterator[str]:
    """Yield the lines under the differences: what follows for other layers, and the totals."""
    follow = sorted(comparison.consequences, key=lambda one: -abs(one.effect.parameters))
    if follow:
        named = "; ".join(f"{one.layer} ({_effect(one.effect)})" for one in follow[:_SHOWN])
        count = f"{len(follow)} other layer{'s' if len(follow) > 1 else ''}"
        yield f"in consequence, {count}: {named}{'; ...' if len(follow) > _SHOWN else ''}"
    if not comparison.differences:
        return
    lines: List[Tuple[str, str]] = []
    for total in comparison.totals:
        lines.append((total.state, f"parameters {_total(total.parameters)}, macs {_total(total.macs)}"))
    if len({text for _, text in lines}) == 1:
        yield f"total: {lines[0][1]}"
    else:
        yield from (f"total in {state}: {text}" for state, text in lines)


def describe_blob(change: BlobChange) -> str:
    """Return what differs in one blob of two caffemodels as a line."""
    place = f"{change.layer}[{change.index}]"
    if change.old is None or change.new is None:
        there, shape = ("B", change.new) if change.old is None else ("A", change.old)
        return f"{place}: only in {there}, {format_shape(shape)}"
    if change.old != change.new:
        return f"{place}: shape {format_shape(change.old)} -> {format_shape(change.new)}"
    if change.max_abs is None:
        return f"{place}: {format_shape(change.old)}  differs in values that are not finite"
    return f"{place}: {format_shape(change.old)}  max abs {change.max_abs:.6g}, relative {change.relative:.3g}"


def _short(path: str) -> str:
    """Leave out the layer's parameter message, which the type tells."""
    head, dot, rest = path.partition(".")
    own = head.endswith("_param") and head not in ("transform_param", "loss_param")
    return rest if dot and own else path


def _value(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return f"{value:g}" if isinstance(value, float) else f"'{value}'" if value == "" else str(value)


def _rewired(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    if len(old) != len(new):
        yield f"reads {_quoted(new)} instead of {_quoted(old)}"
        return
    moved = [index for index, (one, other) in enumerate(zip(old, new)) if one != other]
    for index in moved:
        what = "reads" if len(old) == 1 else f"bottom {index} reads"
        yield f"{what} '{new[index]}' instead of '{old[index]}'"
    if not moved:
        yield f"reads {_quoted(new)}, which is another layer of that name"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"


def _effect(effect: Effect) -> str:
    parts = []
    if effect.parameters:
        parts.append(f"{_signed(effect.parameters)} parameters")
    if effect.macs:
        parts.append(f"{_signed(effect.macs)} macs")
    parts.extend(_top(one) for one in effect.tops)
    return ", ".join(parts)


def _top(top: TopChange) -> str:
    old, new = top.old, top.new
    if old and new and len(old) == len(new) > 1 and old[0] == new[0]:
        old, new = old[1:], new[1:]  # the batch is the same
    if old is None or new is None:
        shape = (old or new or ())
        return f"'{top.blob}' {format_shape(shape[1:] or shape)}"
    return f"'{top.blob}' {format_shape(old)} -> {format_shape(new)}"


def _signed(value: int) -> str:
    return ("+" if value > 0 else "-") + _count(abs(value))


def _count(value: int) -> str:
    for scale, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= scale:
            return f"{value / scale:.1f} {letter}"
    return str(value)


def _total(pair: Tuple[int, int]) -> str:
    if pair[0] == pair[1]:
        return f"{_count(pair[0])} as before"
    return f"{_count(pair[0])} -> {_count(pair[1])} ({_signed(pair[1] - pair[0])})"
