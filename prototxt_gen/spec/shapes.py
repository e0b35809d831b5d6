"""Arithmetic on blob shapes as Caffe's Blob does it, shared by the layer rules."""

from __future__ import annotations

import math
from typing import Any, Optional, Sequence, Tuple

Shape = Tuple[int, ...]

MAX_AXES = 32  # kMaxBlobAxes
MAX_COUNT = 2**31 - 1  # a blob's number of values is an int


class Misfit(Exception):
    """Raised by a rule: the layer cannot be set up on these bottoms. ``infer`` adds which layer it is."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class Unknown(Misfit):
    """Raised by a rule: what the layer makes stands in no prototxt. ``infer`` may leave a gap there."""


def count(shape: Sequence[int], start: int = 0, end: Optional[int] = None) -> int:
    """Return the number of values over the axes from ``start`` up to, not including, ``end``."""
    return math.prod(shape[start:end])


def axis_of(shape: Shape, axis: int, name: str = "axis") -> int:
    """Return an axis counted from the front; a negative one counts from the back."""
    if not -len(shape) <= axis < len(shape):
        raise Misfit(f"its {name} is {axis}, and the bottom has {plural(len(shape), 'axis', 'axes')}")
    return axis % len(shape)


def legacy(shape: Shape) -> Shape:
    """Return (N, C, H, W) of a shape of at most four axes, ones standing for those that are missing at the end."""
    if len(shape) > 4:
        raise Misfit(f"its bottom has {len(shape)} axes, and at most 4 (N, C, H, W) are known to this type")
    return (*shape, 1, 1, 1, 1)[:4]


def planes(shape: Shape) -> Shape:
    """Return a shape that must be (N, C, H, W)."""
    if len(shape) != 4:
        raise Misfit("its bottom must have 4 axes (N, C, H, W)")
    return shape


def check(shape: Sequence[int]) -> None:
    """Raise Misfit for a shape that Caffe's Blob refuses."""
    if len(shape) > MAX_AXES:
        raise Misfit(f"a blob of {len(shape)} axes is made, and Caffe has at most {MAX_AXES}")
    if any(size < 0 for size in shape):
        raise Misfit(f"a blob of negative size is made: {format_shape(shape)}")
    if count(shape) > MAX_COUNT:
        raise Misfit(f"a blob of {count(shape)} values is made, and Caffe counts to {MAX_COUNT}")


def format_shape(shape: Optional[Sequence[int]]) -> str:
    """Return a shape as people write it: ``1x3x224x224``, ``scalar`` for no axes, ``?`` where unknown."""
    if shape is None:
        return "?"
    return "x".join(map(str, shape)) or "scalar"


def not_in_place(layer: Any) -> None:
    """Raise Misfit where a layer of a type that cannot work in place is made to."""
    if set(layer.bottom) & set(layer.top):
        raise Misfit("it cannot work in place")


def plural(number: int, one: str, many: str = "") -> str:
    """Return ``1 top``, ``2 tops``."""
    return f"{number} {one if number == 1 else many or one + 's'}"
