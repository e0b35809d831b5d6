"""``prototxt-gen data preview``: a picture of what a net sees."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, Optional

import click

from prototxt_gen.check.lint_source import SolverFile, read_source
from prototxt_gen.cli.arguments import load_net
from prototxt_gen.core.data_layers import source_of
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import PHASES, net_state
from prototxt_gen.core.io import display_name, read_text
from prototxt_gen.core.solvers import net_uses, used_state
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.spec.shapes import plural
from prototxt_gen.train import caffe as caffes
from prototxt_gen.train import preview as previews
from prototxt_gen.train.preflight import check_net_file

DEFAULT_SEED = 1
MOST_CLIPPED = 0.1  # noise takes the values near the ends out of 0..255; only strong changes take so many


class _Place(NamedTuple):
    net: Any
    state: Any
    where: str
    seed: int


@click.command("preview", short_help="A picture of what a net sees: its augmented images with their classes.")
@click.argument("net", metavar="NET|SOLVER")
@click.option("-o", "--output", metavar="PNG", required=True, help="The picture to write, whole or not at all.")
@click.option("--phase", type=click.Choice(list(PHASES)), default="train", show_default=True,
              help="Whose images to show.")
@click.option("--count", type=click.IntRange(1, 1000), default=48, show_default=True, metavar="N", help="Images.")
@click.option("--labels", metavar="FILE", help="Class names, one a line.  [default: labels.txt beside the source]")
@click.option("--caffe", "root", metavar="DIR", help="The Caffe to use.  [default: as caffe info finds it]")
def preview(net: str, output: str, phase: str, count: int, labels: Optional[str], root: Optional[str]) -> None:
    """Show what the net really sees.

    The images are those that the net's own data layer gives in Caffe, augmented, cropped and mirrored, with mean and
    scale undone. NET|SOLVER is the file of a training net or of a solver, or a network's name.
    """
    if not output.lower().endswith(".png"):
        raise Error(f"-o {output} names no PNG", hint="a name that ends with .png")
    place = _place(net, PHASES[phase])
    layer = previews.find_layer(place.net, place.state, place.where)
    source = source_of(layer).source
    names = previews.class_names(labels, source)
    shown = previews.preview(layer, place.state, place.where, caffes.find(root), count, place.seed)
    height, width = shown.images.shape[1:3]
    title = f"{phase.upper()}, layer {shown.layer} ({shown.type}), {width}x{height}, {source}"
    previews.write_sheet(output, shown, names, title)
    classes = len(set(shown.labels))
    told = f", {plural(classes, 'class', 'classes')}" if classes else ""
    click.echo(f"{click.format_filename(output)}: {plural(len(shown.images), 'image')} of {width}x{height}{told}")
    if shown.clipped > MOST_CLIPPED:
        click.echo(f"note: {100 * shown.clipped:.2g} % of the values lie outside of 0..255 and are cut off", err=True)


def _place(argument: str, phase: int) -> _Place:
    """Return the net that is meant, in the state that it is used in, and the seed of its random numbers."""
    solver = None if argument in NETWORKS else _solver(argument)
    if solver is None:
        net = load_net(argument).net
        return _Place(net, net_state(phase, net), display_name(argument), DEFAULT_SEED)
    seed = solver.random_seed if solver.random_seed >= 0 else DEFAULT_SEED
    for use in net_uses(solver):
        if use.phase == phase:
            inline = not isinstance(use.value, str)
            if not inline:
                check_net_file(use.value, argument)
            net = use.value if inline else load_net(use.value).net
            where = f"{argument}: {use.path}" if inline else use.value
            return _Place(net, used_state(phase, net, use.state, phase_is_fixed=True), where, seed)
    raise Error("names no net for this phase", argument)


def _solver(argument: str) -> Any:
    """Return the solver that a file holds, None where it holds anything else."""
    if not os.path.isfile(argument):
        return None
    try:
        source = read_source(read_text(argument), argument)
    except Error:
        return None  # load_net tells what is wrong
    return source.solver if isinstance(source, SolverFile) else None
