"""Runs that are killed, and what is resumed: nothing finished is lost, and the loss goes on as if nothing had been."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from processes import DEADLINE_S, edit, gone, wait_for
from prototxt_gen.core.caffemodel import read_weights
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.solverstate import read_solverstate
from prototxt_gen.train import launch, preflight, run_resume

# Shows every loss, and snapshots where the data layer begins again: after 200 images in batches of 20.
ENDLESS = [("display: 5", "display: 1"), ("max_iter: 20", "max_iter: 100000000"),
           ("test_iter: 2\ntest_interval: 10", "")]
# A hidden layer of 2000 units: a snapshot of 20 MB takes long enough to be killed in the middle of.
LARGE = [('bottom: "pool1" top: "fc"', 'bottom: "hidden" top: "fc"'),
         ('layer {\n  name: "fc"', 'layer { name: "hidden" type: "InnerProduct" bottom: "pool1" top: "hidden"'
          ' inner_product_param { num_output: 2000 weight_filler { type: "msra" } } }\nlayer {\n  name: "fc"')]


def losses(text):
    return {int(one): loss for one, loss in re.findall(r"Iteration (\d+).*, loss = (\S+)", text)}


@pytest.fixture
def train(caffe_build, cli, job):
    def run(*arguments, code=0):
        result = cli("train", *arguments, cwd=job)
        assert "Traceback" not in result.stderr
        assert result.returncode == code, result.stderr
        return result

    return run


@pytest.fixture
def start(caffe_build, cli_path, job):
    """Start ``prototxt-gen train`` and return its process and that of its child, once there is one."""
    started = []

    def begin(*arguments):
        process = subprocess.Popen([cli_path, "train", *arguments], cwd=job, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        started.append(process)
        listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def trained_by():
            return [int(pid) for pid in listing.read_text().split() if b"-solver" in words_of(pid)]

        wait_for(trained_by)
        return process, trained_by()[0]

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def refusal(job, caffe_build, monkeypatch):
    """Plan in the folder of the job and return the error."""
    monkeypatch.chdir(job)

    def plan(solver="solver.prototxt", **options):
        with pytest.raises(Error) as caught:
            launch.plan(solver, caffe_build, **options)
        assert caught.value.exit_code == 2
        return str(caught.value)

    return plan


def words_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended meanwhile, as those do that only look at Caffe
        return b""


def finished_snapshots(log):
    """Iterations whose solver state was followed by another line of the log."""
    lines = log.splitlines()
    return [int(re.search(r"_iter_(\d+)\.solverstate$", line).group(1)) for line in lines[:-1]
            if "Snapshotting solver state" in line]


def states(folder):
    return [iteration for iteration, _ in run_resume.states_of(str(folder / "snapshots" / "tiny"))]


@pytest.mark.parametrize("victim", ["launcher", "caffe"])
def test_killed_while_training(train, start, job, victim):
    """SIGKILL to the launcher ends Caffe as well; either way the run goes on where its last snapshot stands."""
    edit(job / "solver.prototxt", *ENDLESS)
    process, child = start("solver.prototxt", "--run", "run")
    log = job / "run" / "caffe.log"
    wait_for(lambda: log.exists() and len(finished_snapshots(log.read_text())) >= 3)
    if victim == "launcher":
        os.kill(process.pid, signal.SIGKILL)
    else:
        os.kill(child, signal.SIGKILL)
    wait_for(lambda: gone(child))
    process.wait(DEADLINE_S)
    saved = max(finished_snapshots(log.read_text()))
    before = log.read_text()
    last = saved + 60

    result = train("--run", "run", "--resume", "--set", f"max_iter={last}")
    resumed = int(re.search(r"resuming from run/snapshots/tiny_iter_(\d+)\.solverstate", result.stderr).group(1))
    assert resumed >= saved
    assert "Data layer begins at the first record again" not in result.stderr
    assert log.read_text().startswith(before)
    after = losses(log.read_text()[len(before):])
    assert set(after) == set(range(resumed, last + 1))

    train("solver.prototxt", "--run", "whole", "--set", f"max_iter={last}", "--set", "snapshot=0")
    whole = losses((job / "whole" / "caffe.log").read_text())
    assert {one: whole[one] for one in after if one <= last} == after


def test_killed_while_writing_a_snapshot(train, start, job):
    edit(job / "solver.prototxt", *ENDLESS)
    edit(job / "net.prototxt", *LARGE)
    process, child = start("solver.prototxt", "--run", "run")
    snapshots = job / "run" / "snapshots"

    def caught():
        """A snapshot has begun after two others, and is not written to its end: Caffe stands still meanwhile."""
        if len(list(snapshots.glob("*.caffemodel"))) < 3 or gone(child):
            return False
        os.kill(child, signal.SIGSTOP)
        begun = {int(re.search(r"_iter_(\d+)", path.name).group(1)) for path in snapshots.iterdir()}
        newest = max(begun)
        sizes = {path.suffix: path.stat().st_size for path in snapshots.glob(f"tiny_iter_{newest}.*")}
        full = {path.suffix: path.stat().st_size for path in snapshots.glob("tiny_iter_10.*")}
        if sizes.get(".solverstate", 0) < full[".solverstate"] - 64:
            return newest
        os.kill(child, signal.SIGCONT)
        return False

    broken = []
    wait_for(lambda: broken.append(caught()) or broken[-1])
    os.kill(child, signal.SIGKILL)
    process.wait(DEADLINE_S)
    result = train("--run", "run", "--resume", "--set", f"max_iter={broken[-1] + 5}", "--set", "snapshot=0")
    resumed = int(re.search(r"resuming from run/snapshots/tiny_iter_(\d+)\.solverstate", result.stderr).group(1))
    assert resumed == broken[-1] - 10
    assert broken[-1] + 5 == states(job / "run")[0]


def test_a_run_keeps_all_it_was_started_with(train, job):
    net = (job / "net.prototxt").read_text()
    train("solver.prototxt", "--run", "runs/first", "--set", "base_lr=0.02", "--set", "max_iter=5")
    folder = job / "runs" / "first"
    assert (folder / "net.prototxt").read_text() == net
    solver = preflight.read_solver(str(folder / "solver.prototxt"))
    assert (round(solver.base_lr, 6), solver.max_iter, solver.net) == (0.02, 5, "runs/first/net.prototxt")
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "caffe.log", "net.prototxt", "run.json", "snapshots", "solver.prototxt"]
    text = (folder / "run.json").read_text()
    record = json.loads(text)
    assert text == json.dumps(record, indent=2, sort_keys=True) + "\n"
    (first,) = record["starts"]
    assert first["command"][1:] == ["train", "-solver", "runs/first/solver.prototxt"]
    assert first["settings"] == {"base_lr": "0.02", "max_iter": "5"} and first["snapshot"] is None
    assert {"numpy", "python", "prototxt-gen"} <= set(first["versions"])
    assert "SECRET" not in text and "HOME" not in text
    assert not (job / "snap").exists()


def test_a_second_run_in_the_folder(train, refusal, job):
    train("solver.prototxt", "--run", "run", "--set", "max_iter=10")
    settings = {"max_iter": "10"}
    before = {path: path.read_bytes() for path in (job / "run").rglob("*") if path.is_file()}
    assert "holds a run already" in refusal(folder="run")
    edit(job / "solver.prototxt", ("momentum: 0.9", "momentum: 0.8"))
    message = refusal(folder="run", resume=True, settings=settings)
    assert "run: holds a run of another solver: momentum differ" in message
    edit(job / "solver.prototxt", ("momentum: 0.8", "momentum: 0.9"))
    edit(job / "net.prototxt", ("num_output: 8", "num_output: 9"))
    assert "'net.prototxt' differ" in refusal(folder="run", resume=True, settings=settings)
    edit(job / "net.prototxt", ("num_output: 9", "num_output: 8"))
    message = refusal(None, folder="run", resume=True, settings={"type": "Adam", "momentum2": "0.99"})
    assert "was written by a solver of type SGD or Nesterov" in message and "--weights" in message
    assert {path: path.read_bytes() for path in (job / "run").rglob("*") if path.is_file()} == before
    train("--run", "run", "--resume", "--set", "max_iter=15")
    assert states(job / "run")[0] == 15
    assert len(json.loads((job / "run" / "run.json").read_text())["starts"]) == 2


def test_a_run_is_resumed_where_it_was_started(train, refusal, job, tmp_path, monkeypatch):
    train("solver.prototxt", "--run", "run", "--set", "max_iter=5")
    monkeypatch.chdir(tmp_path)
    message = refusal(None, folder=str(job / "run"), resume=True)
    assert "was started in another folder" in message and f"cd '{job}'" in message
    (job / "run" / "run.json").write_text("[]")
    assert "is no record of a run" in refusal(None, folder=str(job / "run"), resume=True)


def test_a_run_that_was_copied_or_moved_is_refused(train, refusal, job):
    train("solver.prototxt", "--run", "run", "--set", "max_iter=5")
    before = {path: path.read_bytes() for path in job.rglob("*") if path.is_file()}
    shutil.copytree(job / "run", job / "copy")
    message = refusal(None, folder="copy", resume=True, settings={"max_iter": "9"})
    assert message.startswith("copy: is a copy of the run 'run', and names its files\nhint: --run 'run' goes on")
    assert "a run keeps its snapshots in its folder" in refusal(None, folder="run", resume=True,
                                                               settings={"snapshot_prefix": "elsewhere/tiny"})
    shutil.rmtree(job / "copy")
    (job / "run").rename(job / "moved")
    message = refusal(None, folder="moved", resume=True, settings={"max_iter": "9"})
    assert message == "moved: is the run 'run', moved\nhint: give it that name again: mv 'moved' 'run'"
    (job / "moved").rename(job / "run")
    assert {path: path.read_bytes() for path in job.rglob("*") if path.is_file()} == before
    (job / "link").symlink_to("run")
    told = train("--run", "link", "--resume", "--weights", "run/snapshots/tiny_iter_5.caffemodel",
                 "--set", "max_iter=9").stderr
    assert "note: --weights run/snapshots/tiny_iter_5.caffemodel is not used: the snapshot has weights" in told
    assert states(job / "run")[0] == 9


def test_files_of_others_are_no_run(train, refusal, job):
    """Nor do they become one; what a start leaves that was killed before its record was written does."""
    mine = job / "mine"
    mine.mkdir()
    shutil.copy(job / "solver.prototxt", mine)
    message = refusal("mine/solver.prototxt", folder="mine")
    assert message.startswith("mine: is not empty, and no run: it holds 'solver.prototxt'")
    assert "holds" in refusal(folder=".")
    (mine / ".lock").touch()
    (mine / "caffe.log").touch()
    (mine / "snapshots").mkdir()
    train("solver.prototxt", "--run", "mine", "--set", "max_iter=5")
    (mine / "run.json").unlink()
    assert "it holds 'caffe.log'" in refusal(folder="mine")


def test_two_trainings_in_one_folder(train, start, job):
    edit(job / "solver.prototxt", *ENDLESS)
    start("solver.prototxt", "--run", "run")
    wait_for(lambda: states(job / "run"))
    assert "run: another training runs in it" in train("--run", "run", "--resume", code=2).stderr


def test_folders_that_are_no_runs(refusal, caffe_build, job):
    assert "is not empty, and no run: it holds 'data.mdb'" in refusal(folder="set/train_lmdb")
    assert "is no folder" in refusal(folder="net.prototxt")
    assert "no SOLVER is given" in refusal(None, folder="new", resume=True)
    plan = launch.plan("solver.prototxt", caffe_build, folder="new", resume=True)
    assert "note: no snapshot is there yet: this is the start" in plan.told
    assert not (job / "new").exists()


@pytest.fixture(scope="module")
def adam(caffe_build, tmp_path_factory):
    """Two snapshots of a solver that keeps two arrays for each parameter, with solver and net."""
    folder = tmp_path_factory.mktemp("adam")
    net = ('name: "n" layer { name: "data" type: "DummyData" top: "data" top: "label"'
           ' dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }'
           ' layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" } param { name: "b" }'
           ' inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }'
           ' layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } param { name: "b" }'
           ' inner_product_param { num_output: 3 } }'
           ' layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "label" }')
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(
        f'net: "{folder}/net.prototxt" type: "Adam" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 2 '
        f'snapshot: 1 snapshot_prefix: "{folder}/n" solver_mode: CPU')
    subprocess.run([caffe_build.binary, "train", "-solver", folder / "solver.prototxt"], check=True,
                   capture_output=True)
    return folder


def newest(folder):
    path = str(folder / "solver.prototxt")
    solver = preflight.read_solver(path)
    return run_resume.newest_valid(str(folder / "n"), solver, preflight.used_nets(solver, path)[0])


@pytest.mark.parametrize("suffix", ["solverstate", "caffemodel"])
def test_a_file_cut_off_anywhere_is_passed_over(adam, suffix):
    """At every byte, ends of fields among them: a state stands for weights that are whole, and is whole itself."""
    victim = adam / f"n_iter_2.{suffix}"
    whole = victim.read_bytes()
    assert newest(adam).iteration == 2
    arrays = (*read_weights(str(adam / "n_iter_2.caffemodel")).blobs["a"],
              *read_solverstate(str(adam / "n_iter_2.solverstate")).history)
    values = [one.tobytes() for one in arrays]
    assert len(values) == 6
    try:
        for size in range(len(whole)):
            victim.write_bytes(whole[:size])
            found = newest(adam)
            if found.iteration == 2:
                # All that is cut off is what Caffe does without: a layer whose weights are shared, settings.
                blobs = read_weights(str(adam / "n_iter_2.caffemodel")).blobs["a"]
                history = read_solverstate(str(adam / "n_iter_2.solverstate")).history
                assert [one.tobytes() for one in (*blobs, *history)] == values, size
            else:
                assert found.iteration == 1 and f"passed over {adam}/n_iter_2.solverstate" in found.notes[0]
    finally:
        victim.write_bytes(whole)


def test_what_is_told_when_nothing_is_left(adam, tmp_path):
    for path in adam.iterdir():
        shutil.copy(path, tmp_path)
    edit(tmp_path / "solver.prototxt", (str(adam), str(tmp_path)))
    for number in (1, 2):
        (tmp_path / f"n_iter_{number}.solverstate").write_bytes(b"")
    with pytest.raises(Error, match="no snapshot is left to resume from\npassed over"):
        newest(tmp_path)
    for path in tmp_path.glob("*.solverstate"):
        path.unlink()
    assert newest(tmp_path) == run_resume.Resume(None, 0, ())


def test_weights_that_are_not_finite_are_passed_over(adam):
    victim = adam / "n_iter_2.caffemodel"
    whole = victim.read_bytes()
    net = DEFAULT_DIALECT.message("NetParameter").FromString(whole)
    next(layer for layer in net.layer if layer.blobs).blobs[0].data[0] = float("nan")
    try:
        victim.write_bytes(net.SerializeToString())
        found = newest(adam)
    finally:
        victim.write_bytes(whole)
    assert found.iteration == 1 and "the weights of layer 'a' are not finite" in found.notes[0]


def test_another_type_of_solver_is_refused_both_ways(adam, refusal, train):
    text = (adam / "solver.prototxt").read_text()
    try:
        (adam / "solver.prototxt").write_text(text.replace("Adam", "SGD"))
        with pytest.raises(Error, match="by a solver of type AdaDelta or Adam, with 2 arrays a parameter; SGD keeps 1"):
            newest(adam)
    finally:
        (adam / "solver.prototxt").write_text(text)
    train("solver.prototxt", "--set", "max_iter=1")
    message = refusal(snapshot="snap/tiny_iter_1.solverstate", settings={"type": "AdaDelta", "delta": "1e-6"})
    assert "by a solver of type SGD or Nesterov" in message


def test_settings_are_checked_and_written_to_a_solver_of_its_own(train, refusal, job):
    before = (job / "solver.prototxt").read_text()
    result = train("solver.prototxt", "--set", "base_lr=0.05", "--set", "max_iter=3")
    assert "Caffe gets snap/tiny.run-solver.prototxt: solver.prototxt with what the options change" in result.stderr
    assert "lr = 0.05" in result.stderr and "iteration = 3" in result.stdout
    assert (job / "solver.prototxt").read_text() == before
    for setting, message in (("base_lr=fast", "Couldn't parse"), ("base_lrr=1", "did you mean 'base_lr'?"),
                             ("base_lr=-1", "base_lr is below 0"), ("lr_policy=step", "needs gamma")):
        name, _, value = setting.partition("=")
        assert message in refusal(settings={name: value}), setting


def test_images_an_update(train, refusal, job):
    result = train("solver.prototxt", "--total-batch", "60", "--iter-size", "auto", "--set", "max_iter=1")
    assert "20 images x iter_size 3 x 1 GPU = 60 images an update" in result.stderr
    assert preflight.read_solver(str(job / "snap" / "tiny.run-solver.prototxt")).iter_size == 3
    assert "50 images an update are no multiple of 20 images x 1 GPU" in refusal(total_batch=50)
    assert "--iter-size auto wants --total-batch" in train("solver.prototxt", "--iter-size", "auto", code=2).stderr
    assert "leave one of them out" in train("solver.prototxt", "--iter-size", "2", "--total-batch", "40", code=2).stderr
