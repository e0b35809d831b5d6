"""What a pass is: a function Model -> PassResult that never edits its input, and lists what it did and what it left.

Options of a pass are keyword parameters of its function; ``convert`` fills each from the option of that name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple

from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.io import Model


@dataclass(frozen=True)
class Skipped:
    """A layer that a pass left as it was, and why. The reason alone, so that equal ones can be counted."""

    layer: str
    reason: str


@dataclass(frozen=True)
class PassResult:
    """The model that a pass made, and what it did: one line for each edit.

    ``coverage`` sums up what was possible, as in 'folded 70 of 107 BN', where a pass may do less than all. ``notes``
    say what the user has to know of the result.
    """

    model: Model
    edits: Tuple[str, ...] = ()
    skipped: Tuple[Skipped, ...] = ()
    coverage: str = ""
    notes: Tuple[str, ...] = ()


Pass = Callable[..., PassResult]

NEEDED = inspect.Parameter.empty  # stands for the default of an option that has none


class Passes:
    """The passes by name: one owner each."""

    def __init__(self) -> None:
        self._passes: Dict[str, Pass] = {}

    def add(self, name: str) -> Callable[[Pass], Pass]:
        """Register a pass."""
        def register(function: Pass) -> Pass:
            if name in self._passes:
                raise ValueError(f"a pass is called '{name}' already")
            self._passes[name] = function
            return function

        return register

    def names(self) -> List[str]:
        """Return the names of all passes."""
        from prototxt_gen import passes

        for module in pkgutil.iter_modules(passes.__path__):
            importlib.import_module(f"{passes.__name__}.{module.name}")
        return sorted(self._passes)

    def find(self, name: str) -> Pass:
        """Return the pass called ``name``."""
        names = self.names()
        if name not in names:
            raise Error(f"no pass is called '{name}'", hint=did_you_mean(name, names, f"passes: {', '.join(names)}"))
        return self._passes[name]


def options_of(function: Pass) -> Dict[str, Any]:
    """Return the options of a pass, each with its default, NEEDED where it must be given."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return {one.name: one.default for one in parameters}


registry = Passes()
