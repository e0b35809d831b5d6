"""split-bn and merge-bn: weights by their equations, values that stay in numpy and in Caffe, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

import random_nets
from prototxt_gen.core.dialects import DEFAULT_DIALECT, find_dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.passes.base import registry

quick = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
NORMS = ("BN", "BN", "BatchNorm", "BatchNorm", "Scale", "Scale", "Convolution", "ReLU", "Split", "InnerProduct")
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: 4 dim: 5 dim: 5 } } }\n'
NORM = 'layer { name: "n" type: "BatchNorm" bottom: "data" top: "n" %s }\n'
SCALE = 'layer { name: "s" type: "Scale" bottom: "n" top: "y" %s }\n'
EPS = np.float32(1e-5)
split, merge, seed = (registry.find(name) for name in ("split-bn", "merge-bn", "seed-weights"))


def read(text, dialect=DEFAULT_DIALECT):
    return Model(loads(text, dialect.message("NetParameter")), dialect)


def bn(rest="", fourth=(0.5, 1, 2, 4)):
    """A net of one BN 'n' after its input, with weights: slope, bias, mean and the fourth blob of four channels."""
    model = read(DATA + 'layer { name: "n" type: "BN" bottom: "data" top: "y" %s }' % rest)
    blobs = ((1, -2, 0.5, 0), (0, 1, 2, 3), (0.1, -0.2, 0.3, 0), fourth)
    return replace(model, blobs={"n": tuple(np.float32(one).reshape(1, -1, 1, 1) for one in blobs)})


def test_split_weights():
    model = bn()
    blobs = split(model).model.blobs
    g, b, m, v = (blob.reshape(-1) for blob in model.blobs["n"])
    assert [blob.shape for blob in blobs["n"]] == [(4,), (4,), (1,)]
    assert [blob.shape for blob in blobs["n/scale"]] == [(4,), (4,)]
    assert all(blob.dtype == np.float32 for blobs_ in blobs.values() for blob in blobs_)
    np.testing.assert_array_equal(blobs["n"][0], m)
    np.testing.assert_allclose(blobs["n"][1], 1 / v.astype(float) ** 2 - EPS, rtol=1e-7)
    assert blobs["n"][2] == 1
    np.testing.assert_array_equal(blobs["n/scale"], [g, b])


def test_split_weights_of_an_engine_that_keeps_a_variance():
    blobs = split(bn(), bn_statistic="variance").model.blobs
    np.testing.assert_array_equal(blobs["n"][1], [0.5, 1, 2, 4])


def seeded_in(dialect, layers):
    """A model in a dialect, its input given as files of all dialects can."""
    old_data = 'input: "data" input_shape { dim: 3 dim: 4 dim: 5 dim: 5 }'
    return replace(read(old_data + layers, dialect=find_dialect(dialect)), blobs=seed(read(DATA + layers)).model.blobs)


@pytest.mark.parametrize("name", ["happynear", "pspnet"])
@pytest.mark.parametrize("run", ["split-bn", "merge-bn", "fold-bn"])
def test_the_statistic_is_asked_for_where_weights_need_it(name, run):
    layer = ('layer { name: "n" type: "BatchNorm" bottom: "c" top: "y" }' if run == "merge-bn" else
             'layer { name: "n" type: "BN" bottom: "c" top: "y" }')
    convolution = ('layer { name: "c" type: "Convolution" bottom: "data" top: "c" '
                   'convolution_param { num_output: 2 kernel_size: 1 } }')
    model = seeded_in(name, convolution + layer)
    assert registry.find(run)(replace(model, blobs={})).edits
    with pytest.raises(Error, match=f"dialect '{name}' does not tell .*\nhint: --bn-statistic"):
        registry.find(run)(model)
    assert registry.find(run)(model, bn_statistic="variance").edits
    with pytest.raises(Error, match="bn_statistic is 'std'\nhint: it is inv-std or variance"):
        registry.find(run)(model, bn_statistic="std")


def test_merged_blobs_have_the_shape_of_the_dialect():
    for name, shape in (("attention", (1, 4, 1, 1)), ("happynear", (1, 4)), ("pspnet", (1, 4, 1, 1))):
        model = seeded_in(name, NORM % "")
        blobs = merge(model, bn_statistic="variance").model.blobs["n"]
        assert [blob.shape for blob in blobs] == [shape] * 4
        np.testing.assert_allclose(blobs[3].reshape(-1), model.blobs["n"][1] / model.blobs["n"][2])


def test_merge_weights_divide_by_the_factor():
    model = seed(read(DATA + NORM % "batch_norm_param { eps: 0.5 }" + SCALE % "")).model
    mean, variance, _ = model.blobs["n"]
    for factor, m, s in ((4, mean / 4, variance / 4), (0, 0 * mean, 0 * mean)):
        given_blobs = {**model.blobs, "n": (mean, variance, np.float32([factor]))}
        blobs = merge(replace(model, blobs=given_blobs)).model.blobs
        assert list(blobs) == ["n"]
        g, b, m_found, v = (blob.reshape(-1) for blob in blobs["n"])
        np.testing.assert_array_equal(g, model.blobs["s"][0])
        np.testing.assert_array_equal(b, 0)
        np.testing.assert_allclose(m_found, m, rtol=1e-7)
        np.testing.assert_allclose(v, 1 / np.sqrt(s + 0.5), rtol=1e-6)


def test_what_no_variance_can_be_goes_into_gamma():
    limit = 1 / np.sqrt(EPS)
    # A dead channel at the very limit is ordinary; one beyond it, one below 0 and one too small are not.
    model = bn(fourth=[limit, 1.5 * limit, -2, 1e-25])
    result = split(model)
    assert "in 3 of 4 channels no variance gives its v (up to 474.342; 1 / sqrt(eps) is 316.228)" in result.edits[0]
    assert "is the fourth blob a variance" not in result.edits[0]
    x = np.random.RandomState(0).standard_normal((3, 4, 5, 5))
    expected, found = (forward(one, {"data": x})["y"] for one in (model, result.model))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert "is the fourth blob a variance? --bn-statistic" in split(bn(fourth=[1, 1, 1, 5000])).edits[0]
    assert split(bn(fourth=[limit] * 4)).edits == ("layer 'n': split into BatchNorm and Scale 'n/scale'",)


def test_a_shared_slope_cannot_make_up_for_it():
    with pytest.raises(Error, match="1 channels need a gamma of their own"):
        split(bn(fourth=[1, 1, 1, 500], rest='param { name: "g" }'))


WRONG = {
    "BN has 4 blobs, and the weights hold 3": lambda m: {"n": m.blobs["n"][:3]},
    "the blobs of a BN have one size, not 4, 4, 4, 3": lambda m: {"n": (*m.blobs["n"][:3], m.blobs["n"][3][:, :3])},
    "has values that are not finite": lambda m: {"n": (*m.blobs["n"][:3], m.blobs["n"][3] * np.float32(np.inf))},
}


@pytest.mark.parametrize("what, blobs", WRONG.items(), ids=WRONG)
def test_split_refuses_damaged_weights(what, blobs):
    with pytest.raises(Error, match=f"layer 'n': .*{what}"):
        split(replace(bn(), blobs=blobs(bn())))


def test_merge_refuses_damaged_weights():
    model = seed(read(DATA + NORM % "" + SCALE % "")).model
    mean, variance, factor = model.blobs["n"]
    for what, blobs in (
        ("BatchNorm has 3 blobs, and the weights hold 2", {**model.blobs, "n": (mean, variance)}),
        ("the variance of 4 of its channels is -", {**model.blobs, "n": (mean, -variance, factor)}),
        ("it has 2 channels, 'n' 4", {**model.blobs, "s": (model.blobs["s"][0][:2],)}),
        ("the weights hold none of it, but those of 'n'", {"n": model.blobs["n"]}),
    ):
        with pytest.raises(Error, match=what):
            merge(replace(model, blobs=blobs))


@pytest.mark.parametrize("run, kind", [("split-bn", "BN"), ("merge-bn", "BatchNorm"), ("fold-bn", "BN")])
def test_a_dialect_without_bn(run, kind):
    model = read(DATA + f'layer {{ name: "n" type: "{kind}" bottom: "data" top: "y" }}', dialect=find_dialect("bvlc"))
    with pytest.raises(Error, match="layer 'n': dialect 'bvlc' has no layer BN .*\nhint: --pass dialect"):
        registry.find(run)(model)
    without = read(DATA, dialect=find_dialect("bvlc"))
    assert registry.find(run)(without).model.net == without.net


def test_nets_of_2014_are_upgraded_first():
    with pytest.raises(Error, match="hint: --pass upgrade first"):
        split(read('layers { name: "n" type: RELU bottom: "x" top: "x" }'))

# Laws, and Caffe.


@quick
@given(model=random_nets.models(types=NORMS))
def test_splitting_and_merging_change_no_values(model):
    inputs = random_nets.inputs_of(model)
    expected = forward(model, inputs, dtype=np.float64)
    kept = model.dumps()
    for run in (split, merge):
        found = forward(run(model).model, inputs, dtype=np.float64)
        assert {*expected} >= {*found}
        for name in found:
            scale = max(1, np.abs(expected[name]).max())
            assert np.abs(found[name] - expected[name]).max() <= 1e-5 * scale
    assert model.dumps() == kept


@quick
@given(model=random_nets.models(types=("BN", "BN", "Convolution", "ReLU", "InnerProduct")))
def test_split_then_merge_is_nothing(model):
    divided = split(model)
    assume(divided.edits)
    back = merge(divided.model)
    if divided.skipped:
        return
    assert {layer.type for layer in back.model.net.layer} == {layer.type for layer in model.net.layer}
    assert {*back.model.blobs} == {*model.blobs}
    for name, blobs in model.blobs.items():
        for old, new in zip(blobs, back.model.blobs[name]):
            np.testing.assert_allclose(new, old, rtol=3e-7)
            assert new.shape == old.shape and new.dtype == old.dtype


CHAIN = DATA + """
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "c/bn" type: "BN" bottom: "c" top: "c/bn" %s }
layer { name: "c/relu" type: "ReLU" bottom: "c/bn" top: "c/bn" }
layer { name: "in place" type: "BN" bottom: "c/bn" top: "c/bn" %s }
layer { name: "fc" type: "InnerProduct" bottom: "c/bn" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "fc/bn" type: "BN" bottom: "fc" top: "fc/bn" %s }
"""
MOMENTUM = "bn_param { momentum: 0.75 eps: 0.001 }"


@pytest.mark.parametrize("phase", [TEST, TRAIN])
@pytest.mark.parametrize("rest", [MOMENTUM, "bn_param { frozen: true }", MOMENTUM + 4 * "param { lr_mult: 0 }"])
def test_caffe_computes_the_same(run_in_caffe, phase, rest):
    model = seed(read(CHAIN % (3 * (rest,)))).model
    divided = split(model).model
    merged = merge(divided).model
    inputs = {"data": np.random.RandomState(1).standard_normal((3, 4, 5, 5)).astype(np.float32)}
    (expected, bn_after), *others = run_in_caffe([(one, inputs) for one in (model, divided, merged)], phase)
    for found, _ in others:
        assert {*found} == {*expected}
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)
    if phase == TEST or "frozen" in rest:
        return
    # The moving statistics as the docstring says: the same batch enters, with other weights.
    momentum, pair_after = 0.75, others[0][1]
    x, eps = expected["fc"].astype(float), 0.001
    mu, biased = x.mean(0), x.var(0)
    m, v = (blob.reshape(-1) for blob in model.blobs["fc/bn"][2:])
    after = [blob.reshape(-1) for blob in bn_after["fc/bn"].values()]
    np.testing.assert_allclose(after[2], momentum * m + (1 - momentum) * mu, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after[3], momentum * v + (1 - momentum) / np.sqrt(biased + eps), rtol=1e-4)
    mean, variance, factor = pair_after["fc/bn"].values()
    np.testing.assert_allclose(factor, [momentum + 1])
    np.testing.assert_allclose(mean, momentum * m + mu, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, momentum * (1 / v ** 2 - eps) + biased * 3 / 2, rtol=1e-4)
