"""Runs a net layer by layer."""

from __future__ import annotations

import math
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from prototxt_gen.core.dialects import in_full_schema
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.graph import TEST, layers_in, net_state, shares_memory
from prototxt_gen.core.io import Model
from prototxt_gen.export.reference.registry import Step, label, layers
from prototxt_gen.spec.infer import LayerInfo, infer
from prototxt_gen.spec.rules import Param, Place, rules
from prototxt_gen.spec.shapes import format_shape

# Types whose tops come from outside the net.
INPUT_TYPES = ("Input", "AugmentedData", "Data", "HDF5Data", "ImageData", "MemoryData", "WindowData")


def forward(
    model: Model, inputs: Mapping[str, Any], *, phase: int = TEST, dtype: Any = None, bn_statistic: Optional[str] = None
) -> Dict[str, Any]:
    """Return the last value of every blob of a net, by name.

    ``inputs`` holds an array for each top of Input and data layers and for each ``input`` of an old file; its shape
    takes the place of the one in the file. ``dtype`` is float32 unless given: all arithmetic is done in it, but for
    batch statistics and losses, which are summed in float64. ``bn_statistic`` ("inv-std" or "variance") says what BN's
    fourth blob holds where the dialect does not. The model's blobs stay as they are: moving statistics do not move.
    Raises Error where Caffe would refuse the net, for missing or misshapen weights, and for layers that draw at random.
    """
    *_, (_, _, blobs) = _run(model, inputs, phase, dtype, bn_statistic)
    return blobs


def steps(
    model: Model, inputs: Mapping[str, Any], *, phase: int = TEST, dtype: Any = None, bn_statistic: Optional[str] = None
) -> Iterator[Tuple[Any, Dict[str, Any]]]:
    """Yield (layer, its tops by name) after each layer has run; arguments as for ``forward``."""
    for layer, tops, _ in _run(model, inputs, phase, dtype, bn_statistic):
        yield layer, tops


def _run(
    model: Model, inputs: Mapping[str, Any], phase: int, dtype: Any, bn_statistic: Optional[str]
) -> Iterator[Tuple[Any, Dict[str, Any], Dict[str, Any]]]:
    """Yield (layer, its tops, all blobs so far) after each layer has run."""
    import numpy as np

    dtype = np.dtype(np.float32 if dtype is None else dtype)
    arrays = {name: np.asarray(array, dtype) for name, array in inputs.items()}
    given = {name: array.shape for name, array in arrays.items()}
    _check(model.net, phase, arrays)
    run_order = _run_order(model.net, phase, given)
    shared = _shared_blobs(model, [layer for layer, _ in run_order])
    statistic = bn_statistic or model.dialect.bn_statistic
    blobs: Dict[str, Any] = {}
    memory = _Memory()
    for layer, info in run_order:
        bottoms = [blobs[name] for name in layer.bottom]
        if not layer.bottom and layer.top and all(name in arrays for name in layer.top):
            made = [arrays[name] for name in layer.top]
        else:
            full = in_full_schema(layer)
            # The shapes are asked for again: how many items a Filter lets pass is known by now.
            shapes = rules.apply(full, [bottom.shape for bottom in bottoms], Place(phase, given)).tops
            params = _params(model, layer, info.params, shared, dtype)
            made = layers.run(Step(full, bottoms, params, shapes, phase, dtype, statistic))
        tops = dict(zip(layer.top, made))
        blobs.update(tops)
        for name in memory.sharers(layer):
            blobs[name] = tops[layer.top[0]].reshape(blobs[name].shape)
        yield layer, tops, blobs


class _Memory:
    """Which blobs stand in the same memory: in Caffe, a layer that works in place on one of them changes them all."""

    def __init__(self) -> None:
        self._owners: Dict[str, str] = {}

    def sharers(self, layer: Any) -> List[str]:
        """Take note of a layer that has run; return the other blobs whose values it changed."""
        first = layer.bottom[0] if layer.bottom else ""
        owner = self._owners.get(first, first)
        if first and layer.top[:1] == [first]:
            return [name for name in {*self._owners, owner} if self._owners.get(name, name) == owner and name != first]
        if shares_memory(layer):
            self._owners.update(dict.fromkeys(layer.top, owner))
        return []


def _run_order(net: Any, phase: int, given: Mapping[str, Tuple[int, ...]]) -> List[Tuple[Any, LayerInfo]]:
    """Return the layers of a phase, each with what ``infer`` tells of it; the inputs of an old file come first."""
    infos = [info for info in infer(net, phase, given=given).layers if not info.inserted]
    found = list(layers_in(net, net_state(phase, net)))
    ends = infos[:len(infos) - len(found)]
    return [(info.layer, info) for info in ends] + list(zip(found, infos[len(ends):]))


def _check(net: Any, phase: int, arrays: Mapping[str, Any]) -> None:
    """Raise Error for inputs that are missing or unknown, and for layers of types that cannot be run here."""
    wanted, allowed = list(net.input), list(net.input)
    for layer in layers_in(net, net_state(phase, net)):
        if layer.type in INPUT_TYPES:
            wanted += layer.top
        if not layer.bottom:
            allowed += layer.top
        given = not layer.bottom and layer.top and all(name in arrays for name in layer.top)
        if layer.type not in (*INPUT_TYPES, *layers.types()) and not given:
            raise layers.unknown(layer)
    for name in wanted:
        if name not in arrays:
            raise Error(f"no array is given for the input '{name}'", hint=did_you_mean(name, arrays))
    for name in arrays:
        if name not in allowed:
            hint = did_you_mean(name, wanted, f"its inputs are {', '.join(wanted)}" if wanted else "")
            raise Error(f"the net has no input '{name}'", hint=hint)


def _shared_blobs(model: Model, run_order: Sequence[Any]) -> Dict[str, Any]:
    """Return the blobs that have a name and so are one for all layers that give it: the last one stored counts."""
    owners: Dict[str, List[Any]] = {}
    for layer in run_order:
        owners.setdefault(layer.name, []).append(layer)
    shared: Dict[str, Any] = {}
    for name, blobs in model.blobs.items():
        for layer in owners.get(name, ()):
            for spec, blob in zip(layer.param, blobs):
                if spec.name:
                    shared[spec.name] = blob
    return shared


def _params(model: Model, layer: Any, params: Sequence[Param], shared: Mapping[str, Any], dtype: Any) -> List[Any]:
    """Return the parameter blobs of a layer in the shapes that its rule tells."""
    import numpy as np

    names = [layer.param[i].name if i < len(layer.param) else "" for i in range(len(params))]
    own = model.blobs.get(layer.name, ())
    if not own and not all(name in shared for name in names):
        hint = "--weights FILE brings them, --pass seed-weights draws some"
        raise Error("there are no weights for it", label(layer), hint)
    if own and len(own) != len(params):
        raise Error(f"its weights are {len(own)} blobs, and it has {len(params)}", label(layer))
    found = []
    for index, (name, param) in enumerate(zip(names, params)):
        blob = np.asarray(shared[name] if name in shared else own[index])
        permissive = bool(name) and layer.param[index].share_mode == layer.param[index].PERMISSIVE
        # Old files write a bias as 1x1x1xC, and forks differ in the axes of BN's blobs.
        alike = _long_axes(blob.shape) == _long_axes(param.shape)
        if not alike and not (permissive and blob.size == math.prod(param.shape)):
            what = f"blob {index} of its weights is {format_shape(blob.shape)}, not {format_shape(param.shape)}"
            raise Error(what, label(layer))
        found.append(blob.reshape(param.shape).astype(dtype, copy=False))
    return found


def _long_axes(shape: Sequence[int]) -> List[int]:
    return [size for size in shape if size != 1]
