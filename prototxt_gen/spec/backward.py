"""Which backward passes of a net run, and where they propagate to, as Net::Init of BVLC Caffe 1.0 finds it."""

from __future__ import annotations

from typing import List, NamedTuple, Set, Tuple

from prototxt_gen.core.graph import is_loss
from prototxt_gen.spec.infer import LayerInfo, NetInfo


class Backward(NamedTuple):
    """Whether a layer's backward pass runs, and to which of its bottoms it propagates."""

    runs: bool
    bottoms: Tuple[bool, ...]


def backward_passes(info: NetInfo) -> List[Backward]:
    """Return the backward pass of each layer of a net in TRAIN: it learns or passes on, and lies under a loss."""
    needs: Set[str] = set()  # blobs with something that learns before them
    found: List[Backward] = []
    for layer in info.layers:
        asked = list(layer.layer.propagate_down)
        bottoms = tuple(bool(asked[i]) if asked else name in needs for i, name in enumerate(layer.bottoms))
        runs = _learns(layer) or any(name in needs for name in layer.bottoms)
        if runs:
            needs.update(layer.tops)
        found.append(Backward(runs, bottoms))
    under_loss: Set[str] = set()
    skipped: Set[str] = set()  # blobs that the layer after them does not propagate to
    for index in reversed(range(len(found))):
        layer = info.layers[index]
        contributes = is_loss(layer.layer) or any(name in under_loss for name in layer.tops)
        if contributes:
            under_loss.update(layer.bottoms)
        if not contributes or (found[index].runs and all(name in skipped for name in layer.tops)):
            found[index] = Backward(False, (False,) * len(layer.bottoms))
        skipped.update(name for name, runs in zip(layer.bottoms, found[index].bottoms) if not runs)
    return found


def _learns(layer: LayerInfo) -> bool:
    specs = layer.layer.param
    return any((specs[i].lr_mult if i < len(specs) else 1) != 0 for i in range(len(layer.params)))
