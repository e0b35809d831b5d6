"""Functions for what a script repeats: layers in a row whose names begin alike, with the same shape elsewhere.

A block is the longest run of statements whose keys all begin with one prefix, up to a sign such as ``/``. Blocks have
one shape when they are equal after the prefix is taken away: layer types, keys, names of fields, and what reads what.
Values that differ between blocks of one shape become parameters, and so do blobs that come from outside. The shortest
blocks are replaced first, so that longer ones call their functions. A function assigns the same keys in the same order
as the statements it stands for, so the net stays what it was.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

from prototxt_gen.export.to_python_lines import Statement, source
from prototxt_gen.export.to_python_values import INDENT, Group, flat, string, wrapped

_LEAST_SAVING = 4  # lines
_MOST_PARAMETERS = 8
_MOST_PARTS = 20  # of a key, so that long names of nothing but slashes take no time
_NAMES_OF_SCRIPT = {"n", "net", "name", "dumps", "index"}  # parameters must not hide what bodies use


class Block(NamedTuple):
    """The statements ``start:end``, whose keys all begin with ``prefix``."""

    start: int
    end: int
    prefix: str


def with_functions(statements: List[Statement]) -> Tuple[List[str], List[Statement]]:
    """Return the definitions of functions, in order, and the statements with their calls in place of blocks."""
    definitions: List[str] = []
    names: Set[str] = set()
    parts = _parts([key for one in statements for key in one.keys])
    while True:
        found: List[Tuple[Block, Statement]] = []
        groups = sorted(_repeats(statements, parts), key=lambda blocks: _size(statements, blocks[0]))
        for blocks in groups:
            # Blocks of one size never overlap, so that all of them are replaced at once.
            if found and _size(statements, found[0][0])[0] < _size(statements, blocks[0])[0]:
                break
            name = _function_name(blocks[0].prefix, names)
            definition, calls = _function(name, statements, blocks)
            before = sum(_lines(one) for block in blocks for one in statements[block.start : block.end])
            after = definition.count("\n") + 3 + sum(map(_lines, calls))
            if before - after >= _LEAST_SAVING and len(calls[0].fields) + len(calls[0].inputs) <= _MOST_PARAMETERS:
                names.add(name)
                definitions.append(definition)
                found += zip(blocks, calls)
        if not found:
            return definitions, statements
        for block, call in sorted(found, reverse=True):
            statements = [*statements[: block.start], call, *statements[block.end :]]


def _lines(statement: Statement) -> int:
    return source(statement).count("\n") + 1


def _size(statements: List[Statement], block: Block) -> Tuple[int, int]:
    return sum(len(one.keys) for one in statements[block.start : block.end]), block.start


def _repeats(statements: List[Statement], parts: Set[str]) -> Iterator[List[Block]]:
    """Yield the groups of two and more equal blocks of two and more statements."""
    groups: Dict[tuple, List[Block]] = {}
    for block in _blocks(statements, parts):
        groups.setdefault(_shape(statements, block), []).append(block)
    return (blocks for blocks in groups.values() if len(blocks) > 1)


def _blocks(statements: List[Statement], parts: Set[str]) -> Iterator[Block]:
    """Yield the runs of two and more statements that share a prefix, each with its longest."""
    longest: Dict[Tuple[int, int], str] = {}
    starts: Dict[str, int] = {}
    for index in range(len(statements) + 1):
        now = _prefixes(statements[index]) & parts if index < len(statements) else set()
        for prefix in [one for one in starts if one not in now]:
            run = (starts.pop(prefix), index)
            if index - run[0] > 1 and len(prefix) > len(longest.get(run, "")):
                longest[run] = prefix
        for prefix in now:
            starts.setdefault(prefix, index)
    return (Block(*run, prefix) for run, prefix in sorted(longest.items()))


def _parts(keys: List[str]) -> Set[str]:
    """Return the prefixes that blocks may have.

    Where keys are paths, other signs are part of a name: of ``up_sample1`` and ``up_sample2``, ``up`` is no block.
    """
    paths = any("/" in key for key in keys)
    return {*keys, *(cut for key in keys for cut in _cuts(key) if not paths or key[len(cut) :].startswith("/"))}


def _prefixes(statement: Statement) -> Set[str]:
    """Return what all keys of a statement begin with, up to their end or to a sign that is no letter or digit."""
    if statement.prefix is not None:
        return _cuts(statement.prefix)
    return set.intersection(*map(_cuts, statement.keys))


def _cuts(key: str) -> Set[str]:
    places = (place for place in range(1, len(key)) if not key[place].isalnum())
    return {key, *(key[:place] for place in islice(places, _MOST_PARTS))}


def _shape(statements: List[Statement], block: Block) -> tuple:
    """Return what two blocks have in common when one function can make both."""
    outer = {key: number for number, key in enumerate(_outer_inputs(statements, block))}
    cut = len(block.prefix)
    shape = []
    for one in statements[block.start : block.end]:
        made = one.keys if one.prefix is None else (one.prefix,)
        reads = tuple(outer[key] if key in outer else key[cut:] for key in one.inputs)
        keywords = tuple(flat(field).partition("=")[0] for field in one.fields)
        shape.append((one.maker, one.prefix is None, tuple(key[cut:] for key in made), reads, keywords))
    return tuple(shape)


def _outer_inputs(statements: List[Statement], block: Block) -> List[str]:
    """Return the keys that a block reads and does not make, in order."""
    inner = {key for one in statements[block.start : block.end] for key in one.keys}
    reads = (key for one in statements[block.start : block.end] for key in one.inputs if key not in inner)
    return list(dict.fromkeys(reads))


def _function(name: str, statements: List[Statement], blocks: List[Block]) -> Tuple[str, List[Statement]]:
    """Return the definition of the function for equal blocks, and the call for each."""
    bodies = [statements[block.start : block.end] for block in blocks]
    parameters: Dict[Tuple[str, ...], str] = {}  # the values in all blocks -> the parameter's name
    body = []
    outer = _outer_inputs(statements, blocks[0])
    used = _NAMES_OF_SCRIPT | {_numbered("bottom", number) for number in range(len(outer))}
    for position, statement in enumerate(bodies[0]):
        fields = []
        for place, field in enumerate(statement.fields):
            keyword = flat(field).partition("=")[0]
            values = tuple(flat(one[position].fields[place]).partition("=")[2] for one in bodies)
            if len(set(values)) > 1:
                if values not in parameters:
                    number = 0
                    while _numbered(keyword, number) in used:
                        number += 1
                    parameters[values] = _numbered(keyword, number)
                    used.add(parameters[values])
                field = f"{keyword}={parameters[values]}"
            fields.append(field)
        body.append(statement._replace(fields=tuple(fields)))
    definition = _definition(name, body, statements, blocks[0], list(parameters.values()))
    calls = []
    for number, block in enumerate(blocks):
        fields = tuple(f"{parameter}={values[number]}" for values, parameter in parameters.items())
        keys = tuple(key for one in bodies[number] for key in one.keys)
        calls.append(Statement(keys, name, tuple(_outer_inputs(statements, block)), fields, block.prefix))
    return definition, calls


def _definition(name: str, body: List[Statement], statements: List[Statement], block: Block, names: List[str]) -> str:
    outer = _outer_inputs(statements, block)
    bottoms = {key: _numbered("bottom", number) for number, key in enumerate(outer)}

    def prefix(text: str) -> str:
        rest = text[len(block.prefix) :]
        return f"name + {string(rest)}" if rest else "name"

    def key(text: str) -> str:
        return bottoms[text] if text in bottoms else f"n[{prefix(text)}]"

    head = wrapped(Group(f"def {name}(", ("name", *bottoms.values(), *names), "):"))
    return "\n".join([head, *(source(one, key, prefix, INDENT) for one in body)])


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number + 1}" if number else name


def _function_name(prefix: str, used: Set[str]) -> str:
    """Return a new name after the last part of a prefix: ``res_block`` for ``trunk/res1``."""
    words = re.findall(r"(?<![a-z0-9_])[a-z][a-z_]*", prefix.lower())
    stem = words[-1].strip("_") if words else "layers"
    number = 0
    while _numbered(f"{stem}_block", number) in used:
        number += 1
    return _numbered(f"{stem}_block", number)
