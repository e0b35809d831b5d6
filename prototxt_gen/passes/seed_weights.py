"""seed-weights: every layer with parameters gets weights drawn from a seed, the same on every machine.

One ``numpy.random.RandomState(seed)`` for the net, drawn from layer by layer in the order of the file (phase TEST, then
the layers that only TRAIN keeps) and blob by blob in Caffe's order, in float64 and cast to float32. N(s) is a normal
distribution of standard deviation s around 0, U(a, b) a uniform one; n is the fan-in, the number of products that one
output sums up:

    Convolution, Deconvolution, InnerProduct    weights N(d sqrt(2 / n)), bias N(0.1)
    BN           slope U(0.5, 1.5), bias N(0.1), mean N(0.1), statistic U(0.5, 1.5)
    BatchNorm    mean f N(0.1), variance f U(0.5, 1.5), factor f = 2
    Scale        factor U(0.5, 1.5), bias N(0.1)
    PReLU        U(0.15, 0.35)
    others       matrices N(1 / sqrt(columns)), vectors N(0.1)

d is 0.05 for what feeds a Sigmoid and for an InnerProduct that ends the net (nothing reads it, or a Softmax, a loss or
Accuracy), 0.2 for what feeds a sum of an Eltwise, both directly or with normalisation between, and else 1: so sums of
many branches do not grow without bound, masks do not saturate, and probabilities are not all 0 and 1.

A statistic of U(0.5, 1.5) may be an inverse standard deviation or a variance: what it means is left to the dialect, or
to --bn-statistic where the dialect does not decide.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN, Graph, layers_in, net_state
from prototxt_gen.core.io import Model
from prototxt_gen.passes.base import PassResult, registry
from prototxt_gen.spec.infer import LayerInfo, Shape, infer

AFFINE = ("BN", "BatchNorm", "Scale")
BATCH_NORM_FACTOR = 2.0

Draw = Callable[[Any, LayerInfo, Sequence[Shape], float], List[Any]]


@registry.add("seed-weights")
def seed_weights(
    model: Model, *, seed: int = 0, input_shapes: Optional[Mapping[str, Sequence[int]]] = None
) -> PassResult:
    """Give every layer with parameters weights drawn from ``seed``; what the model held before is dropped.

    ``input_shapes`` tells the shapes of data tops that the file does not tell. A parameter shared between layers is
    drawn once, for the first of them. Raises Error where a layer's shapes cannot be inferred.
    """
    import numpy as np

    rng = np.random.RandomState(seed)
    given = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    blobs: Dict[str, Tuple[Any, ...]] = {}
    shared: Dict[str, Any] = {}
    edits: List[str] = []
    for phase, infos in _phases(model.net, given):
        damping = _damping(model.net, phase)
        for info in infos:
            if not info.params or info.name in blobs:
                continue
            shapes = _blob_shapes(model, info)
            drawn = _DRAW.get(info.type, _plain)(rng, info, shapes, damping.get(info.name, 1.0))
            drawn = [np.asarray(blob, np.float32).reshape(shape) for blob, shape in zip(drawn, shapes)]
            for index, spec in enumerate(info.layer.param):
                if spec.name:
                    drawn[index] = shared.setdefault(spec.name, drawn[index]).reshape(shapes[index])
            blobs[info.name] = tuple(drawn)
            edits.append(f"layer '{info.name}': {len(drawn)} blobs drawn, {sum(blob.size for blob in drawn)} values")
    return PassResult(replace(model, blobs=blobs), tuple(edits), coverage=f"drew weights for {len(edits)} layers")


def _phases(net: Any, given: Mapping[str, Shape]) -> List[Tuple[int, Sequence[LayerInfo]]]:
    """Return each phase with its layers; a file may be written for one phase only, and make no net in the other."""
    found, errors = [], []
    for phase in (TEST, TRAIN):
        try:
            found.append((phase, infer(net, phase, given=given).layers))
        except Error as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def _damping(net: Any, phase: int) -> Dict[str, float]:
    """Return by layer name the factor for weights whose output is summed up or squashed."""
    graph = Graph(layers_in(net, net_state(phase, net)))
    damping: Dict[str, float] = {}
    for index, layer in enumerate(graph.layers):
        if layer.type == "InnerProduct":
            readers = {graph.layers[reader].type for reader, _ in graph.makes[index][0].readers}
            if all(reader in ("Softmax", "Accuracy") or reader.endswith("Loss") for reader in readers):
                damping[layer.name] = 0.05
        sums = layer.type == "Eltwise" and layer.eltwise_param.operation == layer.eltwise_param.SUM
        if not sums and layer.type != "Sigmoid":
            continue
        for version in graph.reads[index]:
            while version is not None and graph.layers[version.maker].type in AFFINE:
                version = graph.reads[version.maker][0]
            if version is not None:
                name, factor = graph.layers[version.maker].name, 0.2 if sums else 0.05
                damping[name] = min(factor, damping.get(name, factor))
    return damping


def _blob_shapes(model: Model, info: LayerInfo) -> List[Shape]:
    """Return the shapes of a layer's blobs, those of BN as the dialect writes them."""
    shapes = [param.shape for param in info.params]
    if info.type == "BN" and model.dialect.bn_blob_shape == "(1, C)":
        shapes = [shape[:2] for shape in shapes]
    return shapes


def _filters(rng: Any, info: LayerInfo, shapes: Sequence[Shape], damping: float) -> List[Any]:
    fan_in = info.macs / sum(math.prod(shape) for shape in info.top_shapes if shape is not None)
    weights = rng.standard_normal(shapes[0]) * (damping * math.sqrt(2 / fan_in))
    return [weights, *(0.1 * rng.standard_normal(shape) for shape in shapes[1:])]


def _bn(rng: Any, info: LayerInfo, shapes: Sequence[Shape], damping: float) -> List[Any]:
    return [rng.uniform(0.5, 1.5, shape) if index in (0, 3) else 0.1 * rng.standard_normal(shape)
            for index, shape in enumerate(shapes)]


def _batch_norm(rng: Any, info: LayerInfo, shapes: Sequence[Shape], damping: float) -> List[Any]:
    mean, variance = 0.1 * rng.standard_normal(shapes[0]), rng.uniform(0.5, 1.5, shapes[1])
    return [BATCH_NORM_FACTOR * mean, BATCH_NORM_FACTOR * variance, BATCH_NORM_FACTOR]


def _scale(rng: Any, info: LayerInfo, shapes: Sequence[Shape], damping: float) -> List[Any]:
    # With two bottoms the factor comes from outside, and the only blob is the bias.
    factors = 1 if len(info.bottoms) == 1 else 0
    return [rng.uniform(0.5, 1.5, shape) if index < factors else 0.1 * rng.standard_normal(shape)
            for index, shape in enumerate(shapes)]


def _prelu(rng: Any, info: LayerInfo, shapes: Sequence[Shape], damping: float) -> List[Any]:
    return [rng.uniform(0.15, 0.35, shape) for shape in shapes]


def _plain(rng: Any, info: LayerInfo, shapes: Sequence[Shape], damping: float) -> List[Any]:
    """Matrices by their fan-in, all else as a bias."""
    return [rng.standard_normal(shape) * (math.sqrt(1 / shape[1]) if len(shape) == 2 else 0.1) for shape in shapes]


_DRAW: Dict[str, Draw] = {
    "Convolution": _filters, "Deconvolution": _filters, "InnerProduct": _filters, "BN": _bn, "BatchNorm": _batch_norm,
    "Scale": _scale, "PReLU": _prelu,
}
