"""The networks are the paper's and the authors': digests of the published files, the paper's tables, Caffe's own shapes."""

import base64
import hashlib
import json
from collections import Counter
from dataclasses import replace

import pytest

from prototxt_gen.core.errors import Error
from prototxt_gen.nets.builder import DEPLOY, FORMS, PUBLISHED, TRAIN, DataEnds, build, read_mean
from prototxt_gen.nets.configs import NETWORKS, vary

PAPER_NETS = ("attention56", "attention92", "attentionnext56", "attentionnext92")

# sha256 of the serialised message. The two 56 are of the authors' own files; the two 92 are of what the same rules give,
# AttentionNeXt-92 with its classifier's bottom repaired.
PUBLISHED_DIGESTS = {
    "attention56": "aea3f63562ea31c23afa4a00728c323a03558b8685596eb9b7c6f88229704c5c",
    "attention92": "56df8ec227b8ef0bf364de48bad6249b13205cbfb29dd8cc67d156245de32831",
    "attentionnext56": "ebc2cf7574086c9f42cc5198bc9ea5b0a80ab4ce81a7d02644a79ac453edc277",
    "attentionnext92": "5a4c949f9089946b95a4be714fb5608f8b27cf11aaf8cf2aab3fc16fa112133e",
}
# Counted in the authors' files: layers without input, then by type.
LAYER_COUNTS = {
    "attention56": (385, dict(Convolution=110, BN=107, ReLU=107, Eltwise=42, Pooling=8, Interp=6, Sigmoid=3)),
    "attention92": (631, dict(Convolution=179, BN=176, ReLU=176, Eltwise=70, Pooling=12, Interp=10, Sigmoid=6)),
    "attentionnext56": (381, dict(Convolution=110, BN=107, ReLU=103, Eltwise=42, Pooling=8, Interp=6, Sigmoid=3)),
    "attentionnext92": (621, dict(Convolution=179, BN=173, ReLU=169, Eltwise=70, Pooling=12, Interp=10, Sigmoid=6)),
}
# Parameters of Convolution and InnerProduct; all with BN's four blobs. Computed from the authors' files; for the CIFAR
# reconstructions the paper's table 1 prints 1.9 M (92), 5.1 M (236) and 8.6 M (452, which this reading does not meet).
PARAMETERS = {
    "attention56": (31_738_024, 31_883_432),
    "attention92": (52_332_712, 52_599_976),
    "attentionnext56": (31_220_392, 31_417_256),
    "attentionnext92": (51_931_816, 52_274_088),
    "attention92-cifar": (1_931_706, None),
    "attention236-cifar": (5_126_586, None),
    "attention452-cifar": (10_140_090, None),
}
# The paper's table 2: the blob that ends each stage, its channels, its plane at 224x224.
STAGES = [("conv1", 64, 112), ("pool1_3x3_s2", 64, 56), ("pre_res_1", 256, 56), ("AttentionA_1", 256, 56),
          ("pre_res_2", 512, 28), ("AttentionB_1", 512, 28), ("pre_res_3", 1024, 14), ("AttentionC_1", 1024, 14),
          ("post_res_4_1", 2048, 7), ("post_res_4_3", 2048, 7), ("ave_pool", 2048, 1)]


@pytest.mark.parametrize("name", PAPER_NETS)
def test_published_form_is_the_authors_file(name):
    net = build(NETWORKS[name], PUBLISHED).net
    assert hashlib.sha256(net.SerializeToString(deterministic=True)).hexdigest() == PUBLISHED_DIGESTS[name]
    assert list(net.input) == ["data"] and list(net.input_dim) == [1, 3, 224, 224]
    total, by_type = LAYER_COUNTS[name]
    assert len(net.layer) == total
    assert Counter(layer.type for layer in net.layer) == Counter(by_type, InnerProduct=1, Softmax=1)
    assert all(layer.bn_param.frozen for layer in net.layer if layer.type == "BN")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("form", FORMS)
def test_every_bottom_is_made_before_it_is_read(name, form):
    if form == PUBLISHED and NETWORKS[name].reconstruction:
        pytest.raises(Error, build, NETWORKS[name], form)
        return
    net = build(NETWORKS[name], form).net
    made = set(net.input)
    names = Counter()
    for layer in net.layer:
        assert made.issuperset(layer.bottom), layer
        made.update(layer.top)
        names[layer.name] += 1
    assert {name for name, count in names.items() if count > 1} == ({"data"} if form == TRAIN else set())


@pytest.mark.parametrize("name", NETWORKS)
def test_trunk_depth_is_the_one_in_the_name(name):
    weighted = [layer.name for layer in build(NETWORKS[name], DEPLOY).net.layer
                if layer.type in ("Convolution", "InnerProduct")]
    depth = sum("/mask/" not in one and "branch2" not in one for one in weighted)
    assert depth == NETWORKS[name].depth == int("".join(filter(str.isdigit, name.split("-")[0])))


@pytest.mark.parametrize("name", NETWORKS)
def test_training_form_has_what_learning_needs(name):
    net = build(NETWORKS[name], TRAIN).net
    layers = {layer.name: layer for layer in net.layer}
    for layer in net.layer:
        if layer.type == "BN":
            assert layer.bn_param.slope_filler.value == 1 and not layer.bn_param.frozen
            assert [(one.lr_mult, one.decay_mult) for one in layer.param] == [(1, 1), (1, 1), (0, 0), (0, 0)]
        if layer.type == "Convolution":
            assert layer.convolution_param.weight_filler.type == "msra" and not layer.convolution_param.bias_term
    assert layers["classifier"].inner_product_param.weight_filler.type == "msra"
    train, test = net.layer[0], net.layer[1]
    assert (train.name, test.name) == ("data", "data")
    assert train.transform_param.mirror and not test.transform_param.mirror
    assert layers["loss"].type == "SoftmaxWithLoss"
    assert layers["accuracy/top5"].accuracy_param.top_k == 5 and layers["accuracy/top5"].include[0].phase == 1


def test_options_of_the_builder():
    config = NETWORKS["attention56"]
    net = build(config, TRAIN, classes=5, batch_size=7, test_batch_size=3, input_size=192, name="mine",
                data=DataEnds("a", "b", "mean.binaryproto")).net
    layers = {layer.name: layer for layer in net.layer}
    assert net.name == "mine" and "accuracy/top5" not in layers
    assert [one.data_param.source for one in net.layer[:2]] == ["a", "b"]
    assert [one.data_param.batch_size for one in net.layer[:2]] == [7, 3]
    assert {one.transform_param.crop_size for one in net.layer[:2]} == {192}
    assert net.layer[0].transform_param.mean_file == "mean.binaryproto" and not net.layer[0].transform_param.mean_value
    assert layers["classifier"].inner_product_param.num_output == 5
    assert layers["ave_pool"].pooling_param.global_pooling
    assert "accuracy/top5" in {layer.name for layer in build(config, TRAIN, classes=6).net.layer}


def test_variants():
    small = vary(NETWORKS["attention56-cifar"], dict(modules="1,0,2", widths="4,8,8,8", trunk_units="1"))
    assert small.depth == 2 + 9 + 9 + 3 * 3 * 3
    names = [layer.name for layer in build(small, DEPLOY).net.layer]
    assert "AttentionC_2" in names and not any(name.startswith("AttentionB") for name in names)
    for changes, message in [
        (dict(modules="1,1"), "'mask_levels' has 3 values, and 2 stages need 2"),
        (dict(module="1"), "no setting 'module'"),
        (dict(widths="a"), "'widths' does not take 'a'"),
        (dict(pre_units="0"), "'pre_units' is 0"),
        (dict(groups="7"), "do not divide into 7 groups"),
        (dict(stem_kernel="4"), "odd"),
    ]:
        with pytest.raises(Error, match=message):
            vary(NETWORKS["attention56"], changes)


@pytest.mark.parametrize("size, fits", [(32, True), (31, True), (30, False), (1, False)])
def test_smallest_inputs(size, fits):
    config = NETWORKS["attention56"]
    if fits:
        build(config, DEPLOY, input_size=size)
    else:
        with pytest.raises(Error, match="too small"):
            build(config, DEPLOY, input_size=size)


def test_means(tmp_path):
    (tmp_path / "mean.txt").write_text("1.5,2,3\n")
    (tmp_path / "bad.txt").write_text("red")
    assert read_mean("none", 3) is None
    assert read_mean("104,117,123.5", 3) == (104, 117, 123.5)
    assert read_mean(str(tmp_path / "mean.txt"), 3) == (1.5, 2, 3)
    assert read_mean("made_later.binaryproto", 3) == "made_later.binaryproto"
    for text in (str(tmp_path / "bad.txt"), str(tmp_path / "missing"), "nan,1,2"):
        with pytest.raises(Error):
            read_mean(text, 3)
    with pytest.raises(Error, match="2 values"):
        build(NETWORKS["attention56"], TRAIN, data=DataEnds(mean=(1, 2)))


def test_an_unknown_mean_for_another_number_of_channels_is_asked_for():
    gray = replace(NETWORKS["attention56-cifar"], channels=1)
    with pytest.raises(Error, match="mean of 3 values does not fit an image of 1 channels"):
        build(gray, TRAIN, data=DataEnds(mean=gray.mean))


SHAPES_SCRIPT = """
    import json, sys, tempfile, os
    import caffe
    shapes, parameters = {{}}, {{}}
    for path in {paths!r}:
        net = caffe.Net(path, caffe.TEST)
        shapes[path] = {{name: list(blob.shape) for name, blob in net.blobs.items()}}
        parameters[path] = {{name: [int(blob.count) for blob in blobs] for name, blobs in net.params.items()}}
        del net
    print(json.dumps([shapes, parameters]))
    """


def in_caffe(run_caffe_python, folder, nets):
    """Load nets (name -> NetParameter) in Caffe; return blob shapes and parameter counts by layer, by name."""
    from prototxt_gen.core.io import dumps

    paths = {}
    for name, net in nets.items():
        paths[name] = str(folder / f"{name}.prototxt")
        (folder / f"{name}.prototxt").write_text(dumps(net))
    shapes, parameters = json.loads(run_caffe_python(SHAPES_SCRIPT.format(paths=list(paths.values()))).stdout)
    return {name: (shapes[path], parameters[path]) for name, path in paths.items()}


def test_paper_nets_in_caffe_have_the_papers_shapes_and_parameters(run_caffe_python, tmp_path):
    nets = {name: build(NETWORKS[name], PUBLISHED).net for name in PAPER_NETS}
    for name, (shapes, parameters) in in_caffe(run_caffe_python, tmp_path, nets).items():
        for blob, channels, plane in STAGES:
            assert shapes[blob] == [1, channels, plane, plane], (name, blob)
        weighted = sum(counts[0] if len(counts) == 1 else sum(counts)
                       for layer, counts in parameters.items() if len(counts) < 4)
        assert (weighted, sum(map(sum, parameters.values()))) == PARAMETERS[name]


def test_every_deploy_net_loads_in_caffe(run_caffe_python, tmp_path):
    nets = {name: build(config, DEPLOY).net for name, config in NETWORKS.items()}
    nets.update({f"{name}-320": build(NETWORKS[name], DEPLOY, input_size=320).net for name in PAPER_NETS})
    nets["attention56-31"] = build(NETWORKS["attention56"], DEPLOY, input_size=31).net
    loaded = in_caffe(run_caffe_python, tmp_path, nets)
    for name, (shapes, parameters) in loaded.items():
        config = NETWORKS[name.replace("-320", "").replace("-31", "")]
        assert shapes["cls"] == [1, config.classes]
        weighted = sum(sum(counts) for counts in parameters.values() if len(counts) < 4)
        if name in PARAMETERS:
            assert weighted == PARAMETERS[name][0]
        if name.endswith("-320"):
            assert parameters == loaded[name[:-4]][1]
            assert shapes["post_res_4_3"] == [1, 2048, 10, 10]


def test_pycaffe_builds_equal_messages_from_the_same_builder(run_caffe_python):
    cases = [(name, form) for name in ("attention56", "attentionnext92", "attention56-cifar") for form in FORMS
             if not (form == PUBLISHED and NETWORKS[name].reconstruction)]
    answer = run_caffe_python(f"""
        import base64
        import caffe.net_spec
        from prototxt_gen.nets.builder import build
        from prototxt_gen.nets.configs import NETWORKS
        for name, form in {cases!r}:
            net = build(NETWORKS[name], form, spec=caffe.net_spec).net
            assert type(net).__module__ == "caffe.proto.caffe_pb2" or "caffe_pb2" in type(net).__module__
            print(base64.b64encode(net.SerializeToString(deterministic=True)).decode())
        """).stdout
    theirs = [base64.b64decode(line) for line in answer.split()]
    assert theirs == [build(NETWORKS[name], form).net.SerializeToString(deterministic=True) for name, form in cases]
