"""``prototxt-gen train --engine pycaffe``: the same training as the program's, and one that resumes anywhere."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hypothesis import given
from hypothesis import strategies as st

from processes import DEADLINE_S, edit, gone, wait_for
from prototxt_gen.core.errors import Error
from prototxt_gen.train import launch, preflight, preflight_run, pycaffe_worker, run_skip


@pytest.fixture
def train(caffe_build, cli, job):
    edit(job / "solver.prototxt", ("display: 5", "display: 1"), ("snapshot: 10", "snapshot: 7"))

    def run(*arguments, code=0):
        result = cli("train", *arguments, cwd=job)
        assert "Traceback" not in result.stderr
        assert result.returncode == code, result.stderr
        return result

    return run


def curve(text):
    """Every loss and test of a log, in its order, with the iteration."""
    numbers = re.compile(r"Iteration (\d+)(?: .*)?, (loss = \S+)|Iteration (\d+), (lr = \S+)|(Test net output .*)")
    return [match.groups() for match in map(numbers.search, text.splitlines()) if match]


def after(figures, iteration):
    """What a log says from the test or the loss at an iteration on."""
    first = next(i for i, one in enumerate(figures) if int(one[0] or one[2] or -1) >= iteration)
    return figures[first:]


def log_of(job, run):
    path = job / run / "caffe.log"
    return path.read_text() if path.exists() else ""


def test_both_engines_learn_the_same_and_resume_anywhere(train, job):
    program = train("solver.prototxt", "--run", "program")
    ours = train("solver.prototxt", "--run", "ours", "--engine", "pycaffe")
    whole = curve(log_of(job, "program"))
    assert len(whole) == 20 * 2 + 1 + 3 * 2 and curve(log_of(job, "ours")) == whole
    assert ours.stdout == program.stdout.replace("program/", "ours/")
    for name in ("tiny_iter_14.caffemodel", "tiny_iter_20.caffemodel"):
        assert (job / "ours/snapshots" / name).read_bytes() == (job / "program/snapshots" / name).read_bytes()

    # Iteration 7 stands at record 140 of 200 of the one set, and after two batches of the two of the other.
    for newer in (14, 20):
        for run in ("ours", "program"):
            (job / run / "snapshots" / f"tiny_iter_{newer}.solverstate").unlink()
    before = len(log_of(job, "ours"))
    told = train("--run", "ours", "--resume", "--engine", "pycaffe").stderr
    assert "anew" not in told
    assert curve(log_of(job, "ours")[before:]) == after(whole, 7)

    # The program begins at record 0 again, and we say so.
    before = len(log_of(job, "program"))
    told = train("--run", "program", "--resume").stderr
    assert "stood 140 of 200 records into 'set/train_lmdb' (--engine pycaffe goes on there)" in told
    assert curve(log_of(job, "program")[before:]) != after(whole, 7)


def test_what_is_drawn_anew_is_told(job, caffe_build, monkeypatch):
    """Beyond the first epoch, which ends at iteration 10, mirrors are not those of a training that went on."""
    monkeypatch.chdir(job)
    told = []
    for iteration in (9, 10):
        for changes in ((), ("scale: 0.0078", "scale: 0.0078 mirror: true"), ("mirror: true", "mirror: false")):
            edit(job / "net.prototxt", *([changes] if changes else []))
            (net, *_) = preflight.used_nets(preflight.read_solver("solver.prototxt"), "solver.prototxt")
            told.append(list(preflight_run.cursor_line(net, iteration, 1, 1, winds_on=True)))
        edit(job / "net.prototxt", ("mirror: false", ""))
    assert [len(one) for one in told] == [0, 0, 0, 0, 1, 0]
    assert told[4][0].startswith("note: layer 'data' goes on at its record, and draws mirrors and crops anew")


def test_a_signal_at_any_time_leaves_no_stack_trace(train, cli_path, job):
    """The worker is sent one as soon as it is there, when it is not ready for it yet."""
    process = subprocess.Popen([cli_path, "train", "solver.prototxt", "--run", "run", "--engine", "pycaffe", "--set",
                                "max_iter=1000000"], cwd=job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def workers():
        return [pid for pid in children.read_text().split()
                if b"pycaffe_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    wait_for(workers)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130 and "Traceback" not in stderr + log_of(job, "run"), stderr
    assert "interrupted: resume with" in stderr and "Iteration 1 " not in log_of(job, "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_resumed(train, cli_path, job, number):
    """A signal leaves a snapshot and SIGKILL what was there; from either the losses are those of a run that went on."""
    edit(job / "solver.prototxt", ("test_iter: 2\ntest_interval: 10", ""))
    process = subprocess.Popen([cli_path, "train", "solver.prototxt", "--run", "run", "--engine", "pycaffe", "--set",
                                "max_iter=1000000"], cwd=job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: "Iteration 30 " in log_of(job, "run"))
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    if number == signal.SIGKILL:
        lock = job / "run" / ".lock"
        wait_for(lambda: subprocess.run(["flock", "-n", lock, "true"]).returncode == 0)
    else:
        assert process.returncode == 130, stderr
        assert "interrupted: resume with prototxt-gen train --run run --resume" in stderr
    before = log_of(job, "run")
    reached = max(int(one) for one in re.findall(r"Iteration (\d+) ", before))
    last = reached + 12
    told = train("--run", "run", "--resume", "--engine", "pycaffe", "--set", f"max_iter={last}").stderr
    resumed = int(re.search(r"resuming from run/snapshots/tiny_iter_(\d+)", told).group(1))
    assert resumed == (reached + 1 if number != signal.SIGKILL else resumed) and resumed >= 28
    train("solver.prototxt", "--run", "whole", "--set", f"max_iter={last}")
    assert curve(log_of(job, "run")[len(before):]) == after(curve(log_of(job, "whole")), resumed)


def test_weights_are_started_from(train, job):
    reached = re.search(r"accuracy/top1 = (\S+)", train("solver.prototxt").stdout).group(1)
    result = train("solver.prototxt", "--engine", "pycaffe", "--weights", "snap/tiny_iter_20.caffemodel",
                   "--set", "base_lr=0", "--set", "max_iter=1")
    assert re.search(r"Test net output #0: accuracy/top1 = (\S+)", result.stderr).group(1) == reached


def test_a_failed_check_is_told_as_the_programs_is(train, job):
    edit(job / "net.prototxt", ('bottom: "pool1" top: "fc"', 'bottom: "pool7" top: "fc"'))
    result = train("solver.prototxt", "--engine", "pycaffe", "--no-lint", code=3)
    assert "that is: a layer reads blob 'pool7', which no layer before it makes" in result.stderr


def test_one_process_leads_a_gpu_each(job, caffe_build, monkeypatch):
    monkeypatch.chdir(job)
    with_gpus = replace(caffe_build, cuda=True, nccl=True)
    plan = launch.plan("solver.prototxt", with_gpus, gpu="0,1", engine="pycaffe")
    assert plan.command[1:3] == ("-m", "prototxt_gen.train.pycaffe_worker")
    assert plan.command[-2:] == ("--gpu", "0,1")
    # The Caffe of this machine has no GPU: the process gets as far as choosing one.
    done = subprocess.run(plan.command, capture_output=True, text=True, env={**os.environ, "GLOG_minloglevel": "0"})
    assert done.returncode != 0 and not Path("snap").exists()
    assert "NCCL" in done.stderr or "Cannot use GPU in CPU-only Caffe" in done.stderr, done.stderr
    with pytest.raises(Error, match="pycaffe needs the packages six"):
        launch.plan("solver.prototxt", replace(caffe_build, missing_modules=("six",)), engine="pycaffe")


@pytest.fixture
def supervised(tmp_path):
    """Run programs under ``supervise``, in a process of its own; return it and theirs, once all have said ready()."""
    started = []

    def run(*programs):
        files = [tmp_path / str(index) for index in range(len(programs))]
        commands = [[sys.executable, "-c", "import os, signal, sys, time\n"
                     f"def ready():\n    open({str(file) + '.new'!r}, 'w').write(str(os.getpid()))\n"
                     f"    os.rename({str(file) + '.new'!r}, {str(file)!r})\n{program}"]
                    for file, program in zip(files, programs)]
        code = f"from prototxt_gen.train.pycaffe_worker import supervise; raise SystemExit(supervise({commands!r}))"
        started.append(subprocess.Popen([sys.executable, "-c", code]))
        wait_for(lambda: all(file.exists() for file in files))
        return started[-1], [int(file.read_text()) for file in files]

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("programs, status", [
    (["time.sleep(0.3)", "time.sleep(99)", "time.sleep(99)"], 0),
    (["time.sleep(99)", "time.sleep(0.3); sys.exit(7)"], 7),
    (["time.sleep(99)", "time.sleep(0.3); os.abort()"], 128 + signal.SIGABRT),
])
def test_processes_side_by_side_end_together(supervised, programs, status):
    process, children = supervised(*(f"ready(); {program}" for program in programs))
    assert process.wait(DEADLINE_S) == status
    assert all(map(gone, children))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_go_to_the_first_process(supervised, number):
    first = (f"signal.signal({int(number)}, lambda *_: sys.exit(9)); ready(); time.sleep(0.2)\n"
             f"signal.pthread_sigmask(signal.SIG_UNBLOCK, [{int(number)}]); time.sleep(99)")  # held back until here
    process, children = supervised(first, "ready(); time.sleep(99)")
    process.send_signal(number)
    assert process.wait(DEADLINE_S) == 9
    assert all(map(gone, children))


def test_processes_side_by_side_die_with_the_one_that_waits(supervised):
    process, children = supervised("ready(); time.sleep(99)", "ready(); time.sleep(99)")
    process.kill()
    process.wait()
    wait_for(lambda: all(map(gone, children)))


@given(st.integers(0, 500), st.integers(1, 40), st.integers(1, 4), st.integers(1, 60), st.integers(0, 3))
def test_winding_on_leads_to_the_record_where_a_data_layer_stands(batches, batch, gpus, records, rank):
    """Played record by record: each of G solvers takes every G-th record of a circle, B at a time."""
    rank %= gpus

    def record_after(count):
        return (count * batch * gpus + rank) % records

    short = pycaffe_worker.batches_into_epoch(batches, batch, gpus, records)
    assert short < records and record_after(short) == record_after(batches)


@given(st.integers(0, 300), st.integers(0, 30), st.booleans())
def test_tests_before_an_iteration(iteration, interval, at_start):
    """Counted as the solver's loop does it: before iterations that the interval divides, 0 if so wanted."""
    counted = [one for one in range(iteration) if interval and one % interval == 0 and (one or at_start)]
    assert run_skip.tests_before(iteration, interval, at_start) == len(counted)
