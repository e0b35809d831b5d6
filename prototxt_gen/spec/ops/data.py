"""Layers that bring data into a net, or out of it.

What a file does not tell is taken from the shapes that the caller gives. The batches that are read ahead are no buffer
here: the tops borrow one of them (``spec.memory``).
"""

from __future__ import annotations

from typing import Any, List, Sequence

from prototxt_gen.spec.rules import Buffer, Made, Misfit, Place, Shape, rules
from prototxt_gen.spec.shapes import Unknown, count, plural


@rules.add("Input", bottoms=0, tops=(1, None))
def input_layer(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Tops of the given shapes; one shape serves all tops, and a shape that the caller gives comes first."""
    shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
    if len(shapes) == 1:
        shapes *= len(layer.top)
    if shapes and len(shapes) != len(layer.top):
        raise Misfit(f"it has {plural(len(shapes), 'shape')} for {len(layer.top)} tops")
    # Without a shape Caffe makes blobs without values, for a program to reshape.
    return Made(shapes and [place.given.get(*pair) for pair in zip(layer.top, shapes)] or _given(layer, place))


@rules.add("Data", bottoms=0, tops=(1, 2))
def data(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Images (batch_size, C, crop_size, crop_size) and labels (batch_size,).

    Only the database tells C, and without crop_size the size of the images; C is taken as 3 unless the caller gives a
    shape.
    """
    batch, crop = layer.data_param.batch_size, layer.transform_param.crop_size
    images = place.given.get(layer.top[0])
    if images is None:
        if not crop:
            raise _unknown(layer.top[0])
        images = (batch, 3, crop, crop)
    return Made(_with_labels(layer, images, place))


@rules.add("AugmentedData", bottoms=0, tops=(1, 2))
def augmented_data(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Images (batch_size, channels, crop_size, crop_size) and labels (batch_size,), whatever the source holds."""
    param = layer.augmented_data_param
    for name in ("batch_size", "crop_size"):
        if not getattr(param, name):
            raise Misfit(f"{name} in augmented_data_param is 0 or missing")
    if param.channels not in (1, 3):
        raise Misfit(f"channels is {param.channels}, and it gives 3 (B, G, R) or 1 (grey)")
    images = (param.batch_size, param.channels, param.crop_size, param.crop_size)
    return Made(_with_labels(layer, place.given.get(layer.top[0], images), place))


@rules.add("ImageData", bottoms=0, tops=2)
def image_data(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Images (batch_size, C, H, W) and labels (batch_size,); C is 3, or 1 where ``is_color`` is false.

    H and W are crop_size, else new_height and new_width, else only the images tell.
    """
    param, crop = layer.image_data_param, layer.transform_param.crop_size
    if bool(param.new_height) != bool(param.new_width):
        raise Misfit("new_height and new_width go together")
    images = place.given.get(layer.top[0])
    if images is None:
        plane = (crop, crop) if crop else (param.new_height, param.new_width)
        if not all(plane):
            raise _unknown(layer.top[0])
        images = (param.batch_size, 3 if param.is_color else 1, *plane)
    return Made(_with_labels(layer, images, place))


@rules.add("WindowData", bottoms=0, tops=2)
def window_data(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Windows (batch_size, C, crop_size, crop_size) and labels (batch_size,).

    The list of windows tells C, which is taken as 3 unless the caller gives a shape.
    """
    crop = layer.transform_param.crop_size
    if not crop:
        raise Misfit("crop_size in transform_param is 0 or missing")
    images = place.given.get(layer.top[0], (layer.window_data_param.batch_size, 3, crop, crop))
    return Made(_with_labels(layer, images, place))


@rules.add("MemoryData", bottoms=0, tops=2)
def memory_data(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """(batch_size, channels, height, width) and labels (batch_size,). A batch is held beside the tops."""
    param = layer.memory_data_param
    shape = (param.batch_size, param.channels, param.height, param.width)
    if min(shape) < 1:
        raise Misfit("batch_size, channels, height and width must be positive")
    return Made([shape, shape[:1]], buffers=[Buffer("added", count(shape) + shape[0])])


@rules.add("DummyData", bottoms=0, tops=(1, None))
def dummy_data(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Tops of the given shapes, or of num, channels, height and width; one value serves all tops."""
    param, tops = layer.dummy_data_param, len(layer.top)
    old = [list(getattr(param, name)) for name in ("num", "channels", "height", "width")]
    if any(old) and param.shape:
        raise Misfit("its size is given by shape and by num, channels, height and width")
    fields = old if any(old) else [[tuple(shape.dim) for shape in param.shape]]
    if any(len(values) not in (1, tops) for values in fields) or len(param.data_filler) not in (0, 1, tops):
        raise Misfit(f"each field of its size must be given once, or once for each of its {plural(tops, 'top')}, "
                     "and so must data_filler where there is one")
    columns = [values * tops if len(values) == 1 else values for values in fields]
    shapes = list(zip(*columns)) if any(old) else columns[0]
    if not all(count(shape) for shape in shapes):
        raise Misfit("there are no values to fill")
    return Made(shapes)


@rules.add("HDF5Data", bottoms=0, tops=(1, None))
def hdf5_data(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Tops of the shapes in the HDF5 files, batch_size in front: only the caller can tell them."""
    if layer.HasField("transform_param"):
        raise Misfit("it does not transform data: transform_param has no place here")
    return Made(_given(layer, place))


@rules.add("Python")
def python(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """A layer written in Python: only the caller can tell what it makes."""
    return Made(_given(layer, place))


@rules.add("HDF5Output", bottoms=2, tops=0)
def hdf5_output(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Data and labels -> a file. Both are copied before they are written."""
    return Made([], buffers=[Buffer("data_copy", count(bottoms[0])), Buffer("label_copy", count(bottoms[1]))])


def _given(layer: Any, place: Place) -> List[Shape]:
    for name in layer.top:
        if name not in place.given:
            raise _unknown(name)
    return [place.given[name] for name in layer.top]


def _with_labels(layer: Any, images: Shape, place: Place) -> List[Shape]:
    """A given shape of the images sets the batch of the labels too."""
    return [images, *(place.given.get(name, images[:1]) for name in layer.top[1:])]


def _unknown(top: str) -> Unknown:
    return Unknown(f"the file does not tell the size of '{top}'", f"--input {top}=64,3,224,224 tells the shape")
