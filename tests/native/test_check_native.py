"""tools/check-native: the CPU drivers under the sanitizers."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools/check-native"


@pytest.mark.parametrize("kind", ["address", "thread"])
def test_the_sanitizers_find_nothing(kind):
    done = subprocess.run([str(SCRIPT), kind], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing found" in done.stdout


@pytest.mark.parametrize("arguments", [["memory"], ["address", "thread"]])
def test_refuses_other_words(arguments):
    done = subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr


def test_help_is_no_mistake():
    done = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "under sanitizers" in done.stdout and done.stderr == ""
