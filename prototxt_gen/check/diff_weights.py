"""The weights of two caffemodels compared, blob by blob."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model
from prototxt_gen.spec.infer import Shape


@dataclass(frozen=True)
class BlobChange:
    """One blob in A and B; a shape is None where it is missing.

    ``max_abs`` is the largest difference of two values, ``relative`` that over the largest value of either; both None
    where shapes differ or a value that is not finite stands against another.
    """

    layer: str
    index: int
    old: Optional[Shape]
    new: Optional[Shape]
    max_abs: Optional[float] = None
    relative: Optional[float] = None

    @property
    def same(self) -> bool:
        """True when shape and all values are equal."""
        return self.max_abs == 0


def compare_weights(a: Model, b: Model) -> Tuple[BlobChange, ...]:
    """Compare the blobs of two models, layers matched by name as Caffe loads them; A's order, then B's rest.

    Raises Error for a model without weights.
    """
    blobs = [_blobs(model, label) for model, label in ((a, "A"), (b, "B"))]
    return tuple(_compare(place, *(one.get(place) for one in blobs)) for place in dict.fromkeys([*blobs[0], *blobs[1]]))


def _blobs(model: Model, label: str) -> Dict[Tuple[str, int], Any]:
    if not model.blobs:
        raise Error("holds no weights", label, "--weights compares two caffemodels")
    return {(layer, index): blob for layer, arrays in model.blobs.items() for index, blob in enumerate(arrays)}


def _compare(place: Tuple[str, int], old: Any, new: Any) -> BlobChange:
    layer, index = place
    if old is None or new is None or old.shape != new.shape:
        return BlobChange(layer, index, None if old is None else old.shape, None if new is None else new.shape)
    max_abs, relative = _distance(old, new)
    return BlobChange(layer, index, old.shape, new.shape, max_abs, relative)


def _distance(old: Any, new: Any) -> Tuple[Optional[float], Optional[float]]:
    import numpy as np

    with np.errstate(invalid="ignore"):  # damaged files hold signalling NaN
        x, y = np.array(old, np.float64), np.array(new, np.float64)
    apart = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    if not apart.any():
        return 0.0, 0.0
    x, y = x[apart], y[apart]
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None, None
    # Halved, the difference of two doubles cannot overflow.
    max_abs = float(np.abs(x / 2 - y / 2).max()) * 2
    largest = max(float(np.abs(one[np.isfinite(one)], dtype=np.float64).max()) for one in (old, new))
    return (max_abs, max_abs / largest) if math.isfinite(max_abs) else (None, None)
