"""Read-only views of a net as Caffe sees it: which layers a state keeps, who makes and reads each version of a blob.

A blob's name may stand for several arrays in turn: a layer that works in place, or simply writes the name again, makes
a new version, and a bottom always means the newest version made before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from prototxt_gen.core.dialects import DEFAULT_DIALECT

TRAIN, TEST = 0, 1  # the schema's enum Phase
PHASES = {"train": TRAIN, "test": TEST}


def net_state(phase: int, net: Any = None, stages: Iterable[str] = (), level: int = 0) -> Any:
    """Return the NetState in which a net is looked at: the file's own ``state`` with phase, stages and level added."""
    state = DEFAULT_DIALECT.message("NetState")()
    if net is not None and net.HasField("state"):
        state.level = net.state.level
        state.stage.extend(net.state.stage)
    state.phase = phase
    state.stage.extend(stages)
    if level:
        state.level = level
    return state


def layers_in(net: Any, state: Any) -> Iterator[Any]:
    """Yield the layers that a net has in a state, as Caffe's Net::FilterNet keeps them."""
    for layer in net.layer:
        if layer.include:
            if any(meets(state, rule) for rule in layer.include):
                yield layer
        elif not any(meets(state, rule) for rule in layer.exclude):
            yield layer


def meets(state: Any, rule: Any) -> bool:
    """True when a NetState satisfies every condition of a NetStateRule."""
    return not (
        (rule.HasField("phase") and rule.phase != state.phase)
        or (rule.HasField("min_level") and state.level < rule.min_level)
        or (rule.HasField("max_level") and state.level > rule.max_level)
        or any(stage not in state.stage for stage in rule.stage)
        or any(stage in state.stage for stage in rule.not_stage)
    )


@dataclass(eq=False)
class Version:
    """One array that a blob's name stands for: made by top ``top`` of ``maker``, read by (layer, bottom) pairs."""

    blob: str
    maker: int  # index into Graph.layers
    top: int
    readers: List[Tuple[int, int]] = field(default_factory=list)
    in_place_of: Optional[Version] = None  # the version whose array this one overwrites


class Graph:
    """The layers of a net in one state, and the versions of its blobs.

    ``reads[i]`` holds a Version for each bottom of layer i, None where nothing makes it; ``makes[i]`` one for each top.
    """

    def __init__(self, layers: Iterable[Any]) -> None:
        self.layers = list(layers)
        self.reads: List[List[Optional[Version]]] = []
        self.makes: List[List[Version]] = []
        self.newest: Dict[str, Version] = {}  # after the last layer
        for index, layer in enumerate(self.layers):
            read = [self.newest.get(name) for name in layer.bottom]
            for position, version in enumerate(read):
                if version is not None:
                    version.readers.append((index, position))
            made = []
            for position, name in enumerate(layer.top):
                version = Version(name, index, position)
                # Caffe works in place where a top has the name of the bottom in the same position.
                if position < len(layer.bottom) and layer.bottom[position] == name:
                    version.in_place_of = read[position]
                made.append(version)
            for version in made:
                self.newest[version.blob] = version
            self.reads.append(read)
            self.makes.append(made)

    def versions(self) -> Iterator[Version]:
        """Yield all versions in the order they are made."""
        for made in self.makes:
            yield from made


def shares_memory(layer: Any, diff: bool = False) -> bool:
    """True where a layer's tops are no copies: in Caffe they stand in the memory of its first bottom.

    Their differences, too, but for those of a Split: ``diff`` asks about them.
    """
    alone = len(layer.bottom) == len(layer.top) == 1
    if layer.type == "Split":
        return not diff
    return layer.type in ("Flatten", "Reshape") or (alone and layer.type in ("Concat", "Slice"))


def loss_weights(layer: Any) -> List[float]:
    """Return the weight of each of a layer's tops in what is minimised."""
    given = list(layer.loss_weight) or [1.0] * layer.type.endswith("Loss")
    return [*given, *[0.0] * (len(layer.top) - len(given))]


def is_loss(layer: Any) -> bool:
    """True for a layer that adds to what is minimised."""
    return any(loss_weights(layer))


def shared_writes(layers: Iterable[Any]) -> Iterator[Tuple[Any, str]]:
    """Yield each layer that works in place on memory that stands under other names too, with a name that is read."""
    graph = Graph(layers)
    owners: Dict[str, str] = {}
    current: Dict[str, Version] = {}
    for index, layer in enumerate(graph.layers):
        for name in {*layer.top} & {*layer.bottom}:
            owner = owners.get(name, name)
            for other, version in current.items():
                shares = other != name and owners.get(other, other) == owner
                if shares and any(reader > index for reader, _ in version.readers):
                    yield layer, other
        shares = shares_memory(layer)
        for version in graph.makes[index]:
            current[version.blob] = version
            if version.in_place_of is None:
                source = layer.bottom[0] if shares and layer.bottom else version.blob
                owners[version.blob] = owners.get(source, source)


def insert_splits(layers: Iterable[Any]) -> List[Any]:
    """Return the layers as Caffe runs them, with its Split layers where an array is read more than once.

    A loss weight on a top counts as one more reader, and is moved to the Split. Names are Caffe's own:
    ``<blob>_<layer>_<top>_split`` and ``..._split_<n>``.
    """
    graph = Graph(layers)
    layer_class = DEFAULT_DIALECT.message("LayerParameter")
    copies: List[Any] = []
    for layer in graph.layers:
        copy = type(layer)()
        copy.CopyFrom(layer)
        copies.append(copy)
    out: List[Any] = []
    for index, copy in enumerate(copies):
        out.append(copy)
        for version in graph.makes[index]:
            weights = graph.layers[index].loss_weight
            weight = weights[version.top] if version.top < len(weights) else 0
            uses = len(version.readers) + bool(weight)
            if uses < 2:
                continue
            name = f"{version.blob}_{copy.name}_{version.top}_split"
            split = layer_class(name=name, type="Split", bottom=[version.blob])
            split.top.extend(f"{name}_{i}" for i in range(uses))
            first = 0
            if weight:
                split.loss_weight.extend([weight] + [0] * (uses - 1))
                del copy.loss_weight[:]
                first = 1
            for use, (reader, position) in enumerate(version.readers, first):
                copies[reader].bottom[position] = split.top[use]
            out.append(split)
    return out
