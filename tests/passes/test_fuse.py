"""fuse-scale: chains of Scale and Power as one layer, the same values in Caffe and in numpy, and refusals."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import random_nets
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import Graph
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.passes.base import registry

quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }\n'
fuse, seed = registry.find("fuse-scale"), registry.find("seed-weights")


def read(text):
    return Model(loads(text, DEFAULT_DIALECT.message("NetParameter")))


def layer(name, kind, bottom, top="", rest=""):
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top or name}" {rest} }}\n'


def scale(name, bottom, top="", rest=""):
    return layer(name, "Scale", bottom, top, rest)


def power(name, bottom, top="", rest="scale: 3 shift: -0.5"):
    return layer(name, "Power", bottom, top, "power_param { %s }" % rest)


A = layer("a", "TanH", "data")
BIASED = "scale_param { bias_term: true bias_filler { value: 2 } }"
# Text, what it becomes.
FUSED = {
    "Scale, Scale": (A + scale("s", "a") + scale("t", "s"), A + scale("s", "a", "t")),
    "Scale, Scale with bias": (A + scale("s", "a") + scale("t", "s", "", BIASED), A + scale("s", "a", "t", BIASED)),
    "Scale with bias, Scale": (A + scale("s", "a", "", BIASED) + scale("t", "s"), A + scale("s", "a", "t", BIASED)),
    "both with bias": (A + scale("s", "a", "", BIASED) + scale("t", "s", "", BIASED), A + scale("s", "a", "t", BIASED)),
    "along other axes": tuple(
        A + scale("s", "a", top, "scale_param { axis: 2 num_axes: 2 }")
        + rest for top, rest in (("", scale("t", "s", "", "scale_param { axis: 2 num_axes: 2 }")), ("t", ""))),
    "Scale, Power": (
        A + scale("s", "a") + power("p", "s"), A + scale("s", "a", "p", "scale_param { bias_term: true }")),
    "Scale, Power without shift": (A + scale("s", "a") + power("p", "s", rest="scale: 2"), A + scale("s", "a", "p")),
    "Power, Scale": (
        A + power("p", "a") + scale("s", "p"), A + scale("s", "a", "s", "scale_param { bias_term: true }")),
    "Power, Power": (A + power("p", "a") + power("q", "p", rest="scale: 2 shift: 1 power: 2"),
                     A + power("q", "a", rest="scale: 6 shift: 0 power: 2")),
    "four in line, in place": (
        A + scale("s", "a", "a") + power("p", "a", "a") + scale("t", "a", "a", BIASED) + power("q", "a", "a"),
        A + scale("s", "a", "a", "scale_param { bias_term: true }")),
    "in place, then not": (A + scale("s", "a", "a") + power("p", "a", rest="scale: 2"),
                           layer("a", "TanH", "data", "p") + scale("s", "p", "p")),
    "with a loss weight": (
        "state { phase: TEST }" + A + scale("s", "a") + scale("t", "s", "", "loss_weight: 2"),
        "state { phase: TEST }" + A + scale("s", "a", "t", "loss_weight: 2")),
}
SHARED = 'param { name: "w" }'
# The reason, the text, the layer.
LEFT = {
    "the Power before it raises to a power": (power("p", "a", rest="power: 2") + scale("s", "p"), "s"),
    "it raises to a power": (scale("s", "a") + power("p", "s", rest="power: 2"), "p"),
    "the factor of a Scale is a second bottom": (scale("s", "a") + scale("t", "s", "", 'bottom: "a"'), "t"),
    "the two factors lie along different axes": (
        scale("s", "a") + scale("t", "s", "", "scale_param { axis: 2 }"), "t"),
    "it has propagate_down": (scale("s", "a") + scale("t", "s", "", "propagate_down: false"), "t"),
    "the parameters of a Scale are shared": (
        scale("s", "a", "", SHARED) + power("p", "s") + scale("x", "a", "", SHARED), "p"),
    "it follows a Scale that 2 layers read": (scale("s", "a") + power("p", "s") + layer("r", "ReLU", "s"), "p"),
    "it follows a Scale of other phases": (scale("s", "a") + scale("t", "s", "", "include { phase: TEST }"), "t"),
    "it follows a Power that works in place on the net's input": (power("p", "data", "data") + power("q", "data"), "q"),
}


@pytest.mark.parametrize("text, expected", FUSED.values(), ids=FUSED)
def test_fused(text, expected):
    model = read(DATA + text)
    result = fuse(model)
    assert result.model.net == read(DATA + expected).net
    assert len(result.edits) == len(model.net.layer) - len(result.model.net.layer) and not result.skipped


def test_fused_nets_compute_the_same_in_caffe(run_in_caffe):
    inputs = {"data": np.random.RandomState(0).standard_normal((2, 3, 4, 4)).astype(np.float32)}
    models = [seed(read(DATA + text)).model for text, _ in FUSED.values()]
    found = run_in_caffe([(one, inputs) for model in models for one in (model, fuse(model).model)])
    for name, (before, _), (after, _) in zip(FUSED, found[::2], found[1::2]):
        common = {*before} & {*after} - {"data"}
        assert common, name
        for blob in common:
            np.testing.assert_allclose(after[blob], before[blob], rtol=1e-5, atol=1e-6, err_msg=f"{name}: {blob}")


@quick
@given(model=random_nets.models(types=("Scale", "Scale", "Power", "Power", "ReLU", "Convolution", "Split"), most=10))
def test_a_blob_that_is_left_holds_the_same_values(model):
    inputs, kept = random_nets.inputs_of(model), model.dumps()
    result = fuse(model)
    expected, found = (forward(one, inputs, dtype=np.float64) for one in (model, result.model))
    outputs = {one.blob for one in Graph(model.net.layer).newest.values() if not one.readers}
    assert outputs <= {*found} <= {*expected}
    for name in found:
        assert np.abs(found[name] - expected[name]).max() <= 1e-5 * max(1, np.abs(expected[name]).max())
    assert model.dumps() == kept
    assert {*result.model.blobs} == {one.name for one in result.model.net.layer} & {*model.blobs}


@pytest.mark.parametrize("reason, case", LEFT.items(), ids=LEFT)
def test_left(reason, case):
    text, name = case
    model = read(DATA + A + text)
    result = fuse(model)
    assert (name, reason) in [(one.layer, one.reason) for one in result.skipped]
    assert result.model.net == model.net and not result.edits
    assert result.coverage == "fused 0 of 1 Scale and Power in line"


def test_weights_for_one_scale_only():
    model = seed(read(DATA + scale("s", "data") + scale("t", "s"))).model
    for name in "st":
        result = fuse(replace(model, blobs={name: model.blobs[name]}))
        assert [one.reason for one in result.skipped] == ["the weights hold nothing of a Scale"]
    with pytest.raises(Error, match="layer 't': it has 2 factors, 's' before it 3"):
        fuse(replace(model, blobs={**model.blobs, "t": (model.blobs["t"][0][:2],)}))


def test_a_training_net_keeps_its_scales():
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "data" top: "loss" }'
    with pytest.raises(Error, match="layer 'loss': the net is for training, and there 's' and 'y' learn otherwise"):
        fuse(read(DATA + scale("s", "data") + scale("y", "s") + loss))
    assert fuse(read(DATA + power("p", "data") + power("y", "p") + loss)).edits  # nothing of theirs learns
