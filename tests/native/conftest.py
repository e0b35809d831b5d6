"""Nets in a child process, from a piece of code."""

import json

import pytest

# caffe.io is left out: it brings image libraries that no test here needs and that take longest to load.
PRELUDE = """
import json, sys, types
sys.modules["caffe.io"] = types.ModuleType("caffe.io")
import caffe
import numpy as np

def net_of(text, phase=caffe.TRAIN):
    with open("net.prototxt", "w") as file:
        file.write(text)
    return caffe.Net("net.prototxt", phase)

def plain(value):
    return value.tolist() if hasattr(value, "tolist") else value
"""


@pytest.fixture
def in_caffe(run_caffe_python, tmp_path, monkeypatch):
    """Run code after the prelude in an empty folder; what it assigns to ``out`` comes back, arrays as lists."""
    monkeypatch.chdir(tmp_path)

    def run(code):
        done = run_caffe_python(f"{PRELUDE}\n{code}\nprint(json.dumps(out, default=plain))")
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture
def caffe_log(run_caffe_python, tmp_path, monkeypatch):
    """Run code after the prelude in an empty folder; the lines of Caffe's log come back."""
    monkeypatch.chdir(tmp_path)

    def run(code, check=True):
        done = run_caffe_python(f"{PRELUDE}\n{code}", check=check, environment={"GLOG_minloglevel": "0"})
        assert check or done.returncode != 0, "Caffe accepted it"
        return done.stderr.splitlines()

    return run


@pytest.fixture
def refusal(caffe_log):
    """The message with which Caffe refuses a net, or ``then`` with that net; Caffe ends the process with it."""

    def run(text, then=""):
        lines = caffe_log(f"net = net_of('''{text}''')\n{then}", check=False)
        return next(line for line in lines if line.startswith("F")).partition("] ")[2]

    return run
