"""Lint: the registry of rules, and running them over a file.

A rule is a row of the registry and a function that yields hits from a view of a net or solver; the rules live beside
this module, a family in each ``lint_<family>``. Running them gives findings: plain data, sorted by file and line.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, replace
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from prototxt_gen.check.lint_source import SolverFile, read_source
from prototxt_gen.check.lint_view import NetFile, NetView
from prototxt_gen.core.dialects import DEFAULT_DIALECT, Dialect
from prototxt_gen.core.errors import Error, did_you_mean

ERROR, WARNING, NOTE = "error", "warning", "note"
# What a rule looks at: a net in one phase, a net in phase TRAIN that has a loss, a net file as a whole, or a solver.
NET, TRAINING, FILE, SOLVER = "net", "training", "file", "solver"
FAMILIES = ("lint_graph", "lint_shapes", "lint_training", "lint_solver", "lint_data")


class Hit(NamedTuple):
    """What a rule yields. ``path`` is the field it is about, such as ``layer[3].bottom[0]``; see ``core.locations``."""

    path: str
    message: str
    hint: str = ""
    layer: str = ""
    severity: Optional[str] = None  # where it is not the rule's own


@dataclass(frozen=True)
class Rule:
    """One row of the registry. ``bad`` and ``good`` are lines of prototxt; ``checks`` follows on 'Checks that'."""

    id: str
    name: str
    checks: str
    why: str
    mend: str
    bad: str
    good: str
    about: str
    severity: str
    find: Callable[[Any], Iterable[Hit]]


class Registry:
    """The rules by ID: one owner each."""

    def __init__(self) -> None:
        self._rules: Dict[str, Rule] = {}

    def add(self, id: str, name: str, *, about: str, severity: str = ERROR, **row: str) -> Callable[[Any], Any]:
        """Register a function as the rule of an ID. It gets the view that ``about`` names and yields hits."""
        def register(find: Callable[[Any], Iterable[Hit]]) -> Callable[[Any], Iterable[Hit]]:
            if any(name == rule.name or id == rule.id for rule in self._rules.values()):
                raise ValueError(f"a lint rule is called {id} or {name} already")
            self._rules[id] = Rule(id=id, name=name, about=about, severity=severity, find=find, **row)
            return find

        return register

    def rules(self) -> List[Rule]:
        """Return all rules in the order of their IDs."""
        for family in FAMILIES:
            importlib.import_module(f"prototxt_gen.check.{family}")
        return [self._rules[id] for id in sorted(self._rules)]

    def find(self, name: str) -> Rule:
        """Return the rule of an ID or a name."""
        rules = self.rules()
        for rule in rules:
            if name.upper() == rule.id or name == rule.name:
                return rule
        known = [*(rule.id for rule in rules), *(rule.name for rule in rules)]
        raise Error(f"no lint rule is called '{name}'", hint=did_you_mean(name, known, f"rules: {', '.join(known)}"))

    def chosen(self, select: Iterable[str], ignore: Iterable[str]) -> List[Rule]:
        """Return the rules that are selected (none named: all) and not ignored; ``PG3`` names all that begin so."""
        selected, ignored = list(self._named(select)), list(self._named(ignore))
        return [rule for rule in (selected or self.rules()) if rule not in ignored]

    def _named(self, names: Iterable[str]) -> Iterator[Rule]:
        for name in names:
            begun = [rule for rule in self.rules() if rule.id.startswith(name.upper())] if name else []
            yield from begun or [self.find(name)]


registry = Registry()


@dataclass(frozen=True)
class Finding:
    """One fault found. A note tells a fact and is no fault."""

    file: str
    line: int
    column: int
    rule: str
    severity: str
    layer: str
    message: str
    hint: str

    def as_dict(self) -> Dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Options:
    """How to lint. ``phases`` None: those that the net is meant for. ``gpus`` train together."""

    rules: Sequence[Rule]
    phases: Optional[Tuple[int, ...]] = None
    dialect: Dialect = DEFAULT_DIALECT
    gpus: int = 1


def lint(text: str, file: str, options: Options) -> List[Finding]:
    """Lint the text of a net or a solver, and the nets that a solver names. ``file`` is its name, for solvers its path.

    Raises Error for a text that is neither.
    """
    source = read_source(text, file)
    if isinstance(source, SolverFile):
        findings = _run(options, SOLVER, source.view(options.gpus), source)
        for net_file in source.net_files(options.phases, options.dialect):
            findings += _lint_net(net_file, options)
    else:
        findings = _lint_net(source.net_file(options.phases, options.dialect), options)
    return sorted(set(findings), key=lambda one: (one.file, one.line, one.column, one.rule, one.message))


def _lint_net(file: NetFile, options: Options) -> List[Finding]:
    found: Dict[Finding, List[NetView]] = {}
    for view in file.views:
        for finding in _run(options, NET, view, file):
            found.setdefault(finding, []).append(view)
        if view.training:
            for finding in _run(options, TRAINING, view, file):
                found[finding] = file.views
    for finding in _run(options, FILE, file, file):
        found[finding] = file.views
    return [_with_phase(finding, views, file) for finding, views in found.items()]


def _with_phase(finding: Finding, views: Sequence[NetView], file: NetFile) -> Finding:
    """Say the phase of what is wrong in one phase only, where the net was looked at in several."""
    if len(views) == len(file.views):
        return finding
    phases = " and ".join(dict.fromkeys(view.phase_name for view in views))
    return replace(finding, message=f"{finding.message} (in phase {phases})")


def _run(options: Options, about: str, view: Any, source: Any) -> List[Finding]:
    findings = []
    for rule in options.rules:
        if rule.about == about:
            for hit in rule.find(view):
                line, column = source.place(hit.path)
                severity = hit.severity or rule.severity
                findings.append(
                    Finding(source.file, line, column, rule.id, severity, hit.layer, hit.message, hit.hint))
    return findings
