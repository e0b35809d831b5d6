"""split-phases and merge-phases: each phase is the net that it was, in every stage and level."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import random_nets
from prototxt_gen.core.dialects import DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import PHASES, TEST, TRAIN, layers_in, net_state
from prototxt_gen.core.io import Model, dumps, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.nets.builder import DEPLOY, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.phases import merge_phases, split_phases
from prototxt_gen.spec.infer import infer
from texts import NetParameter, model

TESTS = Path(__file__).parent.parent

quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FILES = sorted(path for folder in ("spec/nets", "check/lint") for path in (TESTS / folder).rglob("*.prototxt")
               if "layer" in path.read_text() and "solver" not in path.name and "layers {" not in path.read_text())


def bare(layer):
    """A layer without rules, as bytes."""
    copy = type(layer)()
    copy.CopyFrom(layer)
    copy.ClearField("include")
    copy.ClearField("exclude")
    return copy.SerializePartialToString(deterministic=True)


def kept(net, state):
    return [bare(layer) for layer in layers_in(net, state)]


def inferred(net, phase):
    try:
        info = infer(net, phase, allow_unknown=True)
    except Error as error:
        return error.what
    return [(one.name, one.type, one.tops, one.top_shapes, one.params) for one in info.layers]


def halves(whole):
    return [split_phases(whole, phase=name).model for name in ("train", "test")]


def joined(whole):
    train, test = halves(whole)
    return merge_phases(train, test_net=test).model


def is_net(path):
    try:
        return bool(loads(path.read_text(), NetParameter).layer)
    except Error:
        return False


@pytest.mark.parametrize("name", NETWORKS)
def test_our_nets_come_back_as_they_were(name):
    whole = build(NETWORKS[name])
    train, test = halves(whole)
    assert [layer.type for layer in train.net.layer].count("Data") == 1
    assert {layer.type for layer in test.net.layer} - {layer.type for layer in train.net.layer} == {"Accuracy"}
    assert not any(layer.include for half in (train, test) for layer in half.net.layer)
    assert joined(whole).net == whole.net


def test_every_net_of_the_tests_splits_and_merges():
    nets = [path for path in FILES if is_net(path)]
    assert len(nets) > 50
    split = 0
    for path in nets:
        whole = model(path.read_text())
        if any(layer.include and layer.exclude for layer in whole.net.layer):
            continue
        split += 1
        again = joined(whole)
        for phase, half in zip((TRAIN, TEST), halves(whole)):
            for net in (half.net, again.net):
                assert kept(net, net_state(phase, net)) == kept(whole.net, net_state(phase, whole.net)), path
                assert inferred(net, phase) == inferred(whole.net, phase), path
            # A half is for its phase, whatever phase it is looked at in.
            assert kept(half.net, net_state(TRAIN + TEST - phase)) == kept(half.net, net_state(phase)), path
    assert split > 50


RULES = st.builds(
    lambda phase, least, most, stage, other: " ".join(filter(None, (phase, least, most, stage, other))),
    st.sampled_from(["", "phase: TRAIN", "phase: TEST"]), st.sampled_from(["", "", "min_level: 1"]),
    st.sampled_from(["", "", "max_level: 1"]), st.sampled_from(["", "", 'stage: "a"', 'stage: "a" stage: "b"']),
    st.sampled_from(["", "", 'not_stage: "b"']))
RULED = st.lists(st.tuples(st.sampled_from(["include", "exclude", ""]), st.lists(RULES, min_size=1, max_size=3)),
                 min_size=1, max_size=6)
STATES = [(phase, stages, level) for phase in (TRAIN, TEST) for stages in ((), ("a",), ("b",), ("a", "b"))
          for level in (0, 1, 2)]


@quick
@given(layers=RULED)
def test_a_half_has_in_every_state_of_its_phase_what_the_whole_has(layers):
    whole = model("".join(
        f'layer {{ name: "l{number}" type: "DummyData" '
        + (" ".join(f"{kind} {{ {rule} }}" for rule in rules) if kind else "") + " }\n"
        for number, (kind, rules) in enumerate(layers)))
    train, test = halves(whole)
    merged = merge_phases(train, test_net=test).model
    for phase, stages, level in STATES:
        state = net_state(phase, None, stages, level)
        half = train if phase == TRAIN else test
        assert kept(half.net, state) == kept(merged.net, state) == kept(whole.net, state)
        assert not any(rule.HasField("phase") for layer in half.net.layer for rule in (*layer.include, *layer.exclude))


@quick
@given(random=random_nets.models(), data=st.data())
def test_random_nets_compute_the_same_after_it(random, data):
    """Readers of a layer follow it into its phase, so that both phases are nets."""
    net = NetParameter()
    net.CopyFrom(random.net)
    only = {}
    for layer in net.layer:
        phases = {only[name] for name in layer.bottom if name in only}
        chosen = data.draw(st.sampled_from([None, None, None, "TRAIN", "TEST"])) if layer.bottom else None
        chosen = phases.pop() if len(phases) == 1 else "never" if phases else chosen
        if chosen:
            only.update(dict.fromkeys(layer.top, chosen))
            layer.include.add(**({"stage": ["never"]} if chosen == "never" else {"phase": PHASES[chosen.lower()]}))
    whole = replace(random, net=net)
    train, test = halves(whole)
    merged = merge_phases(train, test_net=test).model
    inputs = random_nets.inputs_of(whole)
    wanted = forward(whole, inputs, phase=TEST)
    for other in (test, merged):
        found = forward(other, inputs, phase=TEST)
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[name], wanted[name], equal_nan=True) for name in wanted)
    assert {**train.blobs, **test.blobs}.keys() == {layer.name for layer in merged.net.layer} & random.blobs.keys()


TWO_PHASES = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BN" bottom: "conv" top: "conv" }
layer { name: "head" type: "InnerProduct" bottom: "conv" top: "head" inner_product_param { num_output: 3 }
        include { phase: TRAIN } }
layer { name: "other" type: "InnerProduct" bottom: "conv" top: "other" inner_product_param { num_output: 2 }
        exclude { phase: TRAIN } }
layer { name: "prob" type: "Softmax" bottom: "head" top: "prob" include { phase: TRAIN } }
layer { name: "prob" type: "Softmax" bottom: "other" top: "prob" include { phase: TEST } }
"""


def test_caffe_computes_the_same(caffe_pairs):
    whole = model(TWO_PHASES)
    jobs = []
    for phase, half in zip((TRAIN, TEST), halves(whole)):
        for net in (half.net, joined(whole).net):
            jobs.append(dict(a=dumps(whole.net), phase_a=phase, b=dumps(net), phase_b=phase))
    for found in caffe_pairs(jobs):
        assert found["outputs_a"] == found["outputs_b"] == ["prob"]
        assert set(found["apart"]) >= {"data", "conv", "prob"} and not any(found["apart"].values())


def test_weights_stay_with_their_layers():
    one, two, three = (np.full((2, 2), value, np.float32) for value in (1, 2, 3))
    whole = model(TWO_PHASES, conv=(one,), head=(two,), other=(three,))
    train = split_phases(whole, phase="train")
    assert train.model.blobs == {"conv": (one,), "head": (two,)}
    assert "layer 'other': not in TRAIN" in train.edits and "layer 'other': its weights go with it" in train.edits
    assert "layer 'head': its rules for TRAIN are met" in train.edits
    test = split_phases(whole, phase="test").model
    changed = replace(test, blobs={**test.blobs, "conv": (three,)})
    merged = merge_phases(train.model, test_net=changed)
    assert merged.model.blobs == {"conv": (one,), "head": (two,), "other": (three,)}
    assert "layer 'conv': the test net's other weights give way" in merged.edits
    assert not any("weights" in edit for edit in merge_phases(train.model, test_net=test).edits)


def test_what_stands_outside_of_layers():
    old = """input: "data" input_shape { dim: %d dim: 3 }
             layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" }"""
    same = merge_phases(model(old % 2), test_net=model(old % 2)).model.net
    assert same == model(old % 2).net
    apart = merge_phases(model(old % 2), test_net=model(old % 5))
    assert [(layer.name, layer.type) for layer in apart.model.net.layer] == [
        ("input", "Input"), ("input", "Input"), ("ip", "InnerProduct")]
    assert apart.edits[0] == "the nets' own input fields differ: written as Input layers"
    named = merge_phases(model('name: "a"' + TWO_PHASES), test_net=model('name: "b"' + TWO_PHASES))
    assert named.model.net.name == "a" and "the test net's name 'b' gives way to 'a'" in named.edits
    stated = model('state { phase: TEST stage: "x" }' + TWO_PHASES)
    train, test = halves(stated)
    assert (train.net.state.phase, test.net.state.phase) == (TRAIN, TEST)
    assert merge_phases(train, test_net=test).model.net.state == loads('stage: "x"', type(stated.net.state))
    with pytest.raises(Error, match="'force_backward' is 'True' in the net and 'False' in the test net"):
        merge_phases(model("force_backward: true" + TWO_PHASES), test_net=model(TWO_PHASES))


def test_refusals():
    deploy = build(NETWORKS["attention56-cifar"], DEPLOY)
    with pytest.raises(Error, match="no phase is called 'tset'\nhint: did you mean 'test'"):
        split_phases(deploy, phase="tset")
    with pytest.raises(Error, match="layer 'a': it has include and exclude"):
        split_phases(model('layer { name: "a" include { phase: TEST } exclude { stage: "x" } }'), phase="test")
    with pytest.raises(Error, match="layers of 2014\nhint: --pass upgrade first"):
        split_phases(model('layers { name: "a" type: RELU }'), phase="test")
    bvlc = DIALECTS["bvlc"]
    with pytest.raises(Error, match="the net is of dialect 'attention', and the test net of 'bvlc'"):
        merge_phases(deploy, test_net=Model(bvlc.message("NetParameter")(), bvlc))


def test_the_input_is_not_edited():
    whole = model(TWO_PHASES, conv=(np.ones(2, np.float32),))
    text, blobs = whole.dumps(), dict(whole.blobs)
    joined(whole)
    assert whole.dumps() == text and whole.blobs == blobs
