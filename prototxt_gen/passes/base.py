"""What a pass is: a function Model -> PassResult that never edits its input, and lists its edits."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Callable, Dict, List, Tuple

from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.io import Model


@dataclass(frozen=True)
class PassResult:
    """The model that a pass made, and what it did: one line for each edit."""

    model: Model
    edits: Tuple[str, ...]


Pass = Callable[[Model], PassResult]


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


registry = Passes()
