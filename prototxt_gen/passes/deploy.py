"""train-to-deploy: the net that tells what a training net learned.

On the layers L of the state TEST (with stage ``deploy``, where rules name one):

    target       a top of a data layer from which no learned layer follows, and a loss or an Accuracy does
    measure      a loss, an Accuracy, or a layer that depends on a target
    deploy(L) =  one Input layer for the other data tops that something reads
                 + L without data layers, without measures, and without layers that only led to these
                 + Softmax in place of SoftmaxWithLoss and InfogainLoss, Sigmoid of SigmoidCrossEntropyLoss
    and no fillers, learning rates, loss weights, rules of phases, or frozen BN (its TEST form is the same)

Layers keep their names, so that weights fit. The way back is ``passes.training``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Mapping, Optional, Sequence, Set, Tuple

from prototxt_gen.core.data_layers import transform_of
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, Graph, Version, layers_in, net_state
from prototxt_gen.core.io import Model
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.passes.base import PassResult, registry
from prototxt_gen.passes.inputs import resize_input
from prototxt_gen.passes.phases import editable, surviving_blobs
from prototxt_gen.spec.infer import infer
from prototxt_gen.spec.shapes import Shape, format_shape

# Their first top is the image, the second its label.
LABELLED = {"AugmentedData", "Data", "ImageData", "WindowData", "MemoryData"}
DATA = LABELLED | {"HDF5Data", "DummyData"}
LEARNED_TYPES = {"BN", "BatchNorm", "Bias", "Convolution", "Deconvolution", "Embed", "InnerProduct", "LSTM", "PReLU",
                 "RNN", "Scale"}
PREDICTION = {"SoftmaxWithLoss": "Softmax", "InfogainLoss": "Softmax", "SigmoidCrossEntropyLoss": "Sigmoid"}
DEPLOY_STAGE = "deploy"


@registry.add("train-to-deploy")
def train_to_deploy(
    model: Model, *, input_shapes: Optional[Mapping[str, Shape]] = None
) -> PassResult:
    """Make a net for use of one for training: an Input layer for data, probabilities for losses.

    Inputs hold one item of the size that the data layer's fields tell. Those of ``input_shapes`` have these shapes, as
    resize-input gives them. Raises Error where neither tells a shape, and where nothing would be left.
    """
    given = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    net, notes = upgrade_net(model.net)
    plan = _Plan(net)
    new, edits = editable(net), list(notes)
    for name in ("layer", "state"):
        new.ClearField(name)
    edits.extend(_add_inputs(new, plan, model, given))
    names = {*(layer.name for layer in plan.graph.layers), *(one.blob for one in plan.graph.versions())}
    main = max(plan.predictions, key=lambda index: (_weight(plan.graph.layers[index]), index), default=None)
    for index, layer in enumerate(plan.graph.layers):
        if index in plan.predictions:
            scores = layer.bottom[0]
            top = ("cls" if scores == "classifier" else "prob") if index == main else f"{scores}/prob"
            new.layer.append(_prediction(layer, f"{scores}/prob" if top in names else top))
            edits.append(f"layer '{layer.name}': {new.layer[-1].type} '{new.layer[-1].name}' in its place")
        elif index in plan.kept:
            target = new.layer.add()
            target.CopyFrom(layer)
            if layer.type == "Input":
                _keep_tops(target, plan.live_tops(index))
            elif layer.type == "Silence":
                target.bottom[:] = [one.blob for one in plan.graph.reads[index] if plan.has(one)]
            taken = _strip(target)
            if taken:
                edits.append(f"layer '{layer.name}': without {', '.join(taken)}")
        elif index not in plan.sources:
            edits.append(f"layer '{layer.name}': removed")
    if not plan.kept and not plan.predictions:
        raise Error("nothing would be left of the net", hint="every layer of it leads to a loss or an accuracy only")
    blobs, dropped = surviving_blobs(model.blobs, new)
    # Another size than the training's may ask for another last pooling.
    sized = resize_input(replace(model, net=new, blobs=blobs), input_shapes=given) if given else None
    deployed = sized.model if sized else replace(model, net=new, blobs=blobs)
    return PassResult(deployed, (*edits, *dropped, *(sized.edits if sized else ())),
                      notes=_left_to_the_user(plan))


class _Plan:
    """What train-to-deploy keeps of a net.

    ``graph`` holds the layers of the state TEST, data layers of other states in front where TEST has none of its own.
    ``kept``, ``sources`` (data layers) and ``predictions`` (losses that give way to a Softmax or Sigmoid) are indices;
    ``inputs`` are the data tops that stay, ``live`` all versions that stay.
    """

    def __init__(self, net: Any) -> None:
        rules = [rule for layer in net.layer for rule in (*layer.include, *layer.exclude)]
        stages = [DEPLOY_STAGE] if any(DEPLOY_STAGE in (*rule.stage, *rule.not_stage) for rule in rules) else []
        layers = list(layers_in(net, net_state(TEST, net, stages)))
        self.graph = graph = Graph([*_missing_data(net, layers), *layers])
        self.sources = {index for index, layer in enumerate(graph.layers) if is_source(layer)}
        dummies = {index for index in self.sources if graph.layers[index].type == "DummyData"}
        if dummies != self.sources or any(layer.type == "Input" for layer in layers):
            self.sources -= dummies  # constants beside the data
        measures = self._measures()
        self.predictions: Set[int] = set()
        self.live: Set[Version] = set()
        self.kept: Set[int] = set()
        learned = self._learned()
        for index in reversed(range(len(graph.layers))):
            layer, reads = graph.layers[index], graph.reads[index]
            if index in measures:
                if layer.type in PREDICTION and reads and not self._has_prediction(index):
                    self.predictions.add(index)
                    self.live.add(reads[0])
                self.live.update(one for one in reads if one in learned)
            elif index not in self.sources and layer.type not in ("Silence", "Input"):
                outputs = [one for one in graph.makes[index] if not one.readers]
                if outputs or not layer.top or any(one in self.live for one in graph.makes[index]):
                    self.kept.add(index)
                    self.live.update(outputs)
                    self.live.update(reads)
        for index, layer in enumerate(graph.layers):
            if layer.type == "Input":
                self.live.update(one for one in graph.makes[index] if not one.readers)
                self.kept.update([index] * any(one in self.live for one in graph.makes[index]))
            if layer.type == "Silence" and any(self.has(one) for one in graph.reads[index]):
                self.kept.add(index)
        self.inputs = [one for index in sorted(self.sources) for one in graph.makes[index] if one in self.live]

    def has(self, version: Version) -> bool:
        """True when the net that is left makes this version."""
        return version in self.live if version.maker in self.sources else version.maker in self.kept

    def live_tops(self, index: int) -> List[int]:
        """Return the positions of the tops of a layer that stay."""
        return [one.top for one in self.graph.makes[index] if one in self.live]

    def _measures(self) -> Set[int]:
        """Return the losses, the Accuracy layers, and all that depends on a target."""
        graph = self.graph
        measures = {index for index, layer in enumerate(graph.layers) if is_measure(layer)}
        to_learned: Set[Version] = set()
        to_measure: Set[Version] = set()
        for index in reversed(range(len(graph.layers))):
            layer, makes = graph.layers[index], graph.makes[index]
            if layer.type in LEARNED_TYPES or any(one in to_learned for one in makes):
                to_learned.update(graph.reads[index])
            if index in measures or any(one in to_measure for one in makes):
                to_measure.update(graph.reads[index])
        targets: Set[Version] = set()
        for index, layer in enumerate(graph.layers):
            if is_source(layer) or layer.type == "Input":
                for one in graph.makes[index]:
                    labelled = layer.type in LABELLED
                    is_label = labelled and one.top > 0 or not labelled and one in to_measure
                    if is_label and one not in to_learned:
                        targets.add(one)
            elif any(one in targets for one in graph.reads[index]):
                measures.add(index)
                targets.update(graph.makes[index])
        return measures

    def _learned(self) -> Set[Version]:
        """Return the versions that depend on a learned layer."""
        learned: Set[Version] = set()
        for index, layer in enumerate(self.graph.layers):
            if layer.type in LEARNED_TYPES or any(one in learned for one in self.graph.reads[index]):
                learned.update(self.graph.makes[index])
        return learned

    def _has_prediction(self, loss: int) -> bool:
        """True when the net has the probabilities of a loss already, or they are made of an earlier loss's scores."""
        layer, scores = self.graph.layers[loss], self.graph.reads[loss][0]
        wanted = PREDICTION[layer.type]
        readers = [(index, self.graph.layers[index].type) for index, position in scores.readers if position == 0]
        return any(kind == wanted or (index in self.predictions and PREDICTION[kind] == wanted)
                   for index, kind in readers)


def _missing_data(net: Any, layers: Sequence[Any]) -> List[Any]:
    """Return data layers of other states for the blobs that no layer of this state makes."""
    made, missing = set(net.input), {}
    for layer in layers:
        missing.update((name, layer) for name in layer.bottom if name not in made)
        made.update(layer.top)
    found = []
    for layer in net.layer:
        if is_source(layer) and any(name in missing for name in layer.top):
            found.append(layer)
            for name in layer.top:
                missing.pop(name, None)
    for name, layer in missing.items():
        raise Error(f"it reads blob '{name}' in TEST, which no layer makes", f"layer '{layer.name}'")
    return found


def is_source(layer: Any) -> bool:
    """True for a data layer."""
    return layer.type in DATA or (layer.type == "Python" and not layer.bottom)


def is_measure(layer: Any) -> bool:
    """True for a layer that tells how good a net is."""
    own = layer.type == "Python" and any(layer.loss_weight)
    return own or layer.type == "Accuracy" or layer.type.endswith("Loss")


def _weight(layer: Any) -> float:
    return layer.loss_weight[0] if layer.loss_weight else 1.0


def _add_inputs(new: Any, plan: _Plan, model: Model, given: Mapping[str, Shape]) -> List[str]:
    """Add the Input layer for the data tops that stay, if any do; return what was done."""
    if not plan.inputs:
        return []
    edits = []
    layer = new.layer.add(name=plan.inputs[0].blob, type="Input", top=[one.blob for one in plan.inputs])
    for version in plan.inputs:
        source, name = plan.graph.layers[version.maker], version.blob
        shape = _item_shape(new, source, version.top, model, plan.graph) or given.get(name)
        if shape is None:
            raise Error(f"the file does not tell the size of '{name}'", f"layer '{source.name}'",
                        f"--input {name}=1,3,224,224 tells the shape")
        layer.input_param.shape.add(dim=shape)
        edits.append(f"layer '{source.name}': input '{name}' of {format_shape(shape)}")
    return edits


def _left_to_the_user(plan: _Plan) -> Tuple[str, ...]:
    """Tell what the data layers did to images, and the deployed net does not."""
    notes = []
    for index in dict.fromkeys(version.maker for version in plan.inputs):
        source = plan.graph.layers[index]
        transform = transform_of(source)
        means = ", ".join(f"{value:g}" for value in transform.mean_value)
        does = [f"mean_value {means}"] if means else []
        does += [f"mean_file '{transform.mean_file}'"] if transform.HasField("mean_file") else []
        does += [f"scale {transform.scale:g}"] if transform.HasField("scale") else []
        if does:
            notes.append(f"give the net its images as layer '{source.name}' did: {', '.join(does)}")
    return tuple(notes)


def _item_shape(net: Any, source: Any, top: int, model: Model, graph: Graph) -> Optional[Shape]:
    """Return the shape of one item of a data layer's top, None where the file does not tell it."""
    alone = type(net)(layer=[source])
    del alone.layer[0].include[:], alone.layer[0].exclude[:]
    shape = infer(alone, TEST, allow_unknown=True).blobs[source.top[top]]
    if shape is not None and source.type in ("Data", "WindowData") and top == 0:
        return (1, _channels(source, model, graph), *shape[2:])
    return shape and (1, *shape[1:])


def _channels(source: Any, model: Model, graph: Graph) -> int:
    """Return the channels of a data layer's images: what the first weights or the mean tell, else 3."""
    for layer in graph.layers:
        if layer.type == "Convolution" and source.top[0] in layer.bottom and layer.name in model.blobs:
            return model.blobs[layer.name][0].shape[1] * layer.convolution_param.group
    if source.transform_param.force_gray:
        return 1
    means = len(source.transform_param.mean_value)
    return means if means > 1 else 3


def _prediction(loss: Any, name: str) -> Any:
    layer = type(loss)(name=name, type=PREDICTION[loss.type], bottom=loss.bottom[:1], top=[name])
    if loss.type == "SoftmaxWithLoss" and loss.HasField("softmax_param"):
        layer.softmax_param.CopyFrom(loss.softmax_param)
    elif loss.type == "InfogainLoss" and loss.infogain_loss_param.HasField("axis"):
        layer.softmax_param.axis = loss.infogain_loss_param.axis
    return layer


def _keep_tops(layer: Any, positions: Sequence[int]) -> None:
    shapes = [layer.input_param.shape[index] for index in positions] if len(layer.input_param.shape) > 1 else None
    layer.top[:] = [layer.top[index] for index in positions]
    if shapes is not None:
        copies = [type(one)(dim=one.dim) for one in shapes]
        del layer.input_param.shape[:]
        layer.input_param.shape.extend(copies)


def _strip(layer: Any) -> List[str]:
    """Take out what only training reads; return the names of what was there."""
    taken = [name for name in ("include", "exclude", "loss_weight", "propagate_down") if getattr(layer, name)]
    for name in (*taken, "phase"):
        layer.ClearField(name)
    # A block that only says what holds without it is no setting of training.
    if any(spec.lr_mult != 1 or spec.decay_mult != 1 for spec in layer.param):
        taken.append("lr_mult and decay_mult")
        for spec in layer.param:
            spec.ClearField("lr_mult")
            spec.ClearField("decay_mult")
        while layer.param and not layer.param[-1].ListFields():
            del layer.param[-1]
    for field, message in layer.ListFields():
        if field.message_type is None or not field.name.endswith("_param") or field.name == "dummy_data_param":
            continue
        fields = [inner.name for inner, _ in message.ListFields()
                  if inner.message_type is not None and inner.message_type.name == "FillerParameter"]
        if layer.type == "BN" and field.name == "bn_param" and message.HasField("frozen"):
            fields.append("frozen")
        for name in fields:
            message.ClearField(name)
        if fields and not message.ListFields():
            layer.ClearField(field.name)
        taken.extend(fields)
    return taken
