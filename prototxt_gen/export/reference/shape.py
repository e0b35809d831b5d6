"""Layers that copy, cut, join, pick or resize without weights."""

from __future__ import annotations

from typing import Any

from prototxt_gen.export.reference.registry import Step, layers


@layers.add("Split")
def split(step: Step) -> Any:
    """The bottom, once for each top."""
    return [step.x] * len(step.layer.top)


@layers.add("Flatten", "Reshape")
def reshape(step: Step) -> Any:
    """The same values in another shape."""
    return step.x.reshape(step.shapes[0])


@layers.add("Concat")
def concat(step: Step) -> Any:
    """The bottoms joined along ``axis``."""
    import numpy as np

    param = step.layer.concat_param
    return np.concatenate(step.bottoms, param.concat_dim if param.HasField("concat_dim") else param.axis)


@layers.add("Slice")
def slice_layer(step: Step) -> Any:
    """The bottom cut along ``axis`` into the tops."""
    import numpy as np

    param = step.layer.slice_param
    axis = param.slice_dim if param.HasField("slice_dim") else param.axis
    sizes = [shape[axis] for shape in step.shapes]
    return np.split(step.x, np.cumsum(sizes)[:-1], axis)


@layers.add("Interp")
def interp(step: Step) -> Any:
    """Bilinear with aligned corners: output i reads position p = i (h_in - 1) / (h_out - 1), reckoned in float32."""
    param, (high, wide) = step.layer.interp_param, step.x.shape[2:]
    begin, end = -param.pad_beg, param.pad_end
    x = step.x[:, :, begin:high + end, begin:wide + end]
    for axis in (2, 3):
        low, after, weight = interp_taps(x.shape[axis], step.shapes[0][axis])
        weight = weight.astype(x.dtype).reshape(-1, *[1] * (3 - axis))
        x = (1 - weight) * x.take(low, axis) + weight * x.take(after, axis)
    return x


def interp_taps(n_in: int, n_out: int) -> Any:
    """Return for each of n_out values the two of n_in that it lies between, and the weight of the second."""
    import numpy as np

    step = np.float32(n_in - 1) / np.float32(n_out - 1) if n_out > 1 else np.float32(0)
    position = step * np.arange(n_out, dtype=np.float32)
    # Rounding may carry the last position past the last value.
    low = np.minimum(position.astype(int), n_in - 1)
    return low, np.minimum(low + 1, n_in - 1), position - low.astype(np.float32)


@layers.add("Reduction")
def reduction(step: Step) -> Any:
    """Sum, sum of absolute values or of squares, or mean over the axes from ``axis`` on, times ``coeff``."""
    import numpy as np

    param, outer = step.layer.reduction_param, step.shapes[0]
    x = step.x.reshape(*outer, -1)
    if param.operation == param.ASUM:
        x = abs(x)
    elif param.operation == param.SUMSQ:
        x = np.square(x)
    total = x.sum(-1, dtype=np.float64)
    return param.coeff * (total / x.shape[-1] if param.operation == param.MEAN else total)


@layers.add("Tile")
def tile(step: Step) -> Any:
    """The bottom ``tiles`` times along ``axis``."""
    import numpy as np

    return np.concatenate([step.x] * step.layer.tile_param.tiles, step.layer.tile_param.axis)


@layers.add("Crop")
def crop(step: Step) -> Any:
    """The first bottom from the offset on, to the size of the second, along the axes from ``axis`` on."""
    param = step.layer.crop_param
    axis = param.axis % step.x.ndim
    offsets = list(param.offset) or [0]
    if len(offsets) == 1:
        offsets *= step.x.ndim - axis
    cut = [slice(offset, offset + size) for offset, size in zip(offsets, step.shapes[0][axis:])]
    return step.x[(*[slice(None)] * axis, *cut)]


@layers.add("ArgMax")
def argmax(step: Step) -> Any:
    """Indices of the top_k largest values, of equal ones the last first; with ``out_max_val`` the values.

    1. ``axis`` given: along it, indices or values;
    2. else over all values of an item: indices, or indices and then values.
    """
    import numpy as np

    param = step.layer.argmax_param
    by_axis = param.HasField("axis")
    x = np.moveaxis(step.x, param.axis, -1) if by_axis else step.x.reshape(len(step.x), -1)
    index = np.argsort(x, -1, kind="stable")[..., ::-1][..., :param.top_k]
    values = np.take_along_axis(x, index, -1)
    if by_axis:  # case 1
        return np.moveaxis(values if param.out_max_val else index, -1, param.axis)
    both = [index, values] if param.out_max_val else [index]  # case 2
    return np.stack(both, 1).reshape(step.shapes[0])


@layers.add("BatchReindex")
def batch_reindex(step: Step) -> Any:
    """The items of the first bottom at the indices of the second."""
    index = step.bottoms[1].astype(int)
    if index.size and not 0 <= index.min() <= index.max() < len(step.x):
        raise step.refuse(f"its second bottom has an index outside of 0 to {len(step.x) - 1}")
    return step.x[index]


@layers.add("Filter")
def filter_layer(step: Step) -> Any:
    """The items of each bottom but the last for which that last one is not zero."""
    chosen = step.bottoms[-1].reshape(-1) != 0
    return [bottom[chosen] for bottom in step.bottoms[:-1]]


@layers.add("Silence", "HDF5Output")
def silence(step: Step) -> Any:
    """Nothing is made here, and nothing written."""
    return []
