"""``prototxt-gen convert``: run passes over a net."""

from __future__ import annotations

from typing import Optional, Tuple

import click

from prototxt_gen.cli.arguments import read_net
from prototxt_gen.cli.output import deliver, output_options
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import display_name, dumps, read_message


@click.command("convert", short_help="Run passes over a net.")
@click.argument("net", metavar="NET")
@click.option("--pass", "passes", multiple=True, required=True, metavar="NAME", help="A pass to run: upgrade.")
@output_options
def convert(
    net: str, passes: Tuple[str, ...], output: Optional[str], check: Optional[str], diff: Optional[str]
) -> int:
    """Run passes over NET, in the order given, and write the result as a prototxt.

    upgrade: what files of 2013 and 2014 wrote (V0 and V1 layers, input fields) as Caffe 1.0 writes it. For solver
    files, too: solver_type becomes type.
    """
    from prototxt_gen.passes.base import registry

    chosen = [(name, registry.find(name)) for name in passes]
    try:
        model = read_net(net)
    except Error:
        if set(passes) != {"upgrade"} or net == "-":
            raise
        return deliver(_upgraded_solver(net), output, check, diff, "prototxt-gen convert")
    for name, run in chosen:
        result = run(model)
        model = result.model
        for edit in result.edits or ("nothing to do",):
            click.echo(f"{name}: {edit}", err=True)
    return deliver(model.dumps(), output, check, diff, "prototxt-gen convert")


def _upgraded_solver(path: str) -> str:
    """Return the upgraded text of a solver file; raise what is wrong with it as a net where it is no solver either."""
    from prototxt_gen.core.upgrade import upgrade_solver

    try:
        solver = read_message(path, DEFAULT_DIALECT.message("SolverParameter"))
    except Error:
        read_net(path)
        raise
    message, notes = upgrade_solver(solver, display_name(path))
    for note in notes or ("nothing to do",):
        click.echo(f"upgrade: {note}", err=True)
    return dumps(message)
