"""The HDF5 files of Caffe's snapshots: weights in /data/<layer>/<index>, solver states in /history/<index>.

A layer whose name has slashes stands in groups of groups. A parameter that layers share is stored with its owner only.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

from prototxt_gen.core.caffemodel_blobs import check_shape
from prototxt_gen.core.dialects import Dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model

_MAX_OBJECTS = 100_000


@contextmanager
def open_hdf5(path: str) -> Iterator[Any]:
    """Open an HDF5 file for reading; whatever the library says against it is an Error."""
    try:
        import h5py
    except ImportError:
        hint = "pip install 'prototxt-gen[hdf5]'"
        raise Error("is HDF5, and the Python package h5py, which reads that, is not installed", path, hint) from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise Error(f"is damaged or truncated: {error}", path) from None


def read_weights_hdf5(path: str, dialect: Dialect) -> Model:
    """Read a .caffemodel.h5 as a model: blobs by layer name, and a net of the layers' names, in alphabetical order."""
    net = dialect.message("NetParameter")()
    blobs: Dict[str, Tuple[Any, ...]] = {}
    with open_hdf5(path) as file:
        data = _child(file, "data")
        if not hasattr(data, "keys"):
            raise Error("holds no weights: it has no group 'data'", path, "a .caffemodel.h5 of Caffe's is wanted")
        for name, group in _groups(data, path):
            net.layer.add(name=name)
            arrays = read_blobs(group, f"layer '{name}'", path)
            if arrays:
                blobs[name] = arrays
    return Model(net, dialect, blobs)


def read_blobs(group: Any, label: str, where: str) -> Tuple[Any, ...]:
    """Return the datasets 0, 1, 2 ... of a group as arrays."""
    indices = sorted(int(name) for name in group if name.isascii() and name.isdecimal() and len(name) < 7)
    arrays = []
    for index in indices:
        if index != len(arrays):
            hint = "Caffe stores a shared parameter with its owner only: a binary .caffemodel has all of them"
            raise Error(f"blob {len(arrays)} of {label} is not in the file, and blob {index} is", where, hint)
        dataset = _child(group, str(index))
        if not hasattr(dataset, "dtype"):
            break  # a layer of that name, below one of the group's
        arrays.append(_array(dataset, f"blob {index} of {label}", where))
    return tuple(arrays)


def _array(dataset: Any, label: str, where: str) -> Any:
    import numpy as np

    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (4, 8):
        raise Error(f"{label} is of type {dataset.dtype}: Caffe writes float32 and float64", where)
    # Nothing is allocated that the file does not hold; Caffe writes neither compressed nor from elsewhere.
    if dataset.is_virtual or dataset.external or dataset.id.get_storage_size() < dataset.size * dataset.dtype.itemsize:
        raise Error(f"{label} does not hold what its shape says, or is compressed", where)
    try:
        check_shape(dataset.shape, dataset.size, label)
    except Error as error:
        raise Error(error.what, where) from None
    return dataset[()].astype(np.float64 if dataset.dtype.itemsize == 8 else np.float32, copy=False)


def _groups(root: Any, where: str) -> Iterator[Tuple[str, Any]]:
    """Yield (name, group) for each group below one, names joined by slashes; each once, whatever links to it."""
    import h5py

    seen = {h5py.h5o.get_info(root.id).addr}
    waiting: List[Tuple[str, Any]] = [("", root)]
    while waiting:
        path, group = waiting.pop()
        for name in reversed(list(group)):
            child = _child(group, name)
            if not hasattr(child, "keys"):
                continue
            address = h5py.h5o.get_info(child.id).addr
            if address not in seen:
                seen.add(address)
                waiting.append((f"{path}/{name}" if path else name, child))
            if len(seen) > _MAX_OBJECTS:
                raise Error(f"has more than {_MAX_OBJECTS} layers", where)
        if path:
            yield path, group


def _child(group: Any, name: str) -> Any:
    """Return a group or dataset that stands in this file, None for what is elsewhere or nowhere."""
    import h5py

    link = group.get(name, getlink=True)
    return group[name] if isinstance(link, h5py.HardLink) else None
