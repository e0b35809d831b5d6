"""Solver states: where training stood at a snapshot, in Caffe's binary form or in HDF5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Tuple

from google.protobuf.message import DecodeError

from prototxt_gen.core import wire
from prototxt_gen.core.caffemodel import is_hdf5, open_bytes
from prototxt_gen.core.caffemodel_blobs import read_blob
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error

_HISTORY = 3  # the field of SolverState
_MAX_DESCRIPTION = 2**20


@dataclass(frozen=True, eq=False)
class SolverState:
    """``history`` holds the solver's arrays in Caffe's order: one or two for each parameter that learns."""

    iteration: int
    current_step: int
    learned_net: str
    history: Tuple[Any, ...]


def read_solverstate(path: str) -> SolverState:
    """Read a .solverstate or .solverstate.h5."""
    data = open_bytes(path)
    if is_hdf5(data):
        return _from_hdf5(path)
    described, history, size = [], [], 0
    try:
        for number, kind, begin, value, stop in wire.fields(data, 0, len(data)):
            if number == _HISTORY and kind == wire.BYTES:
                history.append(read_blob(data, value, stop, f"history {len(history)}")[0])
                size += 64
            else:
                size += stop - begin
                described.append(bytes(data[begin:stop]))
            if size > _MAX_DESCRIPTION:
                raise Error("is no solver state, or of a solver with far too many arrays", path)
        state = DEFAULT_DIALECT.message("SolverState").FromString(b"".join(described))
    except (wire.Malformed, DecodeError) as error:
        raise Error(f"is no solver state, or damaged: {error}", path) from None
    except Error as error:
        raise Error(error.what, path, error.hint) from None
    if not state.HasField("iter") or not isinstance(state.learned_net, str):
        raise Error("is no solver state", path, "a .solverstate or .solverstate.h5 that Caffe has written is wanted")
    return SolverState(state.iter, state.current_step, state.learned_net, tuple(history))


def _from_hdf5(path: str) -> SolverState:
    from prototxt_gen.core.hdf5 import open_hdf5, read_blobs

    with open_hdf5(path) as file:
        if not {"iter", "current_step", "history"} <= set(file):
            raise Error("is no solver state", path)
        numbers = []
        for name in ("iter", "current_step"):
            if file[name].dtype.kind != "i" or file[name].size != 1:
                raise Error(f"its '{name}' is no whole number", path)
            numbers.append(int(file[name][()].item()))
        learned = file["learned_net"].asstr()[()] if "learned_net" in file else ""
        return SolverState(*numbers, str(learned), read_blobs(file["history"], "the history", path))
