"""Lint over whole nets: our own are clean, the published fault is found, broken texts end in findings or in Error."""

import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prototxt_gen.check.lint import ERROR, NOTE, Options, lint, registry
from prototxt_gen.core.dialects import DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import dumps
from prototxt_gen.nets.builder import PUBLISHED, build
from prototxt_gen.nets.configs import NETWORKS, vary

REPOSITORY = Path(__file__).resolve().parent.parent.parent
GENERATED = sorted((REPOSITORY / "generated").rglob("*.prototxt"))
EVERY = Options(registry.rules())
SMALL = dumps(build(vary(NETWORKS["attention56-cifar"], dict(modules="1,0,0", widths="4,4,4,4"))).net)
SOLVER = (REPOSITORY / "generated" / "attention92-cifar" / "solver.prototxt").read_text()
TRAINED = """
layer {{ name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param {{ shape {{ dim: 4 dim: 3 dim: 8 dim: 8 }} shape {{ dim: 4 }} }} }}
{}
layer {{ name: "scores" type: "InnerProduct" bottom: "x" top: "scores"
        inner_product_param {{ num_output: 10 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }}
layer {{ name: "top1" type: "Accuracy" bottom: "scores" bottom: "label" top: "top1" include {{ phase: TEST }} }}
"""


def found_in(text, options=EVERY):
    return [one for one in lint(text, "net", options) if one.severity != NOTE]


def ids(findings):
    return [finding.rule for finding in findings]


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_the_tool_generates_is_clean(path):
    found = lint(path.read_text(), str(path), EVERY)
    # A solver's folder of snapshots is made when training starts.
    assert {(one.rule, one.severity) for one in found if one.severity != NOTE} <= {("PG402", "warning")}
    assert [one.severity for one in found if one.rule == "PG402"] == ["warning"] * path.stem.startswith("solver")


def test_the_fault_of_the_published_attentionnext92_is_found_with_line_and_suggestion():
    text = build(NETWORKS["attentionnext92"], PUBLISHED).dumps()
    assert text.count('bottom: "ave_pool"') == 1
    text = text.replace('bottom: "ave_pool"', 'bottom: "ave_pool_gather"')
    (fault,) = [finding for finding in found_in(text) if finding.severity == ERROR]
    assert (fault.rule, fault.layer) == ("PG101", "classifier")
    assert text.split("\n")[fault.line - 1] == '  bottom: "ave_pool_gather"'
    assert "'ave_pool_gather'" in fault.message and fault.hint == "did you mean 'ave_pool'?"


def test_a_net_with_all_names_wrong_is_answered_in_time():
    text = build(NETWORKS["attention92"]).dumps()
    began = time.process_time()
    found = found_in(re.sub(r'^  top: "', '  top: "x', text, flags=re.MULTILINE))
    # Comparing each name with all the others would take 20 times as long.
    assert ids(found).count("PG101") > 600 and time.process_time() - began < 3
    assert found[0].hint and not found[-1].hint


def test_findings_are_sorted_and_do_not_depend_on_the_order_of_rules():
    text = SMALL.replace('bottom: "conv1/bn"', 'bottom: "conv1/nb"').replace("value: 1.0", "value: 0.0")
    found = lint(text, "net", EVERY)
    assert len(found) > 10 and [(one.file, one.line) for one in found] == sorted((one.file, one.line) for one in found)
    shuffled = random.Random(1).sample(EVERY.rules, len(EVERY.rules))
    assert lint(text, "net", Options(shuffled)) == found


def test_a_fault_of_one_phase_says_which():
    text = TRAINED.format('layer { name: "x" type: "ReLU" bottom: "data" top: "x" include { phase: TRAIN } }')
    (fault,) = found_in(text)
    assert fault.rule == "PG101" and fault.message.endswith("(in phase TEST)")
    assert found_in(text, Options(EVERY.rules, phases=(TRAIN,))) == []
    assert ids(found_in(text, Options(EVERY.rules, phases=(TEST,)))) == ["PG101"]


def test_training_traps_are_none_where_nothing_is_trained():
    frozen = 'layer { name: "x" type: "BN" bottom: "data" top: "x" bn_param { frozen: true } }'
    assert ids(found_in(TRAINED.format(frozen))) == ["PG301"]
    assert found_in(TRAINED.format(frozen), Options(EVERY.rules, phases=(TEST,))) == []
    deployed = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }'
    assert found_in(deployed + frozen) == []


@pytest.mark.parametrize("first, second, faults", [("", "", 1), ("msra", "", 0), ("", "msra", 1)])
def test_shared_weights_start_as_their_first_layer_says(first, second, faults):
    layers = ""
    for name, bottom, filler in (("a", "data", first), ("b", "a", second)):
        start = 'weight_filler { type: "%s" }' % filler if filler else ""
        layers += ('layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s" param { name: "w" } '
                   'convolution_param { num_output: 3 kernel_size: 1 %s } }' % (name, bottom, name, start))
    found = found_in(TRAINED.format(layers).replace('bottom: "x"', 'bottom: "b"'))
    assert ids(found) == ["PG305"] * faults and all(one.layer == "a" for one in found)


@pytest.mark.parametrize("dialect, faults", [("attention", 0), ("bvlc", 2), ("happynear", 1), ("pspnet", 0)])
def test_types_are_those_of_the_dialect(dialect, faults):
    layers = ('input: "x" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8 '
              'layer { name: "bn" type: "BN" bottom: "x" top: "bn" bn_param { frozen: true } } '
              'layer { name: "up" type: "Interp" bottom: "bn" bottom: "x" top: "up" }')
    found = found_in(layers, Options(EVERY.rules, dialect=DIALECTS[dialect]))
    assert ids(found) == ["PG106"] * faults
    assert all("attention" in one.hint for one in found)


@pytest.mark.parametrize("layers, faults", [
    # Only the database tells how many channels there are: three are a guess, and no fault follows from a guess.
    ('layer { name: "s" type: "Slice" bottom: "data" top: "a" top: "b" }'
     'layer { name: "x" type: "Eltwise" bottom: "a" bottom: "b" top: "x" }', []),
    ('layer { name: "x" type: "Convolution" bottom: "data" top: "x" convolution_param { '
     'num_output: 8 kernel_size: 9 weight_filler { type: "msra" } } }', ["PG201"]),
])
def test_channels_of_a_database_are_not_guessed(layers, faults):
    data = ('layer { name: "data" type: "Data" top: "data" top: "label" data_param { batch_size: 4 } '
            'transform_param { crop_size: 8 } }')
    assert ids(found_in(re.sub(r'layer \{ name: "data".*?\n.*\n', data, TRAINED.format(layers), count=1))) == faults


def test_layers_of_old_files_are_found_on_their_lines():
    v0 = """input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "data" top: "pad" }
layers { layer { name: "conv" type: "conv" num_output: 4 kernelsize: 3 } bottom: "pad" top: "conv" }
layers { layer { name: "pool" type: "pool" kernelsize: 9 } bottom: "conv" top: "pool" }
"""
    assert [(one.rule, one.line, one.layer) for one in found_in(v0)] == [("PG202", 4, "pool")]
    v1 = """layers { name: "data" type: DUMMY_DATA top: "data"
  dummy_data_param { num: 1 channels: 3 height: 8 width: 8 }
}
layers { name: "pool" type: POOLING bottom: "dota" top: "pool" pooling_param { kernel_size: 8 } }
"""
    (fault,) = found_in(v1)
    assert (fault.rule, fault.line, fault.hint) == ("PG101", 4, "did you mean 'data'?")


@pytest.mark.parametrize("text, what", [
    ("", "neither"), ('name: "x"', "neither"), ("debug_info: true", "neither"), ("<html>", ""),
    ("layer { nmae: 'x' }", "LayerParameter has no field 'nmae'"),
    ("base_lr: 0.1\nmax_itr: 5", "SolverParameter has no field"),
    ("layers { name: 'a' } layer { name: 'b' }", "both 'layer' and 'layers'"),
])
def test_a_text_that_is_neither_net_nor_solver_is_an_error(text, what):
    with pytest.raises(Error) as caught:
        found_in(text)
    assert what in caught.value.what and caught.value.where.startswith("net")


LINES = [line for line in SMALL.split("\n")] + [line for line in SOLVER.split("\n")] + ["layer {", "}", "net_param {"]
words = st.sampled_from(["0", "-1", "4294967295", "2147483648", "nan", "inf", '""', '"data"', '"conv1"', '"Pooling"',
                         '"Eltwise"', '"Split"', '"LSTM"', "TRAIN", "true", "1e38"])
changes = st.lists(st.one_of(
    st.tuples(st.just("drop"), st.integers(0), st.none()),
    st.tuples(st.just("put"), st.integers(0), st.sampled_from(LINES)),
    st.tuples(st.just("value"), st.integers(0), words),
), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([SMALL, SOLVER, SOLVER + "net_param {\n" + SMALL + "}"]), changes)
@example(SMALL, [("value", 4, '"Eltwise"')])
def test_broken_texts_give_findings_with_real_lines_or_our_error(text, several):
    lines = text.split("\n")
    for kind, at, what in several:
        at %= len(lines)
        if kind == "drop" and len(lines) > 1:
            del lines[at]
        elif kind == "put":
            lines.insert(at, what)
        elif kind == "value":
            lines[at] = re.sub(r": .*", f": {what}", lines[at])
    try:
        found = lint("\n".join(lines), "text", EVERY)
    except Error:
        return
    for finding in found:
        assert finding.file == "text" and 1 <= finding.line <= len(lines) and finding.message


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_findings_or_our_error(text):
    try:
        lint(text, "text", EVERY)
    except Error:
        pass
