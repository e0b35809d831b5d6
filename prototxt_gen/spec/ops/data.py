"""Layers that bring data into a net. What a file does not tell is taken from the shapes that the caller gives."""

from __future__ import annotations

import math
from typing import Any, List, Sequence

from prototxt_gen.spec.infer import Buffer, Made, Misfit, Place, Shape, rules
from prototxt_gen.spec.shapes import plural


@rules.add("Input", bottoms=0, tops=(1, None))
def input_layer(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Tops of the given shapes; one shape serves all tops, and a shape that the caller gives comes first."""
    shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
    if len(shapes) == 1:
        shapes *= len(layer.top)
    if shapes and len(shapes) != len(layer.top):
        raise Misfit(f"it has {plural(len(shapes), 'shape')} for {len(layer.top)} tops")
    # Without a shape Caffe makes blobs without values, for a program to reshape.
    return Made([place.given[name] if name in place.given else shapes[i] if shapes else _unknown(name)
                 for i, name in enumerate(layer.top)])


@rules.add("Data", bottoms=0, tops=(1, 2))
def data(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Images (batch_size, C, crop_size, crop_size) and labels (batch_size,).

    Only the database tells C, and without crop_size the size of the images; C is taken as 3 unless the caller gives a
    shape.
    """
    batch, crop = layer.data_param.batch_size, layer.transform_param.crop_size
    images = place.given.get(layer.top[0])
    if images is None:
        images = (batch, 3, crop, crop) if crop else _unknown(layer.top[0])
    return _prefetched(layer, _with_labels(layer, images, place))


def _with_labels(layer: Any, images: Shape, place: Place) -> List[Shape]:
    """A given shape of the images sets the batch of the labels too."""
    return [images, *(place.given.get(name, images[:1]) for name in layer.top[1:])]


def _prefetched(layer: Any, tops: Sequence[Shape]) -> Made:
    """Of the batches that are read ahead, one at a time stands in the tops."""
    ahead = max(layer.data_param.prefetch - 1, 0)
    return Made(tops, buffers=[Buffer("prefetch", ahead * sum(math.prod(shape) for shape in tops))])


def _unknown(top: str) -> Shape:
    raise Misfit("the file does not tell its size", f"--input {top}=64,3,224,224 tells the shape")
