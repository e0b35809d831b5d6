"""deploy-to-train: nets of others that can be trained, refusals, the same values in Caffe after train-to-deploy."""


import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from prototxt_gen.core.dialects import DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN, layers_in, net_state
from prototxt_gen.core.io import Model, dumps, loads
from prototxt_gen.nets.builder import DataEnds, build
from prototxt_gen.nets.configs import NETWORKS, vary
from prototxt_gen.passes.deploy import train_to_deploy
from prototxt_gen.passes.training import deploy_to_train
from prototxt_gen.spec.infer import infer
from prototxt_gen.train.data import Image, datum, write_lmdb
from texts import HEAD, LOSS, conv, data, image, ip, layer, model, names


quick = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
PAPER_NETS = [name for name, config in NETWORKS.items() if config.published_name]

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


def test_deployed_nets_compute_in_caffe_what_the_training_nets_do_in_test(caffe_pairs, images):
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
    found = caffe_pairs(jobs)
    for (image_blob, scores, end, net), one in zip(nets, found):
        assert one["outputs_b"] == [end] and "accuracy/top1" in one["outputs_a"]
        common = {top for layer in layers_in(net.net, net_state(TEST, net.net)) for top in layer.top}
        assert common - set(one["apart"]) == {"label", "loss", "accuracy/top1", "accuracy/top5"} & common
        assert {image_blob, scores} <= set(one["apart"]) and not any(one["apart"].values())
    for one in found[len(nets):]:
        assert one["outputs_a"] == one["outputs_b"] == ["loss"]
