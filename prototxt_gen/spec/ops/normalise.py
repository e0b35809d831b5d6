"""Normalisation and the affine layers that go with it. None of them counts MACs: no matrix product is among them."""

from __future__ import annotations

from typing import Any, List, Sequence

from prototxt_gen.spec.infer import Buffer, Made, Misfit, Param, Place, Shape, rules
from prototxt_gen.spec.shapes import count


@rules.add("BN", bottoms=1, tops=1)
def bn(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Merged batch norm: (N, C, ...) -> same. Blobs, each (1, C, 1, 1): slope, bias, moving mean, moving statistic.

    While it uses the batch's statistics it keeps them, and in place a copy of its bottom.
    """
    shape = bottoms[0]
    if len(shape) < 2:
        raise Misfit("its bottom must have at least 2 axes (N, C, ...)")
    blob = (1, shape[1], 1, 1)
    buffers: List[Buffer] = []
    if place.is_train and not layer.bn_param.frozen:
        buffers += [Buffer("mean", shape[1]), Buffer("inv_std", shape[1])]
        if layer.bottom[0] == layer.top[0]:
            buffers.append(Buffer("bottom_copy", count(shape)))
    return Made(bottoms, [Param(blob), Param(blob), Param(blob, True), Param(blob, True)], buffers=buffers)
