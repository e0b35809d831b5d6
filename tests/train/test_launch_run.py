"""``prototxt-gen train`` with the real Caffe: how runs end, are interrupted, resumed, and fail."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from processes import DEADLINE_S, edit, wait_for

NO_TESTS = ("test_iter: 2\ntest_interval: 10", "")
ENDLESS = [("max_iter: 20", "max_iter: 100000000"), ("snapshot: 10", "snapshot: 0"), NO_TESTS]


@pytest.fixture
def train(caffe_build, cli, job):
    """Run ``prototxt-gen train`` to its end in the folder of the job."""

    def run(*arguments):
        result = cli("train", "solver.prototxt", *arguments, cwd=job)
        assert "Traceback" not in result.stderr
        return result

    return run


@pytest.fixture
def start(caffe_build, cli_path, job):
    """Start a training without end and return its process once iterations pass by."""
    started = []

    def begin(*arguments):
        edit(job / "solver.prototxt", *ENDLESS)
        command = [cli_path, "train", "solver.prototxt", *arguments]
        process = subprocess.Popen(command, cwd=job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        wait_for(lambda: "Iteration 10 " in log_of(job))
        return process

    yield begin
    for process in started:
        for pid in [*children(process), process.pid] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def log_of(job):
    path = job / "snap" / "tiny.log"
    return path.read_text() if path.exists() else ""


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def end(process):
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in stderr
    return process.returncode, stdout, stderr


def test_a_training_ends_with_its_accuracy(train, job):
    result = train()
    assert result.returncode == 0, result.stderr
    values = dict(line.split(" = ") for line in result.stdout.splitlines())
    assert list(values) == ["iteration", "tested at iteration", "accuracy/top1", "loss", "snapshot", "log"]
    assert (values["iteration"], values["snapshot"]) == ("20", "snap/tiny_iter_20.solverstate")
    assert values["log"] == "snap/tiny.log"
    assert float(values["accuracy/top1"]) > 0.6
    before, _, told = result.stderr.partition("setting up the nets; full log: snap/tiny.log\n")
    assert [line.split(":")[0] for line in before.splitlines()] == [
        "solver.prototxt", "memory", "labels", "labels", "snapshots"]
    told = told.splitlines()
    assert set(told) <= set(log_of(job).splitlines()) and len(told) < 0.2 * len(log_of(job).splitlines())
    for words in ("Iteration 15 ", "lr = 0.01", "Train net output #0: loss = ", "Testing net (#0)",
                  "Test net output #0: accuracy/top1 = ", "Snapshotting solver state", "Optimization Done."):
        assert any(words in line for line in told), words
    assert not any("Creating Layer" in line or line.startswith("layer {") for line in told)
    assert sorted(path.name for path in (job / "snap").iterdir()) == sorted(
        ["tiny.log", *(f"tiny_iter_{number}.{kind}" for number in (10, 20) for kind in ("caffemodel", "solverstate"))])


def test_verbose_shows_the_whole_log(train, job):
    result = train("--verbose")
    assert result.returncode == 0 and result.stderr.endswith(log_of(job))
    assert "Creating Layer fc" in result.stderr


def test_a_log_elsewhere_is_appended_to(train, job):
    for _ in range(2):
        result = train("--log", "logs/one.txt")
        assert result.returncode == 0 and result.stdout.endswith("log = logs/one.txt\n")
    assert (job / "logs" / "one.txt").read_text().count("Optimization Done.") == 4
    assert not log_of(job)


def test_dry_run_prints_the_command_and_starts_nothing(train, caffe_build, job):
    edit(job / "solver.prototxt", ("solver_mode: CPU", "solver_mode: GPU"))
    result = train("--dry-run", "--cpu")
    assert result.returncode == 0
    assert shlex.split(result.stdout) == ["PROTOTXT_GEN_MEMORY=shared", str(caffe_build.binary), "train", "-solver",
                                          "snap/tiny.cpu-solver.prototxt"]
    assert "snap/tiny.cpu-solver.prototxt: solver.prototxt with solver_mode: CPU" in result.stderr
    assert not (job / "snap").exists()


def test_cpu_trains_a_solver_that_says_gpu(train, job):
    edit(job / "solver.prototxt", ("solver_mode: CPU", "solver_mode: GPU"), ('snapshot_prefix: "snap/tiny"', ""))
    result = train("--cpu")
    assert result.returncode == 0, result.stderr
    assert "snapshot = solver_iter_20.solverstate" in result.stdout
    assert "solver_mode: CPU" in (job / "solver.cpu-solver.prototxt").read_text()
    assert "solver_mode: GPU" in (job / "solver.prototxt").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_snapshot_to_resume_from(start, train, job, number):
    process = start()
    process.send_signal(number)
    code, stdout, stderr = end(process)
    assert code == 130, stderr
    assert "stopping: Caffe ends its iteration and writes a snapshot" in stderr
    snapshot = re.search(r"^interrupted: resume with --snapshot (\S+)$", stderr, re.MULTILINE).group(1)
    assert f"snapshot = {snapshot}\n" in stdout
    iteration = int(re.fullmatch(r"snap/tiny_iter_(\d+)\.solverstate", snapshot).group(1))
    assert iteration >= 10 and f"iteration = {iteration}\n" in stdout

    edit(job / "solver.prototxt", ("max_iter: 100000000", f"max_iter: {iteration + 30}"))
    result = train("--snapshot", snapshot)
    assert result.returncode == 0, result.stderr
    assert f"iteration = {iteration + 30}\n" in result.stdout
    shown = [int(one) for one in re.findall(r"Iteration (\d+) \(", result.stderr)]
    assert shown and min(shown) >= iteration


def test_a_terminals_ctrl_c_reaches_caffe_once(start):
    process = start()
    (child,) = children(process)
    assert os.getsid(child) == child != os.getsid(process.pid)
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 130


def test_a_second_signal_kills(start):
    process = start()
    (child,) = children(process)
    os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = end(process)
    assert code == 130 and "killed: there is no snapshot" in stderr, stderr


def test_a_hang_up_writes_a_snapshot_and_training_goes_on(start, job):
    process = start()
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: list((job / "snap").glob("*.solverstate")))
    seen = log_of(job).count("\n")
    wait_for(lambda: log_of(job).count("\n") > seen + 20)
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 130


def test_a_lost_terminal_stops_no_training(caffe_build, cli_path, job):
    process = subprocess.Popen([cli_path, "train", "solver.prototxt"], cwd=job, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stderr.close()
    assert "iteration = 20" in process.stdout.read()
    process.stdout.close()
    assert process.wait(DEADLINE_S) == 0
    assert log_of(job).count("Optimization Done.") == 2


def test_a_log_that_cannot_be_written_any_further_stops_no_training(train):
    result = train("--log", "/dev/full")
    assert result.returncode == 0, result.stderr
    assert "cannot write the log any further: No space left on device" in result.stderr
    assert "iteration = 20" in result.stdout


def test_weights_are_started_from(train, job):
    reached = re.search(r"accuracy/top1 = (\S+)", train().stdout).group(1)
    edit(job / "solver.prototxt", ("base_lr: 0.01", "base_lr: 0"))
    result = train("--weights", "snap/tiny_iter_20.caffemodel")
    assert result.returncode == 0, result.stderr
    first = re.search(r"Test net output #0: accuracy/top1 = (\S+)", result.stderr)
    assert first.group(1) == reached


def test_a_failed_check_is_told_first(train, job):
    edit(job / "net.prototxt", ('bottom: "pool1" top: "fc"', 'bottom: "pool7" top: "fc"'))
    result = train()
    assert (result.returncode, result.stdout) == (2, "") and "lint finds 1 error" in result.stderr
    assert not (job / "snap").exists()
    result = train("--no-lint")
    assert (result.returncode, result.stdout) == (3, "")
    before, _, after = result.stderr.partition("error: ")
    before = before.partition("setting up")[2]
    assert len(before.splitlines()) < 4 and " @ " not in before and "stack trace" not in before
    ours = f"error: {after}".splitlines()
    assert ours[0] == "error: snap/tiny.log: Unknown bottom blob 'pool7' (layer 'fc', bottom index 0)"
    assert ours[1] == "that is: a layer reads blob 'pool7', which no layer before it makes"
    assert ours[2] == "caffe train was ended by SIGABRT; before that, its log says:"
    assert len(ours) > 3 and not any("@" in line for line in ours)
    assert "Unknown bottom blob" in log_of(job)


def test_a_killed_caffe_is_told_with_the_likely_reason(start):
    process = start()
    (child,) = children(process)
    os.kill(child, signal.SIGKILL)
    code, stdout, stderr = end(process)
    assert (code, stdout) == (3, "")
    assert "caffe train was ended by SIGKILL" in stderr
    assert "hint: the kernel kills a process when memory runs out" in stderr


def test_a_program_that_is_not_caffe_is_no_success(caffe_build, cli, job, tmp_path):
    (tmp_path / "other" / "bin").mkdir(parents=True)
    (tmp_path / "other" / "bin" / "caffe").symlink_to("/bin/true")
    (tmp_path / "other" / "python").symlink_to(caffe_build.pycaffe)
    result = cli("train", "solver.prototxt", "--caffe", tmp_path / "other", cwd=job)
    assert result.returncode == 3 and "caffe train ended without training" in result.stderr


def test_results_that_cannot_be_written(train, job):
    edit(job / "solver.prototxt", ("snap/tiny", "/proc/snap/tiny"))
    result = train()
    assert (result.returncode, result.stdout) == (2, "")
    assert "error: /proc/snap: cannot be written" in result.stderr
    edit(job / "solver.prototxt", ("/proc/snap/tiny", "net.prototxt/tiny"))
    assert train().returncode == 2


def test_a_snapshot_on_a_full_disk_gets_a_hint(train, job):
    (job / "snap").mkdir()
    (job / "snap" / "tiny_iter_10.caffemodel").symlink_to("/dev/full")
    result = train()
    assert (result.returncode, result.stdout) == (3, "")
    assert "SerializeToOstream" in result.stderr and "hint: the disk may be full" in result.stderr


def test_a_missing_caffe_is_told_with_what_builds_one(cli, job, tmp_path):
    names = ("HOME", "XDG_CACHE_HOME", "PROTOTXT_GEN_CACHE")
    environment = {**dict.fromkeys(names, str(tmp_path)), "CAFFE_ROOT": ""}
    result = cli("train", "solver.prototxt", cwd=job, environment=environment)
    assert (result.returncode, result.stdout) == (2, "")
    assert "prototxt-gen caffe build" in result.stderr


@pytest.mark.parametrize("arguments, message", [
    (["--cpu", "--gpu", "0"], "--cpu and --gpu exclude one another"),
    (["--snapshot", "a", "--weights", "b"], "--snapshot and --weights exclude one another"),
    (["--gpu", "0"], "built for the CPU only"),
    (["--caffe", "/nowhere"], "/nowhere"),
])
def test_refusals(train, caffe_build, job, monkeypatch, arguments, message):
    monkeypatch.setenv("CAFFE_ROOT", str(caffe_build.root))  # there may be a build for GPUs, too
    result = train(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert not (job / "snap").exists()


def test_commands_that_run_caffe_leave_no_temporary_files(cli, caffe_build, job):
    temporary = job / "temporary"
    temporary.mkdir()
    weights = ["--weights", "snap/tiny_iter_20.caffemodel"]
    (job / "odd.prototxt").write_text((job / "net.prototxt").read_text().replace('"pool1" top: "fc"', '"p" top: "fc"'))
    (job / "failing.prototxt").write_text((job / "solver.prototxt").read_text().replace("net.proto", "odd.proto"))
    for arguments, code in [
        (["train", "solver.prototxt"], 0),
        (["train", "solver.prototxt", "--run", "other", "--engine", "pycaffe"], 0),
        (["test", "net.prototxt", *weights, "--top", "1"], 0),
        (["time", "net.prototxt", "--iterations", "1", "--input", "data=20,3,28,28"], 0),
        (["data", "preview", "net.prototxt", "-o", "sheet.png"], 0),
        (["convert", "net.prototxt", "--pass", "train-to-deploy", "--input", "data=1,3,28,28", "-o", "deploy"], 0),
        (["compare", "deploy", "deploy", *weights], 0),
        (["train", "failing.prototxt", "--run", "failed", "--no-lint"], 3),
    ]:
        done = cli(*arguments, cwd=job, environment={"TMPDIR": str(temporary)})
        assert done.returncode == code, (arguments, done.stderr)
        assert not list(temporary.iterdir()), arguments
    assert "Unknown bottom blob 'p'" in (job / "failed" / "caffe.log").read_text()
