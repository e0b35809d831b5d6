"""``prototxt-gen lint``: find what is wrong with nets and solvers; ``prototxt-gen explain``: what a rule is about."""

from __future__ import annotations

import json
import os
import textwrap
from typing import Any, List, Optional, Sequence, Tuple

import click

from prototxt_gen.check import lint as linter
from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS, find_dialect
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.graph import PHASES
from prototxt_gen.core.io import display_name, read_text
from prototxt_gen.nets.configs import NETWORKS, find_network


@click.command("lint", short_help="Find what is wrong with nets and solvers.")
@click.argument("nets", metavar="NET...", nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(["text", "json", "github"]), default="text", show_default=True,
              help="text: file:line per finding; json: one document; github: annotations of a workflow.")
@click.option("--select", metavar="IDS", multiple=True,
              help="Only these rules: IDs, beginnings of IDs (PG3) or names, with commas. May be repeated.")
@click.option("--ignore", metavar="IDS", multiple=True, help="All rules but these.")
@click.option("--phase", type=click.Choice(list(PHASES)),
              help="Look at this phase.  [default: those the net is meant for]")
@click.option("--dialect", metavar="NAME", default=DEFAULT_DIALECT.name, show_default=True,
              help=f"The Caffe that is to run the net: {', '.join(DIALECTS)}.")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="GPUs that will train together, for the images an update.")
def lint(nets: Tuple[str, ...], form: str, select: Tuple[str, ...], ignore: Tuple[str, ...], phase: Optional[str],
         dialect: str, gpus: int) -> int:
    """Find what is wrong with nets and solvers, without Caffe.

    NET is a prototxt of a net or of a solver, - for standard input, or the name of a network. The net that a solver
    names is looked at too. Exit code 1 when something is found; `prototxt-gen explain ID` says more of a rule.
    """
    options = linter.Options(
        linter.registry.chosen(_listed(select), _listed(ignore)),
        phases=None if phase is None else (PHASES[phase],),
        dialect=find_dialect(dialect),
        gpus=gpus,
    )
    findings = []
    for net in dict.fromkeys(nets):
        findings += linter.lint(_text_of(net), display_name(net), options)
    findings = sorted(set(findings), key=lambda one: (one.file, one.line, one.column, one.rule, one.message))
    _show(findings, form)
    errors, warnings = (sum(one.severity == kind for one in findings) for kind in (linter.ERROR, linter.WARNING))
    counts = f"{_number(errors, 'error')}, {_number(warnings, 'warning')}"
    click.echo(f"{counts} in {_number(len(set(nets)), 'file')}", err=True)
    return 1 if errors or warnings else 0


@click.command("explain", short_help="What a lint rule checks, why, and how to mend it.")
@click.argument("rule", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def explain(rule: Optional[str], as_json: bool) -> None:
    """Say what a rule of `prototxt-gen lint` checks, why, and how to mend what it finds. Without ID: list the rules."""
    chosen = [linter.registry.find(rule)] if rule else linter.registry.rules()
    if as_json:
        fields = ("id", "name", "severity", "checks", "why", "mend", "bad", "good")
        rows = [{field: getattr(one, field) for field in fields} for one in chosen]
        click.echo(json.dumps(rows, indent=2, sort_keys=True))
    elif rule:
        click.echo(_explained(chosen[0]))
    else:
        for one in chosen:
            click.echo(f"{one.id}  {one.severity:7}  {one.name}")


def _listed(options: Sequence[str]) -> List[str]:
    return [name.strip() for option in options for name in option.split(",") if name.strip()]


def _text_of(net: str) -> str:
    if net in NETWORKS:
        from prototxt_gen.nets.builder import TRAIN, build

        return build(find_network(net), TRAIN).dumps()
    if net != "-" and not os.path.exists(net):
        raise Error(f"there is no network and no file '{net}'", hint=did_you_mean(net, NETWORKS))
    return read_text(net)


def _show(findings: Sequence[linter.Finding], form: str) -> None:
    if form == "json":
        click.echo(json.dumps([one.as_dict() for one in findings], indent=2, sort_keys=True))
        return
    for one in findings:
        click.echo(_annotation(one) if form == "github" else _line(one))


def _line(one: linter.Finding) -> str:
    text = f"{one.file}:{one.line}: {one.severity} {one.rule}: {one.message}"
    return f"{text}\n  hint: {one.hint}" if one.hint else text


def _annotation(one: linter.Finding) -> str:
    """One workflow command, escaped as GitHub wants it: percent, line ends, and in properties colon and comma."""
    kind = {linter.NOTE: "notice"}.get(one.severity, one.severity)
    place = [("file", one.file), ("line", one.line), ("col", one.column), ("title", one.rule)]
    properties = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in place)
    return f"::{kind} {properties}::" + _escaped(one.message + (f"\nhint: {one.hint}" if one.hint else ""))


def _escaped(value: Any, more: str = "") -> str:
    text = str(value)
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _explained(rule: linter.Rule) -> str:
    paragraphs = [
        f"{rule.id} {rule.name} ({rule.severity})",
        f"Checks that {rule.checks}." if rule.severity != linter.NOTE else f"Checks {rule.checks}.",
        rule.why,
        f"What to do: {rule.mend}",
        f"Found:     {rule.bad}\nNot found: {rule.good}",
    ]
    return "\n\n".join(textwrap.fill(one, 80, break_on_hyphens=False) if "\n" not in one else one for one in paragraphs)


def _number(count: int, one: str) -> str:
    return f"{count} {one if count == 1 else one + 's'}"
