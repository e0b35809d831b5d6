"""Every command in the README runs, in its order, and every output it shows is what is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SETUP = ("tools/quickstart", "tools/test")


def blocks(language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [body for name, body in found if name == language]


def commands():
    return [line.split(" #")[0].strip() for block in blocks("sh") for line in block.splitlines()]


def run(command, folder, folder_of_tools, environment=None):
    path = os.pathsep.join([str(folder_of_tools), os.environ["PATH"]])
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PATH": path, **(environment or {})})


def test_set_up_commands_are_the_two_there_are():
    assert [command for command in commands() if command.startswith("tools/")] == list(SETUP)
    assert "exec tools/test" in (ROOT / ".ci/run").read_text()


def test_plain_install_in_a_fresh_environment_generates_without_caffe(tmp_path):
    """The first block: a wheel built from the sources, its dependencies only, no Caffe anywhere near."""
    environment, install, generate = blocks("sh")[0].splitlines()
    copy = tmp_path / "clone"
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    assert install == "pip install ."
    done = run(f"{environment} && {install}", copy, "/usr/bin")
    assert done.returncode == 0, done.stderr
    tools = copy / ".venv/bin"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    nowhere = {"PROTOTXT_GEN_CACHE": str(tmp_path / "empty"), "CAFFE_ROOT": ""}
    assert run(generate, elsewhere, tools, nowhere).returncode == 0
    golden = ROOT / "generated/attention56"
    assert (elsewhere / "train.prototxt").read_bytes() == (golden / "train.prototxt").read_bytes()
    solver = run("prototxt-gen solver attention56", elsewhere, tools, nowhere)
    assert solver.stdout == (golden / "solver.prototxt").read_text()
    missing = run("prototxt-gen train x.prototxt", elsewhere, tools, nowhere)
    assert missing.returncode == 2 and "prototxt-gen caffe build" in missing.stderr
    info = run("prototxt-gen caffe info", elsewhere, tools, nowhere)
    assert info.returncode == 1 and "Traceback" not in info.stderr
    native = run("python -c 'import prototxt_gen.native as n; import os; print(*os.listdir(n.__path__[0]))'", elsewhere, tools)
    assert {"CMakeLists.txt", "cuda", "layers", "memory", "solvers"} <= set(native.stdout.split())


@pytest.mark.usefixtures("caffe_build")
def test_all_other_commands_run(tmp_path):
    """In one folder, in the README's order: later commands use what earlier ones wrote."""
    bin_folder = Path(sys.executable).parent
    for command in commands():
        if command in SETUP or command in blocks("sh")[0]:
            continue
        done = run(command, tmp_path, bin_folder)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_pictures_are_there():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(pictures) == 2
    for path in pictures:
        assert (ROOT / path).read_bytes().startswith(b"\x89PNG"), path


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"@\w+@", README)


def test_the_list_shown_is_the_list_printed(cli):
    assert blocks("")[0] == cli("list").stdout


def test_the_python_example_runs(tmp_path):
    (example,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'name: "conv1/bn/relu"' in done.stdout


def test_quickstart_trains_to_75_percent(caffe_build):
    """The whole way, as the README has it: a real ``caffe train`` on Fashion-MNIST, its log and snapshot on disk."""
    done = subprocess.run([str(ROOT / "tools/quickstart")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    accuracy = float(re.search(r"^accuracy/top1 = (\S+)$", done.stdout, re.MULTILINE).group(1))
    assert accuracy >= 0.75
    log = ROOT / re.search(r"^log = (\S+)$", done.stdout, re.MULTILINE).group(1)
    assert "Optimization Done." in log.read_text()
    made = {path.suffix for path in log.parent.iterdir()}
    assert {".caffemodel", ".solverstate", ".log", ".prototxt"} <= made


def test_quickstart_takes_no_arguments():
    for arguments, code in ((["--help"], 0), (["again"], 2)):
        done = subprocess.run([str(ROOT / "tools/quickstart"), *arguments], capture_output=True, text=True)
        assert done.returncode == code and "usage: tools/quickstart" in done.stderr
