"""Caffemodels: a net and its weights, read and written without ever holding the file's bytes as one message.

Reading walks the file (``core.wire``) over a mapping of it: what describes the layers is parsed by protobuf, the blobs
become arrays of their own, so that memory is that of the weights. Layers of all ages are known: ``layer`` with its
blobs in field 7, ``layers`` (V1) in field 6, and ``layers { layer }`` (V0) in field 50.
"""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

from google.protobuf.message import DecodeError

from prototxt_gen.core import wire
from prototxt_gen.core.caffemodel_blobs import MAX_SIZE, read_blob, real_shape
from prototxt_gen.core.caffemodel_dialect import check_dialect, upgrade_in_dialect
from prototxt_gen.core.caffemodel_write import write_weights
from prototxt_gen.core.dialects import DEFAULT_DIALECT, Dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model
from prototxt_gen.core.upgrade_tables import V0_TYPES, V1_TYPES

__all__ = [
    "NotBinary", "is_hdf5", "open_bytes", "parse_weights", "read_stream", "read_weights", "with_weights",
    "write_weights",
]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_LAYERS, _LAYER = 2, 100  # fields of NetParameter: V1 and V0 layers, today's
_V0_LAYER = 1  # the field of V1LayerParameter
_BLOBS = {"LayerParameter": 7, "V1LayerParameter": 6, "V0LayerParameter": 50}
# Bytes that describe the layers, and 64 more for each field, layer and blob: Attention-92 needs a twentieth of it.
_MAX_DESCRIPTION = 8 * 2**20
_EACH = 64


class NotBinary(Error):
    """The bytes are no binary net at all, rather than a damaged one."""


def read_weights(path: str, dialect: Dialect = DEFAULT_DIALECT) -> Model:
    """Read a caffemodel, binary or HDF5, as a model: blobs by layer name, the net as the file has it, old or not.

    An HDF5 file tells no more of the net than the layers' names. Raises Error for a file that is damaged, that another
    dialect fits better, or that is no caffemodel.
    """
    data = open_bytes(path)
    if is_hdf5(data):
        from prototxt_gen.core.hdf5 import read_weights_hdf5

        return read_weights_hdf5(path, dialect)
    try:
        return parse_weights(data, dialect, path)
    except NotBinary:
        raise Error("is no caffemodel", path, "a .caffemodel or .caffemodel.h5 of Caffe's is wanted") from None


def refuse_state(path: str) -> None:
    """Check that a path, by its name, is not that of a solver state, whose bytes look like a damaged caffemodel's."""
    stem, found, rest = path.rpartition(".solverstate")
    if found and rest in ("", ".h5"):
        hint = f"those it belongs to are '{stem}.caffemodel{rest}'"
        raise Error("holds a solver's state, and neither net nor weights", path, hint)


def open_bytes(path: str) -> Any:
    """Return the bytes of a file, mapped where that is possible."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return read_stream(file)
    except (OSError, ValueError) as error:
        raise Error(f"cannot be read: {getattr(error, 'strerror', error)}", path) from None


def read_stream(file: Any) -> bytearray:
    """Return what a pipe or device holds, up to one byte more than a caffemodel may have."""
    data = bytearray()
    while len(data) <= MAX_SIZE:
        more = file.read(min(2**20, MAX_SIZE + 1 - len(data)))
        if not more:
            break
        data += more
    return data


def is_hdf5(data: Any) -> bool:
    """True for the bytes of an HDF5 file."""
    return data[:len(_HDF5_MAGIC)] == _HDF5_MAGIC


def parse_weights(data: Any, dialect: Dialect = DEFAULT_DIALECT, where: str = "", checked: bool = True) -> Model:
    """Return the model in the bytes of a binary NetParameter: blobs apart, the net as it stands.

    Raises NotBinary where the bytes are none, Error where they are damaged or, if ``checked``, another dialect fits
    them better.
    """
    if len(data) > MAX_SIZE:
        hint = "protobuf has no larger files; such a model is a .caffemodel.h5"
        raise Error(f"has {len(data)} bytes, and a caffemodel ends at 2 GiB", where, hint)
    reader = _Reader(data, dialect, where)
    try:
        reader.walk()
    except (wire.Malformed, DecodeError) as error:
        if not reader.layers:
            raise NotBinary("is neither prototxt text nor a binary net", where) from None
        raise Error(f"is damaged or truncated: {error}", where, "get or copy the file again") from None
    # Any few bytes may parse as binary: without a layer they are not meant as a net.
    if not reader.layers or not _holds_text(reader.net):
        raise NotBinary("is neither prototxt text nor a binary net", where)
    if checked:
        check_dialect(reader.numbers, dialect, where)
    return Model(reader.net, dialect, reader.blobs)


def with_weights(model: Model, weights: Model, where: str = "") -> Tuple[Model, Tuple[str, ...]]:
    """Return the model with the blobs of another, and notes on what was left: layers matched by name, as Caffe does.

    A layer that shares all its parameters (``param { name }``) with layers before it, and stands empty in an HDF5 file,
    gets theirs. Whether the blobs fit the layers is asked by ``spec.weights.fit_weights``.
    """
    if not weights.blobs:
        raise Error("holds no weights", where, "a .caffemodel that Caffe has written is wanted")
    layers = upgrade_in_dialect(model.net).message.layer
    names = {layer.name for layer in layers}
    blobs = {name: arrays for name, arrays in weights.blobs.items() if name in names}
    owners: Dict[str, Any] = {}
    for layer in layers:
        shared = [spec.name for spec in layer.param]
        if layer.name not in blobs and shared and all(name in owners for name in shared):
            blobs[layer.name] = tuple(owners[name] for name in shared)
        for name, array in zip(shared, blobs.get(layer.name, ())):
            if name:
                owners.setdefault(name, array)
    if not blobs:
        found = list(weights.blobs)
        hint = f"it has {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        raise Error("holds weights for no layer of the net", where, hint)
    left = (name for name in weights.blobs if name not in names)
    notes = tuple(f"weights of '{name}' left out: the net has no such layer" for name in left)
    return replace(model, blobs=blobs), notes


class _Reader:
    """One walk over a file: what it describes goes into ``net``, the arrays into ``blobs``.

    ``numbers`` counts, for each type of layer, the fields of LayerParameter by their numbers.
    """

    def __init__(self, data: Any, dialect: Dialect, where: str) -> None:
        self.data, self.where = data, where
        self.net = dialect.message("NetParameter")()
        self.blobs: Dict[str, Tuple[Any, ...]] = {}
        self.numbers: Dict[Tuple[str, int], int] = {}
        self.layers = 0
        self._described = 0

    def walk(self) -> None:
        rest: List[bytes] = []
        for number, kind, begin, value, stop in self._fields(0, len(self.data)):
            if number == _LAYER and kind == wire.BYTES:
                self.layers += 1
                self._layer(self.net.layer.add(), value, stop)
            elif number == _LAYERS and kind == wire.BYTES:
                self.layers += 1
                self._old_layer(value, stop)
            else:
                rest.append(self._description(begin, stop))
        self.net.MergeFromString(b"".join(rest))

    def _layer(self, layer: Any, start: int, end: int) -> None:
        numbers: Dict[int, int] = {}
        described, spans = self._split(start, end, "LayerParameter", numbers)
        layer.MergeFromString(described)
        for number, times in numbers.items():
            key = (layer.type, number)
            self.numbers[key] = self.numbers.get(key, 0) + times
        self._blobs(layer.name, layer.type, spans)

    def _old_layer(self, start: int, end: int) -> None:
        described, spans = self._split(start, end, "V1LayerParameter")
        layer = self.net.layers.add()
        layer.MergeFromString(described)
        if not layer.HasField("layer"):
            enum = layer.DESCRIPTOR.fields_by_name["type"].enum_type
            self._blobs(layer.name, V1_TYPES[enum.values_by_number[layer.type].name], spans)
            return
        # V0: the blobs are one message deeper, and those beside it are passed over, as in Caffe.
        inner = layer.layer
        inner.Clear()
        spans = []
        for number, kind, _, value, stop in self._fields(start, end):
            if number == _V0_LAYER and kind == wire.BYTES:
                described, more = self._split(value, stop, "V0LayerParameter")
                inner.MergeFromString(described)
                spans += more
        kind = V0_TYPES.get(inner.type)
        self._blobs(inner.name, V1_TYPES[kind] if kind else "", spans)

    def _split(
        self, start: int, end: int, message: str, numbers: Optional[Dict[int, int]] = None
    ) -> Tuple[bytes, List[wire.Span]]:
        """Return the bytes of a layer that are no blobs, and where its blobs stand."""
        described, spans = [], []
        self._charge(_EACH)
        for number, kind, begin, value, stop in self._fields(start, end):
            if number == _BLOBS[message] and kind == wire.BYTES:
                self._charge(_EACH)
                spans.append((value, stop))
            elif message == "V1LayerParameter" and number == _V0_LAYER and kind == wire.BYTES:
                described.append(wire.encode_head(_V0_LAYER, 0))
            else:
                described.append(self._description(begin, stop))
                if numbers is not None:
                    numbers[number] = numbers.get(number, 0) + 1
        return b"".join(described), spans

    def _blobs(self, name: str, layer_type: str, spans: List[wire.Span]) -> None:
        arrays = []
        for index, (start, end) in enumerate(spans):
            try:
                array, old = read_blob(self.data, start, end, f"blob {index} of layer '{name}'")
            except Error as error:
                raise Error(error.what, self.where, error.hint) from None
            arrays.append(array.reshape(real_shape(array.shape, layer_type, index)) if old else array)
        if arrays:
            # Of several layers of one name, Caffe's copying leaves the last one's.
            self.blobs[name] = tuple(arrays)

    def _fields(self, start: int, end: int) -> Any:
        return wire.fields(self.data, start, end)

    def _description(self, start: int, end: int) -> bytes:
        self._charge(_EACH + end - start)
        return bytes(self.data[start:end])

    def _charge(self, size: int) -> None:
        self._described += size
        if self._described > _MAX_DESCRIPTION:
            what = f"describes its layers in more than {_MAX_DESCRIPTION >> 20} MiB, weights not counted"
            raise Error(what, self.where, "no net of Caffe's needs that: the file is damaged")


def _holds_text(message: Any) -> bool:
    """True when every string is text. protobuf hands out bytes for those of a binary that are not."""
    waiting = [iter((message,))]  # iterators, as deep as the schema: never a list of all messages
    while waiting:
        one = next(waiting[-1], None)
        if one is None:
            waiting.pop()
            continue
        for field, value in one.ListFields():
            several = value if hasattr(value, "append") or hasattr(value, "add") else (value,)
            if field.message_type is not None:
                waiting.append(iter(several))
            elif field.type == field.TYPE_STRING and not all(isinstance(one, str) for one in several):
                return False
    return True
