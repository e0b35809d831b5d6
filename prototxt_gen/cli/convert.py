"""``prototxt-gen convert``: run passes over a net and its weights."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any, Dict, List, Optional, Tuple

import click

from prototxt_gen.cli.arguments import add_weights, dialect_option, errors_of, input_shapes, load_net, read_net
from prototxt_gen.cli.output import deliver, output_options, write_stdout
from prototxt_gen.core.caffemodel_write import weights_writer
from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS, find_dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import display_name, dumps, read_message, text_writer, write_together

# The option of the command line that fills a pass's keyword.
FLAGS = {
    "bn_statistic": "--bn-statistic",
    "input_shapes": "--input",
    "renames": "--map or --rename",
    "batch_size": "--batch-size",
    "to": "--to",
    "phase": "--phase",
    "test_net": "--test-net",
    "source": "--source",
    "test_source": "--test-source",
    "mean": "--mean",
    "seed": "--seed",
}
MAKER = "prototxt-gen convert"


class ConvertCommand(click.Command):
    """Lists the passes below the options."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from prototxt_gen.passes.base import registry

        with formatter.section("Passes"):
            formatter.write_dl([(name, _first_line(registry.find(name))) for name in registry.names()])


@click.command("convert", cls=ConvertCommand, short_help="Convert nets and weights: BN, phases, dialects, names.")
@click.argument("net", metavar="NET")
@click.option("--pass", "passes", multiple=True, required=True, metavar="NAME",
              help="A pass to run; several run in the order given.")
@click.option("--weights", metavar="FILE", help="The net's weights, a caffemodel.")
@click.option("--out-weights", metavar="FILE", help="Write the weights after the passes to FILE.")
@click.option("--weights-layout", type=click.Choice(["current", "v1"]), default="current", show_default=True,
              help="v1: a caffemodel that Caffe reads since 2014.")
@dialect_option("The fork that wrote NET and its weights.")
@click.option("--bn-statistic", type=click.Choice(["inv-std", "variance"]),
              help="What BN's fourth blob holds: inv-std for the attention fork, variance for models of cuDNN engines.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=N,C,H,W", help="The shape of an input.")
@click.option("--map", "map_file", metavar="FILE", help="rename: a file of old and new names.")
@click.option("--rename", "renames", multiple=True, metavar="PATTERN=NEW",
              help="rename: a name, or a regular expression, and what takes the place of what it fits.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="The batch size.")
@click.option("--to", type=click.Choice(list(DIALECTS)), help="dialect: the dialect to write.")
@click.option("--phase", type=click.Choice(["train", "test"]), help="split-phases: the phase to keep.")
@click.option("--test-net", metavar="NET", help="merge-phases: the net of the phase TEST.")
@click.option("--source", metavar="PATH", help="deploy-to-train: the training set.")
@click.option("--test-source", metavar="PATH", help="deploy-to-train: the test set.")
@click.option("--mean", metavar="MEAN", help="deploy-to-train: values with commas between, a file, or none.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", help="seed-weights: where the draw starts.")
@click.option("--report", metavar="FILE", help="Write edits and what was left, with reasons, to FILE as JSON.")
@click.option("--strict", is_flag=True, help="Exit with 1 when a pass left something as it was.")
@click.option("--verbose", is_flag=True, help="Tell each edit, not only their number.")
@output_options
def convert(
    net: str, passes: Tuple[str, ...], weights: Optional[str], out_weights: Optional[str], weights_layout: str,
    dialect: str, report: Optional[str], strict: bool, verbose: bool, output: Optional[str], check: Optional[str],
    diff: Optional[str], **settings: Any,
) -> int:
    """Run passes over NET, in the order given, and write the result as a prototxt.

    With --weights they run over the weights too, and --out-weights writes these. A caffemodel as NET brings its own.
    """
    from prototxt_gen.passes.base import registry

    chosen = [(name, registry.find(name)) for name in passes]
    map_file, test_net = settings["map_file"], settings["test_net"]
    values = _values(settings)
    _check_options(chosen, values)
    if passes == ("upgrade",):
        solver = _upgraded_solver(net)
        if solver is not None:
            return deliver(solver, output, check, diff, MAKER)
    read = read_net if passes[0] == "upgrade" else load_net
    model = read(net, dialect=find_dialect(dialect))
    nets = {"--test-net": test_net, **({} if model.blobs else {"NET": net})}
    binaries = {"--weights": weights, **({"NET": net} if model.blobs else {})}
    _check_places([
        ("-o", output, {"--map": map_file, **binaries}),
        ("--out-weights", out_weights, {"--map": map_file, **nets}),
        ("--report", report, {"--map": map_file, **nets, **binaries}),
    ])
    if weights is not None:
        model = add_weights(model, weights, values.get("input_shapes"))
    if out_weights is not None and not model.blobs and "seed-weights" not in passes:
        raise Error("--out-weights has nothing to write: no weights were given", hint="give them with --weights FILE")
    results = []
    for name, run in chosen:
        with errors_of(net):
            result = run(model, **_options_for(run, values))
        results.append((name, result))
        if result.model.dialect is not model.dialect and result.model.dialect.bn_statistic:
            # It told of the model as it was read.
            values.pop("bn_statistic", None)
        model = result.model
        _tell(name, result, verbose)
    text, files = model.dumps(), []
    if out_weights is not None:
        files.append((out_weights, weights_writer(out_weights, model, weights_layout)))
    elif weights is not None:
        click.echo("note: the weights after the passes are not written; --out-weights FILE writes them", err=True)
    if report is not None:
        files.append((report, text_writer(_document(results))))
    left = int(strict and any(result.skipped for _, result in results))
    if check is not None or diff is not None:
        return deliver(text, output, check, diff, MAKER) or left
    if output in (None, "-"):
        write_together(files)
        write_stdout(text)
    else:
        write_together([*files, (output, text_writer(text))])
    return left


def _first_line(run: Any) -> str:
    return run.__doc__.strip().splitlines()[0].replace("``", "'")


def _values(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Return the options that were given, under the keywords of passes."""
    from prototxt_gen.passes.rename import read_map

    map_file = settings.pop("map_file")
    pairs = list(read_map(map_file)) if map_file else []
    for text in settings["renames"]:
        pattern, equals, new = text.rpartition("=")
        if not equals:
            raise Error(f"--rename {text} has no '='", hint="write --rename 'PATTERN=NEW'")
        pairs.append((pattern, new))
    settings["renames"] = tuple(pairs)
    settings["input_shapes"] = input_shapes(settings.pop("inputs"))
    if settings["test_net"] is not None:
        settings["test_net"] = load_net(settings["test_net"])
    return {name: value for name, value in settings.items() if value not in (None, (), {})}


def _check_options(chosen: List[Tuple[str, Any]], values: Dict[str, Any]) -> None:
    """Every option belongs to a pass that runs, and every pass has what it needs."""
    from prototxt_gen.passes.base import NEEDED, options_of, registry

    taken = {option for _, run in chosen for option in options_of(run)}
    for option in values:
        if option not in taken:
            owners = [name for name in registry.names() if option in options_of(registry.find(name))]
            raise Error(f"{FLAGS[option]} goes with --pass {' or '.join(owners)}, which does not run")
    for name, run in chosen:
        for option, default in options_of(run).items():
            if default is NEEDED and option not in values:
                raise Error(f"pass '{name}' needs {FLAGS[option]}", hint="prototxt-gen convert --help")


def _options_for(run: Any, values: Dict[str, Any]) -> Dict[str, Any]:
    from prototxt_gen.passes.base import options_of

    return {option: values[option] for option in options_of(run) if option in values}


def _check_places(outputs: List[Tuple[str, Optional[str], Dict[str, Optional[str]]]]) -> None:
    """No output takes the place of another, nor of an input of another kind, which stand beside it."""
    taken: Dict[str, str] = {}
    for flag, path, inputs in outputs:
        if path in (None, os.devnull) or (flag == "-o" and path == "-"):
            continue
        if path == "-":
            raise Error(f"{flag} - is no file", hint="standard output gets the net; name a file")
        target = os.path.realpath(path)
        if target in taken:
            raise Error(f"{taken[target]} and {flag} name one file", path)
        taken[target] = flag
        for name, other in inputs.items():
            if other is not None and os.path.realpath(other) == target:
                raise Error(f"{flag} would write over {name}, which is of another kind", path, "name another file")


def _tell(name: str, result: Any, verbose: bool) -> None:
    """Say on stderr what a pass did: coverage, edits, and what it left by reason."""
    edits = result.edits
    if result.coverage:
        click.echo(f"{name}: {result.coverage}", err=True)
    if verbose or len(edits) <= 3:
        for edit in edits or (() if result.coverage else ("nothing to do",)):
            click.echo(f"{name}: {edit}", err=True)
    elif not result.coverage:
        click.echo(f"{name}: {len(edits)} edits; --verbose lists them", err=True)
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    reasons = Counter(one.reason for one in result.skipped)
    for reason, times in reasons.most_common():
        names = [one.layer for one in result.skipped if one.reason == reason]
        shown = names if verbose else names[:2]
        more = ", ..." if len(names) > len(shown) else ""
        click.echo(f"  left {times}: {reason} ({', '.join(shown)}{more})", err=True)


def _document(results: List[Tuple[str, Any]]) -> str:
    passes = [
        {
            "pass": name,
            "coverage": result.coverage,
            "edits": list(result.edits),
            "notes": list(result.notes),
            "skipped": [{"layer": one.layer, "reason": one.reason} for one in result.skipped],
        }
        for name, result in results
    ]
    return json.dumps({"passes": passes}, indent=2, sort_keys=True) + "\n"


def _upgraded_solver(path: str) -> Optional[str]:
    """Return the upgraded text of a solver file; None where the file is rather a net."""
    from prototxt_gen.core.upgrade import upgrade_solver

    if path == "-":
        return None
    try:
        read_net(path)
        return None
    except Error:
        pass
    try:
        solver = read_message(path, DEFAULT_DIALECT.message("SolverParameter"))
    except Error:
        return None
    message, notes = upgrade_solver(solver, display_name(path))
    for note in notes or ("nothing to do",):
        click.echo(f"upgrade: {note}", err=True)
    return dumps(message)
