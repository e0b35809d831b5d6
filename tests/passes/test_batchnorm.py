"""split-bn and merge-bn: structure word by word, the way back, and refusals."""

from dataclasses import replace

import numpy as np
import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import Model, loads
from prototxt_gen.nets.builder import DEPLOY, FORMS, PUBLISHED, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.base import registry
from prototxt_gen.spec.infer import infer

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: 4 dim: 5 dim: 5 } } }\n'
split, merge, seed = (registry.find(name) for name in ("split-bn", "merge-bn", "seed-weights"))


def read(text, dialect=DEFAULT_DIALECT):
    return Model(loads(text, dialect.message("NetParameter")), dialect)


# What a BN becomes.
SPLITS = {
    "no words at all: momentum and slope of BN's defaults": ("", """
        batch_norm_param { moving_average_fraction: 0.9 } }""", """
        scale_param { filler { value: 0 } bias_term: true } }"""),
    "as the builder writes it for training": ("""
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 }
        bn_param { slope_filler { type: "constant" value: 1 } bias_filler { type: "constant" value: 0.5 } }""", """
        param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 }
        batch_norm_param { moving_average_fraction: 0.9 } }""", """
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        scale_param { filler { type: "constant" value: 1 } bias_term: true
                      bias_filler { type: "constant" value: 0.5 } } }"""),
    "frozen": ("bn_param { frozen: true eps: 0.01 momentum: 0.5 }", """
        batch_norm_param { use_global_stats: true moving_average_fraction: 0.5 eps: 0.01 } }""", """
        param { lr_mult: 0 } param { lr_mult: 0 }
        scale_param { filler { value: 0 } bias_term: true } }"""),
    "frozen with a learning rate": ("param { lr_mult: 1 decay_mult: 1 } bn_param { frozen: true }", """
        batch_norm_param { use_global_stats: true moving_average_fraction: 0.9 } }""", """
        param { lr_mult: 0 decay_mult: 1 } param { lr_mult: 0 }
        scale_param { filler { value: 0 } bias_term: true } }"""),
    "in some phases, with gradients": ("""
        loss_weight: 2 propagate_down: false include { phase: TRAIN } include { stage: "x" }""", """
        propagate_down: false include { phase: TRAIN } include { stage: "x" }
        batch_norm_param { moving_average_fraction: 0.9 } }""", """
        loss_weight: 2 include { phase: TRAIN } include { stage: "x" }
        scale_param { filler { value: 0 } bias_term: true } }"""),
}


@pytest.mark.parametrize("rest, norm, scale", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("top", ["x", "x/bn"])
def test_split(rest, norm, scale, top):
    model = read(DATA + f'layer {{ name: "x/bn" type: "BN" bottom: "x" top: "{top}" {rest} }}')
    result = split(model)
    expected = read(DATA + f'layer {{ name: "x/bn" type: "BatchNorm" bottom: "x" top: "{top}" {norm}'
                    f'layer {{ name: "x/bn/scale" type: "Scale" bottom: "{top}" top: "{top}" {scale}')
    assert result.model.net == expected.net
    assert result.edits == ("layer 'x/bn': split into BatchNorm and Scale 'x/bn/scale'",)
    assert result.coverage == "split 1 of 1 BN"


ROUND_TRIPS = [
    "", "bn_param { frozen: true }", "bn_param { eps: 0.5 momentum: 0.25 }", "bn_param { slope_filler { value: 1 } }",
    "bn_param { slope_filler { type: \"constant\" } bias_filler { type: \"gaussian\" std: 0.1 } }",
    "param { lr_mult: 1 } param { lr_mult: 2 }", "param { lr_mult: 1 }", "param { } param { lr_mult: 0 decay_mult: 0 }",
    "param { } param { } param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 }",
    "param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 } bn_param { frozen: true }",
    'param { name: "g" } param { name: "b" } param { name: "m" lr_mult: 0 } param { name: "v" lr_mult: 0 }',
    "include { phase: TEST } loss_weight: 1 propagate_down: true", "exclude { stage: \"deploy\" } phase: TRAIN",
]


@pytest.mark.parametrize("rest", ROUND_TRIPS)
@pytest.mark.parametrize("top", ["data", "y"])
def test_split_and_merge_give_the_message_back(rest, top):
    model = read(DATA + f'layer {{ name: "n" type: "BN" bottom: "data" top: "{top}" {rest} }}')
    assert merge(split(model).model).model.net == model.net


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*list(NETWORKS)[:4], "attention56-cifar"])
def test_the_networks_split_and_merge(name, form):
    if form == PUBLISHED and NETWORKS[name].reconstruction:
        form = DEPLOY  # no file of it was published
    model = build(NETWORKS[name], form)
    number = sum(layer.type == "BN" for layer in model.net.layer)
    divided = split(model)
    merged = merge(divided.model)
    assert merged.model.net == model.net
    assert divided.coverage == f"split {number} of {number} BN"
    assert merged.coverage == f"merged {number} of {number} BatchNorm"
    if form != FORMS[0]:
        assert infer(divided.model.net, TEST).blobs.keys() == {*infer(model.net, TEST).blobs}


def test_learning_rates_of_statistics_are_taken_away():
    model = read(DATA + 'layer { name: "n" type: "BN" bottom: "data" top: "y" param { } param { } param { } '
                 'param { name: "v" decay_mult: 3 } }')
    result = split(replace(model, net=_named(model.net, "m")))
    rates = [(one.name, one.lr_mult, one.decay_mult) for one in result.model.net.layer[1].param]
    assert rates == [("m", 0, 0), ("v", 0, 0), ("v/factor", 0, 0)]
    assert "lr_mult of the statistics was not 0" in result.edits[1]


def _named(net, name):
    copy = type(net)()
    copy.CopyFrom(net)
    copy.layer[1].param[2].name = name
    return copy


def test_names_do_not_collide():
    model = read(DATA + 'layer { name: "n" type: "BN" bottom: "data" top: "y" }'
                 'layer { name: "n/scale" type: "ReLU" bottom: "y" top: "y" }')
    assert [layer.name for layer in split(model).model.net.layer] == ["data", "n", "n/scale_2", "n/scale"]


def test_two_layers_of_one_name_stay_of_one_name():
    both = 'layer { name: "n" type: "BN" bottom: "data" top: "y" include { phase: %s } %s }'
    model = read(DATA + both % ("TRAIN", "") + both % ("TEST", ""))
    assert [layer.name for layer in split(model).model.net.layer] == ["data", "n", "n/scale", "n", "n/scale"]
    unlike = split(read(DATA + both % ("TRAIN", "") + both % ("TEST", "bn_param { eps: 0.5 }")))
    assert {one.reason for one in unlike.skipped} == {"another layer has its name, and is not alike"}
    assert len(unlike.skipped) == 2 and unlike.coverage == "split 0 of 2 BN"


# What BatchNorm and Scale become.
NORM = 'layer { name: "n" type: "BatchNorm" bottom: "data" top: "n" %s }\n'
SCALE = 'layer { name: "s" type: "Scale" bottom: "n" top: "y" %s }\n'
FIXED = "param { lr_mult: 0 decay_mult: 0 } "
MERGED = 'layer { name: "n" type: "BN" bottom: "data" top: "%s" %s }\n'
ONE = 'slope_filler { type: "constant" value: 1 } '
MERGES = {
    "Caffe's defaults": ("", "scale_param { bias_term: true }",
                         MERGED % ("y", "bn_param { %s momentum: 0.999 }" % ONE)),
    "a published ResNet": ("batch_norm_param { use_global_stats: true }", "scale_param { bias_term: true }",
                           MERGED % ("y", "bn_param { %s momentum: 0.999 frozen: true }" % ONE)),
    "no bias": ("", "param { lr_mult: 3 }",
                MERGED % ("y", "param { lr_mult: 3 } %s bn_param { %s momentum: 0.999 }" % (FIXED, ONE))),
    "zeros for BatchNorm, nothing for Scale": (
        3 * FIXED, 'scale_param { filler { type: "xavier" } bias_term: true bias_filler { value: 2 } }',
        MERGED % ("y", "param { } param { } " + 2 * FIXED + """
                  bn_param { slope_filler { type: "xavier" } bias_filler { value: 2 } momentum: 0.999 }""")),
}
ALONE = "%s bn_param { slope_filler { value: 1 } momentum: 0.999 }" % (2 * FIXED)
STAY = {
    "it is a BatchNorm that 2 layers read": SCALE % "" + 'layer { name: "r" type: "ReLU" bottom: "n" top: "z" }',
    "it is a BatchNorm of other phases": SCALE % "include { phase: TEST }",
    "its Scale stays: its factor does not lie along the channels": SCALE % "scale_param { axis: 2 }",
    "its Scale stays: its factor is a second bottom": SCALE % 'bottom: "data"',
    "its Scale stays: another layer has its name":
        SCALE % "" + 'layer { name: "s" type: "ReLU" bottom: "y" top: "z" }',
    "its Scale stays: it has propagate_down": SCALE % "propagate_down: false",
    "Eltwise reads it": 'layer { name: "e" type: "Eltwise" bottom: "n" bottom: "data" top: "y" }',
    "nothing reads it": "",
}


@pytest.mark.parametrize("norm, scale, merged", MERGES.values(), ids=MERGES)
def test_merge(norm, scale, merged):
    result = merge(read(DATA + NORM % norm + SCALE % scale))
    assert result.model.net == read(DATA + merged).net
    assert result.edits == ("layer 'n': merged with 's'",)


@pytest.mark.parametrize("why, after", STAY.items(), ids=STAY)
def test_a_batch_norm_without_its_scale_becomes_a_bn_of_slope_one(why, after):
    result = merge(read(DATA + NORM % "" + after))
    assert result.model.net == read(DATA + MERGED % ("n", ALONE) + after).net
    assert result.edits == (f"layer 'n': made BN with slope 1 and bias 0, {why}",)


REFUSED = {
    "it normalises by each batch in TEST, too (use_global_stats: false), which BN cannot":
        NORM % "batch_norm_param { use_global_stats: false }",
    "its eps is 0, which BN refuses": NORM % "batch_norm_param { eps: 0 }",
    "its moving_average_fraction lies outside 0 to 1, which BN refuses":
        NORM % "batch_norm_param { moving_average_fraction: 1.5 }",
    "it has a loss weight": NORM % "loss_weight: 1",
    "another layer has its name; --pass split-phases first":
        NORM % "" + 'layer { name: "n" type: "ReLU" bottom: "n" top: "n" }',
    "it shares one of its two statistics": NORM % 'param { name: "m" lr_mult: 0 }',
    "its parameters are shared with a layer that does not become the same":
        NORM % 'param { lr_mult: 0 name: "m" } param { lr_mult: 0 name: "v" }'
        + 'layer { name: "i" type: "BatchNorm" bottom: "data" top: "i" batch_norm_param { eps: 1 } '
          'param { lr_mult: 0 name: "m" } param { lr_mult: 0 name: "v" } }',
}


@pytest.mark.parametrize("reason, text", REFUSED.items(), ids=REFUSED)
def test_merge_refuses(reason, text):
    model = read(DATA + text)
    result = merge(model)
    assert ("n", reason) in [(one.layer, one.reason) for one in result.skipped]
    assert result.model.net == model.net and not result.edits


def test_merge_takes_batch_statistics_of_training_layers():
    result = merge(read(DATA + NORM % "include { phase: TRAIN } batch_norm_param { use_global_stats: false }"))
    assert result.model.net.layer[1].type == "BN" and not result.model.net.layer[1].bn_param.frozen


def test_fixed_statistics_with_a_scale_that_learns():
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "data" top: "loss" }'
    norm = NORM % "batch_norm_param { use_global_stats: true }"
    biased = "scale_param { bias_term: true }"
    for rates in ("", "param { lr_mult: 0 }"):
        model = read(DATA + norm + SCALE % (rates + biased) + loss)
        assert [one.reason for one in merge(model).skipped] == [
            "its statistics are fixed while its Scale learns, which BN cannot"]
        assert merge(read(DATA + norm + SCALE % (rates + biased))).edits  # for TEST it makes no difference
    for rest in ("param { lr_mult: 0 }", 2 * "param { lr_mult: 0 }" + biased):
        assert merge(read(DATA + norm + SCALE % rest + loss)).edits


def test_a_batch_norm_in_place_renames_what_stands_before_it():
    pool = 'layer { name: "p" type: "Pooling" bottom: "data" top: "x" pooling_param { kernel_size: 2 } }'
    pair = ('layer { name: "n" type: "BatchNorm" bottom: "x" top: "x" }'
            'layer { name: "s" type: "Scale" bottom: "x" top: "y" scale_param { bias_term: true } }')
    layers = merge(read(DATA + pool + pair)).model.net.layer
    assert [(list(one.bottom), list(one.top)) for one in layers[1:]] == [(["data"], ["y"]), (["y"], ["y"])]
    on_input = merge(read(DATA + pair.replace('"x"', '"data"')))
    assert on_input.edits == ("layer 'n': made BN with slope 1 and bias 0, it is a BatchNorm that works in place on "
                              "the net's input",)


SIAMESE = "".join(
    f'layer {{ name: "{name}" type: "BN" bottom: "data" top: "{name}" '
    'param { name: "g" } param { name: "b" } param { name: "m" lr_mult: 0 } param { name: "v" lr_mult: 0 } }'
    for name in "ac")


def test_shared_layers_split_and_merge_together():
    model = seed(read(DATA + SIAMESE)).model
    divided = split(model)
    assert [one.name for one in divided.model.net.layer[3].param] == ["m", "v", "v/factor"]
    back = merge(divided.model)
    assert back.model.net == model.net
    for result in (divided, back):
        blobs = result.model.blobs
        assert all(np.array_equal(first, second) for first, second in zip(blobs["a"], blobs["c"]))


@pytest.mark.parametrize("kind, rest", [
    ("BN", 'param { name: "g" }'), ("Scale", 'param { name: "b" }'),
    ("BN", 'param { name: "g" } param { name: "b" } param { name: "m" } param { name: "v" } bn_param { eps: 0.1 }'),
])
def test_split_refuses_what_is_shared_otherwise(kind, rest):
    result = split(read(DATA + SIAMESE + f'layer {{ name: "d" type: "{kind}" bottom: "data" top: "d" {rest} }}'))
    assert {one.reason for one in result.skipped} == {
        "its parameters are shared with a layer that does not become the same"}
    assert "split 0 of" in result.coverage


def test_split_refuses_half_shared_statistics():
    three = 'param { } param { } param { name: "m" }'
    model = read(DATA + 'layer { name: "n" type: "BN" bottom: "data" top: "y" %s }' % three)
    assert [one.reason for one in split(model).skipped] == ["it shares one of its two statistics"]
