"""What lint calls an error, real Caffe refuses or gets wrong; what lint passes, it takes."""

import json
import random
import re
from pathlib import Path

import pytest

from prototxt_gen.check.lint import ERROR, Options, lint, registry
from prototxt_gen.check.lint_graph import types_of
from prototxt_gen.check.lint_solver import POLICIES, SOLVER_TYPES
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST
from prototxt_gen.nets.builder import DEPLOY, build
from prototxt_gen.nets.configs import NETWORKS, vary

CASES = Path(__file__).parent / "lint"
LOAD_NETS = Path(__file__).parent.parent / "spec" / "load_nets.py"
REFUSED = ("PG101", "PG102", "PG104", "PG106", "PG110", "PG201", "PG304")
# Errors that Caffe does not see.
UNSEEN = ("PG105", "PG108", "PG202")
TAKEN_IN_SILENCE = ("PG103", "PG105", "PG107", "PG108", "PG109", "PG202", "PG301", "PG302", "PG303", "PG305")

# Each file in a forked process, since a failed CHECK ends it; prints a list of exit statuses.
TRY_SOLVERS = """
import json, os, sys, types
sys.modules["caffe.io"] = types.ModuleType("caffe.io")
import caffe
ended = []
for path in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        os.chdir(os.path.dirname(path))
        caffe.get_solver(path).step(1)
        os._exit(0)
    ended.append(os.waitpid(child, 0)[1])
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def loaded(run_caffe_python, tmp_path_factory):
    """What came of each net, by rule and kind, in phase TRAIN: None where Caffe ended. And Caffe's layer types."""
    names = [(rule, kind) for rule in REFUSED + TAKEN_IN_SILENCE for kind in ("bad", "good")]
    folder = tmp_path_factory.mktemp("lint_cases")
    jobs = [dict(net=(CASES / rule / f"{kind}.prototxt").read_text(), phase=0, stages=[], level=0, folder=str(folder))
            for rule, kind in names]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    run_caffe_python(LOAD_NETS, folder / "jobs.json", folder / "found.json")
    found = json.loads((folder / "found.json").read_text())
    return dict(zip(names, found["nets"])), found["types"]


@pytest.mark.parametrize("rule", REFUSED)
def test_caffe_refuses_the_bad_net_and_takes_the_good_one(loaded, rule):
    assert loaded[0][rule, "bad"] is None and loaded[0][rule, "good"] is not None


@pytest.mark.parametrize("rule", TAKEN_IN_SILENCE)
def test_caffe_takes_the_bad_net_without_a_word(loaded, rule):
    assert loaded[0][rule, "bad"] is not None and loaded[0][rule, "good"] is not None


def test_the_layer_types_are_those_of_the_caffe_that_the_dialect_stands_for(loaded):
    assert types_of(DEFAULT_DIALECT) == set(loaded[1])


SOLVER = 'net: "%s" base_lr: 0.1 max_iter: 10 solver_mode: CPU %%s' % (CASES / "train.prototxt")
FIXED = 'lr_policy: "fixed" '
STEP_FIELDS = dict(gamma="gamma: 0.1", stepsize="stepsize: 5", stepvalue="stepvalue: 5", power="power: 1", max_iter="")
REFUSED_SOLVERS = [
    'lr_policy: "linear"', "", 'lr_policy: "step" gamma: 0.1', FIXED + "test_iter: 5",
    FIXED + "test_iter: 5 test_interval: 5 test_state { } test_state { }", FIXED + 'type: "Nestorov"',
    FIXED + 'type: "RMSProp" momentum: 0.9', FIXED + 'type: "AdaGrad" momentum: 0.9',
    FIXED + 'type: "SGD" solver_type: SGD', FIXED + 'weights: "missing.caffemodel"',
    FIXED + 'snapshot: 5 snapshot_prefix: "missing/net"', FIXED + 'train_net: "x"',
]
TAKEN_SOLVERS = [
    *(f'lr_policy: "{policy}" ' + " ".join(map(STEP_FIELDS.get, fields)) for policy, fields in POLICIES.items()),
    *(FIXED + f'type: "{kind}"' for kind in SOLVER_TYPES),
    FIXED + "test_iter: 5 test_interval: 5", FIXED + 'snapshot: 5 snapshot_prefix: "net"',
]


@pytest.fixture(scope="module")
def tried(run_caffe_python, tmp_path_factory):
    """The exit status of Caffe's first step, and lint's findings, for each solver."""
    folder = tmp_path_factory.mktemp("solvers")
    paths = []
    for index, rest in enumerate(REFUSED_SOLVERS + TAKEN_SOLVERS):
        paths.append(folder / f"{index}.prototxt")
        paths[-1].write_text(SOLVER % rest)
    ended = json.loads(run_caffe_python(TRY_SOLVERS, *paths).stdout.splitlines()[-1])
    rules = Options(registry.chosen(["PG4"], ["PG410"]))
    found = [{finding.rule for finding in lint(path.read_text(), str(path), rules)} for path in paths]
    return dict(zip(REFUSED_SOLVERS + TAKEN_SOLVERS, zip(ended, found)))


@pytest.mark.parametrize("rest", REFUSED_SOLVERS)
def test_a_solver_that_caffe_ends_on_is_found(tried, rest):
    status, found = tried[rest]
    assert status != 0 and found


@pytest.mark.parametrize("rest", TAKEN_SOLVERS)
def test_a_solver_without_findings_takes_its_first_step(tried, rest):
    assert tried[rest] == (0, set())


def with_a_slip(text, chance):
    """The text with one line lost, one value replaced, or one bottom or top named like another."""
    lines = text.split("\n")
    at = chance.randrange(len(lines))
    blobs = [number for number, line in enumerate(lines) if re.match(" *(bottom|top):", line)]
    kind = chance.choice(["drop", "value", "value", "blob"])
    if kind == "drop":
        del lines[at]
    elif kind == "value":
        values = ["0", "1", "2", "3", "40", '"data"', '"conv1"', '"ReLU"', '"Pooling"', '"Eltwise"', '"BN"', '"Concat"']
        lines[at] = re.sub(": .*", f": {chance.choice(values)}", lines[at])
    else:
        one, other = chance.sample(blobs, 2)
        lines[one] = lines[one].split(":")[0] + ":" + lines[other].split(":")[1]
    return "\n".join(lines)


def test_the_errors_of_nets_with_a_slip_are_the_refusals_of_caffe(run_caffe_python, tmp_path):
    net = build(vary(NETWORKS["attention56-cifar"], dict(modules="1,0,0", widths="4,4,4,4")), DEPLOY).dumps()
    chance, texts, faulty = random.Random(3), [], []
    while len(texts) < 80:
        text = with_a_slip(net, chance)
        try:
            found = lint(text, "net", Options(registry.rules(), phases=(TEST,)))
        except Error:
            continue
        texts.append(text)
        faulty.append(any(one.severity == ERROR and one.rule not in UNSEEN for one in found))
    jobs = [dict(net=text, phase=TEST, stages=[], level=0, folder=str(tmp_path)) for text in texts]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run_caffe_python(LOAD_NETS, tmp_path / "jobs.json", tmp_path / "found.json")
    refused = [one is None for one in json.loads((tmp_path / "found.json").read_text())["nets"]]
    assert 20 < sum(refused) < 70
    assert [text for text, a, b in zip(texts, faulty, refused) if a != b] == []
