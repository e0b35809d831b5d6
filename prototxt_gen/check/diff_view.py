"""A net in one state as ``diff`` sees it: layers joined by the arrays they read, whatever the blobs are called.

Split layers are looked through. A layer that works in place reads and makes what its twin with a top of its own does,
unless another layer reads the array after it was overwritten: Split, Reshape and Flatten share one array, and a reader
sees what stands in it when its turn comes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

from prototxt_gen.check.diff_fields import LOSSES, Fields, layer_fields, plain
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import Graph, Version
from prototxt_gen.spec.infer import LayerInfo, NetInfo, Shape, infer

# What a bottom reads: (unit, top), or (None, blob name) where nothing makes it.
Source = Tuple[Any, Any]
_SHARING = {"Split", "Flatten", "Reshape"}


@dataclass(eq=False)
class Unit:
    """One layer. An Input layer is a unit for each of its tops, found by the blob's name as programs find it."""

    key: Tuple[str, ...]
    name: str
    type: str
    tops: Tuple[str, ...]
    fields: Fields
    sources: List[Source]
    shares: Dict[int, Tuple["Unit", int]]  # parameter blob -> the unit and blob that owns it
    in_place: bool
    info: Optional[LayerInfo] = field(repr=False)
    position: int = 0  # the layer's number in the file
    input_top: int = 0  # which top of the Input layer

    def top_shape(self, top: int) -> Optional[Shape]:
        """Shape of a top, None where unknown."""
        return self.info.top_shapes[top + self.input_top] if self.info else None


@dataclass(frozen=True)
class View:
    """The units of a net in one state, in file order; why shapes are not known, if they are not."""

    units: List[Unit]
    info: Optional[NetInfo]
    trouble: str


def view(
    net: Any, kept: Sequence[int], phase: int, given: Dict[str, Shape], stages: Tuple[str, ...], level: int
) -> View:
    """Look at the layers ``kept`` of a net, which are those of the state that phase, stages and level give."""
    info, trouble = None, ""
    try:
        info = infer(net, phase, given=given, stages=stages, level=level, allow_unknown=True)
    except Error as error:
        trouble = error.what
    layers = [net.layer[index] for index in kept]
    infos = [one for one in info.layers if one.type != "Split"] if info else []
    graph = Graph(layers)
    sources, weights = _trace(graph)
    specs, owners = _param_specs(layers)
    units: List[Unit] = []
    at: Dict[Tuple[int, int], Source] = {}
    by_layer: Dict[int, Unit] = {}
    seen: Dict[Tuple[str, ...], int] = {}
    rest = iter(infos)
    for index, layer in enumerate(layers):
        if layer.type == "Split":
            continue
        layer_info = next(rest, None)
        own = layer_fields(layer, phase)
        own.update(specs[index])
        if weights[index]:
            own["loss_weight"] = weights[index] if len(weights[index]) > 1 else weights[index][0]
        reads = [at.get(source, (None, source[1])) if source[0] is not None else source for source in sources[index]]
        shares = {blob: (by_layer[owner], other) for blob, (owner, other) in owners[index].items() if owner in by_layer}
        parts = _input_parts(layer, own) if layer.type == "Input" and layer.top else [(layer.name, own, layer.top)]
        for number, (name, fields, tops) in enumerate(parts):
            key = ("input", tops[0]) if layer.type == "Input" and tops else ("layer", name)
            seen[key] = seen.get(key, 0) + 1
            unit = Unit((*key, str(seen[key])), name, layer.type, tuple(tops), fields, reads, shares,
                        any(one.in_place_of for one in graph.makes[index]), layer_info, kept[index],
                        number if layer.type == "Input" else 0)
            units.append(unit)
            by_layer.setdefault(index, unit)
            for top in range(len(tops)):
                at[index, top + unit.input_top] = (unit, top)
    return View(units, info, trouble)


def _input_parts(layer: Any, fields: Fields) -> List[Tuple[str, Fields, List[str]]]:
    """Take an Input layer apart: a top each, with its own shape."""
    parts = []
    shapes = layer.input_param.shape
    others = {path: value for path, value in fields.items() if not path.startswith("input_param.shape")}
    for index, top in enumerate(layer.top):
        own = dict(others)
        if len(shapes) == 1 or index < len(shapes):
            own["shape"] = tuple(shapes[0 if len(shapes) == 1 else index].dim)
        parts.append((layer.name if len(layer.top) == 1 else top, own, [top]))
    return parts


@dataclass(eq=False)
class _Storage:
    """One array in memory: how often it was overwritten in place, and by which top last."""

    writes: int = 0
    last: Tuple[int, int] = (0, 0)


def _trace(graph: Graph) -> Tuple[List[List[Source]], List[Tuple[Any, ...]]]:
    """Follow each bottom to the top whose values it reads; give each layer the loss weights of its tops."""
    storage: Dict[Version, _Storage] = {}
    made_by: Dict[Version, Tuple[int, int]] = {}
    stamp: Dict[Version, int] = {}
    weights: Dict[Tuple[int, int], float] = {}
    sources: List[List[Source]] = []
    for index, layer in enumerate(graph.layers):
        found: List[Source] = []
        for name, version in zip(layer.bottom, graph.reads[index]):
            if version is None:
                found.append((None, name))
                continue
            array = storage[version]
            found.append(made_by[version] if array.writes == stamp[version] else array.last)
        sources.append(found)
        for version in graph.makes[index]:
            key: Any = (index, version.top)
            base = version.in_place_of
            shared = graph.reads[index][0] if layer.type in _SHARING and graph.reads[index] else None
            if base is not None and layer.type not in _SHARING:
                array = storage[base]
                array.writes, array.last = array.writes + 1, key
            else:
                array = storage[shared] if shared is not None else _Storage()
            if layer.type == "Split" and found:
                key = found[0]
            storage[version], made_by[version], stamp[version] = array, key, array.writes
            weights[key] = weights.get(key, 0) + _loss_weight(layer, version.top)
    by_layer = []
    for index, layer in enumerate(graph.layers):
        own = [weights[index, top] for top in range(len(layer.top))] if layer.type != "Split" else []
        if layer.type in LOSSES and not layer.top:
            own = [_loss_weight(layer, 0)]  # Caffe gives it a top
        while own and not own[-1]:
            own.pop()
        by_layer.append(tuple(map(plain, own)))
    return sources, by_layer


def _loss_weight(layer: Any, top: int) -> float:
    if layer.loss_weight:
        return layer.loss_weight[top] if top < len(layer.loss_weight) else 0
    return 1 if layer.type in LOSSES and top == 0 else 0


def _param_specs(layers: Sequence[Any]) -> Tuple[List[Fields], List[Dict[int, Tuple[int, int]]]]:
    """Settle each layer's ``param`` blocks as Net::AppendParam does, and find the owners of shared parameters.

    What counts for a shared parameter is the first lr_mult and decay_mult that any of its layers sets. BN and BatchNorm
    set those of their statistics to 0 where the file does not.
    """
    first: Dict[str, Tuple[int, int]] = {}
    settled: Dict[Tuple[str, str], float] = {}
    uses: Dict[str, int] = {}
    for index, layer in enumerate(layers):
        for blob, spec in enumerate(layer.param):
            if spec.name:
                first.setdefault(spec.name, (index, blob))
                uses[spec.name] = uses.get(spec.name, 0) + 1
                for name in ("lr_mult", "decay_mult"):
                    if spec.HasField(name):
                        settled.setdefault((spec.name, name), getattr(spec, name))
    all_fields: List[Fields] = []
    all_owners: List[Dict[int, Tuple[int, int]]] = []
    for index, layer in enumerate(layers):
        fields: Fields = {}
        owners: Dict[int, Tuple[int, int]] = {}
        statistics = {"BN": (2, 3), "BatchNorm": (0, 1, 2)}.get(layer.type, ())
        for blob in range(max(len(layer.param), *(one + 1 for one in statistics), 0)):
            spec = layer.param[blob] if blob < len(layer.param) else None
            values = {"lr_mult": 1.0, "decay_mult": 1.0}
            if spec is not None:
                values = {name: settled.get((spec.name, name), getattr(spec, name)) for name in values}
            if blob in statistics and (spec is None or (layer.type == "BN" and not spec.HasField("lr_mult"))):
                values = {"lr_mult": 0.0, "decay_mult": 0.0}
            if layer.type == "BatchNorm" and not values["lr_mult"]:
                values["decay_mult"] = 0.0  # its own setting leaves 1, and without a rate nothing decays
            for name, value in values.items():
                if value != 1:
                    fields[f"param[{blob}].{name}"] = plain(value)
            if spec is not None and spec.name and first[spec.name] != (index, blob):
                owners[blob] = first[spec.name]
                if spec.share_mode == spec.PERMISSIVE:
                    fields[f"param[{blob}].share_mode"] = "PERMISSIVE"
        all_fields.append(fields)
        all_owners.append(owners)
    return all_fields, all_owners
