"""Layers that copy, cut, join, pick or resize."""

from __future__ import annotations

from typing import Any, List, Sequence

from prototxt_gen.export.onnx_ops.layer import Layer, converters
from prototxt_gen.spec.shapes import count


@converters.add("Split")
def split(layer: Layer) -> List[str]:
    """The bottom under every top's name."""
    return [layer.x] * len(layer.tops)


@converters.add("Silence")
def silence(layer: Layer) -> List[str]:
    """Nothing: its bottoms are no outputs, since it reads them."""
    return []


@converters.add("Interp")
def interp(layer: Layer) -> str:
    """Resize to the size that ``spec.infer`` found, after a crop by pad_beg and pad_end; equal sizes copy exactly."""
    param, plane = layer.proto.interp_param, list(layer.fixed(layer.bottoms[0], 2))
    starts = [-param.pad_beg] * 2
    ends = [size + param.pad_end for size in plane]
    x = _cut(layer, layer.x, [2, 3], starts, ends, plane)
    wanted = list(layer.fixed(layer.tops[0], 2))
    if [end - start for start, end in zip(starts, ends)] == wanted:
        return x
    return layer.op("Resize", x, "", "", layer.integers("size", wanted), axes=[2, 3], mode="linear",
                    coordinate_transformation_mode="align_corners")


@converters.add("Concat")
def concat(layer: Layer) -> str:
    """The bottoms joined along ``axis``."""
    if len(layer.bottoms) == 1:
        return layer.x
    axis = _old_axis(layer.proto.concat_param, "concat_dim", len(layer.shape))
    return layer.op("Concat", *(bottom.name for bottom in layer.bottoms), axis=axis)


@converters.add("Slice")
def slice_layer(layer: Layer) -> Sequence[str]:
    """The bottom cut along ``axis``."""
    if len(layer.tops) == 1:
        return layer.x
    axis = _old_axis(layer.proto.slice_param, "slice_dim", len(layer.shape))
    sizes = layer.integers("sizes", [layer.fixed(top, axis, axis + 1)[0] for top in layer.tops])
    return layer.ops("Split", [layer.x, sizes], len(layer.tops), axis=axis)


@converters.add("Flatten", "Reshape")
def reshape(layer: Layer) -> str:
    """The bottom's values in the top's shape."""
    return layer.reshape(layer.x, layer.bottoms[0].dims, layer.tops[0].dims)


@converters.add("Tile")
def tile(layer: Layer) -> str:
    """The bottom ``tiles`` times along ``axis``."""
    param = layer.proto.tile_param
    repeats = [1] * len(layer.shape)
    repeats[param.axis] = param.tiles
    return layer.op("Tile", layer.x, layer.integers("repeats", repeats))


@converters.add("Crop")
def crop(layer: Layer) -> str:
    """The first bottom cut to the size of the second from ``axis`` on."""
    param, like = layer.proto.crop_param, layer.bottoms[1]
    axes = list(range(param.axis % len(layer.shape), len(layer.shape)))
    offsets = list(param.offset) or [0]
    offsets *= len(axes) if len(offsets) == 1 else 1
    while axes and offsets[0] == 0 and layer.bottoms[0].dims[axes[0]] == like.dims[axes[0]]:
        axes, offsets = axes[1:], offsets[1:]  # nothing is cut there, whatever the batch
    if not axes:
        return layer.x
    first, last = axes[0], len(layer.shape)
    plane = layer.fixed(layer.bottoms[0], first)
    ends = [offset + size for offset, size in zip(offsets, layer.fixed(like, first, last))]
    return _cut(layer, layer.x, axes, offsets, ends, plane)


@converters.add("Reduction")
def reduction(layer: Layer) -> str:
    """The axes from ``axis`` on as one number, times ``coeff``."""
    param = layer.proto.reduction_param
    kind = {param.SUM: "ReduceSum", param.ASUM: "ReduceL1", param.SUMSQ: "ReduceSumSquare", param.MEAN: "ReduceMean"}
    axes = layer.integers("axes", list(range(param.axis % len(layer.shape), len(layer.shape))))
    return layer.multiply(layer.op(kind[param.operation], layer.x, axes, keepdims=0), param.coeff, "coeff")


@converters.add("Softmax")
def softmax(layer: Layer) -> str:
    """exp(x) over its sum along ``axis``."""
    return layer.op("Softmax", layer.x, axis=layer.proto.softmax_param.axis % len(layer.shape))


@converters.add("ArgMax")
def argmax(layer: Layer) -> str:
    """Places, or with ``out_max_val`` values, of the ``top_k`` largest; among equal ones the last place comes first.

    With ``axis`` they stand along it. Without, each item counts as one row, and places and values stand together.
    """
    param, bottom, top = layer.proto.argmax_param, layer.bottoms[0], layer.tops[0]
    if param.HasField("axis"):
        axis = param.axis % len(bottom.shape)
        values, places = _largest(layer, layer.x, axis, layer.fixed(bottom, axis, axis + 1)[0])
        return values if param.out_max_val else places
    row = count(layer.fixed(bottom, 1))
    values, places = _largest(layer, layer.reshape(layer.x, bottom.dims, (bottom.dims[0], row)), 1, row)
    pair = (bottom.dims[0], (1 + param.out_max_val) * param.top_k)
    y = layer.op("Concat", places, values, axis=1) if param.out_max_val else places
    return layer.reshape(y, pair, top.dims)


@converters.add("BatchReindex")
def batch_reindex(layer: Layer) -> str:
    """Items of the first bottom, as the second one numbers them."""
    return layer.op("Gather", layer.x, layer.op("Cast", layer.bottoms[1].name, to=7), axis=0)


def _largest(layer: Layer, x: str, axis: int, size: int) -> List[str]:
    """Add TopK from behind, since it takes the first of equal values; return values, and places as float32."""
    last = layer.integers("last", [-1])
    turned = layer.op("Slice", x, last, layer.integers("first", [-size - 1]), layer.integers("axis", [axis]), last)
    values, behind = layer.ops("TopK", [turned, layer.integers("k", [layer.proto.argmax_param.top_k])], 2, axis=axis)
    return [values, layer.op("Cast", layer.op("Sub", layer.integers("end", size - 1), behind), to=1)]


def _cut(layer: Layer, x: str, axes: Sequence[int], starts: Sequence[int], ends: Sequence[int],
         sizes: Sequence[int]) -> str:
    """Add a Slice from ``starts`` to ``ends``, unless it would take all."""
    cuts = [one for one in zip(starts, ends, axes, sizes) if one[0] != 0 or one[1] != one[3]]
    if not cuts:
        return x
    names = ("starts", "ends", "axes")
    return layer.op("Slice", x, *(layer.integers(name, values) for name, values in zip(names, list(zip(*cuts))[:3])))


def _old_axis(param: Any, old_name: str, axes: int) -> int:
    """Return the axis of a layer that took a count from the front in old files."""
    return (getattr(param, old_name) if param.HasField(old_name) else param.axis) % axes
