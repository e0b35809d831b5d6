"""Nets as a training uses them: with the shapes that their LMDBs tell, at any batch size."""

from __future__ import annotations

from typing import Any, Dict, Optional

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import layers_in
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.spec.infer import NetInfo, Shape, infer
from prototxt_gen.spec.memory import with_batch
from prototxt_gen.train.lmdb_file import inspect_lmdb
from prototxt_gen.train.preflight import LMDB, UsedNet
from prototxt_gen.train.run_skip import AUGMENTED


def image_shapes(used: UsedNet) -> Dict[str, Shape]:
    """Return the shapes that the LMDBs of a net give its data blobs, as far as their first image tells."""
    shapes = {}
    for layer in layers_in(used.net, used.state):
        if layer.type == "Data" and layer.top and layer.data_param.backend == LMDB:
            datum = DEFAULT_DIALECT.message("Datum").FromString(inspect_lmdb(layer.data_param.source).first_value)
            crop = layer.transform_param.crop_size
            if datum.channels and datum.height:
                size = (crop, crop) if crop else (datum.height, datum.width)
                shapes[layer.top[0]] = (layer.data_param.batch_size, datum.channels, *size)
    return shapes


def database_of(layer: Any) -> Optional[str]:
    """Return the LMDB that a layer reads its images from."""
    if layer.type == "Data" and layer.data_param.backend == LMDB:
        return layer.data_param.source
    if layer.type == AUGMENTED and layer.augmented_data_param.backend == layer.augmented_data_param.LMDB:
        return layer.augmented_data_param.source
    return None


def look_at(used: UsedNet, batch: Optional[int] = None) -> NetInfo:
    """Infer a net as the solver uses it, with another batch where one is given."""
    net = upgrade_net(used.net).message
    shapes = image_shapes(used)
    if batch is not None:
        net = with_batch(net, batch)
        shapes = {name: (batch, *shape[1:]) for name, shape in shapes.items()}
    state = used.state
    return infer(net, state.phase, given=shapes, stages=list(state.stage), level=state.level, where=used.where)


def train_batch(used: UsedNet) -> int:
    """Return the images in a batch of a net: the first axis of the first blob that it makes from nothing."""
    for layer in look_at(used).layers:
        if not layer.bottoms and layer.top_shapes and layer.top_shapes[0]:
            return layer.top_shapes[0][0]
    raise Error("nothing tells how many images are in a batch", used.where)
