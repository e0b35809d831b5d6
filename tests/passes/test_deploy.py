"""train-to-deploy and deploy-to-train: our nets as the builder has them, other nets, refusals, the same values."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import random_nets
from prototxt_gen.check.diff import compare
from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN, layers_in, net_state
from prototxt_gen.core.io import Model, dumps, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.nets.builder import DEPLOY, PUBLISHED, DataEnds, build
from prototxt_gen.nets.configs import NETWORKS, vary
from prototxt_gen.passes.deploy import train_to_deploy
from prototxt_gen.passes.training import deploy_to_train
from prototxt_gen.spec.infer import infer
from prototxt_gen.train.data import Image, datum, write_lmdb

PAIRS = Path(__file__).with_name("caffe_pairs.py")

NetParameter = DEFAULT_DIALECT.message("NetParameter")
quick = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
PAPER_NETS = [name for name, config in NETWORKS.items() if config.published_name]


def model(text, **blobs):
    return Model(loads(text, NetParameter), blobs=blobs)


def image(*shape, name="data"):
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(kind, bottom="", top="", settings="", name=""):
    bottoms = " ".join(f'bottom: "{one}"' for one in bottom.split())
    tops = " ".join(f'top: "{one}"' for one in top.split())
    return f'layer {{ name: "{name or top.split()[0]}" type: "{kind}" {bottoms} {tops} {settings} }}\n'


def conv(bottom, top, settings="num_output: 4 kernel_size: 3", more=""):
    return layer("Convolution", bottom, top, f"convolution_param {{ {settings} }} {more}")


def ip(bottom, top, classes=3, more=""):
    return layer("InnerProduct", bottom, top, f"inner_product_param {{ num_output: {classes} }} {more}")


def data(phase="TRAIN", transform="crop_size: 8", top="data label", kind="Data"):
    return layer(kind, "", top, f"transform_param {{ {transform} }} data_param {{ source: \"here\" batch_size: 4 "
                 f"backend: LMDB }} include {{ phase: {phase} }}", "data")


def names(net):
    return [f"{one.name}:{one.type}" for one in net.layer]

# Our nets


@pytest.mark.parametrize("name", NETWORKS)
def test_our_training_nets_become_the_builders_deploy_nets_and_come_back(name):
    config = NETWORKS[name]
    train, deploy = build(config), build(config, DEPLOY)
    found = train_to_deploy(train).model
    assert found.net == deploy.net and compare(found.net, deploy.net).same
    back = deploy_to_train(deploy).model
    assert back.net == train.net and compare(back.net, train.net).same


@pytest.mark.parametrize("name", ["attention56", "attentionnext56"])
def test_another_size_is_what_the_builder_makes_of_it(name):
    config = NETWORKS[name]
    wanted = build(config, DEPLOY, input_size=320, batch_size=2).net
    for old in (build(config), build(config, DEPLOY)):
        done = train_to_deploy(old, input_shapes={"data": (2, 3, 320, 320)})
        assert done.model.net == wanted and "layer 'ave_pool': global average pooling" in done.edits


@pytest.mark.parametrize("name", PAPER_NETS)
def test_published_files_become_the_builders_training_nets(name):
    config = NETWORKS[name]
    published = Path(__file__).parent.parent.parent / "generated" / name / "published.prototxt"
    for old in (build(config, PUBLISHED), model(published.read_text())):
        assert any(one.bn_param.frozen for one in old.net.layer)
        done = deploy_to_train(old)
        assert compare(done.model.net, build(config).net).same
        line = "layer 'conv1/bn': not frozen, slope_filler, bias_filler, statistics out of the solver's reach"
        assert line in done.edits
    options = dict(source="a", test_source="b", mean=(1.0, 2.0, 3.0), batch_size=5)
    wanted = build(config, data=DataEnds("a", "b", (1.0, 2.0, 3.0)), batch_size=5)
    assert compare(deploy_to_train(old, **options).model.net, wanted.net).same


@pytest.mark.parametrize("mean, wanted", [
    ("none", None), ((), None), ("1,2,3", (1, 2, 3)), ("m.binaryproto", "m.binaryproto"), (None, (104, 117, 123)),
])
def test_means(mean, wanted):
    done = deploy_to_train(build(NETWORKS["attention56"], DEPLOY), mean=mean)
    assert done.model.net == build(NETWORKS["attention56"], data=DataEnds(mean=wanted)).net

# train-to-deploy

HEAD = conv("data", "conv") + layer("ReLU", "conv", "conv", name="relu") + ip("conv", "fc")
BODY = ["data:Input", "conv:Convolution", "relu:ReLU", "fc:InnerProduct"]
LOSS = layer("SoftmaxWithLoss", "fc label", "loss")
# What is trained, and the layers that are left as name:type.
DEPLOYED = {
    "a loss in TRAIN only": (
        data() + data("TEST", "crop_size: 6") + HEAD
        + layer("SoftmaxWithLoss", "fc label", "loss", "include { phase: TRAIN }"),
        BODY, [1, 3, 6, 6]),
    "no data in TEST": (data() + HEAD + LOSS + layer("Accuracy", "fc label", "acc"),
                        [*BODY, "prob:Softmax"], [1, 3, 8, 8]),
    "gray": (data("TEST", "crop_size: 8 force_gray: true") + HEAD + LOSS,
             [*BODY, "prob:Softmax"], [1, 1, 8, 8]),
    "four means": (data("TEST", "crop_size: 8 mean_value: [1, 2, 3, 4]") + HEAD + LOSS,
                   [*BODY, "prob:Softmax"], [1, 4, 8, 8]),
    "probabilities already": (
        data("TEST") + HEAD + LOSS + layer("Softmax", "fc", "p") + layer("Accuracy", "p label", "acc"),
        [*BODY, "p:Softmax"], [1, 3, 8, 8]),
    "a name that is taken": (
        data("TEST") + conv("data", "prob") + ip("prob", "fc") + LOSS,
        ["data:Input", "prob:Convolution", "fc:InnerProduct", "fc/prob:Softmax"], [1, 3, 8, 8]),
    "labels cut up": (
        data("TEST") + layer("Slice", "label", "a b") + ip("data", "one") + ip("data", "two")
        + layer("SoftmaxWithLoss", "one a", "loss1", "loss_weight: 0.3")
        + layer("SigmoidCrossEntropyLoss", "two b", "loss2") + layer("Silence", "label", "", name="s"),
        ["data:Input", "one:InnerProduct", "two:InnerProduct", "one/prob:Softmax", "prob:Sigmoid"], [1, 3, 8, 8]),
    "a label layer of its own": (
        image(2, 3, 8, 8) + image(2, name="label") + HEAD + layer("InfogainLoss", "fc label", "loss",
                                                                 'infogain_loss_param { axis: -1 source: "m" }'),
        [*BODY, "prob:Softmax"], [2, 3, 8, 8]),
    "an autoencoder": (
        data("TEST", top="data") + ip("data", "code", 2) + ip("code", "out", 192) + layer("Flatten", "data", "flat")
        + layer("EuclideanLoss", "flat out", "l2") + layer("SigmoidCrossEntropyLoss", "out flat", "l1"),
        ["data:Input", "code:InnerProduct", "out:InnerProduct", "prob:Sigmoid"], [1, 3, 8, 8]),
    "two branches that are compared": (
        layer("HDF5Data", "", "data label", name="h") + layer("Slice", "data", "left right") + ip("left", "a")
        + ip("right", "b") + layer("ContrastiveLoss", "a b label", "loss"),
        ["data:Input", "left:Slice", "a:InnerProduct", "b:InnerProduct"], [1, 2, 8, 8]),
    "stages": (
        layer("Data", "", "data label", "transform_param { crop_size: 8 } include { stage: 'train' }")
        + HEAD + layer("SoftmaxWithLoss", "fc label", "loss", "exclude { stage: 'deploy' }")
        + layer("Accuracy", "fc label", "acc", "include { stage: 'val' }")
        + layer("Softmax", "fc", "softmax", "include { stage: 'deploy' }"),
        [*BODY, "softmax:Softmax"], [1, 3, 8, 8]),
    "constants beside the data": (
        data("TEST") + layer("DummyData", "", "one", "dummy_data_param { shape { dim: 3 } data_filler { value: 1 } }")
        + HEAD + layer("Scale", "fc one", "scaled", "scale_param { axis: 1 }") + layer("Python", "scaled label", "x",
                                                                                "loss_weight: 1"),
        ["data:Input", "one:DummyData", "conv:Convolution", "relu:ReLU", "fc:InnerProduct", "scaled:Scale"],
        [1, 3, 8, 8]),
    "silenced parts": (
        data("TEST") + layer("Slice", "data", "a b", "slice_param { slice_point: 1 }") + ip("a", "fc")
        + layer("Silence", "b label", "", name="s") + LOSS,
        ["data:Input", "a:Slice", "fc:InnerProduct", "s:Silence", "prob:Softmax"], [1, 3, 8, 8]),
    "a label that is learned from": (
        data("TEST") + layer("Embed", "label", "word", "embed_param { num_output: 2 input_dim: 3 }")
        + ip("data", "fc", 2) + layer("Eltwise", "word fc", "sum") + layer("HingeLoss", "sum label", "loss"),
        ["data:Input", "word:Embed", "fc:InnerProduct", "sum:Eltwise"], [1, 3, 8, 8]),
}


@pytest.mark.parametrize("text, left, shape", DEPLOYED.values(), ids=DEPLOYED)
def test_what_is_left(text, left, shape):
    old = model(text)
    given_shapes = {"data": (1, 2, 8, 8)} if "HDF5Data" in text else None
    done = train_to_deploy(old, input_shapes=given_shapes)
    assert names(done.model.net) == left
    assert list(done.model.net.layer[0].input_param.shape[0].dim) == shape
    assert not any(one.include or one.exclude or one.loss_weight for one in done.model.net.layer)
    infer(done.model.net, TEST)
    assert old.net == loads(text, NetParameter)
    # What it left alone it leaves alone again.
    assert train_to_deploy(done.model).model.net == done.model.net


def test_fields_that_only_training_reads():
    more = 'param { name: "w" lr_mult: 2 } param { lr_mult: 0 } param { decay_mult: 0 } phase: TEST'
    more += ' propagate_down: true'
    text = data("TEST", "crop_size: 8 scale: 0.5") + conv(
        "data", "conv", 'num_output: 4 kernel_size: 3 bias_filler { value: 1 } weight_filler { type: "msra" }', more)
    text += layer("BN", "conv", "bn", "bn_param { frozen: true momentum: 0.5 slope_filler { value: 1 } }")
    text += layer("BN", "bn", "bn2", "bn_param { frozen: true } param { lr_mult: 0 } param { lr_mult: 0 }")
    text += layer("PReLU", "bn2", "prelu", "prelu_param { channel_shared: true filler { value: 0.5 } }")
    text += layer("Scale", "prelu", "sc", "scale_param { filler { value: 1 } } param { lr_mult: 1 decay_mult: 1 }")
    text += layer("Dropout", "sc", "sc", name="drop") + ip("sc", "classifier") + layer(
        "SoftmaxWithLoss", "classifier label", "loss", "softmax_param { axis: -1 }")
    done = train_to_deploy(model(text))
    assert done.model.net == loads(
        image(1, 3, 8, 8) + conv("data", "conv", more='param { name: "w" }')
        + layer("BN", "conv", "bn", "bn_param { momentum: 0.5 }") + layer("BN", "bn", "bn2")
        + layer("PReLU", "bn2", "prelu", "prelu_param { channel_shared: true }")
        + layer("Scale", "prelu", "sc", "param { lr_mult: 1 decay_mult: 1 }")
        + layer("Dropout", "sc", "sc", name="drop") + ip("sc", "classifier")
        + layer("Softmax", "classifier", "cls", "softmax_param { axis: -1 }"), NetParameter)
    assert len(done.notes) == 1 and done.notes[0].startswith("give the net its images as layer 'data' did: ")
    assert "layer 'conv': without propagate_down, lr_mult and decay_mult, weight_filler, bias_filler" in done.edits
    assert "layer 'loss': Softmax 'cls' in its place" in done.edits


def test_weights_stay_and_tell_the_channels():
    weights = {"conv": (np.ones((4, 1, 3, 3), np.float32),), "aux": (np.ones(1, np.float32),)}
    old = model(data("TEST") + HEAD + LOSS + ip("conv", "aux", more="include { phase: TRAIN }"), **weights)
    done = train_to_deploy(old)
    assert done.model.blobs == {"conv": weights["conv"]} and "layer 'aux': its weights go with it" in done.edits
    assert list(done.model.net.layer[0].input_param.shape[0].dim) == [1, 1, 8, 8]
    told = train_to_deploy(old, input_shapes={"data": (5, 1, 9, 9)}).model.net
    assert list(told.layer[0].input_param.shape[0].dim) == [5, 1, 9, 9]
    with pytest.raises(Error, match="layer 'conv': its weights are 4x1x3x3, and the new input asks for 4x3x3x3"):
        train_to_deploy(old, input_shapes={"data": (5, 3, 9, 9)})


def test_old_nets_are_upgraded():
    text = """
    layers { name: "d" type: DATA top: "data" top: "label" transform_param { crop_size: 8 } }
    layers { name: "fc" type: INNER_PRODUCT bottom: "data" top: "fc" inner_product_param { num_output: 2 } }
    layers { name: "loss" type: SOFTMAX_LOSS bottom: "fc" bottom: "label" }
    """
    assert names(train_to_deploy(model(text)).model.net) == ["data:Input", "fc:InnerProduct", "prob:Softmax"]
    old = 'input: "data" input: "label" input_shape { dim: 2 dim: 3 } input_shape { dim: 2 }' + ip("data", "fc") + LOSS
    net = train_to_deploy(model(old)).model.net
    assert names(net) == ["input:Input", "fc:InnerProduct", "prob:Softmax"]
    assert list(net.layer[0].top) == ["data"] and [list(one.dim) for one in net.layer[0].input_param.shape] == [[2, 3]]


@pytest.mark.parametrize("text, shapes, message", [
    (data("TEST", "scale: 1") + HEAD + LOSS, {},
     "layer 'data': the file does not tell the size of 'data'\nhint: --input"),
    (data("TEST") + HEAD + LOSS, {"dota": (1,)}, "the net has no input 'dota'\nhint: did you mean 'data'"),
    (data("TEST") + layer("Accuracy", "data label", "acc"), {}, "nothing would be left of the net"),
    (HEAD, {}, "layer 'conv': it reads blob 'data' in TEST, which no layer makes"),
    (layer("SoftmaxWithLoss", "", "loss"), {}, "nothing would be left of the net"),
])
def test_deployment_is_refused(text, shapes, message):
    with pytest.raises(Error, match=message):
        train_to_deploy(model(text), input_shapes=shapes)


def with_loss(draw, random):
    """A random net as one for training: a label, a classifier, loss and accuracy; fillers and rates on the way."""
    net = NetParameter()
    net.CopyFrom(random.net)
    scores = draw(st.sampled_from([one.top[0] for one in net.layer]))
    shape = infer(net, TEST).blobs[scores]
    if len(shape) < 2:
        return None
    ends = image(shape[0], name="label")
    ends += layer("InnerProduct", scores, "fc", "inner_product_param { num_output: 3 weight_filler { type: 'msra' } }")
    ends += LOSS + layer("Accuracy", "fc label", "acc", "include { phase: TEST }")
    for one in net.layer:
        for _ in range(draw(st.integers(0, 1)) if one.type in ("Convolution", "BN") and not one.param else 0):
            one.param.add(lr_mult=2)
    net.MergeFrom(loads(ends, NetParameter))
    blobs = {**random.blobs, "fc": random_nets.weights(net, 1)["fc"]}
    return replace(random, net=net, blobs=blobs), shape[0]


@quick
@given(random=random_nets.models(), data=st.data())
def test_random_nets_compute_the_same_when_deployed(random, data):
    trained = with_loss(data.draw, random)
    if trained is None:
        return
    whole, items = trained
    deployed = train_to_deploy(whole).model
    assert not {"label", "loss", "acc"} & {name for one in deployed.net.layer for name in (one.name, *one.top)}
    assert not any(one.param for one in deployed.net.layer if not any(spec.name for spec in one.param))
    assert deployed.blobs.keys() == whole.blobs.keys()
    inputs = random_nets.inputs_of(deployed)
    wanted = forward(whole, {**inputs, "label": np.zeros(items)})
    found = forward(deployed, inputs)
    assert {"fc", "prob"} <= found.keys() and {"loss", "acc", "label"} == wanted.keys() - found.keys()
    for name in found.keys() - {"prob"}:
        assert np.array_equal(found[name], wanted[name], equal_nan=True)
    if np.isfinite(found["prob"]).all():
        assert np.allclose(-np.log(found["prob"][:, 0]).mean(), wanted["loss"], rtol=1e-3, atol=1e-4)

# deploy-to-train

RESIDUAL = image(1, 3, 8, 8) + conv("data", "c1", "num_output: 4 kernel_size: 3 pad: 1 bias_term: false")
for number, bottom in ((1, "c1"), (2, "c2")):
    RESIDUAL += layer("BatchNorm", bottom, bottom, "batch_norm_param { use_global_stats: true }", f"bn{number}")
    RESIDUAL += layer("Scale", bottom, bottom, "scale_param { bias_term: true }", f"scale{number}")
    if number == 1:
        RESIDUAL += layer("ReLU", "c1", "c1", name="relu1")
        RESIDUAL += conv("c1", "c2", "num_output: 4 kernel_size: 3 pad: 1 bias_term: false")
RESIDUAL += layer("Eltwise", "c1 c2", "sum")
RESIDUAL += layer("Pooling", "sum", "pool", "pooling_param { pool: AVE kernel_size: 8 }")
RESIDUAL += ip("pool", "fc1000", 10) + layer("Softmax", "fc1000", "prob")

SQUEEZE = image(1, 3, 8, 8, name="image") + conv("image", "squeeze") + layer("ReLU", "squeeze", "squeeze", name="r")
SQUEEZE += conv("squeeze", "a") + conv("squeeze", "b")
SQUEEZE += layer("Concat", "a b", "cat") + layer("Dropout", "cat", "cat", name="d")
SQUEEZE += conv("cat", "pool9", "num_output: 7 kernel_size: 1 weight_filler { type: 'gaussian' std: 0.01 }")
SQUEEZE += layer("Pooling", "pool9", "pool10", "pooling_param { pool: AVE global_pooling: true }")
SQUEEZE += layer("Softmax", "pool10", "prob")

ALEX = 'name: "Alex" input: "data" input_dim: 10 input_dim: 3 input_dim: 8 input_dim: 8 ' + conv(
    "data", "conv1", more="param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }")
ALEX += layer("TanH", "conv1", "conv1", name="t") + layer("LRN", "conv1", "norm") + ip("norm", "fc8", 4)

THIRD = {"residual": (RESIDUAL, 10, "msra"), "squeeze": (SQUEEZE, 7, "msra"), "alex": (ALEX, 4, "xavier")}


@pytest.mark.parametrize("text, classes, filler", THIRD.values(), ids=THIRD)
def test_nets_of_others_can_be_trained(text, classes, filler):
    old = model(text)
    done = deploy_to_train(old, source="s", test_source="t", batch_size=6)
    net = done.model.net
    kinds = [one.type for one in net.layer]
    assert kinds[:2] == ["Data", "Data"] and not {"Input", "Softmax"} & set(kinds) and not net.input
    assert kinds.count("SoftmaxWithLoss") == 1 and kinds.count("Accuracy") == (2 if classes >= 6 else 1)
    assert [one.data_param.source for one in net.layer[:2]] == ["s", "t"]
    assert [one.data_param.batch_size for one in net.layer[:2]] == [6, 25]
    assert [one.transform_param.crop_size for one in net.layer[:2]] == [8, 8]
    assert "no mean is subtracted: the file tells none" in done.edits
    for phase, size in ((TRAIN, 6), (TEST, 25)):
        info = infer(net, phase)
        assert info.blobs["loss"] == () and info.blobs["label"] == (size,)
    # Nothing starts at 0 but biases, and nothing that was set is set anew.
    before = {one.name: one for one in old.net.layer}
    for one in net.layer:
        param = {"Convolution": one.convolution_param, "InnerProduct": one.inner_product_param}.get(one.type)
        if param is not None:
            assert param.weight_filler.type == ("gaussian" if one.name == "pool9" else filler)
            assert param.HasField("bias_filler") == param.bias_term
        assert not one.batch_norm_param.use_global_stats
        if one.name in before:
            assert one.param == before[one.name].param
    assert names(train_to_deploy(done.model).model.net)[1:-1] == [
        name for name in names(old.net) if not name.endswith((":Input", ":Softmax"))]


def test_bn_of_others_learns():
    text = image(1, 3, 8, 8) + layer("BN", "data", "bn", 'param { name: "slope" lr_mult: 0 } bn_param { frozen: true '
                                     "eps: 0.1 slope_filler { value: 0.5 } }") + ip("bn", "fc")
    [bn] = [one for one in deploy_to_train(model(text)).model.net.layer if one.type == "BN"]
    assert bn == loads("""
        name: "bn" type: "BN" bottom: "data" top: "bn" param { name: "slope" lr_mult: 1 decay_mult: 1 }
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 }
        bn_param { eps: 0.1 slope_filler { value: 0.5 } bias_filler { type: "constant" value: 0 } }
        """, type(bn))


def test_other_dialects():
    dialect = DIALECTS["bvlc"]
    old = Model(loads(RESIDUAL, dialect.message("NetParameter")), dialect)
    there = deploy_to_train(old).model
    assert there.dialect is dialect and type(there.net) is type(old.net)
    assert there.dumps() == deploy_to_train(model(RESIDUAL)).model.dumps()
    assert train_to_deploy(there).model.dumps() == train_to_deploy(deploy_to_train(model(RESIDUAL)).model).model.dumps()


@pytest.mark.parametrize("text, message", [
    (data("TEST") + HEAD, r"layer 'data': the net is for training already: it has Data"),
    (image(1, 3, 8, 8) + image(1, name="label") + HEAD + LOSS, "layer 'loss': the net is for training already"),
    (image(1, 3, 8, 8) + ip("data", "a") + ip("data", "b"), "the net has 2 outputs: 'a', 'b'"),
    (image(1, 3, 8, 8) + image(1, 3, name="info") + HEAD, "the net has 3? ?2? inputs: 'data', 'info'"),
    (image(1, 3, 8, 8) + HEAD + layer("Sigmoid", "fc", "p"), "layer 'p': the net ends in a Sigmoid"),
    (image(1, 3, 8, 8) + HEAD + layer("Softmax", "fc", "p") + layer("Silence", "fc", "", name="s"),
     "layer 'p': other layers read its scores, too"),
    (image(1, 3, 8, 6) + HEAD, r"input 'data' is 1x3x8x6, and a Data layer crops squares"),
    (image(1, 3, 8, 8) + conv("data", "map"), "the scores 'map' are 1x4x6x6, and a Data layer has one label"),
    (image(1, 3, 8, 8) + conv("data", "label") + ip("label", "fc"),
     "layer 'label': the training net needs the name 'label'"),
    (image(1, 3, 8, 8) + layer("Foo", "data", "y"), "the size of 'y' is not known"),
    (image(1, 3, 8, 8) + ip("data", "y", more="include { phase: TRAIN }"), "the size of 'y' is not known"),
    ("", "the net has 0 inputs"),
])
def test_training_is_refused(text, message):
    with pytest.raises(Error, match=message):
        deploy_to_train(model(text))

# In Caffe


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An LMDB of 25 images of 32 x 32 pixels in ten classes."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.RandomState(0)
    pixels = random.randint(0, 256, (25, 3, 32, 32)).astype("uint8")
    write_lmdb(folder / "lmdb", ((f"{number:08d}", datum(Image(f"{number:08d}", number % 10, one)))
                                 for number, one in enumerate(pixels)))
    return str(folder / "lmdb")


def test_deployed_nets_compute_in_caffe_what_the_training_nets_do_in_test(run_caffe_python, tmp_path, images):
    """On the very images that the Data layer hands out; the third-party nets are trained ones of deploy files."""
    small = vary(NETWORKS["attention56-cifar"], dict(widths="4,8,8,8", stem_width="4"))
    ours = build(small, data=DataEnds(images, images, small.mean), batch_size=2, test_batch_size=3)
    nets = [("data", "classifier", "cls", ours)]
    for text, scores in ((RESIDUAL, "fc1000"), (SQUEEZE, "pool10"), (ALEX, "fc8")):
        image_blob = "image" if text is SQUEEZE else "data"
        trained = deploy_to_train(model(text), source=images, test_source=images, mean=(128.0,), batch_size=2).model
        nets.append((image_blob, scores, "prob", trained))
    jobs = [dict(a=dumps(net.net), b=dumps(train_to_deploy(net).model.net), phase_a=TEST, phase_b=TEST)
            for _, _, _, net in nets]
    # The training nets load in TRAIN, too, and are the same there.
    jobs += [dict(a=dumps(net.net), b=dumps(net.net), phase_a=TRAIN, phase_b=TRAIN) for _, _, _, net in nets]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run_caffe_python(PAIRS, tmp_path / "jobs.json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    for (image_blob, scores, end, net), one in zip(nets, found):
        assert one["outputs_b"] == [end] and "accuracy/top1" in one["outputs_a"]
        common = {top for layer in layers_in(net.net, net_state(TEST, net.net)) for top in layer.top}
        assert common - set(one["apart"]) == {"label", "loss", "accuracy/top1", "accuracy/top5"} & common
        assert {image_blob, scores} <= set(one["apart"]) and not any(one["apart"].values())
    for one in found[len(nets):]:
        assert one["outputs_a"] == one["outputs_b"] == ["loss"]
