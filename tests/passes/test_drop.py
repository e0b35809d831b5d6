"""drop-dropout and drop-split: readers joined to what was copied, outputs that keep their names, refusals."""


import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import random_nets
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, Graph, insert_splits
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.nets.builder import DEPLOY, TRAIN, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.base import registry
from prototxt_gen.spec.infer import infer

quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
TYPES = ("Dropout", "Dropout", "Split", "Split", "ReLU", "Eltwise", "Convolution", "Concat", "Power")
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }\n'
drop_dropout, drop_split = registry.find("drop-dropout"), registry.find("drop-split")


def read(text):
    return Model(loads(text, DEFAULT_DIALECT.message("NetParameter")))


def layer(name, kind, bottoms, tops="", rest=""):
    both = "".join(f'bottom: "{one}" ' for one in bottoms.split())
    both += "".join(f'top: "{one}" ' for one in (tops or name).split())
    return f'layer {{ name: "{name}" type: "{kind}" {both} {rest} }}\n'


A = layer("a", "ReLU", "data")
# Text, what it becomes.
DROPPED = {
    "in place": (A + layer("d", "Dropout", "a", "a") + layer("e", "TanH", "a"), A + layer("e", "TanH", "a")),
    "under a name of its own": (A + layer("d", "Dropout", "a") + layer("e", "TanH", "d"), A + layer("e", "TanH", "a")),
    "what it reads has other readers": (
        A + layer("d", "Dropout", "a") + layer("e", "Eltwise", "d a"), A + layer("e", "Eltwise", "a a")),
    "a reader in place gets out of place": (
        A + layer("d", "Dropout", "a") + layer("e", "TanH", "d", "d") + layer("f", "AbsVal", "d"),
        A + layer("e", "TanH", "a", "d") + layer("f", "AbsVal", "d")),
    "an output keeps its name": (
        A + layer("b", "TanH", "a", "a") + layer("d", "Dropout", "a", "out"),
        layer("a", "ReLU", "data", "out") + layer("b", "TanH", "out", "out")),
    "two in line": (A + layer("c", "Dropout", "a") + layer("d", "Dropout", "c"), layer("a", "ReLU", "data", "d")),
    "in place in one phase": (A + layer("d", "Dropout", "a", "a", "include { phase: TRAIN }"), A),
    "a Split": (A + layer("d", "Split", "a", "x y") + layer("e", "Eltwise", "x y"), A + layer("e", "Eltwise", "a a")),
    "a Split that makes an output": (
        A + layer("d", "Split", "a", "x out") + layer("e", "TanH", "x"),
        layer("a", "ReLU", "data", "out") + layer("e", "TanH", "out")),
    "a Split of the input": (layer("d", "Split", "data", "x y") + layer("e", "Eltwise", "x y"),
                             layer("e", "Eltwise", "data data")),
}
D = layer("d", "Dropout", "a")
LEFT = {
    "it has a loss weight": "state { phase: TEST }" + A + layer("d", "Dropout", "a", rest="loss_weight: 1"),
    "it stands between an input and an output of the net": layer("d", "Dropout", "data"),
    "several of its tops are outputs of the net": A + layer("d", "Split", "a", "x y"),
    "it stands in some phases only, and under another name than what it reads":
        A + layer("d", "Dropout", "a", rest="include { phase: TEST }") + layer("e", "TanH", "d"),
    "what it makes is changed in place in some phases only":
        A + D + layer("e", "TanH", "d", "d", "include { phase: TRAIN }") + layer("f", "AbsVal", "d"),
    "what it reads is written over before its readers read":
        A + D + layer("e", "TanH", "a", "a") + layer("f", "AbsVal", "d"),
}


@pytest.mark.parametrize("text, expected", DROPPED.values(), ids=DROPPED)
def test_dropped(text, expected):
    run = drop_split if "Split" in text else drop_dropout
    result = run(read(DATA + text))
    assert result.model.net == read(DATA + expected).net
    assert not result.skipped and result.coverage.startswith(f"took out {len(result.edits)} of {len(result.edits)} ")


@pytest.mark.parametrize("reason, text", LEFT.items(), ids=LEFT)
def test_left(reason, text):
    model = read(DATA + text)
    results = [run(model) for run in (drop_dropout, drop_split)]
    assert [(one.layer, one.reason) for result in results for one in result.skipped] == [("d", reason)]
    assert all(result.model.net == model.net for result in results)


def test_of_two_outputs_of_one_array_one_stays():
    result = drop_dropout(read(DATA + A + layer("c", "Dropout", "a") + D))
    assert [(one.layer, one.reason) for one in result.skipped] == [("d", "what it reads is an output of the net, too")]
    assert [list(one.top) for one in result.model.net.layer[1:]] == [["c"], ["d"]]


def test_dropout_of_a_net_for_training_stays():
    text = A + D + layer("loss", "SoftmaxWithLoss", "d data")
    with pytest.raises(Error, match="layer 'loss': the net is for training, and there Dropout drops values.*\nhint: "):
        drop_dropout(read(DATA + text))
    assert drop_split(read(DATA + text)).coverage == ""
    net = build(NETWORKS["attention56"], TRAIN)
    assert drop_dropout(net).model.net == net.net  # it has no Dropout


def test_the_splits_of_a_caffemodel_go():
    for form in (TRAIN, DEPLOY):
        net = build(NETWORKS["attention56"], form).net
        split = type(net)()
        split.CopyFrom(net)
        if form == TRAIN:
            del split.layer[1]  # the data layer of TEST: a caffemodel holds one phase
        plain = type(net)()
        plain.CopyFrom(split)
        del split.layer[:]
        split.layer.extend(insert_splits(plain.layer))
        result = drop_split(Model(split))
        assert result.model.net == plain and len(result.edits) == len(split.layer) - len(plain.layer) > 30


@quick
@given(model=random_nets.models(types=TYPES, most=10))
def test_a_blob_that_is_left_holds_the_same_values(model):
    inputs, kept = random_nets.inputs_of(model), model.dumps()
    expected = forward(model, inputs)
    outputs = {one.blob for one in Graph(model.net.layer).newest.values() if not one.readers}
    for run in (drop_dropout, drop_split):
        result = run(model)
        infer(result.model.net, TEST)
        found = forward(result.model, inputs)
        assert outputs <= {*found} <= {*expected}
        assert all(np.array_equal(found[name], expected[name], equal_nan=True) for name in found)
        assert len(result.model.net.layer) == len(model.net.layer) - len(result.edits)
    assert model.dumps() == kept
