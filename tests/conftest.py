"""What the tests share: the command line as users run it, the built Caffe, and a child process to use it in."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from prototxt_gen.train import caffe
from prototxt_gen.train import caffe_build as builder
from prototxt_gen.train import caffe_source as sources


# Another build than that for the CPU is put to the tests of tests/native with these: tools/check-cuda does so.
def pytest_addoption(parser):
    group = parser.getgroup("Caffe")
    group.addoption("--caffe", metavar="DIR", help="test this Caffe [default: the build for the CPU, made if need be]")
    group.addoption("--gpu", metavar="ID", help="let what runs pycaffe run on this GPU")


@pytest.fixture(scope="session", autouse=True)
def signals():
    """Give children the signals of a terminal: nohup, and shells that start jobs behind them, have them ignored."""
    given = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for one, handler in given.items():
        signal.signal(one, handler)


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory):
    """Keep in pytest's folder what children leave in the system's where Caffe aborts them: nets, and glog's files.

    The value is the system's folder, for what is removed by its test.
    """
    system = tempfile.gettempdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        patch.setattr(tempfile, "tempdir", None)
        yield system


@pytest.fixture(scope="session")
def cli_path():
    """The installed console script."""
    return str(Path(sys.executable).with_name("prototxt-gen"))


@pytest.fixture(scope="session")
def cli(cli_path):
    """Run ``prototxt-gen`` with arguments in a process of its own; return exit code, stdout and stderr."""

    def run(*arguments, stdin=None, cwd=None, environment=None):
        return subprocess.run([cli_path, *map(str, arguments)], capture_output=True, text=True, input=stdin, cwd=cwd,
                              env={**os.environ, **(environment or {})})

    return run


@pytest.fixture(scope="session")
def caffe_build(request):
    """The current build of Caffe as ``prototxt_gen.train.caffe`` describes it, made first when it is not there."""
    return caffe.find(request.config.getoption("--caffe") or str(builder.build()))


@pytest.fixture(scope="session")
def caffe_source(caffe_build, tmp_path_factory):
    """The unpacked source tree that the build was made from."""
    folder = tmp_path_factory.mktemp("caffe_source")
    sources.unpack(sources.fetch(builder.cache_dir()), folder)
    return folder


@pytest.fixture(scope="session")
def run_caffe_python(caffe_build, request):
    """Run Python code, or a script's path, with pycaffe at hand, in a child: a failed CHECK aborts its process."""
    gpu = request.config.getoption("--gpu")

    def run(code, *arguments, check=True, environment=None):
        start = [str(code)] if isinstance(code, os.PathLike) else ["-c", textwrap.dedent(code)]
        if gpu is not None:
            run_it = f"import runpy; runpy.run_path({start[0]!r}, run_name='__main__')" if len(start) == 1 else start[1]
            start = ["-c", f"import caffe\ncaffe.set_device({int(gpu)})\ncaffe.set_mode_gpu()\n{run_it}"]
        settings = {"GLOG_minloglevel": "2", "OPENBLAS_NUM_THREADS": "1", **(environment or {})}
        done = subprocess.run([sys.executable, *start, *map(str, arguments)], capture_output=True, text=True,
                              env={**caffe.child_environment(caffe_build), **settings})
        if check and done.returncode != 0:
            pytest.fail(f"the child process ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done

    return run
