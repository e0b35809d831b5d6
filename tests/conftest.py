"""What the tests share: the command line as users run it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def python():
    """The Python that the package is installed in."""
    return sys.executable


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
