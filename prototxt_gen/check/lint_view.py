"""What lint rules look at: a net file, with a view for each state that it is used in.

The text is parsed in the dialect that has every field; which types the chosen dialect lacks is for a rule to say.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from prototxt_gen.core.data_layers import SOURCE_FIELDS
from prototxt_gen.core.dialects import DEFAULT_DIALECT, Dialect
from prototxt_gen.core.graph import TEST, TRAIN, Graph, Version, is_loss, layers_in, net_state
from prototxt_gen.core.locations import Locations
from prototxt_gen.core.locations import Place as TextPlace
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.spec.infer import Misfit, Place, Shape, rules
from prototxt_gen.spec.shapes import Unknown

NetParameter = DEFAULT_DIALECT.message("NetParameter")
# Layers of which only the database tells the channels, and how many it may hold.
DATABASES = ("Data", "WindowData")
LIKELY_CHANNELS = (1, 2, 4, 6)
PHASE_NAMES = {TRAIN: "TRAIN", TEST: "TEST"}


class Text:
    """A text with its name, and where each field stands in it, worked out when first asked."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file

    @cached_property
    def locations(self) -> Locations:
        return Locations(self.text)


class NetView:
    """A net in one state: its layers, the path of each in the text, the versions of its blobs, and all shapes.

    ``shapes`` maps the versions of blobs to shapes, as far as they can be told; ``misfits`` the numbers of layers that
    cannot be set up to the reason.
    """

    def __init__(self, file: NetFile, state: Any) -> None:
        self.file = file
        self.phase = state.phase
        self.dialect = file.dialect
        every = zip(file.paths, file.net.layer)
        both = [*_legacy_inputs(file.net), *((path, one) for path, one in every if any(layers_in(_Alone(one), state)))]
        self.paths = [path for path, _ in both]
        self.layers = [layer for _, layer in both]
        self.graph = Graph(self.layers)

    @property
    def phase_name(self) -> str:
        return PHASE_NAMES[self.phase]

    @cached_property
    def has_loss(self) -> bool:
        return any(is_loss(layer) for layer in self.layers)

    @property
    def training(self) -> bool:
        """True in phase TRAIN with a loss: the net learns."""
        return self.phase == TRAIN and self.has_loss

    def sources(self) -> List[Any]:
        """Return the layers that bring data in."""
        return [layer for layer in self.layers if not layer.bottom and layer.top and layer.type != "Parameter"]

    def line(self, index: int) -> int:
        """Return the line on which a layer begins."""
        return self.file.place(self.paths[index]).line

    def label(self, index: int) -> str:
        """Return how messages call a layer."""
        return f"layer '{self.layers[index].name}' ({self.layers[index].type})"

    def bottom_shapes(self, index: int) -> List[Optional[Shape]]:
        return [self.shapes.get(version) if version else None for version in self.graph.reads[index]]

    @cached_property
    def shapes(self) -> Dict[Version, Shape]:
        return self._inferred[0]

    @cached_property
    def misfits(self) -> Dict[int, Misfit]:
        return self._inferred[1]

    @cached_property
    def _inferred(self) -> Tuple[Dict[Version, Shape], Dict[int, Misfit]]:
        shapes, misfits = self._infer({})
        # How many channels a database holds stands in no prototxt: a fault counts when it is one for any likely number.
        for channels in LIKELY_CHANNELS:
            if not misfits:
                break
            others = self._infer(self._images_of(channels))[1]
            misfits = {index: misfit for index, misfit in misfits.items() if index in others}
        return shapes, misfits

    def _images_of(self, channels: int) -> Dict[str, Shape]:
        sizes = ((one, batch_of(one)[1], one.transform_param.crop_size) for one in self.layers if one.type in DATABASES)
        return {layer.top[0]: (batch, channels, crop, crop) for layer, batch, crop in sizes if layer.top and crop}

    def _infer(self, given: Dict[str, Shape]) -> Tuple[Dict[Version, Shape], Dict[int, Misfit]]:
        shapes: Dict[Version, Shape] = {}
        misfits: Dict[int, Misfit] = {}
        place = Place(self.phase, given)
        for index, layer in enumerate(self.layers):
            bottoms = [shapes.get(version) if version else None for version in self.graph.reads[index]]
            if layer.type not in rules or any(shape is None for shape in bottoms):
                continue
            try:
                made = rules.apply(layer, bottoms, place)
            except Misfit as misfit:
                # That only the data tell a size is no fault.
                if not isinstance(misfit, Unknown):
                    misfits[index] = misfit
                continue
            known = {version: tuple(top) for version, top in zip(self.graph.makes[index], made.tops) if top is not None}
            shapes.update(known)
        return shapes, misfits


class NetFile:
    """A net as a file holds it, with a view for each state it is looked at in.

    ``prefix`` is where the net stands in the text: empty, or a field of a solver such as ``net_param``. The layers of
    old files are upgraded; ``paths`` tells where each stands in the text, ``notes`` what was done.
    """

    def __init__(self, net: Any, text: Text, dialect: Dialect, prefix: str = "") -> None:
        self.net, self.paths, self.notes = _upgraded(net, text.file)
        self.file = text.file
        self.dialect = dialect
        self.views: List[NetView] = []
        self.trained_only = False  # phase TEST was meant, and no layer brings data there
        self._text = text
        self._prefix = prefix + "." if prefix else ""

    def place(self, path: str) -> TextPlace:
        """Return where a field of the net stands in the text."""
        return self._text.locations.find(self._prefix + path)

    def look(self, states: Sequence[Any]) -> NetFile:
        """Make the views of the given states."""
        self.views = [NetView(self, state) for state in states]
        return self

    def look_as_meant(self, phases: Optional[Sequence[int]]) -> NetFile:
        """Make the views of the given phases, or of those that the net is meant for.

        A net with a loss, or with layers for one phase only, is meant for both phases; any other for TEST. A phase in
        which no layer brings data is left out, and told by a rule of its own.
        """
        if phases is not None:
            return self.look([net_state(phase, self.net) for phase in phases])
        ruled = any(rule.HasField("phase") for one in self.net.layer for rule in (*one.include, *one.exclude))
        trained = ruled or any(is_loss(layer) for layer in self.net.layer)
        self.look([net_state(phase, self.net) for phase in ((TRAIN, TEST) if trained else (TEST,))])
        fed = [view for view in self.views if view.sources()]
        self.trained_only = [view.phase for view in fed] == [TRAIN]
        self.views = fed or self.views
        return self


def batch_of(layer: Any) -> Tuple[str, int]:
    """Return the field that holds a data layer's batch_size, and its value; an empty name for any other layer."""
    field = SOURCE_FIELDS.get(layer.type, "")
    return (field, getattr(layer, field).batch_size) if field else ("", 0)


def _upgraded(net: Any, where: str) -> Tuple[Any, List[str], Sequence[str]]:
    """Return a net with ``layer`` in place of the old ``layers``, the path of each layer in the text, and notes.

    Only old layers are upgraded: rules want to see the rest as it is written.
    """
    if not net.layers:
        return net, [f"layer[{i}]" for i in range(len(net.layer))], ()
    new, notes = upgrade_net(net, where)
    # Upgrading takes the padding layers of V0 away, and adds an Input layer in front for the input fields.
    paths = [f"layers[{i}]" for i, old in enumerate(net.layers) if old.layer.type != "padding"]
    paths = ["input[0]"] * (len(new.layer) - len(paths)) + paths
    return new, paths, notes


class _Alone(NamedTuple):
    """One layer as a net, to ask whether a state keeps it."""

    only: Any

    @property
    def layer(self) -> List[Any]:
        return [self.only]


def _legacy_inputs(net: Any) -> List[Tuple[str, Any]]:
    """Return the ``input`` fields of older files as Input layers, each with its path."""
    out = []
    for index, name in enumerate(net.input):
        layer = NetParameter().layer.add(name=name, type="Input", top=[name])
        sizes = net.input_dim[4 * index: 4 * index + 4]
        if index < len(net.input_shape):
            sizes = net.input_shape[index].dim
        if sizes:
            layer.input_param.shape.add(dim=sizes)
        out.append((f"input[{index}]", layer))
    return out
