"""Lint rules on what makes a net learn badly or not at all, though Caffe takes it."""

from __future__ import annotations

from typing import Any, Iterator, List

from prototxt_gen.check.lint import ERROR, FILE, NET, TRAINING, WARNING, Hit, registry
from prototxt_gen.check.lint_view import NetFile, NetView, batch_of
from prototxt_gen.core.data_layers import SOURCE_FIELDS
from prototxt_gen.core.graph import TEST, TRAIN

# The paper trains with at least so many: BN sees the images of one GPU only.
LEAST_BN_IMAGES = 32
BN_STATISTICS = (2, 3)  # the blobs of BN: slope, bias, mean, statistic
BATCH_NORM_BLOBS = 3  # mean, variance, and the number they are to be divided by
# The weights of each type that start from a filler, by the field of its parameter message.
_FILLERS = {
    "Convolution": "convolution_param",
    "Deconvolution": "convolution_param",
    "InnerProduct": "inner_product_param",
    "Embed": "embed_param",
    "LSTM": "recurrent_param",
    "RNN": "recurrent_param",
}
_CLASS_LOSSES = ("SoftmaxWithLoss", "HingeLoss", "MultinomialLogisticLoss", "InfogainLoss")


@registry.add(
    "PG301", "frozen-bn", about=TRAINING,
    checks="no BN layer of a training net is frozen",
    why="A frozen BN normalises with its stored statistics and learns neither slope nor bias. Published deploy "
        "files are frozen throughout; trained so from scratch, a net does not converge.",
    mend="Remove frozen: true from the training net.",
    bad="bn_param { frozen: true }",
    good="bn_param { slope_filler { type: \"constant\" value: 1 } }",
)
def frozen_bn(view: NetView) -> Iterator[Hit]:
    for index, layer in enumerate(view.layers):
        if layer.type == "BN" and layer.bn_param.frozen:
            message = f"{view.label(index)} is frozen, and the net is for training"
            hint = "remove frozen: true and give slope_filler { type: \"constant\" value: 1 }"
            yield Hit(f"{view.paths[index]}.bn_param.frozen", message, hint, layer.name)


@registry.add(
    "PG302", "bn-slope-filler", about=TRAINING,
    checks="the slope of every BN layer of a training net starts at 1",
    why="The schema's default filler writes 0: the layer's output and every gradient below it are then 0, and the "
        "net never learns, though its loss looks like a loss.",
    mend="Write slope_filler { type: \"constant\" value: 1 } into its bn_param.",
    bad="bn_param { }",
    good="bn_param { slope_filler { type: \"constant\" value: 1 } }",
)
def bn_slope_filler(view: NetView) -> Iterator[Hit]:
    for index, layer in enumerate(view.layers):
        filler = layer.bn_param.slope_filler
        # A frozen layer gets its slope from weights, and has a finding of its own.
        if layer.type != "BN" or layer.bn_param.frozen or (filler.type == "constant" and filler.value == 1):
            continue
        zero = filler.type == "constant" and filler.value == 0
        start = "the constant 0" if zero else f"{filler.type} {filler.value:g}" if filler.value else filler.type
        message = f"{view.label(index)}: its slope starts as {start}" + (", and never learns" if zero else ", not as 1")
        path = f"{view.paths[index]}.bn_param.slope_filler"
        hint = "write slope_filler { type: \"constant\" value: 1 }"
        yield Hit(path, message, hint, layer.name, ERROR if zero else WARNING)


@registry.add(
    "PG303", "bn-statistics-learn", about=TRAINING,
    checks="the moving mean and statistic of every BN layer have lr_mult 0 in a training net",
    why="They are kept by the layer, not learned. A solver that has a learning rate for them applies weight decay, and "
        "shrinks them towards 0 at every update. The Caffe of this project sets the rate to 0 where no param says "
        "otherwise; other forks do not. With lr_mult 0, decay_mult has no effect.",
    mend="Write four param messages: two with lr_mult: 1, two with lr_mult: 0 decay_mult: 0.",
    bad="param { lr_mult: 1 decay_mult: 1 }",
    good="param { lr_mult: 0 decay_mult: 0 }",
)
def bn_statistics_learn(view: NetView) -> Iterator[Hit]:
    for index, layer in enumerate(view.layers):
        if layer.type != "BN" or layer.bn_param.frozen:
            continue
        hint = "the third and fourth param of BN: param { lr_mult: 0 decay_mult: 0 }"
        for number in BN_STATISTICS:
            if number >= len(layer.param):
                message = f"{view.label(index)} has no param for its statistics, which some forks then decay"
                yield Hit(view.paths[index], message, hint, layer.name, WARNING)
                break
            if layer.param[number].lr_mult:
                rate, blob = layer.param[number].lr_mult, "mean" if number == 2 else "statistic"
                message = f"{view.label(index)} has lr_mult {rate:g} on its moving {blob}"
                yield Hit(f"{view.paths[index]}.param[{number}]", message, hint, layer.name)


@registry.add(
    "PG304", "batchnorm-lr-mult", about=NET,
    checks="no param of a BatchNorm layer has an lr_mult other than 0",
    why="The three blobs of BatchNorm are statistics. Caffe aborts at a param that gives one of them a rate, and a "
        "param without lr_mult gives it 1; without any param the layer sets 0 itself. Only where there are exactly "
        "three, Caffe 1.0 takes them for an old file's and reads 0 in place of what they say; older versions and "
        "forks do not.",
    mend="Write lr_mult: 0 in each param, or remove them.",
    bad="param { lr_mult: 1 }",
    good="param { lr_mult: 0 }",
)
def batchnorm_lr_mult(view: NetView) -> Iterator[Hit]:
    for index, layer in enumerate(view.layers):
        if layer.type != "BatchNorm":
            continue
        rewritten = len(layer.param) == BATCH_NORM_BLOBS
        outcome, severity = ("which only Caffe 1.0 corrects", WARNING) if rewritten else ("and Caffe aborts", ERROR)
        for number, param in enumerate(layer.param[:BATCH_NORM_BLOBS]):
            if param.lr_mult:
                message = f"{view.label(index)} has lr_mult {param.lr_mult:g} on a statistic, {outcome}"
                path = f"{view.paths[index]}.param[{number}].lr_mult"
                yield Hit(path, message, "write lr_mult: 0, or remove its params", layer.name, severity)


@registry.add(
    "PG305", "no-weight-filler", about=TRAINING, severity=WARNING,
    checks="every layer with weights that learn says how they start",
    why="The default filler writes 0. All outputs of the layer are then alike and stay so, and nothing below it "
        "learns, unless the weights come from a file.",
    mend="Write a weight_filler: msra before ReLU, xavier elsewhere.",
    bad="inner_product_param { num_output: 10 }",
    good="inner_product_param { num_output: 10 weight_filler { type: \"msra\" } }",
)
def no_weight_filler(view: NetView) -> Iterator[Hit]:
    owned = set()
    for index, layer in enumerate(view.layers):
        if layer.type not in _FILLERS:
            continue
        shared, rate = (layer.param[0].name, layer.param[0].lr_mult) if layer.param else ("", 1)
        # Shared weights start as the first layer that names them says.
        if shared in owned or rate == 0:
            continue
        owned.update({shared} - {""})
        field = _FILLERS[layer.type]
        filler = getattr(layer, field).weight_filler
        if filler.type == "constant" and filler.value == 0:
            message = f"{view.label(index)}: its weights start as the constant 0"
            yield Hit(f"{view.paths[index]}.{field}", message, "write weight_filler { type: \"msra\" }", layer.name)


@registry.add(
    "PG306", "small-bn-batch", about=TRAINING, severity=WARNING,
    checks=f"a net with batch normalisation trains with at least {LEAST_BN_IMAGES} images per GPU",
    why="Batch normalisation sees the batch of one GPU only, whatever iter_size and the number of GPUs are: with "
        "few images its statistics are noise.",
    mend="Use a larger batch_size; shrink iter_size to keep the number of images an update.",
    bad="batch_size: 8",
    good="batch_size: 32",
)
def small_bn_batch(view: NetView) -> Iterator[Hit]:
    if not any(_uses_batch_statistics(layer) for layer in view.layers):
        return
    for index, layer in enumerate(view.layers):
        field, batch = batch_of(layer)
        if field and 0 < batch < LEAST_BN_IMAGES:
            message = f"{view.label(index)} gives {batch} images per GPU to batch normalisation"
            hint = f"use batch_size: {LEAST_BN_IMAGES} or more"
            yield Hit(f"{view.paths[index]}.{field}.batch_size", message, hint, layer.name)


@registry.add(
    "PG307", "blind-test", about=FILE, severity=WARNING,
    checks="a net that trains has data in phase TEST, and an accuracy where it sorts into classes",
    why="Without data, Caffe cannot instantiate the test net; without an accuracy, a test tells the loss only.",
    mend="Add a data layer with include { phase: TEST }, and an Accuracy layer.",
    bad="type: \"SoftmaxWithLoss\"",
    good="type: \"Accuracy\"",
)
def blind_test(file: NetFile) -> Iterator[Hit]:
    views = {view.phase: view for view in file.views}
    if file.trained_only:
        first = next(iter(views.values()))
        feeder = first.layers.index(first.sources()[0])
        message = f"no layer brings data in phase TEST; {first.label(feeder)} is for TRAIN only"
        yield Hit(f"{first.paths[feeder]}.include", message, "add a data layer with include { phase: TEST }",
                  first.layers[feeder].name)
    if TEST in views and TRAIN in views and not any("Accuracy" in layer.type for layer in views[TEST].layers):
        test = views[TEST]
        losses = [index for index, layer in enumerate(test.layers) if layer.type in _CLASS_LOSSES]
        for index in losses[-1:]:  # those before are auxiliary
            message = f"phase TEST has no accuracy; {test.label(index)} sorts into classes"
            hint = "add an Accuracy layer with include { phase: TEST }"
            yield Hit(test.paths[index], message, hint, test.layers[index].name)


@registry.add(
    "PG308", "no-loss", about=NET, severity=WARNING,
    checks="a net with data for phase TRAIN has a loss there",
    why="Without a loss there is no gradient: the solver runs and learns nothing.",
    mend="Add a loss layer, or a loss_weight to the top that is to be minimised.",
    bad="include { phase: TRAIN }",
    good="type: \"EuclideanLoss\"",
)
def no_loss(view: NetView) -> Iterator[Hit]:
    if view.phase == TRAIN and not view.training:
        for index, layer in enumerate(view.layers):
            if layer.type in SOURCE_FIELDS:
                message = f"{view.label(index)} brings data in phase TRAIN, and no layer makes a loss of it"
                yield Hit(view.paths[index], message, "add a loss layer such as SoftmaxWithLoss", layer.name)
                return


def batches(view: NetView) -> List[int]:
    """Return the batch sizes of the data layers of a net."""
    return [size for size in (batch_of(layer)[1] for layer in view.layers) if size]


def _uses_batch_statistics(layer: Any) -> bool:
    if layer.type == "BatchNorm":
        return not layer.batch_norm_param.use_global_stats
    return layer.type == "BN" and not layer.bn_param.frozen
