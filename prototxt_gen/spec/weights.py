"""Whether weights fit a net: number and shapes of each layer's blobs, as Caffe's Net::CopyTrainedLayersFrom demands."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

from prototxt_gen.core.dialects import in_full_schema
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import Model
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.spec.infer import LayerInfo, Shape, format_shape, infer


def fit_weights(model: Model, given: Optional[Mapping[str, Shape]] = None) -> Tuple[Model, Tuple[str, ...]]:
    """Return the model with every blob in the shape that its layer wants, and notes on layers without weights.

    Ones in front make no difference up to four axes, as in files of 2014; BN's blobs stay as they are where they hold
    C values. Layers of unknown types and shapes are not checked. ``given`` holds shapes of blobs that the net does not
    tell. Raises Error naming the layer for another number of blobs, and with both shapes for another shape.
    """
    wanted = _wanted(model, given)
    blobs = dict(model.blobs)
    for name, arrays in model.blobs.items():
        if name in wanted:
            blobs[name] = _fitted(wanted[name], arrays)
    bare = [name for name in wanted if name not in blobs]
    listing = ", ".join(f"'{name}'" for name in bare[:3]) + (", ..." if len(bare) > 3 else "")
    notes = (f"no weights for {len(bare)} of {len(wanted)} layers with parameters: {listing}",) if bare else ()
    return replace(model, blobs=blobs), notes


def _wanted(model: Model, given: Optional[Mapping[str, Shape]]) -> Dict[str, LayerInfo]:
    """Return the layers with parameters by name, of both phases."""
    # The full schema has the Input layer that old inputs become.
    net, found = upgrade_net(in_full_schema(model.net)).message, {}
    for phase in (TRAIN, TEST):
        for layer in infer(net, phase, given=given, allow_unknown=True).layers:
            if layer.known and layer.params:
                found.setdefault(layer.name, layer)
    return found


def _fitted(layer: LayerInfo, arrays: Tuple[Any, ...]) -> Tuple[Any, ...]:
    where = f"layer '{layer.name}'"
    if len(arrays) != len(layer.params):
        raise Error(f"{layer.type} has {len(layer.params)} blobs here, and the weights hold {len(arrays)}", where)
    out: List[Any] = []
    for index, (array, param) in enumerate(zip(arrays, layer.params)):
        if layer.type == "BN" and array.size == max(array.shape, default=1) == math.prod(param.shape):
            out.append(array)
        elif _bare(array.shape) == _bare(param.shape) and max(array.ndim, len(param.shape)) <= 4:
            out.append(array.reshape(param.shape))
        elif array.shape == param.shape:
            out.append(array)
        else:
            what = f"blob {index} is {format_shape(param.shape)}, and in the weights {format_shape(array.shape)}"
            raise Error(what, where, "are they of this net? to learn the layer anew, give it another name")
    return tuple(out)


def _bare(shape: Shape) -> Shape:
    """Return a shape without the ones in front."""
    first = next((axis for axis, size in enumerate(shape) if size != 1), len(shape))
    return tuple(shape[first:])
