"""Finds what a training resumes from: the newest solver state that is whole, with its weights, and fits the solver.

Caffe writes a snapshot's weights first and its state second, both straight into their files, so that a process that is
killed or a disk that is full leaves halves of them. protobuf takes a file that ends between two of its fields for
whole. Hence the state's arrays, as many for each parameter as the solver's type keeps, are held against the weights
one by one: a state is written after its weights, so that one that fits them proves both whole.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from typing import Any, Iterator, List, Optional, Tuple

from prototxt_gen.core import wire
from prototxt_gen.core.caffemodel import is_hdf5, open_bytes, read_weights
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import layers_in
from prototxt_gen.core.solvers import HISTORY_ARRAYS
from prototxt_gen.core.solverstate import SolverState, read_solverstate
from prototxt_gen.train.preflight import UsedNet

_CURRENT_STEP = 4  # the last field of SolverState
_NAME = re.compile(r"_iter_(\d+)\.solverstate(\.h5)?$")


@dataclass(frozen=True)
class Resume:
    """What to resume from, None for nothing, and what is to be told of newer files that were passed over."""

    snapshot: Optional[str]
    iteration: int
    notes: Tuple[str, ...]


def states_of(prefix: str) -> List[Tuple[int, str]]:
    """Return (iteration, path) of all solver states of a snapshot_prefix, the newest first."""
    found = [(_NAME.search(path), path) for path in glob.glob(f"{glob.escape(prefix)}_iter_*.solverstate*")]
    return sorted(((int(match.group(1)), path) for match, path in found if match), reverse=True)


def overwritten(prefix: str) -> Iterator[str]:
    """Say of which snapshots a training that begins anew takes the names."""
    states = states_of(prefix)
    if states:
        yield (f"warning: snapshots of an earlier training are there, up to iteration {states[0][0]}, and are written "
               f"over at their iterations: '{states[0][1]}' (--resume goes on from it)")


def newest_valid(prefix: str, solver: Any, net: UsedNet) -> Resume:
    """Return the newest valid state of ``prefix``; none at all is no error.

    Raises Error when all there are are damaged, and when a whole one belongs to another type of solver.
    """
    notes: List[str] = []
    for _, path in states_of(prefix):
        try:
            state = check_state(path, solver, net)
        except Damaged as error:
            notes.append(f"passed over {path}: {error.what}")
            continue
        return Resume(path, state.iteration, tuple(notes))
    if notes:
        hint = "remove them, and --resume starts from the beginning"
        raise Error("\n".join(["no snapshot is left to resume from", *notes]), hint=hint)
    return Resume(None, 0, ())


def check_ahead(snapshot: str, iteration: int, max_iter: int) -> None:
    """Check that there is training left. Caffe would only write the snapshot once more, over itself."""
    if iteration >= max_iter:
        hint = f"--set max_iter=N with N above {iteration} trains further"
        raise Error(f"the run is at iteration {iteration}, and max_iter is {max_iter}", snapshot, hint)


class Damaged(Error):
    """A solver state cannot be resumed from: it or its weights are not whole, or not finite, or not of this net."""


def check_state(path: str, solver: Any, net: UsedNet) -> SolverState:
    """Return a solver state that Caffe can go on from with this solver and net.

    Raises Damaged, and Error where the state is whole and of another type of solver.
    """
    try:
        state = read_solverstate(path)
        if not os.path.isfile(state.learned_net):
            what = f"the weights it names are not there: '{state.learned_net}'"
            raise Error(what, path, "resume in the folder where the training was started")
        weights = read_weights(state.learned_net, DEFAULT_DIALECT)
    except Error as error:
        raise Damaged(error.what, error.where or path, error.hint) from None
    shapes = _parameter_shapes(weights.blobs, net)
    kept = _arrays_kept([array.shape for array in state.history], shapes)
    if kept is None:
        what = f"its {len(state.history)} arrays are not those of the {len(shapes)} parameters in '{state.learned_net}'"
        raise Damaged(what, path)
    kind = solver.type if solver.HasField("type") else "SGD"
    wanted = HISTORY_ARRAYS.get(kind, kept)
    if kept != wanted and shapes:
        if not _has_end(path):
            raise Damaged("is cut off behind its arrays", path)
        types = " or ".join(name for name, arrays in HISTORY_ARRAYS.items() if arrays == kept)
        what = f"was written by a solver of type {types}, with {_arrays(kept)} a parameter; {kind} keeps {wanted}"
        hint = f"set type back, or start anew from its weights: --weights {state.learned_net}"
        raise Error(what, path, hint)
    _check_finite(weights.blobs, state)
    return state


def _parameter_shapes(blobs: Any, net: UsedNet) -> List[Tuple[int, ...]]:
    """Return the shapes of the net's parameters in Caffe's order, shared ones once."""
    shapes, seen = [], set()
    for layer in layers_in(net.net, net.state):
        for index, array in enumerate(blobs.get(layer.name, ())):
            name = layer.param[index].name if index < len(layer.param) else ""
            if not name or name not in seen:
                shapes.append(tuple(array.shape))
            seen.add(name)
    return shapes


def _arrays_kept(history: List[Tuple[int, ...]], shapes: List[Tuple[int, ...]]) -> Optional[int]:
    """Return how many arrays a state keeps for each parameter, None where they do not fit the parameters."""
    arrays = len(history) // len(shapes) if shapes else 1
    return arrays if arrays and [tuple(one) for one in history] == shapes * arrays else None


def _has_end(path: str) -> bool:
    """True where a state has its last field: protobuf writes fields in the order of their numbers."""
    data = open_bytes(path)
    return is_hdf5(data) or any(number == _CURRENT_STEP for number, *_ in wire.fields(data, 0, len(data)))


def _arrays(count: int) -> str:
    return "one array" if count == 1 else f"{count} arrays"


def _check_finite(blobs: Any, state: SolverState) -> None:
    import numpy

    for name, arrays in blobs.items():
        if not all(numpy.isfinite(array).all() for array in arrays):
            raise Damaged(f"the weights of layer '{name}' are not finite", state.learned_net)
    if not all(numpy.isfinite(array).all() for array in state.history):
        raise Damaged("its arrays are not finite", state.learned_net)
