"""What passes ask a Chain: layers of some phases only, names; and that no phase's values change under any pass."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import random_nets
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.passes.base import registry
from prototxt_gen.passes.chain import Chain, loss_of

quick = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
TYPES = ("Convolution", "BN", "BatchNorm", "Scale", "Convolution", "BN", "Scale", "Power", "Split", "ReLU", "Eltwise")
IN_BOTH = ("split-bn", "merge-bn", "fuse-scale", "drop-split")
NET = """
layer { name: "train" type: "Data" top: "data" top: "label" include { phase: TRAIN } }
layer { name: "test" type: "Data" top: "data" top: "label" include { phase: TEST } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" param { name: "w" } }
layer { name: "noise" type: "Dropout" bottom: "c" top: "c" include { phase: TRAIN } }
layer { name: "n" type: "BN" bottom: "c" top: "n" }
layer { name: "d" type: "Convolution" bottom: "n" top: "d" param { name: "w" } }
layer { name: "relu" type: "ReLU" bottom: "d" top: "d" }
layer { name: "relu" type: "ReLU" bottom: "d" top: "d" include { phase: TEST } }
layer { name: "top1" type: "Accuracy" bottom: "d" bottom: "label" top: "top1" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "d" bottom: "label" top: "loss" }
"""


def read(text):
    return Model(loads(text, DEFAULT_DIALECT.message("NetParameter")))


def test_makers_and_readers_of_any_phase():
    chain = Chain(read(NET))
    names = [layer.name for layer in chain.layers]
    assert chain.inputs == {"data", "label"}
    assert [chain.maker(index) for index in range(2, 7)] == [1, 2, 3, 4, 5]
    assert chain.maker(9, bottom=1) == 1
    # In TEST the BN reads the convolution itself.
    assert [names[one] for one in chain.readers(2)] == ["noise", "n"]
    assert [names[one] for one in chain.readers(5)] == ["relu"]
    assert chain.readers(6) == [7, 8, 9]
    assert chain.why_apart(2, 3) == "of other phases" and chain.why_apart(2, 4) == "that 2 layers read"
    assert chain.has_rules(3) and not chain.has_rules(4) and chain.same_rules(7, 8)
    assert chain.in_place(3) and not chain.in_place(4)
    assert chain.shares(2) == "d" and chain.shares(6) == "relu" and chain.shares(4) is None
    assert not chain.has_own_name(7) and chain.namesakes(7) == [chain.layers[6]]
    assert chain.unique_name("c") == "c_2" and chain.unique_name("x") == "x" and chain.unique_name("x") == "x_2"


def test_a_chain_leaves_the_model_alone_and_keeps_what_is_not_a_layer():
    model = read('name: "net" force_backward: true' + NET)
    kept = model.dumps()
    chain = Chain(model)
    chain.rename("d", "scores")
    chain.remove(3)
    net = chain.model().net
    assert model.dumps() == kept
    assert net.name == "net" and net.force_backward and len(net.layer) == len(model.net.layer) - 1
    assert [list(layer.bottom) for layer in net.layer[-3:]] == [["scores"], ["scores", "label"], ["scores", "label"]]


@pytest.mark.parametrize("text, loss", [
    (NET, "loss"), ("state { phase: TEST }" + NET, None), ("state { level: 1 }" + NET, "loss"),
    (NET.replace("phase: TRAIN", "phase: TEST"), None), (NET.replace("SoftmaxWithLoss", "Softmax"), None),
    (NET.replace('type: "SoftmaxWithLoss"', 'type: "Python" loss_weight: 1'), "loss"),
])
def test_which_nets_train(text, loss):
    assert loss_of(read(text).net) == loss


@quick
@given(model=random_nets.models(types=TYPES, most=8), data=st.data())
@pytest.mark.parametrize("name", [*IN_BOTH, "fold-bn"])
def test_no_phase_changes_its_values(name, model, data):
    net = type(model.net)()
    net.CopyFrom(model.net)
    for layer in net.layer:
        read_later = any(top in other.bottom for other in net.layer for top in layer.top)
        free = layer.type != "Input" and (list(layer.bottom) == list(layer.top) or not read_later)
        if free and data.draw(st.booleans()):
            layer.include.add(phase=data.draw(st.sampled_from([TRAIN, TEST])))
    model, inputs = replace(model, net=net), random_nets.inputs_of(model)
    result = registry.find(name)(model).model
    for phase in (TRAIN, TEST) if name in IN_BOTH else (TEST,):
        expected, found = (forward(one, inputs, phase=phase, dtype=np.float64) for one in (model, result))
        for blob in {*expected} & {*found}:
            assert np.abs(found[blob] - expected[blob]).max() <= 2e-5 * max(1, np.abs(expected[blob]).max())
