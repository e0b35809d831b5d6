"""The two set-up commands without root on a machine that lacks a package: they name it, change nothing, exit with 2."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534


@pytest.fixture
def as_nobody(tmp_path):
    """Run a command of a copy of the scripts as an ordinary user, on a machine where one package is not installed."""
    copy = Path(shutil.copytree(ROOT / "tools", tmp_path / "clone/tools")).parent
    shutil.copytree(ROOT / "prototxt_gen", copy / "prototxt_gen", ignore=shutil.ignore_patterns("__pycache__"))
    shim = tmp_path / "bin/dpkg-query"
    shim.parent.mkdir()
    shim.write_text('#!/bin/sh\ncase "$*" in *liblmdb-dev*) exit 1;; esac\nprintf installed\n')
    shim.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and os.geteuid() == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)

    def run(command):
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        path = os.pathsep.join([str(shim.parent), "/usr/bin", "/bin"])
        return subprocess.run([str(copy / command)], capture_output=True, text=True, cwd=copy,
                              env={"PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, **user), copy

    return run


@pytest.mark.parametrize("command", ["tools/quickstart", "tools/test"])
def test_missing_packages_are_named(as_nobody, command):
    done, copy = as_nobody(command)
    assert done.returncode == 2, done.stderr
    assert "error: these Debian packages are missing: liblmdb-dev" in done.stderr
    assert "hint: as root: apt-get install --no-install-recommends liblmdb-dev" in done.stderr
    assert not (copy / ".venv").exists() and not (copy / "quickstart").exists()
