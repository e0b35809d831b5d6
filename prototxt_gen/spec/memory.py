"""Memory of a training step or a forward pass, by what Caffe allocates and when.

Caffe allocates a blob's data and its difference when each is first touched, and both stay. Facts used here, from the
sources of BVLC Caffe 1.0: a top in place of its bottom has no memory of its own; Split, Reshape and Flatten share their
bottom's data; a data layer's top borrows one of the prefetched batches; a difference exists where the backward pass
reaches, and every output of a Split has its own. Where blobs share memory, ``spec.lean`` tells what is left of that. On
the CPU our Caffe's engines keep less: convolutions no columns, poolings a byte in place of an index. Updates take more
there than on a GPU, where one kernel makes them. And what is never written has no pages: compilers make one calloc of
the malloc and the memset by which Caffe allocates, and calloc takes pages that the kernel has cleared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Set

from prototxt_gen.core.data_layers import IMAGE_TYPES, SOURCE_FIELDS, source_of
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.graph import TRAIN, shares_memory
from prototxt_gen.core.solvers import HISTORY_ARRAYS
from prototxt_gen.spec.backward import backward_passes
from prototxt_gen.spec.infer import LayerInfo, NetInfo, infer
from prototxt_gen.spec.lean import PLAIN, plan
from prototxt_gen.spec.rules import CAFFE, OWN

FLOAT_BYTES = 4
# Arrays of a parameter's size that updates on the CPU take besides the history, with weight decay by L2; Nesterov takes
# one more where the update is Caffe's own.
UPDATE_ARRAYS = {"AdaGrad": 1, "RMSProp": 1, "AdaDelta": 2, "Adam": 1}
IMAGE_PREFETCH = 4  # batches; some types have a field for it
# What our Caffe's convolutions take on the CPU: compiled kernels, and scratch of the threads together. Measured with 2
# threads: 8 to 31 MB for the nets of the tests.
ENGINE_BYTES = 20 * 10**6
FORK_BN_ARRAYS = 2  # of the input's size: one for broadcasting, one for the normalised input


@dataclass(frozen=True)
class Memory:
    """Bytes by purpose, on a GPU. ``fork_bn`` is what BN of the authors' fork would keep besides, outside the total.

    ``spared`` is the part of the buffers that stays untouched elsewhere, by ``rules.OWN`` and ``rules.CAFFE``, and
    ``besides`` what is taken there in its place.
    """

    activations: int
    differences: int
    splits: int  # differences of the outputs of Splits
    prefetch: int
    buffers: int
    parameters: int
    parameter_differences: int
    solver: int
    fork_bn: int
    spared: Mapping[str, int] = field(default_factory=dict)
    besides: Mapping[str, int] = field(default_factory=dict)
    shared: int = 0  # slots that data and differences of blobs share

    @property
    def total(self) -> int:
        """Bytes of everything together."""
        return sum(self.by_purpose().values())

    def held(self, place: str) -> int:
        """Return the bytes that are held in the end on one of ``rules.GPU``, OWN and CAFFE."""
        return self.total - self.spared.get(place, 0) + self.besides.get(place, 0)

    def by_purpose(self) -> Dict[str, int]:
        """Return the parts of the total by their names."""
        return {
            "activations": self.activations,
            "differences": self.differences,
            "differences of Splits": self.splits,
            "shared by blobs": self.shared,
            "prefetched batches": self.prefetch,
            "layer buffers": self.buffers,
            "parameters": self.parameters,
            "parameter differences": self.parameter_differences,
            "solver history": self.solver,
        }


def memory(info: NetInfo, solver: str = "Nesterov", sharing: str = PLAIN) -> Memory:
    """Return what a net needs: in TRAIN for forward, backward and update with a solver type, in TEST for forward.

    ``sharing`` is what ``train --memory`` is given: 'plain', 'shared' or 'lean'.
    Raises Error where a layer is unknown, since nothing can be said of the total then.
    """
    if solver not in HISTORY_ARRAYS:
        raise Error(f"no solver type is called '{solver}'", hint=did_you_mean(solver, HISTORY_ARRAYS))
    if info.unknown:
        first = info.unknown[0]
        what = f"the memory of layer '{first.name}' ({first.type}) is unknown"
        raise Error(what, hint="every layer needs a rule for this")
    trains = info.phase == TRAIN
    backward = _with_difference(info) if trains else set()
    shared = plan(info, sharing) if sharing != PLAIN else None
    activations = differences = splits = prefetch = buffers = fork_bn = 0
    spared = {OWN: 0, CAFFE: 0}
    for layer in info.layers:
        for position, (name, shape) in enumerate(zip(layer.tops, layer.top_shapes)):
            if position in layer.in_place:
                continue
            values = math.prod(shape or ())
            own_diff = name in backward and not shares_memory(layer.layer, diff=True)
            if layer.type in IMAGE_TYPES:
                prefetch += values * _prefetched(layer)
            elif not shares_memory(layer.layer) and not (shared and name in shared.shared_data):
                activations += values
            if own_diff and not (shared and name in shared.shared_diff):
                if layer.type == "Split":
                    splits += values
                else:
                    differences += values
        kept = [one for one in layer.buffers if trains or not one.diff]
        buffers += sum(one.values for one in kept)
        for place in spared:
            spared[place] += FLOAT_BYTES * sum(one.values for one in kept if place in one.spared)
        if layer.type == "BN":
            fork_bn += FORK_BN_ARRAYS * math.prod(layer.bottom_shapes[0] or ())
    convolutions = (layer for layer in info.layers if layer.type == "Convolution")
    own_engine = any(OWN in one.spared for layer in convolutions for one in layer.buffers)
    parameters = FLOAT_BYTES * (info.learnable + info.statistics)
    trained = parameters if trains else 0
    updates = trained * UPDATE_ARRAYS.get(solver, 0)
    return Memory(
        *(FLOAT_BYTES * values for values in (activations, differences, splits, prefetch, buffers)),
        parameters, trained, trained * HISTORY_ARRAYS[solver], FLOAT_BYTES * fork_bn, spared,
        {OWN: updates + own_engine * ENGINE_BYTES, CAFFE: trained if solver == "Nesterov" else updates},
        FLOAT_BYTES * shared.values if shared else 0,
    )


def _prefetched(layer: LayerInfo) -> int:
    """Return how many batches a data layer holds."""
    return getattr(source_of(layer.layer), "prefetch", IMAGE_PREFETCH)


def _with_difference(info: NetInfo) -> Set[str]:
    """Return the blobs that get a difference: a backward pass reads or writes it."""
    found: Set[str] = set()
    for layer, backward in zip(info.layers, backward_passes(info)):
        found.update(layer.tops if backward.runs else ())
        found.update(name for name, runs in zip(layer.bottoms, backward.bottoms) if runs)
    return found


def with_batch(net: Any, batch: int) -> Any:
    """Return a copy of a net whose data layers and inputs hold ``batch`` items."""
    copy = type(net)()
    copy.CopyFrom(net)
    for index in range(0, len(copy.input_dim), 4):
        copy.input_dim[index] = batch
    for shape in copy.input_shape:
        if shape.dim:
            shape.dim[0] = batch
    for layer in copy.layer:
        for name in SOURCE_FIELDS.values():
            if name in layer.DESCRIPTOR.fields_by_name and layer.HasField(name):
                getattr(layer, name).batch_size = batch
        for shape in [*layer.input_param.shape, *layer.dummy_data_param.shape]:
            if shape.dim:
                shape.dim[0] = batch
        for index in range(len(layer.dummy_data_param.num)):
            layer.dummy_data_param.num[index] = batch
    return copy


def largest_batch(
    net: Any, limit_bytes: int, phase: int, solver: str = "Nesterov", sharing: str = PLAIN, **options: Any
) -> int:
    """Return the largest batch whose memory is at most ``limit_bytes``; 0 where not even one item fits.

    ``options`` are those of ``infer``. Memory grows with the batch, so that bisection finds the limit. A batch whose
    blobs have more values than Caffe counts is too large.
    """
    def need(batch: int) -> int:
        return memory(infer(with_batch(net, batch), phase, **options), solver, sharing).total

    def fits(batch: int) -> bool:
        try:
            return need(batch) <= limit_bytes
        except Error:  # with one item there was none
            return False

    if need(1) > limit_bytes:
        return 0
    high = 2
    while high < 2**20 and fits(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
