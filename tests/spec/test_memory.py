"""The memory estimate against the peak resident set of real training steps, and against the figures by the graph."""

import math

import numpy
import pytest

from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import dumps
from prototxt_gen.nets.builder import DataEnds, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.spec.infer import infer
from prototxt_gen.spec.memory import largest_batch, memory, with_batch
from prototxt_gen.spec.rules import CAFFE, OWN
from prototxt_gen.train.data import Image, datum, write_lmdb

# Peak growth of the resident set over one training step. ru_maxrss would begin with the peak of the process that
# started this one.
STEP_SCRIPT = r"""
    import re, resource, sys
    import caffe._caffe
    caffe._caffe.set_mode_cpu()
    start = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    solver = caffe._caffe.get_solver(sys.argv[1])
    solver.step(1)
    print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1)) * 1024 - start)
    """
SOLVER = """net: "{net}" type: "{type}" momentum: 0.9 base_lr: 0.01 lr_policy: "fixed" max_iter: 2 solver_mode: CPU
snapshot_after_train: false
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """LMDBs of noise, by size."""
    folder = tmp_path_factory.mktemp("noise")
    random = numpy.random.RandomState(0)
    for size in (32, 224):
        pixels = (random.randint(0, 255, (3, size, size)).astype("uint8") for _ in range(16))
        write_lmdb(folder / str(size), ((f"{i}", datum(Image(f"{i}", i % 10, one))) for i, one in enumerate(pixels)))
    return folder


@pytest.mark.parametrize("name, batch, solver, sharing, runs", [
    ("attention56-cifar", 16, "Nesterov", "plain", OWN), ("attention56-cifar", 32, "SGD", "plain", OWN),
    ("attentionnext56", 1, "Adam", "plain", OWN), ("attentionnext56", 2, "Nesterov", "plain", OWN),
    ("attention56-cifar", 64, "Nesterov", "shared", OWN), ("attention56-cifar", 64, "SGD", "lean", OWN),
    ("attentionnext56", 2, "Nesterov", "shared", OWN), ("attentionnext56", 2, "Nesterov", "lean", OWN),
    ("attentionnext56", 1, "Nesterov", "shared", CAFFE), ("attentionnext56", 1, "AdaDelta", "lean", CAFFE),
    ("attention56-cifar", 16, "Nesterov", "shared", CAFFE),
])
def test_within_five_percent_of_a_real_step(run_caffe_python, images, tmp_path, name, batch, solver, sharing, runs):
    source = str(images / str(NETWORKS[name].input_size))
    net = build(NETWORKS[name], batch_size=batch, data=DataEnds(source, source, (128,))).net
    (tmp_path / "net.prototxt").write_text(dumps(net))
    (tmp_path / "solver.prototxt").write_text(SOLVER.format(net=tmp_path / "net.prototxt", type=solver))
    measured = int(run_caffe_python(STEP_SCRIPT, tmp_path / "solver.prototxt",
                                    environment={"PROTOTXT_GEN_MEMORY": sharing,
                                                 "PROTOTXT_GEN_ENGINE": "caffe" if runs == CAFFE else ""}).stdout)
    assert memory(infer(net, TRAIN), solver, sharing).held(runs) == pytest.approx(measured, rel=0.05)


def test_attention56_at_batch_32_by_the_graph():
    """Thousand millions of bytes: activations, differences, what the fork's BN keeps besides."""
    need = memory(infer(build(NETWORKS["attention56"], batch_size=32).net, TRAIN))
    figures = (need.activations, need.differences + need.splits, need.fork_bn)
    assert [f"{value / 1e9:.1f}" for value in figures] == ["6.5", "9.6", "4.4"]


def test_lean_memory_of_attention56_at_batch_32():
    info = infer(build(NETWORKS["attention56"], batch_size=32).net, TRAIN)
    assert [f"{memory(info, sharing=sharing).total / 1e9:.1f}" for sharing in ("shared", "lean")] == ["5.7", "3.6"]
    assert [f"{memory(info, sharing=sharing).activations / 1e9:.1f}" for sharing in ("shared", "lean")] == ["0.0", "0.0"]


def test_a_forward_pass_has_no_differences_and_no_solver():
    need = memory(infer(build(NETWORKS["attention56"], "deploy").net, TEST))
    assert (need.differences, need.splits, need.parameter_differences, need.solver) == (0, 0, 0, 0)
    assert need.parameters == 4 * 31_883_432


@pytest.mark.parametrize("gib", [0.2, 1, 8, 12])
def test_largest_batch_fits_and_the_next_does_not(gib):
    net = build(NETWORKS["attention56-cifar"]).net
    limit = int(gib * 2**30)
    batch = largest_batch(net, limit, TRAIN)
    assert batch > 0
    assert memory(infer(with_batch(net, batch), TRAIN)).total <= limit
    assert memory(infer(with_batch(net, batch + 1), TRAIN)).total > limit
    assert largest_batch(net, 10**6, TRAIN) == 0


def test_with_batch_reaches_every_kind_of_input():
    for form in ("train", "deploy", "published"):
        shapes = infer(with_batch(build(NETWORKS["attention56"], form).net, 3), TEST).blobs
        assert shapes["data"][0] == 3 and math.prod(shapes["classifier"]) == 3000


def test_unknown_solver_types_are_named():
    with pytest.raises(Error, match="no solver type is called 'Nestrov'") as caught:
        memory(infer(build(NETWORKS["attention56"], "deploy").net, TEST), "Nestrov")
    assert caught.value.hint == "did you mean 'Nesterov'?"
