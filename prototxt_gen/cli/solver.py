"""``prototxt-gen solver``: write a solver prototxt."""

from __future__ import annotations

import os
from typing import Any, Optional, Tuple

import click

from prototxt_gen.cli.arguments import assignments, load_net
from prototxt_gen.cli.output import deliver, output_options
from prototxt_gen.core.errors import Error
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.train import solver as solvers

POSITIVE = click.IntRange(min=1)


@click.command("solver", short_help="Write a solver prototxt: the paper's recipes.")
@click.argument("net", metavar="NET")
@click.option("--preset", type=click.Choice(list(solvers.PRESETS)),
              help="The recipe.  [default: the paper's for this network]")
@click.option("--net", "net_file", metavar="FILE",
              help="The training net.  [default: NET, or train.prototxt for a name]")
@click.option("--batch-size", type=POSITIVE, metavar="N",
              help="Images per batch of the training net, where NET is a name.  [default: the network's]")
@click.option("--test-batch-size", type=POSITIVE, metavar="N", help="Likewise in TEST.")
@click.option("--gpus", type=POSITIVE, default=1, show_default=True, metavar="N", help="GPUs that will train together.")
@click.option("--total-batch", type=POSITIVE, metavar="N", help="Images an update.  [default: the recipe's]")
@click.option("--test-images", type=POSITIVE, metavar="N", help="Images in a test.  [default: the recipe's]")
@click.option("--snapshot-prefix", metavar="PATH", help="Snapshots are named after it.  [default: snapshots/NET]")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
              help="Set a field of the solver, such as base_lr=0.05. May be repeated.")
@output_options
def solver(net: str, preset: Optional[str], net_file: Optional[str], settings: Tuple[str, ...], **options: Any) -> int:
    """Write a solver for NET, a network's name or the file of a training net.

    Presets: imagenet and cifar are the paper's recipes, smoke a short run on the CPU.
    """
    if net == "-" and not net_file:
        raise Error("a solver names its net by file", hint="say which file standard input is: --net FILE")
    if options["snapshot_prefix"] == "":
        raise Error("--snapshot-prefix is empty")
    output, read = options["output"], net_file if net in NETWORKS else net
    if output and read and os.path.realpath(output) == os.path.realpath(read):
        raise Error("-o would write the solver over the net", read, "give it a name of its own: -o solver.prototxt")
    facts, path, short_name = _net_facts(net, options["batch_size"], options["test_batch_size"])
    text = solvers.render_solver(
        facts,
        preset or solvers.default_preset(facts.name),
        net=net_file or path,
        snapshot_prefix=options["snapshot_prefix"] or f"snapshots/{short_name}",
        gpus=options["gpus"],
        total_batch=options["total_batch"],
        test_images=options["test_images"],
        settings=assignments(settings),
    )
    return deliver(text, options["output"], options["check"], options["diff"], "prototxt-gen solver")


def _net_facts(net: str, batch: Optional[int], test_batch: Optional[int]) -> Tuple[solvers.NetFacts, str, str]:
    """Return what the solver must know of NET, the path by which it names the net, and a short name for snapshots."""
    if net in NETWORKS:
        config = NETWORKS[net]
        facts = solvers.NetFacts(config.name, batch or config.batch_size, test_batch or config.test_batch_size)
        return facts, "train.prototxt", net
    if batch or test_batch:
        raise Error("--batch-size and --test-batch-size are read off the net file", hint="leave them out")
    facts = solvers.facts_of_net(load_net(net).net, net)
    short_name = next((name for name, config in NETWORKS.items() if config.name == facts.name), "net")
    return facts, net, short_name
