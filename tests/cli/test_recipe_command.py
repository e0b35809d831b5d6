"""``prototxt-gen recipe``: the folder runs as its README says, in real Caffe, and goes on after a kill."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.io import loads

FILES = ["README.md", "deploy.prototxt", "run.sh", "solver.prototxt", "train_val.prototxt"]
SMALL = ("fashion-mnist", "attention56-cifar")


def environment():
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "OPENBLAS_NUM_THREADS": "1"}


def run(folder, command):
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, env=environment())


def in_place(path, pattern, new):
    text, count = re.subn(pattern, new, path.read_text())
    assert count, pattern
    path.write_text(text)


@pytest.fixture
def small_recipe(cli, caffe_build, tmp_path):
    """A recipe whose net is a small one and whose tests are short: the README's commands take seconds."""
    folder = tmp_path / "recipe"
    done = cli("recipe", *SMALL, folder, "--iterations", 8, "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    net = loads((folder / "train_val.prototxt").read_text(), DEFAULT_DIALECT.message("NetParameter"))
    small = cli("attention56-cifar", "--augment", "cifar", "--source", "data/train_lmdb", "--test-source",
                "data/test_lmdb", "--mean", "55.845", "--batch-size", 4, "--set", "modules=1,0,0", "--set",
                "widths=4,4,4,4", "--set", "stem_width=4")
    assert net.layer[0] == loads(small.stdout, type(net)).layer[0]
    (folder / "train_val.prototxt").write_text(small.stdout)
    in_place(folder / "solver.prototxt", "test_iter: 20", "test_iter: 1")
    in_place(folder / "solver.prototxt", "snapshot: 8", "snapshot: 4")
    in_place(folder / "run.sh", "data fashion-mnist data", "data fashion-mnist data --limit 300")
    return folder


def test_the_readme_runs_as_it_stands(small_recipe, caffe_build):
    (block,) = re.findall(r"^```sh\n(.*?)^```$", (small_recipe / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = block.splitlines()
    assert commands == ["./run.sh data", "./run.sh preview", "./run.sh train", "./run.sh test"]
    said = {}
    for command in commands:
        done = run(small_recipe, command)
        assert done.returncode == 0, (command, done.stderr[-2000:])
        said[command] = done.stdout
    assert (small_recipe / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert "iteration = 8" in said["./run.sh train"]
    assert "weights = snapshots/attention56-cifar_iter_8.caffemodel" in said["./run.sh test"]
    # 300 images are three batches: the program caffe has the same figures.
    command = [str(caffe_build.binary), "test", "-model", "train_val.prototxt", "-iterations", "3", "-weights",
               "snapshots/attention56-cifar_iter_8.caffemodel"]
    program = subprocess.run(command, cwd=small_recipe, capture_output=True, text=True, env=environment())
    assert "\nimages = 300\n" in said["./run.sh test"]
    for k in (1, 5):
        share = float(re.search(rf"\] accuracy/top{k} = (\S+)\n", program.stderr).group(1))
        assert f"top-{k} = {share:.2%} (" in said["./run.sh test"]
    again = run(small_recipe, "./run.sh train")
    assert again.returncode == 2 and "./run.sh resume goes on from the newest" in again.stderr


def test_it_goes_on_from_the_newest_snapshot_that_is_whole_after_a_kill(small_recipe):
    in_place(small_recipe / "solver.prototxt", "max_iter: 8", "max_iter: 100000")
    assert run(small_recipe, "./run.sh data").returncode == 0
    training = subprocess.Popen(["./run.sh", "train"], cwd=small_recipe, env=environment(), start_new_session=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    snapshots = small_recipe / "snapshots"
    end = time.monotonic() + 120
    while len(list(snapshots.glob("*.solverstate"))) < 3:
        assert training.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.killpg(training.pid, signal.SIGKILL)
    training.wait()
    # Caffe itself is in a session of its own.
    log = (snapshots / "attention56-cifar.log").read_text()
    caffe = re.search(r"^I\S* \S+ +(\d+) ", log, re.MULTILINE).group(1)
    subprocess.run(["kill", "-9", caffe], stderr=subprocess.DEVNULL)
    newest = max(snapshots.glob("*.solverstate"), key=lambda path: int(re.search(r"(\d+)\.", path.name).group(1)))
    number = int(re.search(r"_(\d+)\.", newest.name).group(1))
    os.truncate(newest, 10)
    weights = max(snapshots.glob("*.caffemodel"), key=lambda path: int(re.search(r"(\d+)\.", path.name).group(1)))
    os.truncate(weights, 10)
    tested = run(small_recipe, "./run.sh test")
    assert tested.returncode == 0 and "weights = snapshots/attention56-cifar_iter_" in tested.stdout, tested.stderr
    assert f"passed over snapshots/{weights.name}: " in tested.stderr and weights.name not in tested.stdout
    in_place(small_recipe / "solver.prototxt", "max_iter: 100000", f"max_iter: {number}")
    done = run(small_recipe, "./run.sh resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"iteration = {number}" in done.stdout
    assert f"_iter_{number - 4}.solverstate" in (snapshots / "attention56-cifar.log").read_text()


def test_options_go_to_the_training(small_recipe):
    assert run(small_recipe, "./run.sh data").returncode == 0
    dry = run(small_recipe, "./run.sh train --dry-run --set max_iter=3")
    assert dry.returncode == 0 and "run-solver.prototxt" in dry.stdout and not (small_recipe / "snapshots").exists()
    assert "iteration = 3\n" in run(small_recipe, "./run.sh train --set max_iter=3").stdout
    assert "iteration = 5\n" in run(small_recipe, "./run.sh resume --set max_iter=5").stdout


def test_commands_of_the_script_that_cannot_run_yet(cli, tmp_path):
    folder = tmp_path / "recipe"
    cli("recipe", "imagenet", "attention56", folder)
    for command, message in (("./run.sh", "usage: ./run.sh data IMAGES | preview"), ("./run.sh nothing", "usage: "),
                             ("./run.sh test", "no weights to test"), ("./run.sh resume", "no snapshot to go on from")):
        done = run(folder, command)
        assert done.returncode == 2 and message in done.stderr and not done.stdout, command
    done = run(folder, "./run.sh data")
    assert done.returncode != 0 and "wanted: the images of ILSVRC 2012" in done.stderr


def test_what_is_written_is_listed_and_written_once(cli, tmp_path):
    done = cli("recipe", "cifar", "attention92-cifar", "out", "--gpus", 2, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert sorted(done.stdout.split()) == [f"out/{name}" for name in FILES]
    assert cli("recipe", "cifar", "attention92-cifar", "out", "--gpus", 2, cwd=tmp_path).returncode == 0
    other = cli("recipe", "cifar", "attention92-cifar", "out", "--gpus", 4, cwd=tmp_path)
    assert (other.returncode, other.stdout) == (2, "")
    assert "error: out: has " in other.stderr and "solver.prototxt" in other.stderr
    assert "hint: choose another folder" in other.stderr


@pytest.mark.parametrize("arguments, message", [
    (["fashion", "attention56"], "no recipe is called 'fashion'\nhint: did you mean 'fashion-mnist'?"),
    (["imagenet", "attention57"], "no network is called 'attention57'\nhint: did you mean"),
    (["imagenet", "attention56-cifar"], "networks for it: attention56, attention92"),
    (["imagenet", "attention56", "--batch-size", "0"], "--batch-size"),
    (["imagenet", "attention56", "--augment", "much"], "'much' is not one of"),
])
def test_mistakes(cli, tmp_path, arguments, message):
    done = cli("recipe", *arguments[:2], "out", *arguments[2:], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and message in done.stderr
    assert not list(tmp_path.iterdir())
