"""deploy-to-train: a net for training, of one that classifies.

On a net D with one input, one output and one label for each item:

    train(D) =  Data layers of TRAIN and TEST + D without Input and last Softmax + loss and accuracies
    fillers     msra where the net has rectifiers, else xavier; constant 0 for biases, constant 1 for BN's slope
    BN          not frozen, learning rates 1, 1, 0, 0
    BatchNorm   the batch's statistics in TRAIN

The ends are the builder's own (``nets.builder``), so that the authors' deploy files become the training nets that it
builds. Layers keep their names, so that weights fit. The way back is ``passes.deploy``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple, Union

from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN, Graph, Version
from prototxt_gen.core.io import Model
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.nets.blocks import CONSTANT_ONE, CONSTANT_ZERO, FIXED, LEARNED, MSRA
from prototxt_gen.nets.builder import DataEnds, add_loss, data_layer, read_mean, with_test_data
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.base import PassResult, registry
from prototxt_gen.passes.deploy import is_measure, is_source
from prototxt_gen.passes.phases import editable, surviving_blobs
from prototxt_gen.spec import netspec
from prototxt_gen.spec.infer import infer
from prototxt_gen.spec.shapes import Shape, count, format_shape

RECTIFIERS = {"ReLU", "PReLU", "ELU"}
FILLED = {"Convolution": "convolution_param", "Deconvolution": "convolution_param", "Embed": "embed_param",
          "InnerProduct": "inner_product_param", "LSTM": "recurrent_param", "RNN": "recurrent_param"}
XAVIER = dict(type="xavier")  # Glorot and Bengio 2010: uniform, variance 1 / fan-in


@registry.add("deploy-to-train")
def deploy_to_train(
    model: Model,
    *,
    source: str = DataEnds.source,
    test_source: str = DataEnds.test_source,
    mean: Union[Tuple[float, ...], str, None] = None,
    batch_size: Optional[int] = None,
) -> PassResult:
    """Make a net for training of one that classifies: data layers, loss, accuracies, fillers, BN that learns.

    ``mean`` is a value per channel, a mean file or text as users write it (``nets.builder.read_mean``); without it, and
    without ``batch_size``, those of the network of that name are taken, where the net is one of ours.
    Raises Error for a net that has several inputs or outputs, or does not give each square image one list of scores.
    """
    net, notes = upgrade_net(model.net)
    ours = next((one for one in NETWORKS.values() if net.name in (one.name, one.published_name)), None)
    graph, edits = Graph(net.layer), list(notes)
    image, scores, softmax = _ends(graph)
    shapes = infer(net, TEST, allow_unknown=True).blobs
    size, channels, classes = _sizes(image, shapes.get(image), scores.blob, shapes.get(scores.blob))
    config = replace(ours or NETWORKS["attention56"], input_size=size, channels=channels)
    if batch_size is not None:
        config = replace(config, batch_size=batch_size)
    if isinstance(mean, str):
        mean = read_mean(mean, channels)
    elif mean is None and ours:
        mean = ours.mean
    elif mean is None:
        edits.append("no mean is subtracted: the file tells none")
    data = DataEnds(source, test_source, mean)

    n = netspec.NetSpec()
    n.data, n.label = data_layer(config, data, netspec, test=False)
    n.scores = netspec.layers.Input()
    add_loss(n, n.scores, classes, netspec)
    ends = with_test_data(n.to_proto(), config, data, netspec)
    # The numbers of all fields in these layers are the same in every dialect.
    ends = type(net).FromString(ends.SerializeToString())
    own = {"data": image, "scores": scores.blob}
    for layer in ends.layer:
        for names in (layer.bottom, layer.top):
            names[:] = [own.get(name, name) for name in names]
        layer.name = image if layer.type == "Data" else layer.name
        if softmax is not None and layer.type == "SoftmaxWithLoss" and softmax.HasField("softmax_param"):
            layer.softmax_param.CopyFrom(softmax.softmax_param)
    added = {name for layer in ends.layer for name in (layer.name, *layer.top)} - {image, scores.blob, "scores"}
    new = editable(net)
    del new.layer[:]
    new.layer.extend(ends.layer[:2])
    edits.append(f"layer '{image}': Data layers of {config.batch_size} and {config.test_batch_size} images")
    filler = MSRA if any(layer.type in RECTIFIERS for layer in net.layer) else XAVIER
    for layer in net.layer:
        if layer.type == "Input" or layer is softmax:
            continue
        taken = next((name for name in (layer.name, *layer.top) if name in added), None)
        if taken is not None:
            raise Error(f"the training net needs the name '{taken}' for its own", f"layer '{layer.name}'",
                        "--pass rename gives it another")
        new.layer.append(layer)
        changes = _prepare(new.layer[-1], filler)
        if changes:
            edits.append(f"layer '{layer.name}': {', '.join(changes)}")
    new.layer.extend(ends.layer[3:])
    if softmax is not None:
        edits.append(f"layer '{softmax.name}': the loss has its own Softmax")
    for phase in (TRAIN, TEST):
        infer(new, phase, allow_unknown=True)
    blobs, dropped = surviving_blobs(model.blobs, new)
    return PassResult(replace(model, net=new, blobs=blobs), (*edits, *dropped))


def _ends(graph: Graph) -> Tuple[str, Version, Optional[Any]]:
    """Return the input's name, the scores, and the Softmax behind them where there is one."""
    for layer in graph.layers:
        if is_source(layer) and layer.type != "DummyData" or is_measure(layer):
            raise Error(f"the net is for training already: it has {layer.type}", f"layer '{layer.name}'")
    inputs = [name for layer in graph.layers if layer.type == "Input" for name in layer.top]
    outputs = [one for one in graph.versions() if not one.readers]
    for what, names in (("inputs", inputs), ("outputs", [one.blob for one in outputs])):
        if len(names) != 1:
            listing = ": " + ", ".join(f"'{name}'" for name in names) if names else ""
            hint = "one image and one list of scores are trained"
            raise Error(f"the net has {len(names)} {what}{listing}", hint=hint)
    last = graph.layers[outputs[0].maker]
    if last.type == "Sigmoid":
        raise Error("the net ends in a Sigmoid, and no Data layer has the labels for that", f"layer '{last.name}'")
    if last.type != "Softmax":
        return inputs[0], outputs[0], None
    scores = graph.reads[outputs[0].maker][0]
    if scores is None or len(scores.readers) > 1:
        raise Error("other layers read its scores, too", f"layer '{last.name}'")
    return inputs[0], scores, last


def _sizes(image: str, shape: Optional[Shape], scores: str, score_shape: Optional[Shape]) -> Tuple[int, int, int]:
    """Return the size of the images in pixels, their channels, and the number of classes."""
    for name, one in ((image, shape), (scores, score_shape)):
        if one is None:
            hint = "a layer has no rule, or the input no shape"
            raise Error(f"the size of '{name}' is not known", hint=hint)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise Error(f"input '{image}' is {format_shape(shape)}, and a Data layer crops squares (N, C, S, S)")
    if len(score_shape) < 2 or count(score_shape, 2) != 1:
        what = f"the scores '{scores}' are {format_shape(score_shape)}, and a Data layer has one label for each image"
        raise Error(what, hint="scores (N, classes) can be trained so")
    return shape[2], shape[1], score_shape[1]


def _prepare(layer: Any, filler: Dict[str, Any]) -> List[str]:
    """Write what training reads into a layer of a deploy net; return what was written."""
    changes: List[str] = []
    if layer.type in FILLED:
        param = getattr(layer, FILLED[layer.type])
        has_bias = not hasattr(param, "bias_term") or param.bias_term
        for name, value in (("weight_filler", filler), *((("bias_filler", CONSTANT_ZERO),) if has_bias else ())):
            if not param.HasField(name):
                getattr(param, name).MergeFrom(type(getattr(param, name))(**value))
                changes.append(f"{name} {value['type']}")
    elif layer.type == "BN" and hasattr(layer, "bn_param"):
        if layer.bn_param.frozen:
            changes.append("not frozen")
        layer.bn_param.ClearField("frozen")
        for name, value in (("slope_filler", CONSTANT_ONE), ("bias_filler", CONSTANT_ZERO)):
            if not layer.bn_param.HasField(name):
                getattr(layer.bn_param, name).MergeFrom(type(getattr(layer.bn_param, name))(**value))
                changes.append(name)
        for index, settings in enumerate((LEARNED, LEARNED, FIXED, FIXED)):
            spec = layer.param[index] if index < len(layer.param) else layer.param.add()
            for name, value in settings.items():
                setattr(spec, name, value)
        changes.append("statistics out of the solver's reach")
    elif layer.type == "BatchNorm" and layer.batch_norm_param.use_global_stats:
        layer.batch_norm_param.ClearField("use_global_stats")
        changes.append("the batch's statistics in TRAIN")
    return changes
