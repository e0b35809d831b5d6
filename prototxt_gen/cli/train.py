"""``prototxt-gen train``: run Caffe on a solver."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from typing import List, Optional, Tuple

import click

from prototxt_gen.check import lint as linter
from prototxt_gen.cli.arguments import assignments
from prototxt_gen.core.errors import Error
from prototxt_gen.spec.lean import SHARING
from prototxt_gen.train import caffe as caffes
from prototxt_gen.train import gpus, launch

INTERRUPTED = 130
# Makes the folder itself (PG402), and settles the prefix as Caffe does (PG403).
NOT_LINTED = ("PG402", "PG403")
OF_ONE_RULE = 2  # findings that are shown before a training


@click.command()
@click.argument("solver", metavar="[SOLVER]", required=False)
@click.option("--cpu", is_flag=True, help="Train on the CPU, whatever solver_mode says.")
@click.option("--gpu", metavar="IDS", help="Train on these GPUs, such as 0,1 or all, whatever solver_mode says.")
@click.option("--engine", type=click.Choice(launch.ENGINES), help="""caffe: the program. pycaffe: one process for each
              GPU; resumes at the record where it stood.  [default: caffe, or as the run was started]""")
@click.option("--run", "folder", metavar="DIR",
              help="Keep all of this run in DIR: nets, solver, command, versions, log, snapshots.")
@click.option("--resume", is_flag=True, help="Go on from the newest snapshot that is whole; start where there is none.")
@click.option("--snapshot", metavar="FILE", help="Resume from this .solverstate.")
@click.option("--weights", metavar="FILE", help="Start from the weights in a .caffemodel; several with commas.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
              help="Set a field of the solver, such as base_lr=0.05. May be repeated.")
@click.option("--iter-size", metavar="N|auto", help="Batches an update; auto: as --total-batch wants.")
@click.option("--total-batch", type=click.IntRange(min=1), metavar="N", help="Images an update: sets iter_size.")
@click.option("--memory", type=click.Choice(SHARING), help="""shared: blobs stand in the same memory where their lives
              do not meet. lean: and BN and ReLU are computed again. Gradients stay the same.  [default: shared on the
              CPU, plain on a GPU; or as the run was started]""")
@click.option("--caffe", "root", metavar="DIR", help="The Caffe to run.  [default: as caffe info finds it]")
@click.option("--log", metavar="FILE", help="Append Caffe's log to FILE.  [default: <snapshot_prefix>.log]")
@click.option("--no-lint", is_flag=True, help="Start although lint finds errors in solver and net.")
@click.option("--verbose", is_flag=True, help="Show Caffe's whole log, and not only what one watches a training by.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the command, start nothing.")
def train(
    solver: Optional[str], cpu: bool, gpu: Optional[str], engine: Optional[str], folder: Optional[str], resume: bool,
    snapshot: Optional[str], weights: Optional[str], settings: Tuple[str, ...], iter_size: Optional[str],
    total_batch: Optional[int], memory: Optional[str], root: Optional[str], log: Optional[str], no_lint: bool,
    verbose: bool, dry_run: bool,
) -> int:
    """Train with a SOLVER prototxt; a --run that was started before has its own.

    Runs caffe train in the current directory. Before that it looks for what would go wrong: lint, data and labels,
    memory, room for snapshots. Its log goes to a file, and iterations, losses, tests, snapshots and warnings to
    standard error; the accuracy reached comes at the end, from a test that Caffe makes after one more training pass:
    BN's averages have moved by it since the snapshot. Ctrl-C lets Caffe write a snapshot and stop; a second one kills
    it.
    """
    if folder == "":
        raise Error("--run names no folder")
    changes = assignments(settings)
    if iter_size not in (None, "auto"):
        changes["iter_size"] = iter_size
    if iter_size == "auto" and total_batch is None:
        raise Error("--iter-size auto wants --total-batch", hint="say how many images an update is to see")
    if total_batch is not None and "iter_size" in changes:
        raise Error("--total-batch sets iter_size, which is given too", hint="leave one of them out")
    caffe = caffes.find(root, gpus.wanted(solver, folder, changes, cpu, gpu))
    plan = launch.plan(solver, caffe, cpu=cpu, gpu=gpu, snapshot=snapshot, weights=weights, log=log,
                       resume=resume, settings=changes, total_batch=total_batch, folder=folder, engine=engine,
                       memory=memory)
    if not no_lint:
        check_lint(plan)
    for line in plan.told:
        tell(line)
    if plan.solver_text is not None and plan.folder is None:
        said = "solver_mode: CPU" if plan.solver_file.endswith("cpu-solver.prototxt") else "what the options change"
        tell(f"Caffe gets {plan.solver_file}: {solver} with {said}")
    if dry_run:
        click.echo(shlex.join([*(f"{name}={value}" for name, value in plan.environment.items()), *plan.command]))
        return 0
    stderr = click.get_binary_stream("stderr")

    def echo(data: bytes) -> None:
        stderr.write(data)
        stderr.flush()

    outcome = launch.run(plan, echo, lambda text: click.echo(text, err=True), verbose, sys.argv[1:])
    for line in summary(plan, outcome):
        click.echo(line)
    if not outcome.interrupted:
        return 0
    ending = "killed" if outcome.killed else "interrupted"
    how = f"resume with --snapshot {shlex.quote(outcome.snapshot)}" if outcome.snapshot else "there is no snapshot"
    if plan.folder is not None:
        how = f"resume with prototxt-gen train --run {shlex.quote(plan.folder)} --resume"
    click.echo(f"{ending}: {how}", err=True)
    return INTERRUPTED


def tell(text: str) -> None:
    """Say something on standard error; a terminal that is gone stops no training."""
    try:
        click.echo(text, err=True)
    except OSError:
        pass


def check_lint(plan: launch.Plan) -> None:
    """Show what lint finds in the solver and its nets. Raises Error where it finds errors."""
    options = linter.Options(linter.registry.chosen((), NOT_LINTED), gpus=plan.gpus)
    found = linter.lint(plan.lint_text, plan.lint_file, options)
    times = Counter(one.rule for one in found)
    shown: Counter = Counter()
    for one in found:
        shown[one.rule] += 1
        if shown[one.rule] <= OF_ONE_RULE:
            hint = f"\n  hint: {one.hint}" if one.hint else ""
            tell(f"{one.file}:{one.line}: {one.severity} {one.rule}: {one.message}{hint}")
        if shown[one.rule] == times[one.rule] > OF_ONE_RULE:
            tell(f"{one.rule}: {times[one.rule] - OF_ONE_RULE} more; prototxt-gen lint lists them")
    errors = sum(one.severity == linter.ERROR for one in found)
    if errors:
        hint = "prototxt-gen explain ID says more; --no-lint starts all the same"
        raise Error(f"lint finds {errors} error{'s' * (errors > 1)}", plan.lint_file, hint)


def summary(plan: launch.Plan, outcome: launch.Outcome) -> List[str]:
    """Return what a run has reached, as 'name = value' lines."""
    log = outcome.log
    lines = [] if log.iteration is None else [f"iteration = {log.iteration}"]
    tests = log.last_tests()
    for test in tests:
        net = f" (test net {test.net})" if len(tests) > 1 else ""
        lines.append(f"tested at iteration{net} = {test.iteration}")
        lines += [f"{name}{net} = {value:g}" for name, value in test.outputs.items()]
    if outcome.snapshot:
        lines.append(f"snapshot = {outcome.snapshot}")
    return [*lines, f"log = {plan.log}"]
