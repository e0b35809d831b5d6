"""Layers that copy, cut, join or resize without weights."""

from __future__ import annotations

from typing import Any, Sequence

from prototxt_gen.spec.infer import Made, Misfit, Place, Shape, rules
from prototxt_gen.spec.shapes import planes


@rules.add("Split", bottoms=1, tops=(1, None))
def split(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Any shape -> the same for every top; the tops share the bottom's data."""
    _not_in_place(layer)
    return Made([bottoms[0]] * len(layer.top))


@rules.add("Interp", bottoms=(1, 2), tops=1)
def interp(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """(N, C, H, W) -> (N, C, H', W'), bilinear with aligned corners.

    Rows and columns are cut first: h = H + pad_beg + pad_end. Then H' comes from exactly one of
    1. a second bottom (N, C, H', W');
    2. zoom_factor z: h + (h - 1)(z - 1);
    3. shrink_factor s: (h - 1) / s + 1, rounded down;
    4. height and width.
    """
    param = layer.interp_param
    _not_in_place(layer)
    batch, channels, *plane = planes(bottoms[0])
    sized = param.HasField("height") or param.HasField("width")
    zoomed, shrunk = param.HasField("zoom_factor"), param.HasField("shrink_factor")
    if sum((len(bottoms) == 2, zoomed, shrunk, sized)) != 1:
        raise Misfit("it takes its size from exactly one of a second bottom, zoom_factor, shrink_factor, "
                     "or height and width")
    if param.zoom_factor < 1 or param.shrink_factor < 1:
        raise Misfit("zoom_factor and shrink_factor must be at least 1")
    if param.pad_beg > 0 or param.pad_end > 0:
        raise Misfit("pad_beg and pad_end crop, and must be zero or negative")
    plane = [size + param.pad_beg + param.pad_end for size in plane]
    if min(plane) < 1:
        raise Misfit("pad_beg and pad_end leave nothing of its bottom")
    if len(bottoms) == 2:  # case 1
        plane = list(planes(bottoms[1])[2:])
    elif zoomed:  # case 2
        plane = [size + (size - 1) * (param.zoom_factor - 1) for size in plane]
    elif shrunk:  # case 3
        plane = [(size - 1) // param.shrink_factor + 1 for size in plane]
    else:  # case 4
        plane = [param.height, param.width]
    if min(plane) < 1:
        raise Misfit("height and width must both be given and positive" if sized else "its size would be 0")
    return Made([(batch, channels, *plane)])


def _not_in_place(layer: Any) -> None:
    if set(layer.bottom) & set(layer.top):
        raise Misfit("it cannot work in place")
