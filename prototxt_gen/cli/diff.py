"""``prototxt-gen diff``: two nets by meaning, or two caffemodels by their weights."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any, Callable, Dict, List, Optional, Tuple

import click

from prototxt_gen.cli.arguments import dialect_option, input_shapes, load_net, load_weights
from prototxt_gen.cli.output import write_stdout
from prototxt_gen.core.caffemodel import is_hdf5, open_bytes
from prototxt_gen.core.dialects import Dialect, find_dialect, in_full_schema
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import PHASES
from prototxt_gen.core.io import Model, read_text
from prototxt_gen.core.locations import Locations


@click.command("diff", short_help="How two nets differ in meaning, or two caffemodels in weights.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--phase", type=click.Choice(list(PHASES)), help="Compare in this phase only.  [default: in both]")
@click.option("--weights", is_flag=True, help="Compare the weights of two caffemodels, blob by blob.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=N,C,H,W",
              help="Shape of a blob that the nets do not tell.")
@dialect_option("The fork that wrote A and B; it matters where they are binary.")
@click.option("--format", "form", type=click.Choice(["text", "json", "github"]), default="text", show_default=True,
              help="text: a line per change; json: one document; github: annotations of a workflow.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def diff(
    a: str, b: str, phase: Optional[str], weights: bool, inputs: Tuple[str, ...], dialect: str, form: str, as_json: bool
) -> int:
    """Show how net B differs from net A in meaning; exit 0 if it does not, 1 if it does.

    A and B are prototxts of any age, caffemodels, - or network names. Fields at their defaults, the order of layers and
    fields, the names of blobs and working in place make no difference: what is only written otherwise is a note. macs
    are those of the whole batch.
    """
    if a == b == "-":
        raise Error("A and B cannot both be standard input")
    form, fork = "json" if as_json else form, find_dialect(dialect)
    if weights:
        if phase or inputs:
            raise Error(f"--{'phase' if phase else 'input'} has no meaning with --weights")
        return _weights(a, b, fork, form)
    return _nets(a, b, fork, PHASES[phase] if phase else None, input_shapes(inputs), form)


def _nets(
    a: str, b: str, fork: Dialect, phase: Optional[int], given: Dict[str, Tuple[int, ...]], form: str
) -> int:
    from prototxt_gen.check.diff import compare
    from prototxt_gen.check.diff_text import describe, trailer

    nets = [in_full_schema(load_net(one, dialect=fork).net) for one in (a, b)]
    found = compare(*nets, phase, given)
    if form == "json":
        _print_json({**asdict(found), "same": found.same})
    elif form == "github":
        place = _places(b)
        differ = [f"::error {place(one.position)}::{_escaped(describe(one))}" for one in found.differences]
        _print([*differ, *(f"::notice {place(None)}::{_escaped(one)}" for one in found.notes)])
    else:
        notes = [f"note: {one}" for one in found.notes]
        _print([*map(describe, found.differences), *trailer(found), *notes])
    return 0 if found.same else 1


def _weights(a: str, b: str, fork: Dialect, form: str) -> int:
    from prototxt_gen.check.diff_text import describe_blob
    from prototxt_gen.check.diff_weights import compare_weights

    blobs = compare_weights(_with_blobs(a, fork), _with_blobs(b, fork))
    differ = [one for one in blobs if not one.same]
    if form == "json":
        _print_json({"blobs": [{**asdict(one), "same": one.same} for one in blobs], "same": not differ})
    elif form == "github":
        place = _places(b)
        _print([f"::error {place(None)}::{_escaped(describe_blob(one))}" for one in differ])
    else:
        _print([describe_blob(one) for one in differ])
        click.echo(f"{len(differ)} of {len(blobs)} blobs differ", err=True)
    return 1 if differ else 0


def _with_blobs(argument: str, fork: Dialect) -> Model:
    """Return the model in a caffemodel; one without weights is for the comparison to refuse."""
    hdf5 = os.path.isfile(argument) and is_hdf5(open_bytes(argument))
    return load_weights(argument, fork) if hdf5 else load_net(argument, dialect=fork)


def _print(lines: List[str]) -> None:
    write_stdout("".join(line + "\n" for line in lines))


def _print_json(document: Dict[str, Any]) -> None:
    write_stdout(json.dumps(document, indent=2, sort_keys=True) + "\n")


def _places(net: str) -> Callable[[Optional[int]], str]:
    """Return what gives the place of a layer, by its number in the net, as properties of a workflow command."""
    if not os.path.isfile(net):
        return lambda position: f"title={_escaped(net, ':,')}"
    file = f"file={_escaped(net, ':,')}"
    try:
        locations = Locations(read_text(net))
    except Error:
        return lambda position: file  # a caffemodel has no lines

    def place(position: Optional[int]) -> str:
        path = f"layer[{position}]"
        # The number is one of the upgraded net, which counts the old input fields as a layer.
        return f"{file},line={locations.find(path).line}" if path in locations and "input" not in locations else file

    return place


def _escaped(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
