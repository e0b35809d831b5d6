"""``prototxt-gen train``: run Caffe on a solver."""

from __future__ import annotations

import shlex
from typing import List, Optional

import click

from prototxt_gen.train import caffe as caffes
from prototxt_gen.train import launch

INTERRUPTED = 130


@click.command()
@click.argument("solver", metavar="SOLVER")
@click.option("--cpu", is_flag=True, help="Train on the CPU, whatever solver_mode says.")
@click.option("--gpu", metavar="IDS", help="Train on these GPUs, such as 0,1 or all, whatever solver_mode says.")
@click.option("--snapshot", metavar="FILE", help="Resume from a .solverstate.")
@click.option("--weights", metavar="FILE", help="Start from the weights in a .caffemodel; several with commas.")
@click.option("--caffe", "root", metavar="DIR", help="The Caffe to run.  [default: as caffe info finds it]")
@click.option("--log", metavar="FILE", help="Append Caffe's log to FILE.  [default: <snapshot_prefix>.log]")
@click.option("--verbose", is_flag=True, help="Show Caffe's whole log, and not only what one watches a training by.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the command, start nothing.")
def train(
    solver: str, cpu: bool, gpu: Optional[str], snapshot: Optional[str], weights: Optional[str], root: Optional[str],
    log: Optional[str], verbose: bool, dry_run: bool,
) -> int:
    """Train with a SOLVER prototxt.

    Runs caffe train in the current directory. Its log goes to a file, and iterations, losses, tests, snapshots and
    warnings to standard error; the accuracy reached comes at the end. Ctrl-C lets Caffe write a snapshot and stop; a
    second one kills it.
    """
    plan = launch.plan(solver, caffes.find(root), cpu=cpu, gpu=gpu, snapshot=snapshot, weights=weights, log=log)
    if plan.solver_text is not None:
        click.echo(f"Caffe gets {plan.solver_file}: {solver} with solver_mode: CPU", err=True)
    if dry_run:
        click.echo(shlex.join(plan.command))
        return 0
    stderr = click.get_binary_stream("stderr")

    def echo(data: bytes) -> None:
        stderr.write(data)
        stderr.flush()

    outcome = launch.run(plan, echo, lambda text: click.echo(text, err=True), verbose)
    for line in summary(plan, outcome):
        click.echo(line)
    if not outcome.interrupted:
        return 0
    ending = "killed" if outcome.killed else "interrupted"
    resume = f"resume with --snapshot {shlex.quote(outcome.snapshot)}" if outcome.snapshot else "there is no snapshot"
    click.echo(f"{ending}: {resume}", err=True)
    return INTERRUPTED


def summary(plan: launch.Plan, outcome: launch.Outcome) -> List[str]:
    """Return what a run has reached, as 'name = value' lines."""
    log = outcome.log
    lines = [] if log.iteration is None else [f"iteration = {log.iteration}"]
    tests = log.last_tests()
    for test in tests:
        net = f" (test net {test.net})" if len(tests) > 1 else ""
        lines.append(f"tested at iteration{net} = {test.iteration}")
        lines += [f"{name}{net} = {value:g}" for name, value in test.outputs]
    if outcome.snapshot:
        lines.append(f"snapshot = {outcome.snapshot}")
    return [*lines, f"log = {plan.log}"]
