"""A net with its weights as an ONNX model: what the net computes in TEST, tensor by tensor under Caffe's blob names.

A blob that layers overwrite in place has several versions; the last one carries the blob's name, those before it the
name with ``.0``, ``.1``, ... Only an input keeps its name, and gives the versions made of it the numbers. Constants are
called ``layer/role``. Equal nets give equal bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from prototxt_gen import __version__
from prototxt_gen.core.dialects import DEFAULT_DIALECT, in_full_schema
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.graph import TEST, layers_in, net_state
from prototxt_gen.core.io import Model
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.export.onnx_ops.layer import FIX_BATCH, Dims, Layer, Names, Tensor, converters
from prototxt_gen.passes.chain import refuse_shared_writes
from prototxt_gen.spec.infer import LayerInfo, NetInfo, infer
from prototxt_gen.spec.shapes import Shape, format_shape

DEFAULT_OPSET = 19  # the newest of onnxruntime 1.16, the oldest one that the extra [engines] takes
OLDEST_OPSET = 18  # Resize by named axes, and reductions whose axes are an input
MOST_BYTES = 2**31 - 2**24  # of weights: protobuf's limit for a message is 2 GB, and the nodes need some of it
BATCH = "N"
DATA_TYPES = ("AnnotatedData", "AugmentedData", "Data", "DummyData", "HDF5Data", "ImageData", "MemoryData",
              "WindowData")
TO_DEPLOY = "prototxt-gen convert NET --pass train-to-deploy makes a net that takes inputs and gives predictions"


def to_onnx(
    model: Model,
    *,
    opset: Optional[int] = None,
    dynamic_batch: bool = False,
    input_shapes: Optional[Mapping[str, Shape]] = None,
    bn_statistic: Optional[str] = None,
) -> Any:
    """Return the onnx.ModelProto of a net in the phase TEST. It needs weights and, for inputs, Input layers.

    ``input_shapes`` maps inputs to shapes other than the file's. ``dynamic_batch`` leaves the first axis of the inputs
    that share the first one's batch open, as the dimension 'N'. ``bn_statistic`` (``inv-std`` or ``variance``) says
    what BN's fourth blob holds; by default the dialect does.
    Raises Error for a type that cannot be exported, for missing weights, and for more than 2 GB.
    """
    helper = _import_onnx().helper
    opset = _check_opset(DEFAULT_OPSET if opset is None else opset)
    bn_statistic = bn_statistic or model.dialect.bn_statistic
    model = _current(model)
    _check_types(layers_in(model.net, net_state(TEST, model.net)))
    refuse_shared_writes(model.net, (TEST,))
    info = infer(model.net, TEST, given=input_shapes)
    known = [name for one in info.layers if one.type == "Input" for name in one.tops]
    for name in input_shapes or ():
        if name not in known:
            raise Error(f"the net has no input '{name}'", hint=did_you_mean(name, known, f"inputs: {', '.join(known)}"))
    dims = _batch_dims(model, info, input_shapes) if dynamic_batch else [one.top_shapes for one in info.layers]
    weights = _weights(model, info)
    graph = _Graph(info, dims, weights, bn_statistic)

    result = helper.make_model(
        helper.make_graph(graph.nodes, info.name or "net", graph.inputs, graph.outputs()),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="prototxt-gen",
        producer_version=__version__,
    )
    result.ir_version = helper.find_min_ir_version_for(result.opset_import)
    for name, array in graph.initializers:
        tensor = result.graph.initializer.add(name=name, dims=array.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.raw_data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return result


class _Graph:
    """Walks the layers and collects nodes, constants and inputs."""

    def __init__(
        self, info: NetInfo, dims: Sequence[Sequence[Dims]], weights: Sequence[Sequence[Any]],
        bn_statistic: Optional[str],
    ) -> None:
        self.nodes: List[Any] = []
        self.initializers: List[Any] = []
        self.inputs: List[Any] = []
        self._newest: Dict[str, Tensor] = {}
        self._unread: Dict[str, Tensor] = {}  # by the tensor's name, in the order they are made
        self._inputs = {name for one in info.layers if one.type == "Input" for name in one.tops}
        self._made = Counter(name for one in info.layers for name in one.tops)
        self._versions: Counter = Counter()
        self._tensor_names = Names(list(self._made))
        self._node_names = Names()
        for one, top_dims, blobs in zip(info.layers, dims, weights):
            if one.inserted:
                for name in one.tops:
                    self._newest[name] = self._newest[one.bottoms[0]]
                continue
            bottoms = [self._newest[name] for name in one.bottoms]
            for bottom in bottoms:
                self._unread.pop(bottom.name, None)
            tops = [self._top(*top) for top in zip(one.tops, one.top_shapes, top_dims)]
            self._newest.update(zip(one.tops, tops))
            if one.type == "Input":
                self.inputs.extend(map(_value_info, tops))
                continue
            self._unread.update((top.name, top) for top in tops)
            layer = Layer(one.layer, bottoms, tops, blobs, self._tensor_names, self._node_names, bn_statistic)
            converters.run(layer)
            self.nodes.extend(layer.nodes)
            self.initializers.extend(layer.initializers)

    def outputs(self) -> List[Any]:
        """Return the tensors that no layer reads, inputs left out."""
        if not self._unread:
            raise Error("the net has no output: every blob is read by a layer", hint=TO_DEPLOY)
        return list(map(_value_info, self._unread.values()))

    def _top(self, blob: str, shape: Shape, dims: Dims) -> Tensor:
        """Return the tensor of one version of a blob: the last bears its name, of an input the first."""
        version = self._versions[blob]
        self._versions[blob] += 1
        name = blob
        if version != (0 if blob in self._inputs else self._made[blob] - 1):
            name = self._tensor_names.unique(f"{blob}.{version}")
        return Tensor(name, tuple(shape), tuple(dims))


def _import_onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise Error("the Python package onnx is missing", hint="pip install 'prototxt-gen[onnx]'") from None
    return onnx


def _check_opset(opset: int) -> int:
    from onnx import defs

    newest = defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        hint = f"{OLDEST_OPSET}, the first whose Resize can do what Interp does, to {newest}, the last that onnx knows"
        raise Error(f"opset {opset} is not to be had", hint=hint)
    return opset


def _current(model: Model) -> Model:
    """Return the model in the default dialect, which has the layers of all of them, and as Caffe 1.0 writes it."""
    return replace(model, net=upgrade_net(in_full_schema(model.net)).message, dialect=DEFAULT_DIALECT)


def _check_types(layers: Iterable[Any]) -> None:
    """Raise Error for the first layer that no converter is for."""
    for layer in layers:
        where = f"layer '{layer.name}'"
        if layer.type in DATA_TYPES:
            raise Error(f"its type {layer.type} reads data itself, which ONNX cannot", where, TO_DEPLOY)
        if layer.type.endswith("Loss") or layer.type == "Accuracy":
            raise Error(f"its type {layer.type} needs labels, which an exported net has none of", where, TO_DEPLOY)
        if layer.type not in converters and layer.type != "Input":
            hint = did_you_mean(layer.type, converters.types(), "take it out, or end the net before it")
            raise Error(f"its type {layer.type} cannot be exported to ONNX", where, hint)


def _batch_dims(model: Model, info: NetInfo, given: Optional[Mapping[str, Shape]]) -> List[Sequence[Dims]]:
    """Return the dims of every top with 'N' for the batch: what doubles when the batch does depends on it."""
    inputs = [one for one in info.layers if one.type == "Input"]
    shapes = {name: shape for one in inputs for name, shape in zip(one.tops, one.top_shapes)}
    batches = [shape[0] for shape in shapes.values() if shape]
    if not batches:
        raise Error("no input has a batch axis that could be dynamic", hint=FIX_BATCH)
    batch = batches[0]
    doubled = {name: (2 * batch, *shape[1:]) for name, shape in shapes.items() if shape[:1] == (batch,)}
    try:
        twice = infer(model.net, TEST, given={**(given or {}), **doubled})
    except Error as error:
        raise Error(f"the batch cannot be dynamic: with {2 * batch} in place of {batch}, {error.what}", error.where,
                    FIX_BATCH) from None
    found = []
    for one, other in zip(info.layers, twice.layers):
        where = f"layer '{one.name}' ({one.type})"
        if one.params != other.params:
            raise Error("the batch cannot be dynamic: its weights fit one batch size", where, FIX_BATCH)
        found.append([_dims(shape, wider, batch, where) for shape, wider in zip(one.top_shapes, other.top_shapes)])
    return found


def _dims(shape: Shape, wider: Shape, batch: int, where: str) -> Dims:
    dims: List[Any] = []
    for size, other in zip(shape, wider):
        if size == other:
            dims.append(size)
        elif other == 2 * size and size % batch == 0:
            dims.append(BATCH if size == batch else f"{size // batch}*{BATCH}")
        else:
            what = f"the batch cannot be dynamic: its top {format_shape(shape)} does not follow it"
            raise Error(what, where, FIX_BATCH)
    return tuple(dims)


def _weights(model: Model, info: NetInfo) -> List[Tuple[Any, ...]]:
    """Return each layer's blobs in the shapes that it wants. A layer that shares parameters may take its owner's."""
    size = 4 * sum(math.prod(param.shape) for one in info.layers for param in one.params)
    if size > MOST_BYTES:
        raise Error(f"the weights are {size / 2**30:.1f} GB, and an ONNX file holds at most 2 GB")
    owners: Dict[str, Any] = {}
    found = []
    for one in info.layers:
        blobs = list(model.blobs.get(one.name, ())) if one.params else []
        names = [spec.name for spec in one.layer.param] + [""] * len(one.params)
        if not blobs:
            blobs = [owners[name] for name in names[: len(one.params)] if name in owners]
        _check_blobs(one, blobs)
        blobs = [blob.reshape(param.shape) for blob, param in zip(blobs, one.params)]
        for name, blob in zip(names, blobs):
            if name:
                owners.setdefault(name, blob)
        found.append(tuple(blobs))
    return found


def _check_blobs(one: LayerInfo, blobs: Sequence[Any]) -> None:
    where = f"layer '{one.name}' ({one.type})"
    if one.params and not blobs:
        raise Error("it has no weights", where,
                    "--weights FILE gives them; prototxt-gen convert NET --pass seed-weights draws some")
    if len(blobs) != len(one.params):
        raise Error(f"it has {len(blobs)} parameter blobs, and its weights are {len(one.params)}", where,
                    "are the weights this net's?")
    for index, (blob, param) in enumerate(zip(blobs, one.params)):
        # Files of 2014 write ones in front, forks BN's channels as (C,), (1, C) or (1, C, 1, 1).
        if [size for size in blob.shape if size != 1] != [size for size in param.shape if size != 1]:
            raise Error(f"its parameter blob {index} is {format_shape(blob.shape)}, and the net wants "
                        f"{format_shape(param.shape)}", where, "are the weights this net's?")


def _value_info(tensor: Tensor) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims))
