"""Two runs of nets compared blob by blob."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.spec.infer import Shape


@dataclass(frozen=True)
class BlobPair:
    """A blob of A and the blob of B that stands for the same values.

    ``max_abs`` is the largest difference of two values, ``at`` where it stands, ``relative`` that over the largest
    magnitude in A's blob. All are None where the shapes differ; ``max_abs`` and ``relative`` are infinite where one
    value is finite and the other not, and where either is no number: that two nets both fail says nothing.
    """

    a: str
    b: str
    shape_a: Shape
    shape_b: Shape
    max_abs: Optional[float] = None
    relative: Optional[float] = None
    at: Optional[Tuple[int, ...]] = None
    value_a: Optional[float] = None
    value_b: Optional[float] = None

    def agrees(self, tolerance: float) -> bool:
        """True when the shapes are equal and no value is further off than ``tolerance``, relatively."""
        return self.relative is not None and self.relative <= tolerance


@dataclass(frozen=True)
class Comparison:
    """All pairs in the order in which A makes them; the blobs that only one of the two has; which pairs are outputs."""

    pairs: Tuple[BlobPair, ...]
    only_a: Tuple[str, ...]
    only_b: Tuple[str, ...]
    outputs: Tuple[BlobPair, ...]

    def first_difference(self, tolerance: float) -> Optional[BlobPair]:
        """Return the first pair that does not agree."""
        return next((one for one in self.pairs if not one.agrees(tolerance)), None)


def compare_blobs(a: Mapping[str, Any], b: Mapping[str, Any], outputs_a: List[str], outputs_b: List[str]) -> Comparison:
    """Compare blobs by name; outputs whose names differ by their place, where both nets have as many.

    Raises Error when nothing can be compared.
    """
    partners: Dict[str, str] = {name: name for name in a if name in b}
    lone_a = [name for name in outputs_a if name in a and name not in partners]
    lone_b = [name for name in outputs_b if name in b and name not in partners.values()]
    if len(lone_a) == len(lone_b):
        partners.update(zip(lone_a, lone_b))
    pairs = tuple(_pair(name, partners[name], a[name], b[partners[name]]) for name in a if name in partners)
    if not pairs:
        raise Error("the nets have no blob in common", hint=f"A makes {_some(list(a))}; B makes {_some(list(b))}")
    taken = set(partners.values())
    return Comparison(
        pairs,
        tuple(name for name in a if name not in partners),
        tuple(name for name in b if name not in taken),
        tuple(one for one in pairs if one.a in outputs_a),
    )


def _pair(name_a: str, name_b: str, x: Any, y: Any) -> BlobPair:
    import numpy as np

    if x.shape != y.shape:
        return BlobPair(name_a, name_b, x.shape, y.shape)
    if not x.size:
        return BlobPair(name_a, name_b, x.shape, y.shape, 0.0, 0.0)
    x, y = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(x == y, 0.0, np.abs(x - y))
    apart[np.isnan(apart)] = math.inf
    at = tuple(int(i) for i in np.unravel_index(int(apart.argmax()), apart.shape))
    max_abs = float(apart[at])
    finite = np.abs(x[np.isfinite(x)])
    largest = float(finite.max()) if finite.size else 0.0
    relative = max_abs / largest if largest else (math.inf if max_abs else 0.0)
    return BlobPair(name_a, name_b, x.shape, y.shape, max_abs, relative, at, float(x[at]), float(y[at]))


def _some(names: List[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
