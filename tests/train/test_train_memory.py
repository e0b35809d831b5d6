"""``train --memory``: the same training to the last bit of its snapshots, in less memory, and what is said of it."""

import re
from dataclasses import replace

import pytest

from processes import edit
from prototxt_gen.core.errors import Error
from prototxt_gen.spec.rules import CAFFE, GPU, OWN
from prototxt_gen.train import launch, preflight, preflight_memory

BN = """
layer { name: "bn1" type: "BN" bottom: "conv1" top: "bn1" bn_param { slope_filler { value: 1 } } }
layer { name: "relu0" type: "ReLU" bottom: "bn1" top: "bn1" }
layer { name: "conv2" type: "Convolution" bottom: "bn1" top: "conv2"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv2" top: "sum" }
layer { name: "bn2" type: "BN" bottom: "sum" top: "bn2" bn_param { slope_filler { value: 1 } } }
layer { name: "pool1" type: "Pooling" bottom: "bn2" """


@pytest.fixture
def deep_job(job):
    """The job with two BN, a sum, and two batches an update."""
    edit(job / "net.prototxt", ('\nlayer { name: "pool1" type: "Pooling" bottom: "conv1" ', BN))
    edit(job / "solver.prototxt", ("display: 5", "display: 5\niter_size: 2\ndebug_info: true"))
    return job


@pytest.fixture
def train(cli, deep_job):
    def run(*arguments):
        result = cli("train", *arguments, cwd=deep_job)
        assert result.returncode == 0, result.stderr
        return result

    return run


def figures(path):
    """Every figure of a log that is no time: losses, tests, and debug_info's size of each blob and difference."""
    told = re.compile(r"(\[(?:Forward|Backward|Update)\].*|(?:Train|Test) net output.*|loss = .*)")
    return [match.group(1) for match in map(told.search, path.read_text().splitlines()) if match]


def test_the_same_training_to_the_last_bit(train, deep_job):
    train("solver.prototxt", "--run", "plain", "--memory", "plain")
    expected = figures(deep_job / "plain" / "caffe.log")
    assert len(expected) > 500
    for mode, engine in ((None, "caffe"), ("lean", "caffe"), ("lean", "pycaffe"), (None, "pycaffe")):
        run = f"{mode}-{engine}"
        train("solver.prototxt", "--run", run, *(("--memory", mode) if mode else ()), "--engine", engine)
        assert figures(deep_job / run / "caffe.log") == expected
        assert "Memory is shared between blobs" in (deep_job / run / "caffe.log").read_text()
        for name in ("tiny_iter_10.caffemodel", "tiny_iter_20.caffemodel"):
            ours, plain = (deep_job / one / "snapshots" / name for one in (run, "plain"))
            assert ours.read_bytes() == plain.read_bytes()


def test_a_run_goes_on_as_it_was_started(train, deep_job):
    train("solver.prototxt", "--run", "run", "--memory", "lean", "--set", "max_iter=2")
    command = train("--run", "run", "--resume", "--set", "max_iter=4", "--dry-run").stdout
    assert command.startswith("PROTOTXT_GEN_MEMORY=lean /")
    command = train("--run", "run", "--resume", "--set", "max_iter=4", "--memory", "plain", "--dry-run").stdout
    assert command.startswith("/")


def test_a_run_keeps_its_engine_and_tells_of_other_layers(cli, deep_job):
    def resumed(*arguments, **environment):
        done = cli("train", "--run", "run", "--resume", "--set", "max_iter=4", "--dry-run", *arguments, cwd=deep_job,
                   environment=environment)
        assert done.returncode == 0, done.stderr
        return done

    first = cli("train", "solver.prototxt", "--run", "run", "--engine", "pycaffe", "--set", "max_iter=2", cwd=deep_job,
                environment={"PROTOTXT_GEN_ENGINE": "caffe"})
    assert first.returncode == 0, first.stderr
    assert "pycaffe_worker" in resumed().stdout and "pycaffe_worker" not in resumed("--engine", "caffe").stdout
    assert "note: the run was last started with PROTOTXT_GEN_ENGINE=caffe" in resumed().stderr
    assert "last started" not in resumed(PROTOTXT_GEN_ENGINE="caffe").stderr


@pytest.mark.parametrize("command", [("train", "solver.prototxt", "--run", "made"), ("time", "net.prototxt"),
                                     ("test", "net.prototxt", "--weights", "none.caffemodel")])
def test_engines_that_caffe_does_not_know_are_told_before_anything_runs(cli, job, caffe_build, command):
    done = cli(*command, cwd=job, environment={"PROTOTXT_GEN_ENGINE": "CAFFE"})
    assert done.returncode == 2 and not (job / "made").exists()
    assert done.stderr == "error: PROTOTXT_GEN_ENGINE is 'CAFFE'\nhint: it may be own or caffe\n"


def test_blobs_share_memory_on_the_cpu_unless_somebody_asks_for_another_way(cli, deep_job):
    def command(*arguments, **environment):
        done = cli("train", "solver.prototxt", *arguments, "--dry-run", cwd=deep_job, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[0]

    assert command() == "PROTOTXT_GEN_MEMORY=shared"
    assert command(PROTOTXT_GEN_MEMORY="lean") == "PROTOTXT_GEN_MEMORY=lean"
    assert command("--memory", "plain", PROTOTXT_GEN_MEMORY="lean") == "PROTOTXT_GEN_MEMORY=plain"
    assert command("--memory", "plain").startswith("/")


def test_another_caffe_is_refused(caffe_build, job, monkeypatch, tmp_path):
    monkeypatch.chdir(job)
    with pytest.raises(Error, match="this Caffe knows no --memory lean"):
        launch.plan("solver.prototxt", replace(caffe_build, pycaffe=tmp_path), memory="lean")
    assert launch.plan("solver.prototxt", replace(caffe_build, pycaffe=tmp_path)).environment == {}


def test_a_gpu_has_plain_memory_where_nothing_is_said(caffe_build):
    assert preflight_memory.memory_word(caffe_build, None, on_gpu=True) == "plain"
    assert preflight_memory.memory_word(caffe_build, "shared", on_gpu=True) == "shared"


def test_whose_engines_count(caffe_build, monkeypatch):
    assert preflight_memory.computer(caffe_build).runs == OWN
    monkeypatch.setenv("PROTOTXT_GEN_ENGINE", "caffe")
    assert preflight_memory.computer(caffe_build).runs == CAFFE


def test_a_wrong_word_in_the_environment_is_named(cli, job, caffe_build):
    result = cli("train", "solver.prototxt", cwd=job, environment={"PROTOTXT_GEN_MEMORY": "tight"})
    assert result.returncode == 2
    assert "PROTOTXT_GEN_MEMORY is 'tight'\nhint: it may be plain, shared or lean" in result.stderr


def test_what_is_said_before_the_start(deep_job, monkeypatch):
    monkeypatch.chdir(deep_job)
    solver = preflight.read_solver("solver.prototxt")
    nets = preflight.used_nets(solver, "solver.prototxt")
    plain, shared, lean = (preflight_memory.need(nets, solver, GPU, mode) for mode in ("plain", "shared", "lean"))
    assert plain.total > shared.total > lean.total
    between = preflight_memory.Place("GPU 0", (lean.total + shared.total) // 2, GPU)
    said = next(preflight_memory.memory_lines(nets, solver, [between]))
    assert said.startswith("warning: memory: batch 20 needs")
    assert said.endswith(f"; --memory lean needs {preflight_memory.amount(lean.total)}")
    assert next(preflight_memory.memory_lines(nets, solver, [between], "lean")).startswith("memory: ")
