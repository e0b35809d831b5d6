"""What tests of running programs share: files that are edited, processes that are waited for and looked at."""

import time
from pathlib import Path

DEADLINE_S = 60  # generous: what is waited for takes well under a second


def edit(path, *changes):
    """Replace texts in a file that has them, each an (old, new) pair."""
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def wait_for(condition):
    """Wait until a condition holds, looking so often that a moment in the middle of a write is met."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def gone(pid):
    """True when a process has ended, whether or not its parent has heard of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
