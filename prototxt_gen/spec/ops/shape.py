"""Layers that copy, cut, join, pick or resize without weights."""

from __future__ import annotations

from typing import Any, Sequence

from prototxt_gen.spec.rules import Buffer, Made, Misfit, Place, Shape, rules
from prototxt_gen.spec.shapes import axis_of, count, not_in_place, planes, plural


@rules.add("Split", bottoms=1, tops=(1, None))
def split(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Any shape -> the same for every top; the tops share the bottom's data."""
    not_in_place(layer)
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
    not_in_place(layer)
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


@rules.add("Concat", bottoms=(1, None), tops=1)
def concat(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Bottoms that differ along ``axis`` only (``concat_dim`` in old files) -> one whose axis is their sum."""
    axis = _axis(layer.concat_param, "concat_dim", bottoms[0])
    for shape in bottoms[1:]:
        if len(shape) != len(bottoms[0]) or any(a != b for i, (a, b) in enumerate(zip(shape, bottoms[0])) if i != axis):
            raise Misfit(f"its bottoms must have one shape but for axis {axis}")
    return Made([(*bottoms[0][:axis], sum(shape[axis] for shape in bottoms), *bottoms[0][axis + 1:])])


@rules.add("Slice", bottoms=1, tops=(1, None))
def slice_layer(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """A bottom cut along ``axis`` (``slice_dim`` in old files): at the slice points, or into equal parts."""
    param, tops = layer.slice_param, len(layer.top)
    axis = _axis(param, "slice_dim", bottoms[0])
    size, points = bottoms[0][axis], list(param.slice_point)
    if points:
        if len(points) != tops - 1:
            raise Misfit(f"{plural(len(points), 'slice_point')} cut {len(points) + 1} tops, not {tops}")
        edges = [0, *points, size]
        parts = [end - start for start, end in zip(edges, edges[1:])]
        if min(parts) < 1:
            raise Misfit(f"its slice points must ascend and lie within the axis of {size}")
    elif size % tops:
        raise Misfit(f"an axis of {size} does not divide into {plural(tops, 'top')}")
    else:
        parts = [size // tops] * tops
    return Made([(*bottoms[0][:axis], part, *bottoms[0][axis + 1:]) for part in parts])


@rules.add("Flatten", bottoms=1, tops=1)
def flatten(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """The axes from ``axis`` to ``end_axis``, both included, become one; the top shares the bottom's memory."""
    not_in_place(layer)
    shape = bottoms[0]
    start = axis_of(shape, layer.flatten_param.axis)
    end = axis_of(shape, layer.flatten_param.end_axis, "end_axis") + 1
    if end < start:
        raise Misfit("its end_axis lies before its axis")
    return Made([(*shape[:start], count(shape, start, end), *shape[end:])])


@rules.add("Reshape", bottoms=1, tops=1)
def reshape(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """``num_axes`` axes from ``axis`` on (-1: all) give way to ``shape``; the top shares the bottom's memory.

    A dimension of 0 stands for the bottom's at the same place, one of -1 for what is left over. A negative ``axis``
    counts from behind the last one.
    """
    not_in_place(layer)
    param, shape = layer.reshape_param, bottoms[0]
    start = param.axis if param.axis >= 0 else len(shape) + param.axis + 1
    end = len(shape) if param.num_axes == -1 else start + param.num_axes
    if not 0 <= start <= len(shape) or param.num_axes < -1 or end > len(shape):
        raise Misfit(f"axis {param.axis} and num_axes {param.num_axes} leave the bottom's {len(shape)} axes")
    dims = list(param.shape.dim)
    if dims.count(-1) > 1:
        raise Misfit("its shape has more than one -1")
    for i, dim in enumerate(dims):
        if dim == 0:
            if start + i >= len(shape):
                raise Misfit(f"dimension {i} of its shape is 0, and the bottom has no axis {start + i} to copy")
            dims[i] = shape[start + i]
    top = [*shape[:start], *dims, *shape[end:]]
    if -1 in dims:
        known = count([dim for i, dim in enumerate(top) if i != start + dims.index(-1)])
        if known == 0 or count(shape) % known:
            raise Misfit(f"the bottom's {count(shape)} values do not divide by the {known} of the given dimensions")
        top[start + dims.index(-1)] = count(shape) // known
    if count(top) != count(shape):
        raise Misfit(f"the bottom has {count(shape)} values, and its shape {count(top)}")
    return Made([tuple(top)])


@rules.add("Reduction", bottoms=1, tops=1)
def reduction(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """The axes from ``axis`` on become one number: (outer..., inner...) -> (outer...)."""
    param, shape = layer.reduction_param, bottoms[0]
    axis = axis_of(shape, param.axis)
    sums = param.operation in (param.SUM, param.MEAN)
    return Made([shape[:axis]], buffers=[Buffer("sum_multiplier", count(shape, axis))] if sums else [])


@rules.add("Tile", bottoms=1, tops=1)
def tile(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """The bottom ``tiles`` times along ``axis``."""
    param, shape = layer.tile_param, bottoms[0]
    axis = axis_of(shape, param.axis)
    if param.tiles < 1:
        raise Misfit("tiles is missing or not positive")
    return Made([(*shape[:axis], shape[axis] * param.tiles, *shape[axis + 1:])])


@rules.add("Crop", bottoms=2, tops=1)
def crop(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """The first bottom cut to the size of the second from ``axis`` on, at one offset or one for each of these axes."""
    param, (shape, like) = layer.crop_param, bottoms
    axis = axis_of(shape, param.axis)
    offsets = list(param.offset) or [0]
    if len(offsets) == 1:
        offsets *= len(shape) - axis
    if len(offsets) != len(shape) - axis:
        raise Misfit(f"it has {plural(len(offsets), 'offset')} for {plural(len(shape) - axis, 'axis', 'axes')}")
    if len(like) < len(shape):
        raise Misfit("its second bottom has fewer axes than the first")
    for i, offset in enumerate(offsets, axis):
        if shape[i] - offset < like[i]:
            raise Misfit(f"along axis {i} there are {shape[i] - offset} values from offset {offset} on, not {like[i]}")
    return Made([(*shape[:axis], *like[axis:len(shape)])])


@rules.add("ArgMax", bottoms=1, tops=1)
def argmax(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """With ``axis``: that axis becomes top_k. Without: (N, 1, top_k, 1...), or (N, 2, top_k, 1...) with the values."""
    param, shape = layer.argmax_param, bottoms[0]
    axis = axis_of(shape, param.axis) if param.HasField("axis") else axis_of(shape, 0)
    choice = shape[axis] if param.HasField("axis") else count(shape, 1)
    if not 1 <= param.top_k <= choice:
        raise Misfit(f"top_k is {param.top_k}, and must lie between 1 and {choice}")
    if param.HasField("axis"):
        return Made([(*shape[:axis], param.top_k, *shape[axis + 1:])])
    return Made([(shape[0], 2 if param.out_max_val else 1, param.top_k, *[1] * (len(shape) - 3))])


@rules.add("BatchReindex", bottoms=2, tops=1)
def batch_reindex(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """(N, rest...) and M indices (M,) -> (M, rest...)."""
    if len(bottoms[1]) != 1:
        raise Misfit("its second bottom must have one axis, of indices")
    return Made([(bottoms[1][0], *bottoms[0][1:])])


@rules.add("Filter", bottoms=(2, None), tops=(1, None))
def filter_layer(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Bottoms (N, rest...) and, last, a selector (N, 1...) -> the chosen items of each.

    How many are chosen only the data tell: the shapes are those before the first run, when all are.
    """
    *items, selector = bottoms
    if len(layer.top) != len(items):
        raise Misfit(f"it makes {plural(len(items), 'top')}, one for each bottom but the last, not {len(layer.top)}")
    if count(selector, 1) != 1:
        raise Misfit("its last bottom, the selector, must hold one value for each item")
    if any(shape[:1] != selector[:1] or not shape for shape in items):
        raise Misfit("its bottoms must have the same first axis")
    return Made(items)


@rules.add("Silence", bottoms=(1, None), tops=0)
def silence(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Reads its bottoms and makes nothing."""
    return Made([])


def _axis(param: Any, old_name: str, shape: Shape) -> int:
    """Return the axis of a layer that took a count from the front in old files."""
    if not param.HasField(old_name):
        return axis_of(shape, param.axis)
    if param.HasField("axis"):
        raise Misfit(f"its axis is given by axis and by {old_name}")
    return axis_of(shape, getattr(param, old_name), old_name)
