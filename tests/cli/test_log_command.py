"""``prototxt-gen log``: tables, machine-readable forms, pictures, following, and logs of the real Caffe."""

import csv
import fcntl
import gzip
import io
import json
import math
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

LOGS = Path(__file__).resolve().parent.parent / "train" / "logs"
# Generous: each step takes well under a second.
DEADLINE_S = 60

NET = """name: "tiny"
layer {
  name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {
    shape { dim: 8 dim: 6 } shape { dim: 8 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "uniform" min: 0 max: 3.9 }
  }
}
layer {
  name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 4 weight_filler { type: "msra" } }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "top1" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy/top1" include { phase: TEST } }
"""
SOLVER = """net: "net.prototxt" test_iter: 3 test_interval: 20 base_lr: 0.05 momentum: 0.9
lr_policy: "step" stepsize: 40 gamma: 0.1 display: 5 max_iter: 60 snapshot: 30 snapshot_prefix: "s" solver_mode: CPU
random_seed: 1
"""


@pytest.fixture(scope="module")
def real(caffe_build, tmp_path_factory):
    """A folder with what the real Caffe wrote: a run, one that begins from its snapshot at 30, and one of NaN."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)
    (folder / "nan.prototxt").write_text(SOLVER.replace("base_lr: 0.05", "base_lr: 3e38"))
    for name, solver, more in (("run", "solver", []), ("run", "solver", ["-snapshot", "s_iter_30.solverstate"]),
                               ("nan", "nan", [])):
        command = [str(caffe_build.binary), "train", "-solver", f"{solver}.prototxt", *more]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, env=environment)
        assert done.returncode == 0
        (folder / name).mkdir(exist_ok=True)
        with open(folder / name / "caffe.log", "ab") as log:
            log.write(done.stderr)
    return folder


@pytest.fixture
def log(cli):
    """Run ``prototxt-gen log`` and return what it printed, its exit code checked."""

    def run(*arguments, code=0, stdin=None):
        done = cli("log", *arguments, stdin=stdin, environment={"COLUMNS": "100"})
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def test_the_table_of_a_real_run_that_was_resumed(log, real):
    lines = log(real / "run").stdout.splitlines()
    assert lines[0] == "tiny: iteration 60 of 60, done"
    assert "iterations/s" in lines[1] and lines[2].startswith("best tests: accuracy/top1 ")
    heading = next(place for place, line in enumerate(lines) if line.startswith("iteration"))
    assert re.split(" {2,}", lines[heading]) == [
        "iteration", "loss", "smoothed", "lr", "iter/s", "elapsed", "test accuracy/top1", "test loss"]
    table = lines[heading + 1:heading + 14]
    assert [row.split()[0] for row in table] == [*map(str, range(0, 30, 5)), *(f"{one}*" for one in range(30, 65, 5))]
    assert "* ran again after a resume: the later run counts" in lines
    assert lines[-1] == "note: resumed at iteration 30; iterations 30 to 60 ran again, and the later run counts"
    assert max(map(len, lines)) <= 100


def test_rows_are_spread_and_tests_come_first(log, real):
    lines = log(real / "run" / "caffe.log", "--rows", "4").stdout.splitlines()
    heading = next(place for place, line in enumerate(lines) if line.startswith("iteration"))
    assert [row.split()[0] for row in lines[heading + 1:heading + 5]] == ["0", "20", "40*", "60*"]


def test_json_and_csv_tell_the_same_as_the_log(log, real):
    document = json.loads(log(real / "run", "--json").stdout)
    text = (real / "run" / "caffe.log").read_text()
    wanted = {}
    for iteration, loss in re.findall(r"Iteration (\d+)(?: \(.*\))?, loss = (\S+)", text):
        wanted[int(iteration)] = float(loss)
    assert {row["iteration"]: row["loss"] for row in document["train"]} == wanted
    assert [row["iteration"] for row in document["test"]] == [0, 20, 40, 60]
    assert [row["lr"] for row in document["train"]][::4] == [0.05, 0.05, 0.005, None]
    assert document["done"] and document["remaining_seconds"] == 0 and document["max_iter"] == 60
    assert [one["replaced"] for one in document["sessions"]] == [None, [30, 60]]

    rows = list(csv.DictReader(io.StringIO(log(real / "run", "--csv").stdout)))
    losses = {int(row["iteration"]): float(row["value"]) for row in rows
              if (row["phase"], row["source"], row["quantity"]) == ("train", "solver", "loss")}
    assert losses == wanted
    tests = {(row["iteration"], row["quantity"]): float(row["value"]) for row in rows if row["phase"] == "test"}
    assert tests == {(str(row["iteration"]), name): value for row in document["test"]
                     for name, value in row["outputs"].items()}
    assert [int(row["iteration"]) for row in rows] == sorted(int(row["iteration"]) for row in rows)


def test_nan_is_noticed_and_strict_makes_it_the_answer(log, real):
    assert "note: train loss is nan at iteration " in log(real / "nan").stdout
    assert "note: train loss is nan" in log(real / "nan", "--strict", code=1).stdout
    log(real / "run", "--strict")
    document = json.loads(log(real / "nan", "--json").stdout, parse_constant=pytest.fail)
    assert "nan" in [row["loss"] for row in document["train"]]
    done = log(real / "nan", "--csv", "--strict", code=1)
    assert "note: train loss is nan" in done.stderr
    assert any(math.isnan(float(row["value"])) for row in csv.DictReader(io.StringIO(done.stdout)))


def test_several_logs_and_standard_input(log, real, tmp_path):
    text = (real / "run" / "caffe.log").read_text()
    second = text.rindex("\n", 0, text.index("Initializing solver", 2000)) + 1
    (tmp_path / "later").write_text(text[second:])
    (tmp_path / "earlier").write_text(text[:second])
    wanted = log("-", "--json", stdin=text).stdout
    assert log(tmp_path / "later", tmp_path / "earlier", "--json").stdout == wanted
    assert log(real / "run", "--json").stdout == wanted


def test_a_cut_last_line_is_told_of(log, tmp_path):
    path = tmp_path / "cut.log"
    path.write_text((LOGS / "form_2014.log").read_text()[:-4])
    done = log(path)
    assert done.stderr == f"note: the last line of {path} is cut off, and left out\n"
    assert "two heads: iteration 40 of 100" in done.stdout and "remaining" in done.stdout


def test_outputs_that_do_not_fit_are_named(log):
    text = log(LOGS / "form_2014.log").stdout
    assert "not shown: " in text and max(map(len, text.splitlines())) <= 100
    for title in ("#0 accuracy", "#1 accuracy", "#1 loss", "probs", "probs[1]", "probs[2]"):
        assert title in text


def test_a_picture_is_written_and_the_notes_are_told(log, real, tmp_path):
    path = tmp_path / "picture.svg"
    done = log(real / "run", "--plot", path)
    assert done.stdout == "" and "note: resumed at iteration 30" in done.stderr
    assert path.read_text().startswith("<?xml") and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("arguments, message", [
    (["none.log"], "none.log: there is no such log"),
    (["-", "--csv", "--json"], "--plot, --csv, --json and --follow exclude one another"),
    (["-", "--plot", "a.gif"], "--plot a.gif names no picture\nhint: a name that ends with .png, .svg, .pdf"),
    ([], "Missing argument"),
])
def test_mistakes(log, arguments, message):
    assert message in log(*arguments, stdin="", code=2).stderr


@pytest.mark.parametrize("text, message", [
    ("", "<stdin>: the log is empty"),
    ("hello\n", "<stdin>: holds no line of a log of caffe train"),
    ("I0405 10:00:00.000000 7 caffe.cpp:1] Use CPU.\n", "<stdin>: no iteration is in the log yet"),
    ("F0405 10:00:00.000000 7 io.cpp:1] Check failed: fd != -1\n", "Caffe failed: Check failed: fd != -1"),
])
def test_logs_without_an_iteration(log, text, message):
    done = log("-", stdin=text, code=2)
    assert message in done.stderr and done.stdout == ""


def wait_for(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def pieces(real):
    """A real log in pieces, parted where lines of iterations begin; its two sessions."""
    lines = (real / "run" / "caffe.log").read_text().splitlines(keepends=True)
    end = next(place for place, line in enumerate(lines) if "Optimization Done" in line)
    start = next(place for place, line in enumerate(lines) if "Iteration 20" in line)
    return "".join(lines[:start]), "".join(lines[start:end]), "".join(lines[end:end + 1])


def test_follow_appends_lines_until_training_is_done(cli_path, pieces, tmp_path):
    path, told = tmp_path / "grows.log", tmp_path / "told"
    path.write_text(pieces[0])
    with open(told, "w") as out:
        process = subprocess.Popen([cli_path, "log", "--follow", path], stdout=out, stderr=subprocess.PIPE)
        try:
            wait_for(lambda: "iteration 15: loss" in told.read_text())
            with open(path, "a") as file:
                for at in range(0, len(pieces[1]), 1000):
                    file.write(pieces[1][at:at + 1000])
                    file.flush()
            wait_for(lambda: "test at iteration 60: accuracy/top1" in told.read_text())
            assert process.poll() is None
            with open(path, "a") as file:
                file.write(pieces[2])
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
            process.communicate()
    text = told.read_text()
    assert re.findall(r"^iteration (\d+): loss", text, re.MULTILINE) == [str(one) for one in range(0, 65, 5)]
    assert re.findall(r"^test at iteration (\d+):", text, re.MULTILINE) == ["0", "20", "40", "60"]
    assert all("lr " in line for line in text.splitlines() if re.match(r"iteration ([0-4]?\d|5\d):", line))
    assert "tiny: iteration 60 of 60, done" in text


def test_a_run_whose_training_was_killed_is_not_waited_for(log, cli_path, pieces, tmp_path):
    """The lock tells: while it is held a silent log is waited for, and not when nobody holds it."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "caffe.log").write_text(pieces[0])
    (run / "run.json").write_text("{}")
    with open(run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "broken off" not in log(run).stdout and "remaining" in log(run).stdout
        process = subprocess.Popen([cli_path, "log", "--follow", run], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(7)  # more than the silence after which the lock is looked at
    try:
        text, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 0 and "note: nothing trains here, and the log has no end" in text
    assert "of 60, broken off\n" in text and "remaining" not in text.partition("broken off")[2]
    told = log(run).stdout
    assert "of 60, broken off\n" in told and "remaining" not in told
    assert json.loads(log(run, "--json").stdout)["broken_off"]


def test_follow_on_a_terminal_draws_in_place_and_ends_on_ctrl_c(cli_path, pieces, tmp_path):
    path = tmp_path / "grows.log"
    path.write_text(pieces[0])
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "30"}
    process = subprocess.Popen([cli_path, "log", "--follow", path], stdout=follower, stderr=subprocess.PIPE,
                               env=environment, start_new_session=True)
    os.close(follower)
    seen = b""

    def shows(text):
        nonlocal seen
        if select.select([leader], [], [], 0.1)[0]:
            seen += os.read(leader, 1 << 16)
        return text in seen.decode()

    try:
        wait_for(lambda: shows("iteration 15 of 60"))
        with open(path, "a") as file:
            file.write(pieces[1])
        wait_for(lambda: shows("iteration 60 of 60"))
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        assert b"Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
        os.close(leader)
    frames = re.split(r"\x1b\[\d+F", seen.decode())
    assert len(frames) > 1 and frames[-1].startswith("tiny: iteration 60 of 60")
    assert "#] 100 %" in frames[-1] and re.search("loss [▁-█]{13}\x1b", frames[-1])
    assert max(len(line.split("\x1b")[0]) for line in frames[-1].splitlines()) < 90


def test_follow_a_pipe_to_its_end_and_a_log_that_is_done(log, real):
    text = (real / "nan" / "caffe.log").read_text()
    piped = log("-", "--follow", "--strict", stdin=text, code=1).stdout
    assert "iteration 60: loss nan" in piped and piped.count("note: train loss is nan") == 1
    assert "done" in log(real / "run", "--follow").stdout


def test_a_compressed_log_is_read_and_followed_to_its_end(log, real, pieces, tmp_path):
    (tmp_path / "all.log.gz").write_bytes(gzip.compress((real / "run" / "caffe.log").read_bytes()))
    assert log(tmp_path / "all.log.gz").stdout == log(real / "run").stdout
    (tmp_path / "killed.log.gz").write_bytes(gzip.compress(pieces[0].encode()))
    assert "iteration 15: loss" in log(tmp_path / "killed.log.gz", "--follow").stdout


def test_a_log_that_is_begun_anew_is_followed_from_its_beginning(cli_path, pieces, tmp_path):
    path, told = tmp_path / "grows.log", tmp_path / "told"
    path.write_text("".join(pieces[:2]))
    with open(told, "w") as out:
        process = subprocess.Popen([cli_path, "log", "--follow", path], stdout=out)
        try:
            wait_for(lambda: "iteration 60: loss" in told.read_text())
            path.write_text(pieces[0])
            wait_for(lambda: "note: begun anew at iteration 0; iterations 0 to 60 ran again" in told.read_text())
        finally:
            process.kill()
            process.communicate()
