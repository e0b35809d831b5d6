"""train-to-deploy: our nets as the builder has them, other nets, refusals, the same values."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import random_nets
from prototxt_gen.check.diff import compare
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import loads
from prototxt_gen.export.reference import forward
from prototxt_gen.nets.builder import DEPLOY, PUBLISHED, DataEnds, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.deploy import train_to_deploy
from prototxt_gen.passes.training import deploy_to_train
from prototxt_gen.spec.infer import infer
from texts import HEAD, LOSS, NetParameter, conv, data, image, ip, layer, model, names


quick = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
PAPER_NETS = [name for name, config in NETWORKS.items() if config.published_name]

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


BODY = ["data:Input", "conv:Convolution", "relu:ReLU", "fc:InnerProduct"]
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
