"""fix-interp: fixed sizes at any size of the net, the same values in Caffe, and what is left alone."""


import numpy as np
import pytest
import random_nets
from hypothesis import HealthCheck, given, settings

from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import dumps
from prototxt_gen.export.reference import forward
from prototxt_gen.nets.builder import DEPLOY, build
from prototxt_gen.nets.configs import NETWORKS, vary
from prototxt_gen.passes.inputs import batch, fix_interp, resize_input
from prototxt_gen.spec.infer import infer
from texts import image, layer, model, padded


quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
NAMES = ["attention56", "attentionnext92", "attention92-cifar"]
SMALL = vary(NETWORKS["attention56-cifar"], dict(widths="4,8,8,8", stem_width="4"))


@pytest.mark.parametrize("name", NAMES)
def test_fixing_and_resizing_change_places(name):
    config = NETWORKS[name]
    size = 320 if config.input_size == 224 else 40
    shapes = {"data": (1, 3, size, size)}
    deploy = build(config, DEPLOY)
    fixed = fix_interp(deploy)
    number = sum(layer.type == "Interp" for layer in deploy.net.layer)
    assert fixed.coverage == f"fixed {number} of {number} Interp" and not fixed.skipped
    assert all(len(layer.bottom) == 1 for layer in fixed.model.net.layer if layer.type == "Interp")
    assert len(fixed.model.net.layer) == len(deploy.net.layer)
    assert fix_interp(fixed.model).coverage == ""
    there = fix_interp(deploy, input_shapes=shapes).model.net
    assert there == resize_input(fixed.model, input_shapes=shapes).model.net
    assert there == fix_interp(build(config, DEPLOY, input_size=size)).model.net


INTERPS = {
    "a second bottom that others read": (
        padded("data", "a", stride=2) + layer("Interp", "a data", "up") + padded("data", "b"), 0),
    "a second bottom of its own": (
        padded("data", "a", stride=2) + padded("data", "like") + layer("Interp", "a like", "up"), 1),
    "an input of its own": (
        image(1, 1, 5, 6, name="like") + padded("data", "a") + layer("Interp", "a like", "up"), 1),
    "two that share it": (
        padded("data", "a") + padded("data", "like", stride=2) + layer("Interp", "a like", "up")
        + layer("Interp", "a like", "up2", "interp_param { pad_beg: -1 }"), 1),
    "written again in place": (
        padded("data", "a") + padded("data", "like", stride=2) + layer("Interp", "a like", "up")
        + layer("ReLU", "data", "relu"), 1),
    "the same bottom twice": (layer("Interp", "data data", "up"), 0),
    "factors": (layer("Interp", "data", "up", "interp_param { zoom_factor: 2 }")
                + layer("Interp", "up", "down", "interp_param { shrink_factor: 2 pad_end: -1 }"), 0),
}


@pytest.mark.parametrize("text, silences", INTERPS.values(), ids=INTERPS)
def test_fixed_interps_in_caffe(caffe_pairs, text, silences):
    old = model(image(2, 3, 8, 7) + text)
    done = fix_interp(old)
    assert sum(one.type == "Silence" for one in done.model.net.layer) == silences
    for one in done.model.net.layer:
        if one.type == "Interp":
            param = one.interp_param
            assert len(one.bottom) == 1 and param.height and param.width
            assert not param.HasField("zoom_factor") and not param.HasField("shrink_factor")
    [found] = caffe_pairs([
        dict(a=dumps(old.net), b=dumps(done.model.net), phase_a=TEST, phase_b=TEST)])
    assert found["outputs_a"] == found["outputs_b"]
    assert {one.top[0] for one in old.net.layer} <= set(found["apart"]) and not any(found["apart"].values())


def test_fixing_in_both_phases():
    """A second bottom that TEST only does not read otherwise; and one that has two sizes."""
    text = """
    layer { name: "data" type: "Data" top: "data" top: "label" transform_param { crop_size: 8 }
            data_param { batch_size: 2 } include { phase: TRAIN } }
    layer { name: "data" type: "Data" top: "data" top: "label" transform_param { crop_size: %d }
            data_param { batch_size: 1 } include { phase: TEST } }
    """ + padded("data", "a", stride=2) + padded("data", "like") + layer("Interp", "a like", "up")
    text += layer("EuclideanLoss", "like up", "loss", "include { phase: TRAIN }")
    done = fix_interp(model(text % 8))
    [silence] = [one for one in done.model.net.layer if one.type == "Silence"]
    assert (silence.name, list(silence.bottom), len(silence.include)) == ("up/silence", ["like"], 0)
    for phase in (TRAIN, TEST):
        assert infer(done.model.net, phase).blobs["up"][2:] == (8, 8)
    apart = fix_interp(model(text % 6))
    assert apart.coverage == "fixed 0 of 1 Interp" and apart.model.net == model(text % 6).net
    assert [(one.layer, one.reason) for one in apart.skipped] == [("up", "its size differs between the phases")]


def test_interps_of_unknown_size():
    text = layer("HDF5Data", "", "data", name="h")
    text += layer("Interp", "data", "up", "interp_param { zoom_factor: 2 }")
    assert [one.reason for one in fix_interp(model(text)).skipped] == ["the size of what it reads is not known"]
    told = fix_interp(model(text), input_shapes={"data": (1, 3, 4, 5)})
    assert told.coverage == "fixed 1 of 1 Interp"
    assert (told.model.net.layer[1].interp_param.height, told.model.net.layer[1].interp_param.width) == (7, 9)
    staged = image(1, 1, 4, 4) + layer("Interp", "data", "y", 'interp_param { zoom_factor: 2 } include { stage: "x" }')
    assert [one.reason for one in fix_interp(model(staged)).skipped] == ["no phase has it without a stage"]


@quick
@given(random=random_nets.models(types=("Interp", "Interp", "Convolution", "ReLU", "Pooling", "Eltwise", "BN")))
def test_random_nets_with_fixed_interps_compute_the_same(random):
    done = fix_interp(random)
    assert not done.skipped and done.model.blobs == random.blobs
    assert all(len(one.bottom) == 1 for one in done.model.net.layer if one.type == "Interp")
    inputs = random_nets.inputs_of(random)
    found, wanted = forward(done.model, inputs), forward(random, inputs)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name], equal_nan=True) for name in wanted)


def test_a_small_attention_net_at_other_sizes_in_caffe(caffe_pairs):
    """The same blobs from the net built for 40 pixels, the resized one, and the one with fixed Interps."""
    deploy = build(SMALL, DEPLOY)
    built = dumps(build(SMALL, DEPLOY, input_size=40).net)
    shapes = {"data": (1, 3, 40, 40)}
    others = [resize_input(deploy, input_shapes=shapes), fix_interp(deploy, input_shapes=shapes),
              resize_input(fix_interp(deploy).model, input_shapes=shapes),
              batch(resize_input(deploy, input_shapes=shapes).model, batch_size=3)]
    found = caffe_pairs([
        dict(a=built, b=dumps(one.model.net), phase_a=TEST, phase_b=TEST) for one in others])
    for one in found:
        assert one["outputs_a"] == one["outputs_b"] == ["cls"] and one["shapes"]["cls"] == [1, 10]
        assert len(one["apart"]) > 300 and not any(one["apart"].values())
