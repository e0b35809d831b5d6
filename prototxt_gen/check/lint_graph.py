"""Lint rules on how layers are wired: who makes and reads which blob, names, types, parameter messages."""

from __future__ import annotations

from functools import lru_cache
from typing import Dict, FrozenSet, Iterable, Iterator, List, Set

from prototxt_gen.check.lint import FILE, NET, NOTE, WARNING, Hit, registry
from prototxt_gen.check.lint_view import NetFile, NetView
from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS, Dialect
from prototxt_gen.core.errors import did_you_mean
from prototxt_gen.core.graph import is_loss
from prototxt_gen.spec.infer import rules as layer_rules

MOST_GUESSES = 16
# Parameter messages that a type reads besides the one named after it.
_READS_TOO = {
    "Deconvolution": ("convolution_param",),
    "Im2col": ("convolution_param",),
    "LSTM": ("recurrent_param",),
    "LSTMUnit": ("recurrent_param",),
    "RNN": ("recurrent_param",),
    "SoftmaxWithLoss": ("softmax_param",),
    "InfogainLoss": ("softmax_param",),
    "SigmoidCrossEntropyLoss": ("sigmoid_param",),
    "Data": ("transform_param",),
    "ImageData": ("transform_param",),
    "MemoryData": ("transform_param",),
    "WindowData": ("transform_param",),
}
# Types of Caffe whose tops no shape rule can tell.
_UNRULED_TYPES = ("Python", "HDF5Output", "Filter", "LSTMUnit")
# Types that only pass their bottoms on: as the end of a deployed net they would be an oversight.
_PASSING_TYPES = ("BN", "BatchNorm", "Bias", "Concat", "Dropout", "ELU", "Eltwise", "Interp", "LRN", "PReLU", "Pooling",
                  "ReLU", "Scale", "Slice", "Split")


@registry.add(
    "PG101", "dangling-bottom", about=NET,
    checks="every bottom is the top of a layer before it",
    why="Caffe refuses the net: it has nothing to read there. Usually the name is misspelt, or the layer that made the "
        "blob was renamed, removed, or stands further down.",
    mend="Write the name of the blob that is meant, or move its layer up.",
    bad='bottom: "ave_pool_gather"',
    good='bottom: "ave_pool"',
)
def dangling_bottom(view: NetView) -> Iterator[Hit]:
    later = {name: index for index, layer in reversed(list(enumerate(view.layers))) for name in layer.top}
    made: Dict[str, None] = {}
    guesses = _Guesses()
    for index, layer in enumerate(view.layers):
        for position, name in enumerate(layer.bottom):
            if view.graph.reads[index][position] is not None:
                continue
            hint = "" if name in later else guesses.hint(name, made)
            if name in later:
                maker = later[name]
                hint = f"{view.label(maker)} on line {view.line(maker)} makes it: move that up"
            message = f"{view.label(index)} reads blob '{name}', which no layer before it makes"
            yield Hit(f"{view.paths[index]}.bottom[{position}]", message, hint, layer.name)
        made.update(dict.fromkeys(layer.top))


@registry.add(
    "PG102", "top-made-twice", about=NET,
    checks="no two layers make a top of the same name, except a layer that works in place",
    why="Caffe refuses the net: a name stands for one array. Only a top with the name of the bottom in the same "
        "position may reuse it.",
    mend="Give one of the tops a name of its own, and the layers that read it likewise.",
    bad='bottom: "data"  top: "conv"',
    good='bottom: "data"  top: "conv2"',
)
def top_made_twice(view: NetView) -> Iterator[Hit]:
    makers: Dict[str, int] = {}
    for index, made in enumerate(view.graph.makes):
        for version in made:
            name = version.blob
            if name in makers and version.in_place_of is None:
                first = makers[name]
                message = f"{view.label(index)} makes blob '{name}', which {view.label(first)} makes already"
                hint = f"the first is made on line {view.line(first)}; give this one another name"
                layer = view.layers[index].name
                yield Hit(f"{view.paths[index]}.top[{version.top}]", message, hint, layer)
            makers.setdefault(name, index)


@registry.add(
    "PG103", "unread-top", about=FILE, severity=WARNING,
    checks="what a layer makes is read, where it is not plainly a result",
    why="Caffe makes every unread top an output of the net and says nothing: the layers before it are computed for "
        "nothing, and in training they learn nothing from there. Often the reader names another blob by mistake. "
        "Results are left alone: losses, accuracies, the last layer, and in a net without a loss any layer that "
        "computes something new.",
    mend="Read the blob, remove the layer, or name the blob in a Silence layer.",
    bad='bottom: "conv1"  top: "conv1/relu"',
    good='bottom: "conv1"  top: "conv1"',
)
def unread_top(file: NetFile) -> Iterator[Hit]:
    read = {view.paths[version.maker] + f".top[{version.top}]"
            for view in file.views for version in view.graph.versions() if version.readers}
    told: Set[str] = set()
    for view in file.views:
        for index, layer in enumerate(view.layers):
            paths = [f"{view.paths[index]}.top[{position}]" for position in range(len(layer.top))]
            if _is_result(view, index) or (not layer.bottom and read.intersection(paths)):
                continue
            for name, path in zip(layer.top, paths):
                if path not in read and path not in told:
                    told.add(path)
                    message = f"nobody reads blob '{name}', which {view.label(index)} makes"
                    yield Hit(path, message, "read it, remove the layer, or silence the blob", layer.name)


def _is_result(view: NetView, index: int) -> bool:
    layer = view.layers[index]
    return (
        is_loss(layer)
        or index == len(view.layers) - 1
        or layer.type.endswith(("Loss", "Accuracy"))
        or layer.type in ("Python", "Parameter")
        or (not view.has_loss and layer.type not in _PASSING_TYPES)
    )


@registry.add(
    "PG104", "changed-in-place", about=NET,
    checks="a layer that works in place is the only reader of what it overwrites",
    why="Of two branches that read one blob, one overwrites it: the other meant the old values, and those further "
        "down get the new ones under the old name. Caffe refuses it, in words about a top 'produced by multiple "
        "sources', because the copies that it makes for two readers take the layer out of place. A shortcut that "
        "reads the blob after the change while nobody reads it before is what post-activation residual units do, "
        "and is no fault.",
    mend="Give the in-place layer a top of its own, and let the readers that mean the new values name that.",
    bad='bottom: "x"  top: "x"',
    good='bottom: "x"  top: "x/relu"',
)
def changed_in_place(view: NetView) -> Iterator[Hit]:
    for index, made in enumerate(view.graph.makes):
        for version in made:
            old = version.in_place_of
            others = [reader for reader, _ in old.readers if reader != index] if old else []
            if not others:
                continue
            first = others[0]
            message = (f"{view.label(index)} changes blob '{version.blob}' in place, and {view.label(first)} on line "
                       f"{view.line(first)} reads the old one")
            after = [view.label(reader) for reader, _ in version.readers if reader not in others]
            hint = "give the changed blob a name of its own"
            hint += f"; {after[0]} now reads the changed one" if after else ""
            yield Hit(f"{view.paths[index]}.top[{version.top}]", message, hint, view.layers[index].name)


@registry.add(
    "PG105", "layer-name-clash", about=NET,
    checks="no two layers of a phase have the same name",
    why="Weights are stored and found by the name of the layer: of two layers with one name, one gets the other's "
        "weights or none, and Caffe does not say so.",
    mend="Rename one of them.",
    bad='name: "conv"',
    good='name: "conv2"',
)
def layer_name_clash(view: NetView) -> Iterator[Hit]:
    first: Dict[str, int] = {}
    for index, layer in enumerate(view.layers):
        if layer.name in first:
            other = first[layer.name]
            message = f"{view.label(index)} has the name of a layer of type {view.layers[other].type}"
            yield Hit(f"{view.paths[index]}.name", message, f"the first stands on line {view.line(other)}", layer.name)
        first.setdefault(layer.name, index)


@registry.add(
    "PG106", "unknown-type", about=NET,
    checks="the dialect has every layer type that the net uses",
    why="Caffe stops at a type it does not know. Forks differ: stock Caffe has neither BN nor Interp.",
    mend="Correct the type, or choose the dialect of the Caffe that will run the net with --dialect.",
    bad='type: "Convoluton"',
    good='type: "Convolution"',
)
def unknown_type(view: NetView) -> Iterator[Hit]:
    known = types_of(view.dialect)
    guesses = _Guesses()
    for index, layer in enumerate(view.layers):
        # Input fields of old files, which every fork reads, stand here as Input layers.
        if layer.type in known or view.paths[index].startswith("input["):
            continue
        owners = [name for name, dialect in DIALECTS.items() if layer.type in types_of(dialect)]
        if owners:
            hint = f"it is known to the dialect{'s' if len(owners) > 1 else ''} {', '.join(owners)}"
        else:
            hint = guesses.hint(layer.type, sorted(known))
        what = f"has the type '{layer.type}', which dialect {view.dialect.name} lacks" if layer.type else "has no type"
        yield Hit(f"{view.paths[index]}.type", f"layer '{layer.name}' {what}", hint, layer.name)


@registry.add(
    "PG107", "foreign-parameter", about=NET, severity=WARNING,
    checks="a layer carries only parameter messages that its type reads",
    why="Caffe skips the others without a word, and the layer runs on defaults.",
    mend="Write the values into the message of the layer's type, or remove them.",
    bad='type: "Convolution"  pooling_param { kernel_size: 3 }',
    good='type: "Convolution"  convolution_param { num_output: 8 kernel_size: 3 }',
)
def foreign_parameter(view: NetView) -> Iterator[Hit]:
    for index, layer in enumerate(view.layers):
        if layer.type not in types_of(DEFAULT_DIALECT) or layer.type == "Python":
            continue
        readable = parameter_fields(layer.type)
        for field, _ in layer.ListFields():
            if not field.name.endswith("_param") or field.name in readable:
                continue
            own = sorted(readable - {"loss_param", "transform_param"})
            message = f"{view.label(index)} carries {field.name}, which its type does not read"
            hint = f"{layer.type} reads {', '.join(own)}" if own else f"{layer.type} has no parameters"
            yield Hit(f"{view.paths[index]}.{field.name}", message, hint, layer.name)


@registry.add(
    "PG108", "not-in-place", about=NET,
    checks="no layer overwrites its bottom that still needs it",
    why="A convolution, pooling or product that writes over what it reads computes on half-written data; some types "
        "Caffe refuses, others it lets through.",
    mend="Give the top a name of its own.",
    bad='type: "Convolution"  bottom: "x"  top: "x"',
    good='type: "Convolution"  bottom: "x"  top: "x/conv"',
)
def not_in_place(view: NetView) -> Iterator[Hit]:
    for index, layer in enumerate(view.layers):
        if layer.type not in _OUT_OF_PLACE_TYPES:
            continue
        for version in view.graph.makes[index]:
            if version.in_place_of is not None:
                message = f"{view.label(index)} writes over its bottom '{version.blob}', which it still reads"
                yield Hit(f"{view.paths[index]}.top[{version.top}]", message, "give the top another name", layer.name)


@registry.add(
    "PG109", "old-form", about=FILE, severity=NOTE,
    checks="the net is written in today's form",
    why="Caffe upgrades layers of files older than 2015 each time it reads them; most other tools do not know them.",
    mend="Let Caffe's upgrade_net_proto_text rewrite the file.",
    bad="layers { type: RELU",
    good="layer { type: \"ReLU\"",
)
def old_form(file: NetFile) -> Iterator[Hit]:
    if file.notes:
        yield Hit("layers[0]", f"the net is in an old form, and was {'; '.join(file.notes)}")


@registry.add(
    "PG110", "required-field", about=NET,
    checks="every field that the schema requires is written",
    why="Caffe does not parse the file. Only min and max of a Clip layer are required; all other fields have defaults.",
    mend="Write the field.",
    bad="clip_param { max: 6 }",
    good="clip_param { min: 0 max: 6 }",
)
def required_field(view: NetView) -> Iterator[Hit]:
    for index, layer in enumerate(view.layers):
        if not layer.IsInitialized():
            for field in layer.FindInitializationErrors():
                message = f"{view.label(index)} lacks {field}, which the schema requires"
                yield Hit(f"{view.paths[index]}.{field}", message, f"write {field.split('.')[-1]}: ...", layer.name)


_OUT_OF_PLACE_TYPES = ("ArgMax", "Convolution", "Crop", "Deconvolution", "Embed", "Flatten", "Im2col", "InnerProduct",
                       "Interp", "LRN", "LSTM", "Pooling", "RNN", "Reduction", "Reshape", "SPP", "Tile")


class _Guesses:
    """Hints at the name that was meant, for the first names asked only.

    Each costs a comparison with all the others: where hundreds of names are wrong, a few hints tell what happened.
    """

    def __init__(self) -> None:
        self._hints: Dict[str, str] = {}

    def hint(self, name: str, known: Iterable[str]) -> str:
        if name not in self._hints and len(self._hints) < MOST_GUESSES:
            self._hints[name] = did_you_mean(name, known)
        return self._hints.get(name, "")


@lru_cache(maxsize=None)
def _own_fields() -> Dict[str, str]:
    """Map each layer type to its field of LayerParameter; the message is named after the type."""
    fields = DEFAULT_DIALECT.message("LayerParameter").DESCRIPTOR.fields
    return {one.message_type.name[: -len("Parameter")]: one.name for one in fields if one.name.endswith("_param")}


@lru_cache(maxsize=None)
def parameter_fields(type_name: str) -> FrozenSet[str]:
    """Return the parameter messages that a layer type reads."""
    fields: List[str] = [*_READS_TOO.get(type_name, ())]
    if type_name in _own_fields():
        fields.append(_own_fields()[type_name])
    if type_name.endswith("Loss"):
        fields.append("loss_param")
    return frozenset(fields)


@lru_cache(maxsize=None)
def _types_by_name(dialect_name: str) -> FrozenSet[str]:
    dialect = DIALECTS[dialect_name]
    every = {*layer_rules.types(), *_UNRULED_TYPES}
    return frozenset(one for one in every if not parameter_fields(one).intersection(dialect.lacks))


def types_of(dialect: Dialect) -> FrozenSet[str]:
    """Return the layer types of a dialect: those of this project that need no field which the dialect lacks."""
    return _types_by_name(dialect.name)
