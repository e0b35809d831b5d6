"""Values of protobuf messages as Python source, and long calls on several lines.

A value is a ``str`` that stays on one line, or a ``Group`` that may be broken between its items. The schema nests
messages four deep at most, so the functions here call themselves.
"""

from __future__ import annotations

import keyword
import struct
from itertools import groupby
from typing import Any, List, NamedTuple, Set, Tuple, Union

from prototxt_gen.core.errors import Error

WIDTH = 120
INDENT = "    "


class Group(NamedTuple):
    """Items between brackets, as in ``dict(a=1, b=2)``."""

    opening: str
    items: Tuple[Any, ...]  # Value, ...
    closing: str


Value = Union[str, Group]


def message_value(message: Any, enums: Set[Any]) -> Value:
    """Return ``dict(field=value, ...)`` of all fields that are set; their enums are added to ``enums``."""
    return Group("dict(", field_items(message, enums), ")")


def field_items(message: Any, enums: Set[Any]) -> Tuple[Value, ...]:
    """Return ``field=value`` of all fields that are set."""
    return tuple(named(field.name, field_value(field, value, enums)) for field, value in message.ListFields())


def field_value(field: Any, value: Any, enums: Set[Any]) -> Value:
    """Return a field's value as NetSpec takes it: one value stands for a list of one."""
    if not hasattr(value, "extend"):
        return _one(field, value, enums)
    values = [_one(field, item, enums) for item in value]
    if len(values) == 1:
        return values[0]
    if field.message_type is not None and len(values) > len(set(values)):
        runs = [(one, len(list(same))) for one, same in groupby(values)]
        text = " + ".join(f"[{flat(one)}] * {count}" if count > 1 else f"[{flat(one)}]" for one, count in runs)
        if len(text) < WIDTH - 40 and len(runs) < len(values):
            return text
    return Group("[", tuple(values), "]")


def param_name(enum: Any) -> str:
    """Return the name under which ``P`` has the constants of an enum, empty where it has not."""
    owner = enum.containing_type.name if enum.containing_type is not None else ""
    return owner[: -len("Parameter")] if owner.endswith("Parameter") else ""


def constants(enum: Any) -> str:
    """Return the line that defines the constants of an enum that ``P`` does not reach."""
    names = ", ".join(value.name for value in enum.values)
    numbers = ", ".join(str(value.number) for value in enum.values)
    return f"{names} = {numbers}"


def named(name: str, value: Value) -> Value:
    """Return ``name=value``."""
    return value._replace(opening=f"{name}={value.opening}") if isinstance(value, Group) else f"{name}={value}"


def string(text: Any) -> str:
    """Return a string literal, in double quotes where that needs no more escapes."""
    if isinstance(text, bytes):  # what protobuf gives for a string field that holds no UTF-8
        raise Error(f"the string {text!r} is not UTF-8", hint="a prototxt cannot hold it")
    literal = repr(text)
    return f'"{literal[1:-1]}"' if literal[0] == "'" and '"' not in literal else literal


def is_attribute(name: str) -> bool:
    """True when a name can stand after a dot. (Python folds identifiers outside ASCII, so that they may change.)"""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def float32(value: float) -> str:
    """Return the shortest number that float32 rounds to ``value``: ``0.1`` for 0.10000000149."""
    if value != value or value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    bits = struct.pack("f", value)
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.pack("f", short) == bits:
                return _number(short)
        except OverflowError:  # rounded up beyond the largest float32
            continue
    return _number(value)


def flat(value: Value) -> str:
    """Return a value on one line."""
    if isinstance(value, Group):
        return f"{value.opening}{', '.join(flat(item) for item in value.items)}{value.closing}"
    return value


def wrapped(value: Value, indent: str = "") -> str:
    """Return a value on as few lines as fit into ``WIDTH`` columns, hanging below its opening bracket.

    ``indent`` is what stands before the line; it is not part of the answer.
    """
    line = flat(value)
    if isinstance(value, str) or not value.items or len(indent) + len(line) <= WIDTH:
        return line
    return "\n".join(_broken(value, indent, 0))


def _broken(value: Group, indent: str, room: int) -> List[str]:
    """Return the lines of a group, ``room`` columns kept free on the last one; all but the first are indented."""
    lines = [value.opening]
    inner = indent + INDENT
    for position, item in enumerate(value.items):
        last = position == len(value.items) - 1
        after = value.closing if last else ","
        keep = room if last else 0
        text = flat(item) + after
        if len(lines) > 1 and len(lines[-1]) + 1 + len(text) + keep <= WIDTH:
            lines[-1] += " " + text
        elif isinstance(item, str) or not item.items or len(inner) + len(text) + keep <= WIDTH:
            lines.append(inner + text)
        else:
            first, *rest = _broken(item, inner, len(after) + keep)
            lines += [inner + first, *rest]
            lines[-1] += after
    return lines


def _one(field: Any, value: Any, enums: Set[Any]) -> Value:
    if field.message_type is not None:
        return message_value(value, enums)
    if field.enum_type is not None:
        return _enum(field.enum_type, value, enums)
    if field.type == field.TYPE_FLOAT:
        return float32(value)
    if field.type == field.TYPE_DOUBLE:
        return _number(value)
    if field.type == field.TYPE_STRING:
        return string(value)
    return repr(value)


def _enum(enum: Any, value: int, enums: Set[Any]) -> str:
    enums.add(enum)
    name = enum.values_by_number[value].name
    return f"P.{param_name(enum)}.{name}" if param_name(enum) else name


def _number(value: float) -> str:
    """Return a float as Python source, whole numbers as integers while they are short."""
    if value != value or value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    whole = value.is_integer() and abs(value) < 1e7 and not (value == 0 and str(value)[0] == "-")
    return str(int(value)) if whole else repr(value)
