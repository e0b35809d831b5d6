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


def test_refuses_another_sanitizer():
    done = subprocess.run([str(SCRIPT), "memory"], capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr
