"""Where in a prototxt each field stands: line and column by field path, which protobuf's own parser does not tell.

A path names fields from the root down, with their running number: ``layer[12].bottom[1]``,
``layer[0].param[1].lr_mult``.
The text is one that protobuf has parsed; on any other text the places are a best guess, and nothing is raised.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Dict, List, NamedTuple, Tuple

_TOKEN = re.compile(
    r"""[\s,;]+ | \#[^\n]*
      | (?P<string> "(?:[^"\\\n]|\\.)*"? | '(?:[^'\\\n]|\\.)*'? )
      | (?P<word> [\w.+-]+ )
      | (?P<open> [{<] ) | (?P<close> [}>] ) | (?P<colon> : ) | (?P<list> \[ ) | (?P<unlist> \] )
      | . """,
    re.VERBOSE | re.DOTALL,
)


class Place(NamedTuple):
    """A place in a text, counted from 1."""

    line: int
    column: int


class Locations:
    """The places of all fields of a prototxt text."""

    def __init__(self, text: str) -> None:
        self._offsets = _offsets(text)
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def __contains__(self, path: str) -> bool:
        return _full(path) in self._offsets

    def find(self, path: str) -> Place:
        """Return the place of a field, or of the nearest field around it that is written; at last that of the text."""
        path = _full(path)
        while path and path not in self._offsets:
            path = path.rpartition(".")[0]
        offset = self._offsets.get(path, 0)
        line = bisect_right(self._lines, offset)
        return Place(line, offset - self._lines[line - 1] + 1)

    def paths(self) -> List[str]:
        """Return the paths of all fields in the order of the text, with every running number written out."""
        return list(self._offsets)


def _full(path: str) -> str:
    """Write out the running number 0 where a path leaves it away."""
    return ".".join(part if part.endswith("]") else part + "[0]" for part in path.split(".")) if path else ""


class _Scope:
    """A message being read: its path with a dot behind, and how many of each of its fields have been seen."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.seen: Dict[str, int] = {}

    def add(self, name: str) -> str:
        number = self.seen.get(name, 0)
        self.seen[name] = number + 1
        return f"{self.prefix}{name}[{number}]"


def _offsets(text: str) -> Dict[str, int]:
    """Map the path of each field to the offset of its name; from a list's second value on, to that of the value."""
    offsets: Dict[str, int] = {}
    scope = _Scope("")
    outer: List[Tuple[_Scope, str]] = []  # the scopes around, each with the name of the list it is in, or ""
    name, path = "", ""  # the field being read, and its path until its value has come
    valued = False  # a colon stands behind the name
    in_list = ""  # the name of the field whose list of values is being read
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind is None:
            continue
        if kind == "word" and not valued and not in_list:
            name = match.group()
            path = scope.add(name)
            offsets[path] = match.start()
        elif kind == "colon":
            valued = bool(path)
        elif kind == "list" and path:
            in_list = name
        elif kind == "unlist":
            in_list, path, valued = "", "", False
        elif kind in ("word", "string", "open"):
            if in_list and not path:
                path = scope.add(in_list)
                offsets[path] = match.start()
            if kind == "open":
                outer.append((scope, in_list))
                scope, in_list = _Scope(path + "." if path else scope.prefix), ""
            path, valued = "", False
        elif kind == "close" and outer:
            scope, in_list = outer.pop()
            path, valued = "", False
    return offsets
