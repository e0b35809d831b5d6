"""fold-bn: what is folded where, the same values in Caffe and in numpy, and every reason to leave a layer."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import random_nets
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, Graph
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.nets.builder import DEPLOY, PUBLISHED, TRAIN, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.base import registry
from prototxt_gen.spec.infer import infer

quick = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
TYPES = ("BN", "BN", "BatchNorm", "Scale", "Scale", "Convolution", "Convolution", "InnerProduct", "Deconvolution",
         "ReLU", "Split", "Eltwise", "Power", "Dropout")
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 6 dim: 5 } } }\n'
fold, split, seed = (registry.find(name) for name in ("fold-bn", "split-bn", "seed-weights"))


def read(text):
    return Model(loads(text, DEFAULT_DIALECT.message("NetParameter")))


def layer(name, kind, bottom, rest="", top=""):
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top or name}" {rest} }}\n'


def conv(name, bottom, rest="", kind="Convolution", more=""):
    return layer(name, kind, bottom, "convolution_param { num_output: 6 kernel_size: 3 %s } %s" % (rest, more))


def fc(name, bottom, rest="", more=""):
    return layer(name, "InnerProduct", bottom, "inner_product_param { num_output: 6 %s } %s" % (rest, more))


RELU = layer("relu", "ReLU", "data")
BIASED = "scale_param { bias_term: true }"
# Nets of which everything is folded: the text, and the names of the layers that stay.
FOLDED = {
    "a convolution without bias": (conv("c", "data", "bias_term: false") + layer("n", "BN", "c"), "c"),
    "a convolution with bias": (conv("c", "data") + layer("n", "BN", "c"), "c"),
    "groups, strides, padding": (conv("c", "data", "group: 2 pad: 2 stride: 2") + layer("n", "BN", "c"), "c"),
    "in place": (conv("c", "data") + layer("n", "BN", "c", top="c") + layer("r", "ReLU", "c", top="c"), "c r"),
    "a deconvolution": (conv("c", "data", "bias_term: false", "Deconvolution") + layer("n", "BN", "c"), "c"),
    "a deconvolution with groups": (conv("c", "data", "group: 2", "Deconvolution") + layer("n", "BN", "c"), "c"),
    "an inner product": (fc("c", "data") + layer("n", "BN", "c"), "c"),
    "a transposed inner product": (fc("c", "data", "transpose: true bias_term: false") + layer("n", "BN", "c"), "c"),
    "BatchNorm and Scale": (conv("c", "data") + layer("n", "BatchNorm", "c") + layer("s", "Scale", "n", BIASED), "c"),
    "in place BatchNorm and Scale": (
        conv("c", "data") + layer("n", "BatchNorm", "c", top="c") + layer("s", "Scale", "c", BIASED, top="c"), "c"),
    "BatchNorm alone": (conv("c", "data", "bias_term: false") + layer("n", "BatchNorm", "c"), "c"),
    "Scale alone, and no bias": (conv("c", "data", "bias_term: false") + layer("s", "Scale", "c"), "c"),
    "Scale alone, with bias": (conv("c", "data", "bias_term: false") + layer("s", "Scale", "c", BIASED), "c"),
    "several in a row": (
        fc("c", "data") + layer("n1", "BN", "c") + layer("n2", "BN", "n1") + layer("n3", "Scale", "n2"), "c"),
    "into a convolution after it": (RELU + layer("n", "BN", "relu") + conv("c", "n", "bias_term: false"), "relu c"),
    "into one with strides after it": (RELU + layer("n", "BN", "relu") + conv("c", "n", "stride: 2"), "relu c"),
    "into groups after it": (RELU + layer("n", "BN", "relu") + conv("c", "n", "group: 2"), "relu c"),
    "into an inner product after it": (RELU + layer("n", "BN", "relu") + fc("c", "n"), "relu c"),
    "into a transposed one after it": (RELU + layer("n", "BN", "relu") + fc("c", "n", "transpose: true"), "relu c"),
    "Scale without bias before padding": (
        RELU + layer("s", "Scale", "relu") + conv("c", "s", "pad: 1 bias_term: false"), "relu c"),
    "BatchNorm and Scale, into one after it": (
        RELU + layer("n", "BatchNorm", "relu") + layer("s", "Scale", "n", BIASED, top="n") + conv("c", "n"), "relu c"),
    "all in place, into one after it": (
        RELU + "".join(layer(*one, "relu", top="relu") for one in (("r", "ReLU"), ("n", "BatchNorm"), ("s", "Scale")))
        + conv("c", "relu"), "relu r c"),
    "between two: the first gets it": (fc("c", "data") + layer("n", "BN", "c") + fc("d", "n"), "c d"),
    "what others read stays": (
        RELU + layer("n", "BN", "relu") + conv("c", "n") + layer("t", "TanH", "relu"), "relu c t"),
    "parts in the same phase": (
        conv("c", "data", more="include { phase: TEST }") + layer("n", "BN", "c", "include { phase: TEST }"), "c"),
    "with BN's parameters shared": (
        conv("c", "data") + layer("n", "BN", "c", 'param { name: "g" }') + conv("d", "data")
        + layer("m", "BN", "d", 'param { name: "g" }'), "c d"),
}


@pytest.mark.parametrize("text, left", FOLDED.values(), ids=FOLDED)
def test_folded(text, left):
    model = read(DATA + text)
    result = fold(model)
    assert [one.name for one in result.model.net.layer[1:]] == left.split()
    assert not result.skipped and len(result.edits) == len(model.net.layer) - len(result.model.net.layer)
    assert outputs(result.model.net) == outputs(model.net)


def test_what_stood_under_the_name_of_a_layer_in_place_moves_aside():
    text, _ = FOLDED["all in place, into one after it"]
    pool = layer("relu/input", "Pooling", "data", "pooling_param { kernel_size: 1 }")
    net = fold(read(DATA + pool + text)).model.net
    assert [(list(one.bottom), list(one.top)) for one in net.layer[2:]] == [
        (["data"], ["relu/input_2"]), (["relu/input_2"], ["relu/input_2"]), (["relu/input_2"], ["c"])]


def test_folded_nets_compute_the_same_in_caffe(run_in_caffe):
    inputs = {"data": np.random.RandomState(0).standard_normal((2, 4, 6, 5)).astype(np.float32)}
    models = [seed(read(DATA + text)).model for text, _ in FOLDED.values()]
    found = run_in_caffe([(one, inputs) for model in models for one in (model, fold(model).model)])
    for name, (before, _), (after, _) in zip(FOLDED, found[::2], found[1::2]):
        common = {*before} & {*after} - {"data"}
        assert common, name
        for blob in common:
            limit = 1e-5 * max(1, np.abs(before[blob]).max())
            assert np.abs(after[blob] - before[blob]).max() <= limit, (name, blob)


def outputs(net):
    return {version.blob for version in Graph(net.layer).newest.values() if not version.readers}


@quick
@given(model=random_nets.models(types=TYPES, most=10))
def test_a_blob_that_is_left_holds_the_same_values(model):
    inputs, kept = random_nets.inputs_of(model), model.dumps()
    result = fold(model)
    expected, found = (forward(one, inputs, dtype=np.float64) for one in (model, result.model))
    assert outputs(model.net) <= {*found}
    # What a layer in place was folded away from has got a name of its own.
    assert all(name in expected or "/input" in name for name in found)
    for name in {*found} & {*expected}:
        assert np.abs(found[name] - expected[name]).max() <= 1e-5 * max(1, np.abs(expected[name]).max())
    assert model.dumps() == kept
    assert len(result.model.net.layer) == len(model.net.layer) - len(result.edits)
    assert {*result.model.blobs} == {one.name for one in result.model.net.layer} & {*model.blobs}
    assert infer(result.model.net, TEST).learnable <= infer(model.net, TEST).learnable + sum(
        one.convolution_param.num_output + one.inner_product_param.num_output for one in result.model.net.layer)


# What stays, and why: the reason of layer 'n'.
BN = layer("n", "BN", "c")
LEFT = {
    "before it Eltwise, after it ReLU":
        'layer { name: "c" type: "Eltwise" bottom: "data" bottom: "data" top: "c" }' + BN + layer("r", "ReLU", "n"),
    "before it Convolution that 2 layers read, after it nothing": conv("c", "data") + BN + layer("r", "ReLU", "c"),
    "before it Convolution with shared weights, after it nothing":
        conv("c", "data", more='param { name: "w" }') + conv("d", "data", more='param { name: "w" }') + BN,
    "before it Convolution of other phases, after it nothing": conv("c", "data") + layer("n", "BN", "c", "include { }"),
    "before it Convolution with a loss weight, after it nothing": conv("c", "data", more="loss_weight: 1") + BN,
    "before it Convolution along another axis, after it nothing": conv("c", "data", "axis: 2") + BN,
    "before it InnerProduct along another axis, after it nothing": fc("c", "data", "axis: 2") + BN,
    "before it Convolution with several bottoms, after it nothing":
        conv("c", "data", more='bottom: "data" top: "d"') + BN,
    "before it an input of the net, after it Convolution with padding":
        layer("n", "BN", "old") + conv("c", "n", "pad: 1"),
    # The window is 7 high and the plane 6: (6 - 7) / 3 is 0 in Caffe, and one row comes out.
    "before it an input of the net, after it Convolution with a window larger than its plane":
        layer("n", "BN", "old") + conv("c", "n", "stride: 3 dilation: 3"),
    "before it an input of the net, after it Deconvolution":
        layer("n", "BN", "old") + conv("c", "n", kind="Deconvolution"),
    "before it an input of the net, after it Convolution of other phases":
        layer("n", "BN", "old") + conv("c", "n", more="include { phase: TEST }"),
    "before it an input of the net, after it Convolution with shared weights":
        layer("n", "BN", "old") + conv("c", "n", more='param { name: "w" }')
        + fc("d", "old", more='param { name: "w" }'),
    "before it an input of the net, after it 2 layers": layer("n", "BN", "old") + conv("c", "n") + conv("d", "n"),
    "before it an input of the net, after it Convolution, but in place on an input, or on what others read":
        layer("n", "BN", "old", top="old") + conv("c", "old"),
    "before it Convolution of whose blobs other phases make their own, after it nothing":
        conv("c", "data") + BN + layer("x", "ReLU", "data", "include { phase: TRAIN }", top="c"),
    "it normalises by each batch in TEST, too (use_global_stats: false)":
        conv("c", "data") + layer("n", "BatchNorm", "c", "batch_norm_param { use_global_stats: false }"),
    "its factor is a second bottom": conv("c", "data") + layer("n", "Scale", "c", 'bottom: "c"'),
    "its factor does not lie along the channels":
        conv("c", "data") + layer("n", "Scale", "c", "scale_param { axis: 2 }"),
    "it has a loss weight": conv("c", "data") + layer("n", "BN", "c", "loss_weight: 1"),
}


@pytest.mark.parametrize("reason, text", LEFT.items(), ids=LEFT)
def test_left(reason, text):
    model = read('state { phase: TEST } input: "old" input_shape { dim: 2 dim: 4 dim: 6 dim: 5 }' + DATA + text)
    result = fold(model)
    assert [(one.layer, one.reason) for one in result.skipped] == [("n", reason)]
    assert result.model.net == model.net and not result.edits
    assert result.coverage == f"folded 0 of 1 {next(one.type for one in model.net.layer if one.name == 'n')}"


def test_layers_that_have_weights_for_one_of_the_two_only_are_left():
    model = seed(read(DATA + conv("c", "data") + BN)).model
    result = fold(replace(model, blobs={"c": model.blobs["c"]}))
    assert [one.reason for one in result.skipped] == [
        "before it Convolution with weights for one of the two only, after it nothing"]


def test_a_training_net_is_refused():
    text = conv("c", "data") + BN + layer("loss", "SoftmaxWithLoss", "n", 'bottom: "data"')
    with pytest.raises(Error, match="layer 'loss': the net is for training.*\nhint: --pass train-to-deploy first"):
        fold(read(DATA + text))
    assert fold(read("state { phase: TEST }" + DATA + text)).edits
    in_test = DATA.replace("input_param", "include { phase: TEST } input_param")
    assert fold(read(in_test + text)).edits  # in TRAIN nothing makes 'data'
    with pytest.raises(Error, match="for training"):
        fold(build(NETWORKS["attention56"], TRAIN))


def test_the_new_bias_learns_as_the_old_did():
    rates = "param { lr_mult: 3 } "
    norm = layer("n", "BN", "c", 'param { lr_mult: 1 } param { name: "b" lr_mult: 2 decay_mult: 0 }')
    kept = fold(read(DATA + conv("c", "data", "bias_term: false", more=rates) + norm)).model.net.layer[1]
    assert not kept.convolution_param.HasField("bias_term")
    assert [(one.name, one.lr_mult, one.decay_mult) for one in kept.param] == [("", 3, 1), ("", 2, 0)]


DAMAGED = {
    "Convolution has 2 blobs here, and the weights hold 1": ("c", lambda blobs: blobs[:1]),
    "its weights .7, 4, 3, 3. do not fit num_output 6": ("c", lambda blobs: (np.zeros((7, 4, 3, 3)), blobs[1])),
    "it has 6 channels, and the layer beside it 5": ("n", lambda blobs: tuple(blob[:, :5] for blob in blobs)),
}


@pytest.mark.parametrize("what, damage", DAMAGED.items(), ids=DAMAGED)
def test_damaged_weights(what, damage):
    model = seed(read(DATA + conv("c", "data") + BN)).model
    name, change = damage
    with pytest.raises(Error, match=f"layer 'c': {what}"):
        fold(replace(model, blobs={**model.blobs, name: change(model.blobs[name])}))


def test_damaged_weights_after_it():
    model = seed(read(DATA + RELU + layer("n", "BN", "relu") + conv("c", "n"))).model
    short = tuple(blob[:, :3] for blob in model.blobs["n"])
    with pytest.raises(Error, match="layer 'c': it has 4 channels, and the layer beside it 3"):
        fold(replace(model, blobs={**model.blobs, "n": short}))


def test_old_blob_shapes_and_double_precision_stay():
    model = seed(read(DATA + fc("c", "data") + BN)).model
    weights, bias = (blob.astype(np.float64) for blob in model.blobs["c"])
    old = replace(model, blobs={**model.blobs, "c": (weights.reshape(1, 1, 6, -1), bias.reshape(1, 1, 1, 6))})
    new, expected = fold(old).model.blobs["c"], fold(model).model.blobs["c"]
    assert [blob.shape for blob in new] == [(1, 1, 6, 120), (1, 1, 1, 6)]
    assert all(blob.dtype == np.float64 for blob in new)
    np.testing.assert_allclose(new[0].reshape(6, -1), expected[0], rtol=1e-6)


def test_the_statistic_says_what_the_fourth_blob_is():
    model = seed(read(DATA + fc("c", "data") + BN)).model
    fourth = model.blobs["n"][3].reshape(-1)
    by_std, by_variance = (fold(model, bn_statistic=one).model.blobs["c"][0] for one in ("inv-std", "variance"))
    expected = 1 / np.sqrt(fourth + 1e-5) / fourth
    np.testing.assert_allclose(by_variance / by_std, np.tile(expected, (120, 1)).T, rtol=1e-5)


COVERAGE = {"attention56": (70, 107), "attention92": (115, 176), "attentionnext56": (107, 107),
            "attentionnext92": (173, 173)}


@pytest.mark.parametrize("form", [DEPLOY, PUBLISHED])
@pytest.mark.parametrize("name, numbers", COVERAGE.items(), ids=COVERAGE)
def test_the_networks(name, numbers, form):
    model = build(NETWORKS[name], form)
    result, of_pair = fold(model), fold(split(model).model)
    folded, every = numbers
    assert result.coverage == f"folded {folded} of {every} BN"
    assert of_pair.coverage == f"folded {folded} of {every} BatchNorm, {folded} of {every} Scale"
    # Pre-activation nets normalise sums, pooled and resized blobs, each before a ReLU.
    reasons = Counter(one.reason.partition(",")[0] for one in result.skipped)
    assert sum(reasons.values()) == every - folded
    assert {*reasons} <= {"before it Eltwise", "before it Pooling", "before it Interp"}
    shapes = infer(model.net, TEST).blobs
    assert all(shapes[blob] == shape for blob, shape in infer(result.model.net, TEST).blobs.items() if blob in shapes)
