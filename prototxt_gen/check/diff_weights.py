"""The weights of two caffemodels compared, blob by blob."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.spec.infer import Shape

_OLD_SIZES = ("num", "channels", "height", "width")


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


def compare_weights(a: Any, b: Any) -> Tuple[BlobChange, ...]:
    """Compare the blobs of two NetParameters, layers matched by name as Caffe loads them; A's order, then B's rest.

    Raises Error for a net without weights, and for a blob that does not hold what its shape says.
    """
    blobs = [_blobs(upgrade_net(net, label).message, label) for net, label in ((a, "A"), (b, "B"))]
    return tuple(_compare(place, *(one.get(place) for one in blobs)) for place in dict.fromkeys([*blobs[0], *blobs[1]]))


def _blobs(net: Any, label: str) -> Dict[Tuple[str, int], Any]:
    blobs = {(layer.name, index): blob for layer in net.layer for index, blob in enumerate(layer.blobs)}
    for (layer, index), blob in blobs.items():
        values, size = len(_values(blob)), math.prod(_shape(blob))
        if values != size:
            raise Error(f"blob {index} of layer '{layer}' holds {values} values, and its shape says {size}", label)
    if not blobs:
        raise Error("holds no weights", label, "--weights compares two caffemodels")
    return blobs


def _shape(blob: Any) -> Shape:
    """Return a blob's shape, of an old one its four sizes."""
    if any(blob.HasField(name) for name in _OLD_SIZES):
        return tuple(getattr(blob, name) for name in _OLD_SIZES)
    return tuple(blob.shape.dim)


def _fits(old: Any, new: Any) -> bool:
    """True for equal shapes; where one is of the old kind, 1x1x10x5 is 10x5, as Blob::ShapeEquals has it."""
    shapes = [_shape(blob) for blob in (old, new)]
    if any(blob.HasField(name) for blob in (old, new) for name in _OLD_SIZES):
        shapes = [(1,) * (4 - len(shape)) + tuple(shape) for shape in shapes]
    return shapes[0] == shapes[1]


def _values(blob: Any) -> Any:
    return blob.double_data if blob.double_data else blob.data


def _compare(place: Tuple[str, int], old: Any, new: Any) -> BlobChange:
    layer, index = place
    if old is None or new is None:
        return BlobChange(layer, index, None if old is None else _shape(old), None if new is None else _shape(new))
    if not _fits(old, new):
        return BlobChange(layer, index, _shape(old), _shape(new))
    max_abs, relative = _distance(_values(old), _values(new))
    return BlobChange(layer, index, _shape(new), _shape(new), max_abs, relative)


def _distance(old: Any, new: Any) -> Tuple[Optional[float], Optional[float]]:
    import numpy as np

    x, y = np.array(old, np.float64), np.array(new, np.float64)
    apart = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    if not apart.any():
        return 0.0, 0.0
    x, y = x[apart], y[apart]
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None, None
    # Halved, the difference of two doubles cannot overflow.
    max_abs = float(np.abs(x / 2 - y / 2).max()) * 2
    largest = max(float(np.abs(np.array(one, np.float64)[np.isfinite(one)]).max()) for one in (old, new))
    return (max_abs, max_abs / largest) if math.isfinite(max_abs) else (None, None)
