"""A net at a glance: rows per layer or per group of layers, and totals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from prototxt_gen.core.graph import PHASES
from prototxt_gen.spec.infer import LayerInfo, NetInfo, Shape


@dataclass(frozen=True)
class SummaryRow:
    """One layer, or all layers whose names share a prefix: ``type`` is the layer's type or ``<n> layers``.

    ``shape`` is that of the last layer's first top, None where there is none or it is unknown.
    """

    name: str
    type: str
    shape: Optional[Shape]
    learnable: int
    statistics: int
    macs: int


def own_layers(info: NetInfo) -> List[LayerInfo]:
    """Return the layers of the file, without the Splits that Caffe inserts."""
    return [layer for layer in info.layers if not layer.inserted]


def summary_rows(info: NetInfo, depth: int) -> List[SummaryRow]:
    """Return a row for each group of layers with the same first ``depth`` parts of their names; 0: for each layer.

    Parts are parted by slashes. Layers of one group that do not follow one another make several rows, so that the rows
    keep the order of the net.
    """
    groups: List[Tuple[str, List[LayerInfo]]] = []
    for layer in own_layers(info):
        key = "/".join(layer.name.split("/")[:depth]) if depth else layer.name
        if depth and groups and groups[-1][0] == key:
            groups[-1][1].append(layer)
        else:
            groups.append((key, [layer]))
    return [_row(key, layers) for key, layers in groups]


def _row(key: str, layers: List[LayerInfo]) -> SummaryRow:
    shapes = [layer.top_shapes[0] for layer in layers if layer.top_shapes]
    return SummaryRow(
        key,
        layers[0].type if len(layers) == 1 else f"{len(layers)} layers",
        shapes[-1] if shapes else None,
        sum(layer.learnable for layer in layers),
        sum(layer.statistics for layer in layers),
        sum(layer.macs for layer in layers),
    )


def types_text(info: NetInfo) -> str:
    """Return how many layers of each type there are, most frequent first."""
    counts = Counter(layer.type for layer in own_layers(info))
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def summary_document(info: NetInfo) -> Dict[str, Any]:
    """Return everything as plain data. Blobs and bottoms are those of the file: Caffe's Split blobs are left out."""
    source = {top: layer.bottoms[0] for layer in info.layers if layer.inserted for top in layer.tops}
    return {
        "name": info.name,
        "phase": next(name for name, phase in PHASES.items() if phase == info.phase),
        "layers": [
            {
                "name": layer.name,
                "type": layer.type,
                "bottoms": [source.get(name, name) for name in layer.bottoms],
                "tops": list(layer.tops),
                "learnable": layer.learnable,
                "statistics": layer.statistics,
                "macs": layer.macs,
                "known": layer.known,
            }
            for layer in own_layers(info)
        ],
        "blobs": {name: shape and list(shape) for name, shape in info.blobs.items() if name not in source},
        "params": {
            layer.name: [list(param.shape) for param in layer.params] for layer in own_layers(info) if layer.params
        },
        "totals": {
            "layers": len(own_layers(info)),
            "splits": len(info.layers) - len(own_layers(info)),
            "learnable": info.learnable,
            "statistics": info.statistics,
            "macs": info.macs,
            "unknown": len(info.unknown),
        },
    }
