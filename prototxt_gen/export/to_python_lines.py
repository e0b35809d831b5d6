"""Statements of a NetSpec script: layers, and calls of functions that make several layers, as source."""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Tuple

from prototxt_gen.export.to_python_values import Group, Value, is_attribute, string, wrapped
from prototxt_gen.spec.netspec import NetSpec

# Attributes that a NetSpec has already, so that a blob of that name is written n["tops"].
_TAKEN = frozenset(dir(NetSpec()))


class Statement(NamedTuple):
    """One layer, ``n[keys] = L.<maker>(n[inputs], fields)``, or a call ``<maker>(prefix, n[inputs], fields)``.

    A key is a name in the NetSpec. A call has a ``prefix``, with which all keys that it makes begin.
    """

    keys: Tuple[str, ...]
    maker: str
    inputs: Tuple[str, ...]
    fields: Tuple[Value, ...]
    prefix: Optional[str] = None


def blob(key: str) -> str:
    """Return the expression for a name in the NetSpec."""
    plain = is_attribute(key) and not key.startswith("_") and key not in _TAKEN
    return f"n.{key}" if plain else f"n[{string(key)}]"


def source(
    statement: Statement,
    key: Callable[[str], str] = blob,
    prefix: Callable[[str], str] = string,
    indent: str = "",
) -> str:
    """Return a statement as source, on several lines where one is too short.

    ``key`` and ``prefix`` give the expressions for keys and for the prefix of a call.
    """
    inputs = tuple(key(one) for one in statement.inputs)
    if statement.prefix is not None:
        arguments = (prefix(statement.prefix), *inputs, *statement.fields)
        return indent + wrapped(Group(f"{statement.maker}(", arguments, ")"), indent)
    targets = Group("", tuple(key(one) for one in statement.keys), "")
    makes = wrapped(targets, indent)
    if "\n" in makes:
        makes = wrapped(targets._replace(opening="(", closing=")"), indent)
    return indent + wrapped(Group(f"{makes} = L.{statement.maker}(", (*inputs, *statement.fields), ")"), indent)
