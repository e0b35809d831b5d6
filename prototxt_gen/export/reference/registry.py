"""The registry of layer types that can be run, and what the function of one is given.

A function is registered with ``@layers.add`` in the modules beside this one, each for a family of types.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence

from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.graph import TRAIN
from prototxt_gen.spec.shapes import Shape


@dataclass(frozen=True)
class Step:
    """One layer about to run: the arrays it reads, its parameter blobs, the shapes of its tops.

    Arrays have the type ``dtype``, blobs the shapes that the layer's rule tells. ``bn_statistic`` says what the fourth
    blob of BN holds, None where nobody knows.
    """

    layer: Any
    bottoms: Sequence[Any]
    blobs: Sequence[Any]
    shapes: Sequence[Shape]
    phase: int
    dtype: Any
    bn_statistic: Optional[str] = None

    @property
    def x(self) -> Any:
        """The first bottom."""
        return self.bottoms[0]

    @property
    def is_train(self) -> bool:
        """True in the phase TRAIN."""
        return self.phase == TRAIN

    def refuse(self, why: str, hint: str = "") -> Error:
        """Return the error that says why this layer cannot be run here."""
        return Error(why, label(self.layer), hint)


Function = Callable[[Step], Any]


class Layers:
    """The functions by layer type, one owner each. A function returns its top, or a list of its tops."""

    def __init__(self) -> None:
        self._functions: Dict[str, Function] = {}
        self._complete = False

    def add(self, *types: str) -> Callable[[Function], Function]:
        """Register a function for one or more layer types."""
        def register(function: Function) -> Function:
            for name in types:
                if name in self._functions:
                    raise ValueError(f"layer type '{name}' can be run already")
                self._functions[name] = function
            return function

        return register

    def types(self) -> List[str]:
        """Return the names of all layer types that can be run."""
        return sorted(self._all())

    def run(self, step: Step) -> List[Any]:
        """Return the tops of a layer."""
        import numpy as np

        functions = self._all()
        if step.layer.type not in functions:
            raise self.unknown(step.layer)
        # What overflows in Caffe overflows here, and as silently.
        with np.errstate(all="ignore"):
            tops = functions[step.layer.type](step)
        return [np.asarray(top, step.dtype) for top in (tops if isinstance(tops, list) else [tops])]

    def unknown(self, layer: Any) -> Error:
        """Return the error for a layer of a type without a function."""
        hint = did_you_mean(layer.type, self._all(), "run the net in Caffe: --engine caffe")
        return Error("the numpy engine has no layer of this type", label(layer), hint)

    def _all(self) -> Dict[str, Function]:
        if not self._complete:
            from prototxt_gen.export import reference

            for module in pkgutil.iter_modules(reference.__path__):
                importlib.import_module(f"{reference.__name__}.{module.name}")
            self._complete = True
        return self._functions


def label(layer: Any) -> str:
    """Return how messages call a layer."""
    return f"layer '{layer.name}' ({layer.type})"


layers = Layers()
