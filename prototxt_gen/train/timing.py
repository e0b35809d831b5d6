"""How long each layer of a net takes, and how far it is from what the machine can do.

Two rates are measured in the same Caffe right before, each the fastest of several runs:

    product    multiply-adds a second of an InnerProduct of 1024 x 1024 by 1024 x 1024
    copy       bytes a second, read and written, of a copy of 64 MiB

A layer with multiply-adds is held against the first: its MACs forward, and backward as many again for each of weights
and bottom that get a difference. Every other layer is held against the second: each value of its bottoms, parameters
and tops moved once forward, each difference of its tops and bottoms once backward, which is the least that it can do.
Layers that share their bottom's memory move nothing. The floor of a net is the time that it would take at these rates.

Times are medians over the iterations, each layer run by itself. Data layers give way to inputs that hold random images
and labels, so that no data is needed, and no reading timed.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from prototxt_gen.core.caffemodel_write import write_weights
from prototxt_gen.core.errors import CaffeError, Error
from prototxt_gen.core.graph import PHASES, TEST, TRAIN, layers_in, net_state, shares_memory
from prototxt_gen.core.io import Model
from prototxt_gen.passes.base import registry
from prototxt_gen.passes.deploy import is_source
from prototxt_gen.spec.backward import backward_passes
from prototxt_gen.spec.infer import LayerInfo, NetInfo, Shape, infer
from prototxt_gen.spec.lean import SIZE_ONLY
from prototxt_gen.spec.memory import with_batch
from prototxt_gen.train.caffe import Caffe
from prototxt_gen.train.caffe_child import Child, check_device
from prototxt_gen.train.timing_child import DROPPED

CHILD = "prototxt_gen.train.timing_child"
FLOAT_BYTES = 4
SIDE = 1024  # of the matrices, and of the copied array's four planes a side
PRODUCT_MACS = SIDE**3
COPY_BYTES = 2 * FLOAT_BYTES * 16 * SIDE**2
PRODUCT_NET = f"""
layer {{ name: "in" type: "Input" top: "in" input_param {{ shape {{ dim: {SIDE} dim: {SIDE} }} }} }}
layer {{
  name: "out" type: "InnerProduct" bottom: "in" top: "out"
  inner_product_param {{ num_output: {SIDE} bias_term: false }}
}}
"""
COPY_NET = f"""
layer {{ name: "in" type: "Input" top: "in" input_param {{ shape {{ dim: 16 dim: {SIDE} dim: {SIDE} }} }} }}
layer {{ name: "out" type: "Power" bottom: "in" top: "out" }}
"""
# Layers whose second bottom is a label.
LABEL_READERS = {"SoftmaxWithLoss", "InfogainLoss", "MultinomialLogisticLoss", "HingeLoss", "Accuracy"}

# Called with what is done, and how many of how many iterations are.
Progress = Callable[[str, int, int], Any]


@dataclass(frozen=True)
class Job:
    """A timing that has passed all checks: a net of one phase without data layers, and what its labels may be."""

    model: Model
    info: NetInfo
    phase: int
    backward: bool
    classes: Mapping[str, int]
    batch_size: int
    iterations: int
    where: str


@dataclass(frozen=True)
class Row:
    """One layer, or all of one type (``layers`` of them): seconds, and the work done in them.

    ``macs`` and ``bytes`` are of forward and backward together; where there are MACs, bytes are not counted.
    """

    name: str
    type: str
    layers: int
    forward_s: float
    backward_s: float
    macs: int
    bytes: int

    @property
    def seconds(self) -> float:
        """Seconds of forward and backward together."""
        return self.forward_s + self.backward_s


@dataclass(frozen=True)
class Timing:
    """What was measured: the layers in the net's order, and the machine's two rates."""

    rows: Tuple[Row, ...]
    macs_per_s: float
    bytes_per_s: float

    @property
    def total(self) -> Row:
        """All layers together."""
        return _sum("total", "", self.rows)

    @property
    def floor_s(self) -> float:
        """Seconds that the net would take at the machine's rates."""
        return sum(row.macs / self.macs_per_s + row.bytes / self.bytes_per_s for row in self.rows)

    def of_machine(self, row: Row) -> Optional[float]:
        """Return a row's work per second as a share of what the machine can do; None where there is no work."""
        ideal = row.macs / self.macs_per_s or row.bytes / self.bytes_per_s
        return ideal / row.seconds if ideal and row.seconds else None

    def by_type(self) -> List[Row]:
        """Return a row for each type of layer, in the order in which the net has them first."""
        groups: Dict[str, List[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.type, []).append(row)
        return [_sum(name, name, rows) for name, rows in groups.items()]


def _sum(name: str, kind: str, rows: Sequence[Row]) -> Row:
    forward, backward = sum(row.forward_s for row in rows), sum(row.backward_s for row in rows)
    return Row(name, kind, len(rows), forward, backward, sum(row.macs for row in rows), sum(row.bytes for row in rows))


def plan(
    model: Model, caffe: Caffe, *, batch_size: Optional[int] = None, iterations: int = 10, forward_only: bool = False,
    given: Optional[Mapping[str, Shape]] = None, where: str = "",
) -> Job:
    """Check a net and settle how it is timed: TRAIN, forward and backward, if it has a loss, else TEST, forward.

    ``given`` holds shapes of blobs that the net does not tell. Raises Error for what cannot be timed.
    """
    losses = [one for one in layers_in(model.net, net_state(TRAIN, model.net)) if one.type.endswith("Loss")]
    backward = bool(losses) and not forward_only
    phase = TRAIN if backward else TEST
    name = next(name for name, value in PHASES.items() if value == phase)
    model = registry.find("split-phases")(model, phase=name).model
    shapes = dict(given or {})
    if batch_size is not None:
        model = replace(model, net=with_batch(model.net, batch_size))
        shapes = {blob: (batch_size, *shape[1:]) for blob, shape in shapes.items()}
    model = _with_inputs(model, infer(model.net, phase, given=shapes, allow_unknown=True, where=where), where)
    info = infer(model.net, phase, allow_unknown=True, where=where)
    unknown = [one for one in info.layers if one.type not in caffe.layers]
    if unknown and caffe.layers:
        raise Error(f"layer '{unknown[0].name}' has the type '{unknown[0].type}', which this Caffe lacks", where)
    if not model.blobs and not backward:
        # Without fillers all weights would be 0, and branches on values always go one way.
        model = registry.find("seed-weights")(model).model
    first = next((one.top_shapes[0] for one in info.layers if one.type == "Input"), None)
    return Job(model, info, phase, backward, _classes(info), first[0] if first else 1, iterations, where)


def _with_inputs(model: Model, info: NetInfo, where: str) -> Model:
    """Return the net with an Input layer in place of each data layer, of the shapes that it would bring.

    Input layers get the shapes that ``info`` has of them.
    """
    net = type(model.net)()
    net.CopyFrom(model.net)
    for layer in net.layer:
        if layer.type == "DummyData" or not (is_source(layer) or layer.type == "Input"):
            continue
        shapes = [info.blobs.get(name) for name in layer.top]
        if None in shapes:
            hint = f"--input {layer.top[0]}=32,3,224,224 tells the shape"
            raise Error(f"the file does not tell the size of '{layer.top[0]}'", f"{where}: layer '{layer.name}'", hint)
        made = type(layer)(name=layer.name, type="Input", top=layer.top)
        for shape in shapes:
            made.input_param.shape.add(dim=shape)
        layer.CopyFrom(made)
    return replace(model, net=net)


def _classes(info: NetInfo) -> Dict[str, int]:
    """Return for each blob of labels how many classes they are of."""
    source = {top: one.bottoms[0] for one in info.layers if one.type == "Split" for top in one.tops}
    found: Dict[str, int] = {}
    for one in info.layers:
        shape = one.bottom_shapes[0] if one.type in LABEL_READERS and len(one.bottoms) > 1 else None
        if shape is not None and len(shape) > 1:
            label = source.get(one.bottoms[1], one.bottoms[1])
            found[label] = min(found.get(label, shape[1]), shape[1])
    return found


def run(
    job: Job, caffe: Caffe, gpu: Optional[int] = None, progress: Progress = lambda what, done, total: None
) -> Timing:
    """Time a net in a child process. Raises CaffeError where Caffe does not get through it."""
    check_device(caffe, gpu)
    with tempfile.TemporaryDirectory(prefix="prototxt-gen-") as folder:
        place = Path(folder)
        for name, text in (("net", job.model.dumps()), ("product", PRODUCT_NET), ("copy", COPY_NET)):
            (place / f"{name}.prototxt").write_text(text)
        if job.model.blobs:
            write_weights(str(place / "weights.caffemodel"), job.model)
        settings = {"gpu": gpu, "phase": job.phase, "classes": job.classes, "iterations": job.iterations,
                    "backward": job.backward}
        told: Dict[str, Any] = {}
        with Child(CHILD, place, settings, caffe, job.where) as child:
            for line in child.results:
                told.update(json.loads(line))
                progress("timing", told.get("iteration", 0), job.iterations + DROPPED)
            if "names" not in told:
                raise child.failure()
    names = [one.name for one in job.info.layers]
    if told["names"] != names:
        odd = next((pair for pair in zip(told["names"], names) if pair[0] != pair[1]), ("", ""))
        raise CaffeError(f"Caffe runs layer '{odd[0]}' where '{odd[1]}' was expected", job.where)
    work = _work(job.info, job.backward)
    rows = [
        Row(one.name, one.type, 1, forward, backward, macs, moved)
        for one, forward, backward, (macs, moved) in zip(job.info.layers, told["forward_s"], told["backward_s"], work)
    ]
    return Timing(tuple(rows), PRODUCT_MACS / told["product_s"], COPY_BYTES / told["copy_s"])


def _work(info: NetInfo, backward: bool) -> Iterable[Tuple[int, int]]:
    """Yield multiply-adds and bytes of each layer, forward and backward together."""
    for one, passes in zip(info.layers, backward_passes(info)):
        used = 1 if one.type in SIZE_ONLY else len(one.bottoms)
        read = one.bottom_shapes[:used]
        runs = backward and passes.runs
        differences = [shape for shape, asked in zip(read, passes.bottoms) if backward and asked]
        if one.macs:
            yield one.macs * (1 + runs * (_learns(one) + bool(differences))), 0
            continue
        values = 0
        if one.bottoms and not shares_memory(one.layer) and one.type != "Silence":
            values += _count(read) + _count(one.top_shapes) + _count(param.shape for param in one.params)
        if runs and not shares_memory(one.layer, diff=True):
            values += _count(differences) + _count(one.top_shapes)
        yield 0, FLOAT_BYTES * values


def _count(shapes: Iterable[Optional[Shape]]) -> int:
    return sum(math.prod(shape) for shape in shapes if shape is not None)


def _learns(one: LayerInfo) -> bool:
    """True where Caffe computes a difference for the weights, the first parameter."""
    return bool(one.params) and (not one.layer.param or one.layer.param[0].lr_mult != 0)
