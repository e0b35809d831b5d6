"""The build of Caffe as a process: its key, its folder, its lock, its failures.

CMake is a stand-in here; the real build is made and used by tests/native.
"""

import fcntl
import json
import os
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from prototxt_gen.core.errors import Error
from prototxt_gen.train import caffe_build, caffe_needs, caffe_source

CMAKE = """#!{python}
import os, pathlib, signal, sys, time
folder = pathlib.Path(__file__).parent
with open(folder / "calls", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
step = {{"--build": "build", "--install": "install"}}.get(sys.argv[1], "configure")
trouble = folder / step
if trouble.exists():
    print(trouble.read_text(), flush=True)
    while "hang" in trouble.read_text():
        time.sleep(0.1)
        print("still here", flush=True)
    sys.exit(1)
if step == "build":
    print("[1/20] one\\nnoise\\n[20/20] twenty")
if step == "install":
    target = pathlib.Path(sys.argv[sys.argv.index("--prefix") + 1], "bin", "caffe")
    target.parent.mkdir(parents=True)
    target.write_text("caffe")
"""


@pytest.fixture
def cmake(tmp_path, monkeypatch):
    """A folder with a stand-in for cmake first on PATH; a file named after a step makes that step print it and fail."""
    folder = tmp_path / "tools"
    folder.mkdir()
    program = folder / "cmake"
    program.write_text(CMAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PROTOTXT_GEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(caffe_needs, "check", lambda: None)
    monkeypatch.setattr(caffe_source, "verify", lambda path: None)
    monkeypatch.setattr(caffe_source, "unpack", lambda path, target: target.mkdir(parents=True))
    return folder


@pytest.fixture
def build(cmake, tmp_path):
    """Build with the stand-in; also records the progress."""

    def run(**options):
        run.progress = []
        return caffe_build.build(source=tmp_path / "source.tar.gz", progress=lambda *one: run.progress.append(one),
                                 **options)

    return run


def calls(cmake):
    return len((cmake / "calls").read_text().splitlines()) if (cmake / "calls").exists() else 0


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "caffe").iterdir())


def test_a_build_moves_into_place_whole_and_is_made_once(build, cmake, tmp_path):
    root = build(jobs=3)
    assert (root / "bin/caffe").is_file()
    assert json.loads((root / "build.json").read_text()) == caffe_build.ingredients()
    log = (root / "build.log").read_text()
    assert "--parallel 3" in log and "noise" in log
    assert left(tmp_path) == [root.name, "lock"]
    assert build.progress == [("configuring Caffe", 0, 0), ("building Caffe", 1, 20), ("building Caffe", 20, 20)]
    assert build() == root and calls(cmake) == 3
    assert build(force=True) == root and calls(cmake) == 6
    assert left(tmp_path) == [root.name, "lock"]


@pytest.mark.parametrize("step", ["configure", "build", "install"])
def test_a_failed_step_leaves_its_log_and_no_build(build, cmake, tmp_path, step):
    (cmake / step).write_text("src/net.cpp:1: error: no such thing\nmore")
    with pytest.raises(Error) as caught:
        build()
    assert caught.value.exit_code == 2 and "cmake" in caught.value.what
    assert Path(caught.value.where).read_text().endswith("more\n")
    assert "no such thing" in caught.value.hint
    assert left(tmp_path) == [Path(caught.value.where).name, "lock"]
    assert caffe_build.cached(caffe_build.ingredients()) is None
    (cmake / step).unlink()
    assert (build() / "bin/caffe").is_file()


def test_a_forced_build_that_fails_keeps_the_old_one(build, cmake, tmp_path):
    root = build()
    (cmake / "build").write_text("error: broken")
    with pytest.raises(Error):
        build(force=True)
    assert build() == root and (root / "bin/caffe").is_file()


@pytest.mark.parametrize("words, hint", [
    ('CMake Error at CMakeLists.txt:44 (find_library):\n  Could not find LMDB_LIBRARY using', "liblmdb-dev"),
    ("CMake Error: Could NOT find Protobuf (missing: Protobuf_LIBRARIES)", "libprotobuf-dev"),
    ("c++: fatal error: Killed signal terminated program cc1plus", "--jobs 1"),
    ("fatal error: error writing to x: No space left on device", "PROTOTXT_GEN_CACHE"),
])
def test_a_failure_says_what_helps(build, cmake, words, hint):
    (cmake / "configure").write_text(words)
    with pytest.raises(Error) as caught:
        build()
    assert hint in caught.value.hint


def test_an_interrupted_build_leaves_nothing_and_ends_its_tools(build, cmake, tmp_path, monkeypatch):
    (cmake / "build").write_text("[1/20] hang")

    def interrupt(what, done, total):
        if total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caffe_build.build(source=tmp_path / "source.tar.gz", progress=interrupt)
    assert [name for name in left(tmp_path) if not name.endswith((".log", "lock"))] == []


KILLED = """
import pathlib, sys
from prototxt_gen.train import caffe_build, caffe_needs, caffe_source
caffe_needs.check = lambda: None
caffe_source.verify = lambda path: None
caffe_source.unpack = lambda path, target: target.mkdir(parents=True)
caffe_build.build(source=pathlib.Path("source"), progress=lambda what, done, total: done and print(done, flush=True))
"""


def test_a_killed_build_keeps_the_lock_as_long_as_its_tools_live(build, cmake, tmp_path):
    (cmake / "build").write_text("[1/20] hang")
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "1\n"
        first.kill()
    with (tmp_path / "cache" / "caffe" / "lock").open("w") as lock:
        # The stand-in ends when it next writes to the pipe that nobody reads any more.
        fcntl.flock(lock, fcntl.LOCK_EX)
    (cmake / "build").unlink()
    root = build()
    assert left(tmp_path) == [root.name, "lock"]


def test_what_a_killed_build_left_is_cleared_by_the_next(build, tmp_path):
    dead = tmp_path / "cache" / "caffe" / "0123.partial" / "install"
    dead.mkdir(parents=True)
    (dead / "build.json").write_text("{}")
    root = build()
    assert left(tmp_path) == [root.name, "lock"]


def test_two_builds_wait_for_one_another(build, cmake, tmp_path):
    folder = tmp_path / "cache" / "caffe"
    folder.mkdir(parents=True)
    waiting = threading.Event()
    roots = []

    def notice(what, done, total):
        if "waiting" in what:
            waiting.set()

    def second():
        roots.append(caffe_build.build(source=tmp_path / "source.tar.gz", progress=notice))

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(20)
        assert calls(cmake) == 0
    thread.join(60)
    assert roots == [build()] and calls(cmake) == 3


def test_the_key_follows_every_ingredient(monkeypatch):
    parts = caffe_build.ingredients()
    keys = {caffe_build.key_of(parts)}
    for name in parts:
        keys.add(caffe_build.key_of({**parts, name: "another"}))
    assert len(keys) == 1 + len(parts) and caffe_build.key_of(caffe_build.ingredients()) in keys


def test_the_key_follows_the_native_sources(tmp_path, monkeypatch):
    native = tmp_path / "native"
    for folder in ("layers", "memory", "solvers"):
        (native / folder).mkdir(parents=True)
    for path in ("CMakeLists.txt", "layers/a.cpp", "layers/a.hpp", "memory/b.cpp", "solvers/c.hpp"):
        (native / path).write_text("one")
    monkeypatch.setattr(caffe_source, "NATIVE_DIR", native)
    seen = {caffe_build.ingredients()["native"]}
    for path in ("CMakeLists.txt", "layers/a.cpp", "layers/a.hpp", "layers/new.hpp", "memory/b.cpp", "solvers/c.hpp"):
        (native / path).write_text("two")
        seen.add(caffe_build.ingredients()["native"])
    assert len(seen) == 7


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("PROTOTXT_GEN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert caffe_build.cache_dir() == tmp_path / ".cache/prototxt-gen/caffe"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert caffe_build.cache_dir() == Path("/x/prototxt-gen/caffe")
    monkeypatch.setenv("PROTOTXT_GEN_CACHE", "/own")
    assert caffe_build.cache_dir() == Path("/own/caffe")


# ---- What must be installed ----------------------------------------------------------------------------------------


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Stand in for the compiler: what its preprocessor prints, and where it finds libraries."""
    program = tmp_path / "c++"

    def install(preprocessed="", library="/usr/lib/libboost.so"):
        program.write_text(f'#!/bin/sh\ncase "$1" in -print*) echo "{library}";; *) cat >/dev/null; '
                           f'printf "{preprocessed}";; esac\n')
        program.chmod(0o755)

    monkeypatch.setenv("CXX", str(program))
    return install


def test_everything_missing_is_named_at_once(compiler, monkeypatch):
    compiler("missing libgflags-dev\\nmissing liblmdb-dev\\n")
    monkeypatch.setattr(caffe_needs.shutil, "which", lambda name: None if name == "ninja" else name)
    with pytest.raises(Error) as caught:
        caffe_needs.check()
    assert all(name in caught.value.what for name in ("ninja", "gflags/gflags.h", "lmdb.h"))
    assert caught.value.hint.endswith("--no-install-recommends libgflags-dev liblmdb-dev ninja-build")


def test_without_a_compiler_all_packages_are_named(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(Error) as caught:
        caffe_needs.check()
    assert all(package in caught.value.hint for package in caffe_needs.debian_packages())


def test_boost_without_this_python_is_named(compiler):
    compiler(library="libboost_python.so")
    with pytest.raises(Error) as caught:
        caffe_needs.check()
    assert f"lib{caffe_needs.BOOST_PYTHON}.so" in caught.value.what


def test_python_without_headers_is_named(compiler, monkeypatch):
    compiler()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/nowhere")
    with pytest.raises(Error) as caught:
        caffe_needs.check()
    assert "Python.h" in caught.value.what and caught.value.hint.endswith(f"python{caffe_needs.PYTHON}-dev")


def test_the_real_compiler_sees_every_header():
    caffe_needs.check()
