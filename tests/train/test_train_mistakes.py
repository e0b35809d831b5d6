"""What people do to a training that is there, and files that they take for others."""

import os
import signal
import subprocess

import pytest

from processes import DEADLINE_S, edit, wait_for
from prototxt_gen.core.errors import Error
from prototxt_gen.train import launch

SOLVER = "solver.prototxt"


@pytest.fixture
def endless(caffe_build, cli_path, job):
    """A training without end that has written a snapshot, in the folder of the job."""
    edit(job / SOLVER, ("max_iter: 20", "max_iter: 100000000"), ("snapshot: 10", "snapshot: 1000"))
    process = subprocess.Popen([cli_path, "train", SOLVER], cwd=job, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: list((job / "snap").glob("*.solverstate")))
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)


def test_two_trainings_with_the_same_snapshots(endless, cli, job):
    done = cli("train", SOLVER, "--set", "max_iter=3", cwd=job)
    assert done.returncode == 2 and "snap/tiny.log: another training writes this log" in done.stderr
    assert not (job / "snap" / "tiny_iter_3.solverstate").exists()
    assert not (job / "snap" / "tiny.run-solver.prototxt").exists()
    endless.send_signal(signal.SIGINT)
    endless.communicate(timeout=DEADLINE_S)
    again = cli("train", SOLVER, "--set", "max_iter=3", cwd=job)
    assert again.returncode == 0, again.stderr
    assert "warning: snapshots of an earlier training are there, up to iteration " in again.stderr


def test_a_log_that_is_a_device_belongs_to_nobody(endless, cli, job):
    prefix = "snapshot_prefix=other/tiny"
    done = cli("train", SOLVER, "--set", "max_iter=3", "--set", prefix, "--log", "/dev/null", cwd=job)
    assert done.returncode == 0 and "warning: snapshots" not in done.stderr, done.stderr


def test_a_state_is_no_file_of_weights(caffe_build, cli, job, monkeypatch):
    monkeypatch.chdir(job)
    for name in ("a.solverstate", "a.solverstate.h5"):
        (job / name).write_bytes(b"\x08\x0a\x12\x01a")
        wanted = name.replace("solverstate", "caffemodel")
        with pytest.raises(Error, match="holds a solver's state, and neither net nor weights") as caught:
            launch.plan(SOLVER, caffe_build, weights=name)
        assert caught.value.hint == f"those it belongs to are '{wanted}'"
        done = cli("test", "net.prototxt", "--weights", name, cwd=job)
        assert done.returncode == 2 and f"hint: those it belongs to are '{wanted}'" in done.stderr


def test_a_training_that_is_at_its_end_is_not_started(cli, caffe_build, job):
    assert cli("train", SOLVER, "--set", "max_iter=3", cwd=job).returncode == 0
    before = {path: path.read_bytes() for path in (job / "snap").iterdir()}
    newest = "snap/tiny_iter_3.solverstate"
    for options in (["--resume"], ["--snapshot", newest], ["--resume", "--engine", "pycaffe"]):
        for last in (3, 2):
            done = cli("train", SOLVER, "--set", f"max_iter={last}", *options, cwd=job)
            assert done.returncode == 2, done.stderr
            assert f"error: {newest}: the run is at iteration 3, and max_iter is {last}\n" in done.stderr
            assert "hint: --set max_iter=N with N above 3 trains further" in done.stderr
    assert {path: path.read_bytes() for path in (job / "snap").iterdir()} == before
    assert cli("train", SOLVER, "--set", "max_iter=4", "--resume", cwd=job).returncode == 0


@pytest.mark.parametrize("total, near", [(7, "20"), (50, "40 or 60"), (79, "60 or 80")])
def test_a_total_batch_that_no_iter_size_gives(caffe_build, job, monkeypatch, total, near):
    monkeypatch.chdir(job)
    with pytest.raises(Error, match="are no multiple of 20 images") as caught:
        launch.plan(SOLVER, caffe_build, total_batch=total)
    assert caught.value.hint == f"--total-batch {near}, or another batch_size"


def test_a_run_that_was_never_started_is_named(caffe_build, job, monkeypatch):
    monkeypatch.chdir(job)
    with pytest.raises(Error, match="no SOLVER is given") as caught:
        launch.plan(None, caffe_build, folder="typo", resume=True)
    assert caught.value.where == "typo" and not (job / "typo").exists()


def test_paths_that_were_meant_from_a_folder_above(caffe_build, job, monkeypatch):
    (job / "nets" / "deep").mkdir(parents=True)
    os.rename(job / SOLVER, job / "nets" / "deep" / SOLVER)
    for here, solver in ((job / "nets", f"deep/{SOLVER}"), (job / "nets" / "deep", SOLVER)):
        monkeypatch.chdir(here)
        with pytest.raises(Error, match="there is no net 'net.prototxt'") as caught:
            launch.plan(solver, caffe_build)
        assert caught.value.hint == f"Caffe takes paths from the current directory: run it in '{job}'"
    monkeypatch.chdir(job)
    launch.plan(f"nets/deep/{SOLVER}", caffe_build)


def test_a_run_whose_name_no_text_can_hold(caffe_build, cli, job):
    done = cli("train", "solver.prototxt", "--run", "run\udcff", cwd=job)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("error: a name holds bytes that are not UTF-8: 'run\\udcff/net.prototxt'\n"
                                "hint: name it otherwise\n")
