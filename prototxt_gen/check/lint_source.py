"""What lint reads: the text of a net, or of a solver with the nets that it names."""

from __future__ import annotations

import os
import re
from functools import cached_property
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from prototxt_gen.check.lint_view import NetFile, NetParameter, Text
from prototxt_gen.core.dialects import DEFAULT_DIALECT, Dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import loads, read_text
from prototxt_gen.core.locations import Place as TextPlace
from prototxt_gen.core.solvers import net_uses, used_state

SolverParameter = DEFAULT_DIALECT.message("SolverParameter")


class NetText(NamedTuple):
    """A text that was read as a net."""

    text: Text
    net: Any

    def net_file(self, phases: Optional[Sequence[int]], dialect: Dialect) -> NetFile:
        return NetFile(self.net, self.text, dialect).look_as_meant(phases)


class Named(NamedTuple):
    """A net that a solver names: the field's path, its value, and the states of the solver it is used in."""

    path: str
    value: Any
    states: List[Tuple[int, Optional[Any]]]  # phase, and the solver's own train_state or test_state


class SolverView(NamedTuple):
    """What the rules of solvers see. ``gpus`` train together."""

    source: SolverFile
    solver: Any
    gpus: int


class SolverFile:
    """A text that was read as a solver."""

    def __init__(self, solver: Any, text: Text) -> None:
        self.solver = solver
        self.file = text.file
        self._text = text
        self._nets_read: Dict[str, Tuple[Any, Text]] = {}

    def place(self, path: str) -> TextPlace:
        """Return where a field of the solver stands in the text."""
        return self._text.locations.find(path)

    def view(self, gpus: int) -> SolverView:
        return SolverView(self, self.solver, gpus)

    @cached_property
    def folder(self) -> str:
        """The folder that paths in the solver are taken from.

        Caffe takes them from where it is started: the current folder when a net lies there, else the solver's own.
        """
        beside = os.path.dirname(self.file)
        files = [named.value for named in self.nets() if isinstance(named.value, str)]
        if any(map(os.path.isfile, files)):
            return ""
        return beside if any(os.path.isfile(os.path.join(beside, one)) for one in files) else ""

    def resolve(self, path: str) -> str:
        """Return a path of the solver as it is found from here."""
        return os.path.join(self.folder, path)

    def nets(self) -> Iterator[Named]:
        """Yield the nets that Caffe instantiates, a net that serves training and tests once."""
        found: Dict[str, Named] = {}
        for use in net_uses(self.solver):
            named = found.setdefault(use.path, Named(use.path, use.value, []))
            named.states.append((use.phase, use.state))
        yield from found.values()

    def _read(self, path: str) -> Tuple[Any, Text]:
        if path not in self._nets_read:
            text = Text(read_text(path), path)
            self._nets_read[path] = (loads(text.text, NetParameter, path), text)
        return self._nets_read[path]

    def net_files(self, phases: Optional[Sequence[int]], dialect: Dialect) -> Iterator[NetFile]:
        """Yield the nets that the solver names, as far as their files are there, in the states it uses them in."""
        for named in self.nets():
            if isinstance(named.value, str):
                path = self.resolve(named.value)
                if not os.path.isfile(path):
                    continue
                file = NetFile(*self._read(path), dialect)
            else:
                file = NetFile(named.value, self._text, dialect, named.path)
            states = [used_state(phase, file.net, state, phase_is_fixed=True) for phase, state in named.states]
            yield file.look([state for state in states if phases is None or state.phase in phases])


def read_source(text: str, file: str) -> Union[NetText, SolverFile]:
    """Parse a text as a net or as a solver, whichever it is. Raises Error for one that is neither."""
    tried: List[Error] = []
    order = (SolverParameter, NetParameter) if _looks_like_solver(text) else (NetParameter, SolverParameter)
    for message_class in order:
        try:
            message = loads(text, message_class, file)
        except Error as error:
            tried.append(error)
            continue
        if message_class is SolverParameter:
            return SolverFile(message, Text(text, file))
        if not message.layer and not message.layers and not message.input:
            raise Error("holds neither the layers of a net nor the fields of a solver", file)
        return NetText(Text(text, file), message)
    raise tried[0]


def _looks_like_solver(text: str) -> bool:
    """Guess which of the two a text is meant to be, so that a fault in it is told in the right words."""
    field = "(net|train_net|test_net|base_lr|max_iter|lr_policy|test_iter|snapshot|snapshot_prefix|solver_mode|type)"
    holds_layers = re.search(r"^\s*layers?\s*:?\s*[{<]", text, re.MULTILINE)
    return not holds_layers and re.search(rf"^\s*{field}\s*:", text, re.MULTILINE) is not None
