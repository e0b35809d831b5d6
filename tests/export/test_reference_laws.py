"""Laws of the numpy forward, over random nets: precision, Splits, repetition; and its refusals."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import random_nets
from prototxt_gen.core.dialects import DEFAULT_DIALECT, find_dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN, insert_splits
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.reference import forward, steps
from prototxt_gen.export.reference.registry import layers
from prototxt_gen.spec.infer import infer

quick = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def read(text):
    return Model(loads(text, DEFAULT_DIALECT.message("NetParameter")))


@quick
@given(model=random_nets.models())
def test_single_and_double_precision_agree_on_shapes_and_values(model):
    inputs = random_nets.inputs_of(model)
    single, double = (forward(model, inputs, dtype=dtype) for dtype in (np.float32, np.float64))
    shapes = infer(model.net, TEST).blobs
    assert list(single) == list(double)
    for name in single:
        assert single[name].dtype == np.float32 and double[name].dtype == np.float64
        assert single[name].shape == double[name].shape == shapes[name]
        scale = max(1, np.abs(double[name]).max())
        assert np.abs(single[name] - double[name]).max() <= 1e-4 * scale, name


@quick
@given(model=random_nets.models())
def test_splits_change_nothing(model):
    inputs, net = random_nets.inputs_of(model), type(model.net)()
    net.layer.extend(insert_splits(model.net.layer))
    plain, split = forward(model, inputs), forward(replace(model, net=net), inputs)
    assert all(np.array_equal(plain[name], split[name], equal_nan=True) for name in plain)


@quick
@given(model=random_nets.models())
def test_a_second_run_gives_the_same_and_leaves_the_model_alone(model):
    inputs = random_nets.inputs_of(model)
    before = {name: [blob.copy() for blob in blobs] for name, blobs in model.blobs.items()}
    given_inputs = {name: array.copy() for name, array in inputs.items()}
    first, second = forward(model, inputs), forward(model, inputs)
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)
    assert all(np.array_equal(a, b) for name in before for a, b in zip(before[name], model.blobs[name]))
    assert all(np.array_equal(given_inputs[name], inputs[name]) for name in inputs)


NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
"""
DATA = np.ones((1, 2, 4, 4))
BLOBS = (np.full((3, 2, 1, 1), -1.0), np.zeros(3))


def test_steps_show_each_version_of_a_blob():
    shown = [(layer.name, {name: float(top.min()) for name, top in tops.items()})
             for layer, tops in steps(replace(read(NET), blobs={"conv1": BLOBS}), {"data": DATA})]
    assert shown == [("data", {"data": 1}), ("conv1", {"conv1": -2}), ("relu1", {"conv1": 0})]


def test_the_phase_chooses_the_layers():
    model = read(NET.replace('"relu1" type', '"relu1" include { phase: TRAIN } type'))
    model = replace(model, blobs={"conv1": BLOBS})
    assert forward(model, {"data": DATA}, phase=TEST)["conv1"].min() == -2
    assert forward(model, {"data": DATA}, phase=TRAIN)["conv1"].min() == 0


def test_inputs_of_old_files_and_data_layers_and_other_sizes():
    first, second, rest = NET.partition('layer { name: "conv1')
    old = 'input: "data" input_dim: 1 input_dim: 2 input_dim: 4 input_dim: 4 ' + second + rest
    data = 'layer { name: "data" type: "Data" top: "data" } ' + second + rest
    for model in map(read, (old, data, NET)):
        out = forward(replace(model, blobs={"conv1": BLOBS}), {"data": np.ones((2, 2, 5, 3))})
        assert out["conv1"].shape == (2, 3, 5, 3)


def test_shared_parameters_are_the_last_stored():
    text = NET.replace("convolution_param", 'param { name: "w" } param { name: "b" } convolution_param')
    text += text[text.index('layer { name: "conv1'):].replace("conv1", "conv2").replace("relu1", "relu2")
    other = (np.ones((3, 2, 1, 1)), np.ones(3))
    out = forward(replace(read(text), blobs={"conv1": BLOBS, "conv2": other}), {"data": DATA})
    assert (out["conv1"] == 3).all() and (out["conv2"] == 3).all()
    out = forward(replace(read(text), blobs={"conv2": other}), {"data": DATA})
    assert (out["conv1"] == 3).all()


def test_blobs_with_the_axes_of_old_files():
    out = forward(replace(read(NET), blobs={"conv1": (BLOBS[0], np.ones((1, 1, 1, 3)))}), {"data": DATA})
    assert (out["conv1"] == 0).all()


REFUSED = {
    "no weights": (NET, {}, "layer 'conv1' (Convolution): there are no weights for it\nhint: --weights"),
    "one blob": (NET, {"conv1": BLOBS[:1]}, "layer 'conv1' (Convolution): its weights are 1 blobs, and it has 2"),
    "shape": (NET, {"conv1": (np.zeros((2, 3, 1, 1)), BLOBS[1])}, "blob 0 of its weights is 2x3x1x1, not 3x2x1x1"),
    "type": (NET.replace("ReLU", "ReLo"), {}, "(ReLo): the numpy engine has no layer of this type\nhint: did you mean"),
    "python": (NET.replace("ReLU", "Python"), {}, "the numpy engine has no layer of this type\nhint: run the net in Caffe"),
    "bottom": (NET.replace('bottom: "conv1"', 'bottom: "conv"'), {}, "reads blob 'conv'"),
    "stochastic": (NET.replace("ReLU", "Pooling").replace('top: "conv1" }', 'top: "p" pooling_param { pool: STOCHASTIC '
                   'global_pooling: true } }'), {"conv1": BLOBS}, "layer 'relu1' (Pooling): stochastic pooling"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    text, blobs, message = REFUSED[case]
    with pytest.raises(Error) as caught:
        forward(replace(read(text), blobs=blobs), {"data": DATA})
    assert message in str(caught.value)


def test_refused_inputs():
    model = replace(read(NET), blobs={"conv1": BLOBS})
    with pytest.raises(Error, match="no array is given for the input 'data'"):
        forward(model, {})
    with pytest.raises(Error, match="the net has no input 'dat'\nhint: did you mean 'data'"):
        forward(model, {"data": DATA, "dat": DATA})
    with pytest.raises(Error, match="drops values at random"):
        forward(replace(read(NET.replace("ReLU", "Dropout")), blobs={"conv1": BLOBS}), {"data": DATA}, phase=TRAIN)


def test_what_bns_fourth_blob_holds_is_told_by_the_dialect_or_the_caller():
    text = 'layer { name: "data" type: "Input" top: "data" } layer { name: "bn" type: "BN" bottom: "data" top: "bn" }'
    values = [np.full((1, 2, 1, 1), value) for value in (1, 0, 0, 4)]
    attention = replace(read(text), blobs={"bn": tuple(values)})
    happynear = find_dialect("happynear")
    undecided = Model(loads(text, happynear.message("NetParameter")), happynear,
                      {"bn": tuple(value.reshape(1, 2) for value in values)})
    assert forward(attention, {"data": DATA})["bn"].mean() == 4
    assert forward(undecided, {"data": DATA}, bn_statistic="inv-std")["bn"].mean() == 4
    assert forward(undecided, {"data": DATA}, bn_statistic="variance")["bn"].mean() == pytest.approx(0.5, rel=1e-5)
    with pytest.raises(Error, match="does not tell what the fourth blob of BN holds"):
        forward(undecided, {"data": DATA})


def test_a_type_has_one_owner():
    with pytest.raises(ValueError, match="layer type 'ReLU' can be run already"):
        layers.add("ReLU")(lambda step: step.x)


@settings(quick, max_examples=40)
@given(model=random_nets.models(dialect=find_dialect("bvlc")))
def test_nets_of_stock_caffe(model):
    assert not {"BN", "Interp"} & {layer.type for layer in model.net.layer}
    other = Model(loads(model.dumps(), DEFAULT_DIALECT.message("NetParameter")), blobs=model.blobs)
    inputs = random_nets.inputs_of(model)
    mine, theirs = forward(model, inputs), forward(other, inputs)
    assert all(np.array_equal(mine[name], theirs[name], equal_nan=True) for name in theirs)
