"""BlobProto in and out: arrays with shapes as files of all ages hold them.

Shape: the message BlobShape, or the four sizes num, channels, height and width of files of 2014 and before, which win
where both are there. Values: float (field 5) or double (field 8, which wins), packed or not. Differences are passed
over.
"""

from __future__ import annotations

import math
from typing import Any, List, Tuple

from prototxt_gen.core import wire
from prototxt_gen.core.errors import Error

Shape = Tuple[int, ...]

MAX_AXES = 32  # kMaxBlobAxes
MAX_SIZE = 2**31 - 1  # sizes and counts are ints in Caffe
_OLD_SIZES = (1, 2, 3, 4)
_DATA, _DIFF, _SHAPE, _DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 7, 8, 9
_KNOWN = {*_OLD_SIZES, _DATA, _DIFF, _SHAPE, _DOUBLE_DATA, _DOUBLE_DIFF}
_WIDTHS = {_DATA: 4, _DIFF: 4, _DOUBLE_DATA: 8, _DOUBLE_DIFF: 8}
_MAX_PIECES = 1000

# Blobs of files of 2014 and before that have four axes, or two, by layer type and index; all others have one.
_FOUR_AXES = {("Convolution", 0), ("Deconvolution", 0), *(("BN", index) for index in range(4))}
_TWO_AXES = {("InnerProduct", 0), ("Embed", 0)}


class _Pieces:
    """Where the values of one field stand: (first byte, number of values, bytes from one to the next)."""

    def __init__(self) -> None:
        self.spans: List[Tuple[int, int, int]] = []
        self.count = 0

    def add(self, start: int, count: int, stride: int) -> None:
        self.spans.append((start, count, stride))
        self.count += count


def read_blob(data: Any, start: int, end: int, label: str) -> Tuple[Any, bool]:
    """Return the array in the BlobProto at ``start``, and whether its shape is four old sizes.

    Raises Malformed for bytes that are no message, and Error, ``label`` in front, for values that are not what the
    shape says, before anything of the declared size is allocated.
    """
    import numpy as np

    floats, doubles = _Pieces(), _Pieces()
    old, dims, unknown = {}, [], []
    at = start
    for _ in range(_MAX_PIECES):
        if at >= end:
            break
        number, kind, begin, value, at = next(wire.fields(data, at, end))
        if number in _OLD_SIZES and kind == wire.VARINT:
            old[number] = wire.signed(wire.varint(data, value, at)[0])
        elif number == _SHAPE and kind == wire.BYTES:
            dims += _dims(data, value, at, label)
        elif number in _WIDTHS:
            width = _WIDTHS[number]
            stride = width
            if kind == (wire.FIXED32 if width == 4 else wire.FIXED64):
                stride += value - begin
                count = wire.run_length(data, begin, end, stride) if stride == width + 1 else 1
                at = begin + count * stride
            elif kind == wire.BYTES and (at - value) % width == 0:
                count = (at - value) // width
            else:
                raise Error(f"{label}: its values are no numbers of {width} bytes")
            if number in (_DATA, _DOUBLE_DATA):
                (floats if number == _DATA else doubles).add(value, count, stride)
        elif number not in _KNOWN:
            unknown.append(number)
        else:
            raise Error(f"{label}: field {number} of its BlobProto is of the wrong kind")
    else:
        raise Error(f"{label} comes in more than {_MAX_PIECES} pieces")
    values = doubles if doubles.count else floats
    if unknown and not values.count:
        raise Error(f"{label} holds its values in field {unknown[0]} of BlobProto, as another fork writes it",
                    hint="only float and double values can be read: save it with that fork as those")
    shape = tuple(old.get(number, 0) for number in _OLD_SIZES) if old else tuple(dims)
    check_shape(shape, values.count, label)
    array = np.empty(values.count, np.float64 if values is doubles else np.float32)
    filled, raw = 0, "<f8" if values is doubles else "<f4"
    for first, count, stride in values.spans:
        array[filled:filled + count] = np.ndarray((count,), raw, data, first, (stride,))
        filled += count
    return array.reshape(shape), bool(old)


def check_shape(shape: Shape, count: int, label: str) -> None:
    """Raise Error for a shape that no blob has, or that ``count`` values do not fill."""
    if len(shape) > MAX_AXES or any(not 0 <= size <= MAX_SIZE for size in shape):
        raise Error(f"{label} has no shape of Caffe's: {format_sizes(shape)}")
    if count != math.prod(shape):
        raise Error(f"{label} holds {count} values, and its shape says {math.prod(shape)}")
    if not count:
        raise Error(f"{label} holds no values: its shape is {format_sizes(shape)}")


def format_sizes(shape: Shape) -> str:
    """Return a shape as people write it, the rest of a very long one left out."""
    return ("x".join(map(str, shape[:MAX_AXES])) or "scalar") + ("x..." if len(shape) > MAX_AXES else "")


def real_shape(shape: Shape, layer_type: str, index: int) -> Shape:
    """Return what four old sizes mean today: they were filled up with ones in front.

    Weights of Convolution and Deconvolution, and the blobs of BN, have four axes and stay. Weights of InnerProduct and
    Embed have two: (1, 1, M, N) -> (M, N). Any other blob has one: (1, 1, 1, N) -> (N,). Other sizes stay.
    """
    if (layer_type, index) in _FOUR_AXES:
        return shape
    axes = 2 if (layer_type, index) in _TWO_AXES else 1
    return shape[-axes:] if all(size == 1 for size in shape[:-axes]) else shape


def old_shape(shape: Shape, label: str) -> Shape:
    """Return a shape as four old sizes, ones in front; raise Error for more than four axes."""
    if len(shape) > 4:
        raise Error(f"{label} has {len(shape)} axes: {format_sizes(shape)}",
                    hint="the V1 layout has 4 at most; the current one has room")
    return (1,) * (4 - len(shape)) + tuple(shape)


def blob_head(array: Any, old: bool, label: str) -> bytes:
    """Return the bytes of a BlobProto up to its packed values, which the little-endian bytes of the array complete."""
    import numpy as np

    if array.dtype not in (np.float32, np.float64):
        raise Error(f"{label} is of type {array.dtype}: a caffemodel has float32 and float64")
    check_shape(array.shape, array.size, label)
    if old:
        sizes = zip(_OLD_SIZES, old_shape(array.shape, label))
        shape = b"".join(wire.encode_tag(number, wire.VARINT) + wire.encode_varint(size) for number, size in sizes)
    else:
        dims = b"".join(map(wire.encode_varint, array.shape))
        packed = wire.encode_head(1, len(dims)) + dims if dims else b""
        shape = wire.encode_head(_SHAPE, len(packed)) + packed
    number = _DOUBLE_DATA if array.dtype == np.float64 else _DATA
    return shape + wire.encode_head(number, array.nbytes)


def _dims(data: Any, start: int, end: int, label: str) -> List[int]:
    """Return the sizes in a BlobShape."""
    dims: List[int] = []
    for turn, (number, kind, _, value, stop) in enumerate(wire.fields(data, start, end)):
        if number != 1 or kind not in (wire.VARINT, wire.BYTES) or turn > MAX_AXES:
            raise Error(f"{label}: its shape is no list of sizes")
        while value < stop:
            size, value = wire.varint(data, value, stop)
            dims.append(wire.signed(size))
            if len(dims) > MAX_AXES:
                raise Error(f"{label} has no shape of Caffe's: {format_sizes(tuple(dims))}")
    return dims
