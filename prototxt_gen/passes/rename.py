"""rename: other names for layers and blobs, the weights with their layers.

A pair (pattern, replacement) stands for an exact name where a layer or a blob is called so, and else for a regular
expression. With n a name of the net and (p, r) the pairs in their order:

    1. p = n for one pair      the new name is r, literally, whatever the other pairs say
    2. else                    n <- re.sub(p, r, n) for each regular expression in turn, \\1 standing for a group

Names of layers and of blobs are renamed alike, and all at once, so that exact names can be exchanged. The names of
parameters (``param { name }``) stay: they only say which layers share.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Sequence, Tuple

from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.io import Model, display_name, read_text
from prototxt_gen.passes.base import PassResult, registry
from prototxt_gen.passes.phases import editable

Pair = Tuple[str, str]


@registry.add("rename")
def rename(model: Model, *, renames: Sequence[Pair]) -> PassResult:
    """Rename layers and blobs, and the weights with their layers, by exact names or regular expressions.

    Raises Error for a pair that fits nothing, for two names that would become one, and where a name says what is read.
    """
    net = editable(model.net)
    layers = dict.fromkeys([*(layer.name for layer in net.layer), *model.blobs])
    blobs = dict.fromkeys([*net.input, *(name for layer in net.layer for name in (*layer.bottom, *layer.top))])
    new = _new_names({**layers, **blobs}, renames)
    _refuse_collisions("layers", layers, new)
    _refuse_collisions("blobs", blobs, new)
    for layer in net.layer:
        # HDF5Data finds its data sets by the names of its tops.
        top = next((name for name in layer.top if new[name] != name), None)
        if layer.type == "HDF5Data" and top is not None:
            raise Error(f"it reads the data set '{top}' by that name, so its top cannot be renamed",
                        f"layer '{layer.name}'", "leave it out of the renames")
    net.input[:] = [new[name] for name in net.input]
    for layer in net.layer:
        layer.bottom[:] = [new[name] for name in layer.bottom]
        layer.top[:] = [new[name] for name in layer.top]
        if layer.HasField("name"):
            layer.name = new[layer.name]
    weights = {new[name]: arrays for name, arrays in model.blobs.items()}
    edits = []
    for name in {**layers, **blobs}:
        kinds = " and ".join(kind for kind, names in (("layer", layers), ("blob", blobs)) if name in names)
        if new[name] != name:
            edits.append(f"{kinds} '{name}': now '{new[name]}'")
    return PassResult(replace(model, net=net, blobs=weights), tuple(edits))


def read_map(path: str) -> Tuple[Pair, ...]:
    """Read the pairs of a file (``-``: standard input), in their order.

    A file that starts with ``{`` or ``[`` is JSON: an object of old and new names, or a list of pairs. Any other has a
    pair on each line, ``old = new`` or two columns; what follows a ``#`` at the start or after a blank is a comment.
    """
    text = read_text(path)
    if text.lstrip()[:1] in ("{", "["):
        return _read_json(text, display_name(path))
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        parts = re.split(r"\s+=\s+", line) if re.search(r"\s=\s", line) else line.split()
        if len(parts) != 2:
            hint = "write 'old = new' with blanks around the '=', or two columns"
            raise Error(f"'{line}' is no pair of names", f"{display_name(path)}:{number}", hint)
        pairs.append((parts[0], parts[1]))
    return tuple(pairs)


def _read_json(text: str, where: str) -> Tuple[Pair, ...]:
    try:
        # Pairs, not a dict, so that an old name given twice is noticed.
        value = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise Error(f"is not JSON: {error}", where) from None
    pairs = []
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            raise Error(f"{json.dumps(pair)} is no pair of names", where, "write {\"old\": \"new\"}")
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def _new_names(names: Iterable[str], renames: Sequence[Pair]) -> Dict[str, str]:
    """Return the new name of each name."""
    names = list(names)
    known = set(names)
    exact: Dict[str, str] = {}
    patterns: List[Tuple[Any, str]] = []
    for old, replacement in renames:
        if old in exact:
            raise Error(f"'{old}' is renamed twice", hint="leave one of the two out")
        if old in known:
            exact[old] = replacement
        else:
            patterns.append((_compiled(old, known), replacement))
    new = {name: exact.get(name, name) for name in names}
    for pattern, replacement in patterns:
        fits = 0
        for name in names:
            if name in exact:
                continue
            try:
                new[name], count = pattern.subn(replacement, new[name])
            except (re.error, IndexError) as error:
                hint = r"\1 stands for the first group of the regular expression, \\ for a backslash"
                what = f"'{replacement}' cannot take the place of '{pattern.pattern}': {error}"
                raise Error(what, hint=hint) from None
            fits += count
        if not fits:
            raise Error(f"'{pattern.pattern}' fits no name of the net", hint=did_you_mean(pattern.pattern, known))
    nameless = next((name for name in names if name and not new[name]), None)
    if nameless is not None:
        raise Error(f"'{nameless}' would have no name", hint="give it one")
    return new


def _compiled(pattern: str, known: Iterable[str]) -> Any:
    try:
        return re.compile(pattern)
    except re.error as error:
        what = f"'{pattern}' is no name of the net, and no regular expression: {error}"
        raise Error(what, hint=did_you_mean(pattern, known)) from None


def _refuse_collisions(kind: str, names: Iterable[str], new: Dict[str, str]) -> None:
    owners: Dict[str, str] = {}
    for name in names:
        owner = owners.setdefault(new[name], name)
        if owner != name:
            raise Error(f"{kind} '{owner}' and '{name}' would both be called '{new[name]}'",
                        hint="give them different names")
