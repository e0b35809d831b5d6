"""Lint on data layers: its errors are the refusals of Caffe, and its warnings fit what is written."""

import json
from pathlib import Path

import numpy
import pytest

from prototxt_gen.check.lint import ERROR, Options, lint, registry
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.train.data import Image, datum, write_lmdb

LOAD_NETS = Path(__file__).parent.parent / "spec" / "load_nets.py"
EVERY = Options(registry.rules())
ENDS = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 10 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "top1" type: "Accuracy" bottom: "ip" bottom: "label" top: "top1" include { phase: TEST } }
"""


def augmented(fields, rules=""):
    return (f'layer {{ name: "data" type: "AugmentedData" top: "data" top: "label" {rules}\n'
            f'augmented_data_param {{ {fields} }} }}\n')


def found(text, *rules, phases=None):
    return [(one.rule, one.message) for one in lint(text, "net", Options(registry.chosen(rules, []), phases=phases))]


SOURCE = 'source: "lmdb" '
WHOLE = SOURCE + "batch_size: 2 crop_size: 8 "
REFUSED = {
    "no source": "batch_size: 2 crop_size: 8",
    "no batch": SOURCE + "crop_size: 8",
    "no crop": SOURCE + "batch_size: 2",
    "four channels": WHOLE + "channels: 4",
    "no area": WHOLE + "min_area: 0",
    "more than the image": WHOLE + "max_area: 1.5",
    "areas the wrong way round": WHOLE + "min_area: 0.5 max_area: 0.4",
    "no aspect": WHOLE + "min_aspect: 0",
    "aspects the wrong way round": WHOLE + "max_aspect: 0.5",
    "an area that is no number": WHOLE + "min_area: nan",
    "brightness below 0": WHOLE + "brightness: -0.1",
    "contrast below 0": WHOLE + "contrast: -0.1",
    "saturation below 0": WHOLE + "saturation: -0.1",
    "noise below 0": WHOLE + "pca_std: -0.1",
    "colours of grey": WHOLE + "channels: 1 pca_std: 0.1",
    "saturation of grey": WHOLE + "channels: 1 saturation: 0.1",
    "nothing ahead": WHOLE + "prefetch: 0",
    "two means": WHOLE + 'mean_value: 1 mean_file: "mean.binaryproto"',
    "two values for three channels": WHOLE + "mean_value: 1 mean_value: 2",
    "three values for grey": WHOLE + "channels: 1 mean_value: 1 mean_value: 2 mean_value: 3",
}
TAKEN = {
    "defaults": WHOLE,
    "all of the paper": WHOLE + "min_area: 0.08 max_area: 1 min_aspect: 0.75 max_aspect: 1.3333334 mirror: true pca_std: 0.1",
    "padded": WHOLE + "crop: PADDED pad: 4 mirror: true mean_value: 1 mean_value: 2 mean_value: 3",
    "centre": WHOLE + "crop: CENTER resize_short: 9 brightness: 1.5 contrast: 0.4 saturation: 0.4",
    "grey": WHOLE + "channels: 1 mean_value: 3 brightness: 0.1 scale: 0.1",
    "one batch ahead": WHOLE + "prefetch: 1 threads: 1 seed: 5 shuffle: false skip: 3",
    "one area, one aspect": WHOLE + "min_area: 0.5 max_area: 0.5 min_aspect: 1 max_aspect: 1",
}


@pytest.fixture(scope="module")
def refused_by_caffe(run_caffe_python, tmp_path_factory):
    """By case, whether Caffe ends on the net in phase TRAIN."""
    folder = tmp_path_factory.mktemp("data_rules")
    pixels = numpy.zeros((3, 9, 9), "uint8")
    write_lmdb(folder / "lmdb", [(str(index), datum(Image(str(index), 0, pixels))) for index in range(4)])
    cases = {**REFUSED, **TAKEN}
    jobs = [dict(net=augmented(fields) + ENDS, phase=TRAIN, stages=[], level=0, folder=str(folder))
            for fields in cases.values()]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    run_caffe_python(LOAD_NETS, folder / "jobs.json", folder / "found.json")
    answers = json.loads((folder / "found.json").read_text())["nets"]
    return {name: answer is None for name, answer in zip(cases, answers)}


@pytest.mark.parametrize("name", REFUSED)
def test_what_caffe_refuses_is_an_error(refused_by_caffe, name):
    assert refused_by_caffe[name]
    assert any(one.severity == ERROR for one in lint(augmented(REFUSED[name]) + ENDS, "net", EVERY))


@pytest.mark.parametrize("name", TAKEN)
def test_what_caffe_takes_is_no_error(refused_by_caffe, name):
    assert not refused_by_caffe[name]
    assert not any(one.severity == ERROR for one in lint(augmented(TAKEN[name]) + ENDS, "net", EVERY))


IN_TRAIN, IN_TEST = "include { phase: TRAIN }", "include { phase: TEST }"
IN_TEST_ONLY = "is for TEST only, where nothing is random"
IDLE = [
    ("mirror: true", IN_TEST, ["mirror"]),
    ("mirror: true", "exclude { phase: TRAIN }", ["mirror"]),
    ("mirror: true", IN_TRAIN, []),
    ("mirror: true", "", []),
    ("mirror: false pca_std: 0", IN_TEST, []),
    ("crop: PADDED pad: 4 min_area: 0.5", IN_TEST, ["crop", "min_area"]),
    ("crop: CENTER resize_short: 9", IN_TEST, []),
    ("pca_std: 0.1 brightness: 0.4 contrast: 0.4 saturation: 0.4", IN_TEST,
     ["pca_std", "brightness", "contrast", "saturation"]),
    ("crop: PADDED pad: 4 min_area: 0.5 max_aspect: 1.5", IN_TRAIN, ["min_area", "max_aspect"]),
    ("crop: CENTER min_aspect: 0.5", "", ["min_aspect"]),
    ("pad: 4 resize_short: 9", IN_TRAIN, ["pad", "resize_short"]),
    ("pad: 4 resize_short: 9", "", []),  # phase TEST reads them
]


@pytest.mark.parametrize("fields, rules, idle", IDLE)
def test_what_has_no_effect_is_named(fields, rules, idle):
    messages = [message for _, message in found(augmented(WHOLE + fields, rules) + ENDS, "PG503")]
    assert [message.partition(" has ")[2].partition(",")[0] for message in messages] == idle
    assert all((IN_TEST_ONLY in message) == ("TEST" in rules or "exclude" in rules) for message in messages)


def test_a_layer_for_test_alone_is_told_from_a_look_at_test_alone():
    assert found(augmented(WHOLE + "mirror: true") + ENDS, "PG503", phases=(TEST,)) == []


@pytest.mark.parametrize("fields, rules, faults", [
    ("crop_size: 8 resize_short: 7", "", 1),  # in TEST
    ("crop_size: 8 resize_short: 7 pad: 1", "", 0),
    ("crop_size: 8 resize_short: 7 crop: PADDED", "", 1),
    ("crop_size: 8", "", 0),
    ("crop_size: 8 resize_short: 7", IN_TRAIN, 0),
])
def test_a_crop_over_the_short_side(fields, rules, faults):
    assert len(found(augmented(SOURCE + "batch_size: 2 " + fields, rules) + ENDS, "PG502")) == faults


MEANS = [
    ("mean_value: 1", "mean_value: 1", []),
    ("mean_value: 1", "mean_value: 1 mean_value: 1 mean_value: 1", []),
    ("mean_value: 1 mean_value: 2 mean_value: 3", "", ["no mean and scale 1 in TEST, and mean 1,2,3 and scale 1 in TRAIN"]),
    ("mean_value: 0", "", []),
    ("scale: 0.5", "scale: 0.25", ["no mean and scale 0.25 in TEST, and no mean and scale 0.5 in TRAIN"]),
    ('mean_file: "a"', 'mean_file: "b"', ["mean_file 'b' and scale 1 in TEST, and mean_file 'a' and scale 1 in TRAIN"]),
]


@pytest.mark.parametrize("train, test, told", MEANS)
def test_values_of_train_and_test(train, test, told):
    stock = ('layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST } transform_param { %s }'
             ' data_param { source: "other" batch_size: 2 } }')
    for other in (augmented('source: "other" batch_size: 2 crop_size: 8 ' + test, IN_TEST), stock % test):
        messages = [message for _, message in found(augmented(WHOLE + train, IN_TRAIN) + other + ENDS, "PG504")]
        assert [message.partition(" has ")[2] for message in messages] == told


def test_the_same_images_in_both_phases():
    both = augmented(WHOLE, IN_TRAIN) + augmented(WHOLE, IN_TEST)
    ((_, message),) = found(both + ENDS, "PG505")
    assert message == "layer 'data' (AugmentedData) tests on 'lmdb', the images of the training"
    assert found(augmented(WHOLE) + ENDS, "PG505") == []  # one layer: not two that were confused


def test_fields_of_the_data_layer_are_foreign():
    text = augmented(WHOLE).replace("augmented_data_param", "transform_param { mirror: true } augmented_data_param")
    assert [message for _, message in found(text + ENDS, "PG107")] == [
        "layer 'data' (AugmentedData) carries transform_param, which its type does not read"]
