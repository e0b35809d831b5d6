"""Memory of a training step or a forward pass, by what Caffe allocates and when.

Caffe allocates a blob's data and its difference when each is first touched, and both stay. Facts used here, from the
sources of BVLC Caffe 1.0: a top in place of its bottom has no memory of its own; Split, Reshape and Flatten share their
bottom's data; a data layer's top borrows one of the prefetched batches; a difference exists where the backward pass
reaches, and every output of a Split has its own. Where blobs share memory, ``spec.lean`` tells what is left of that. On
the CPU our Caffe's engines keep less: convolutions no columns, poolings a byte in place of an index, Nesterov's updates
nothing besides the history. And what is never written has no pages: compilers make one calloc of the malloc and the
memset by which Caffe allocates, and calloc takes pages that the kernel has cleared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Set

from prototxt_gen.core.data_layers import IMAGE_TYPES, SOURCE_FIELDS, source_of
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.graph import TRAIN, shares_memory
from prototxt_gen.spec.backward import backward_passes
from prototxt_gen.spec.infer import LayerInfo, NetInfo, infer
from prototxt_gen.spec.lean import PLAIN, plan

FLOAT_BYTES = 4
# Arrays of a parameter's size that each solver type of our Caffe keeps beside data and difference, on the CPU.
SOLVER_ARRAYS = {"SGD": 1, "Nesterov": 1, "AdaGrad": 2, "RMSProp": 2, "AdaDelta": 4, "Adam": 3}
IMAGE_PREFETCH = 4  # batches; some types have a field for it
# What our Caffe's convolutions take on the CPU: compiled kernels, and scratch of the threads together. Measured with 2
# threads: 8 to 31 MB for the nets of the tests.
ENGINE_BYTES = 20 * 10**6
FORK_BN_ARRAYS = 2  # of the input's size: one for broadcasting, one for the normalised input


@dataclass(frozen=True)
class Memory:
    """Bytes by purpose. ``fork_bn`` is what BN of the authors' fork would keep besides; it is not part of the total.

    ``gpu_only`` is the part of the buffers that our Caffe leaves alone on the CPU, ``cpu_only`` what its engine
    has instead.
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
    gpu_only: int
    cpu_only: int
    shared: int = 0  # slots that data and differences of blobs share

    @property
    def total(self) -> int:
        """Bytes of everything together."""
        return sum(self.by_purpose().values())

    @property
    def resident(self) -> int:
        """Bytes that the process comes to hold on the CPU."""
        return self.total - self.gpu_only + self.cpu_only

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
    if solver not in SOLVER_ARRAYS:
        raise Error(f"no solver type is called '{solver}'", hint=did_you_mean(solver, SOLVER_ARRAYS))
    if info.unknown:
        first = info.unknown[0]
        what = f"the memory of layer '{first.name}' ({first.type}) is unknown"
        raise Error(what, hint="every layer needs a rule for this")
    trains = info.phase == TRAIN
    backward = _with_difference(info) if trains else set()
    shared = plan(info, sharing) if sharing != PLAIN else None
    activations = differences = splits = prefetch = buffers = gpu_only = fork_bn = 0
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
        gpu_only += sum(one.values for one in kept if not one.on_cpu)
        if layer.type == "BN":
            fork_bn += FORK_BN_ARRAYS * math.prod(layer.bottom_shapes[0] or ())
    own_engine = any(layer.type == "Convolution" and not one.on_cpu for layer in info.layers for one in layer.buffers)
    engine = ENGINE_BYTES // FLOAT_BYTES if own_engine else 0
    parameters = info.learnable + info.statistics
    return Memory(*(FLOAT_BYTES * values for values in (
        activations, differences, splits, prefetch, buffers, parameters, parameters if trains else 0,
        parameters * SOLVER_ARRAYS[solver] if trains else 0, fork_bn, gpu_only, engine, shared.values if shared else 0,
    )))


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
