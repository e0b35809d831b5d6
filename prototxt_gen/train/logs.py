"""Reads the log of ``caffe train``: iterations, losses, test outputs, snapshots, failed checks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import List, NamedTuple, Optional, Tuple

# glog: severity, month and day, time, thread, file:line] message. Newer versions write the year too.
GLOG = re.compile(r"^([IWEF])\d{4,8} \d\d:\d\d:\d\d\.\d+ +\d+ [^ \]]+:\d+\] ?(.*)$", re.DOTALL)
# Caffe before 1.0 wrote 'Iteration N, loss = x'; since then the rate stands between.
TRAIN_LOSS = re.compile(r"^Iteration (\d+)(?: \(.*\))?, loss = (\S+)$")
ITERATION = re.compile(r"^Iteration (\d+)\b")
TESTING = re.compile(r"^Iteration (\d+), Testing net \(#(\d+)\)$")
TEST_OUTPUT = re.compile(r"^ *Test net output #\d+: (.*?) = (\S+)(?: \(\* \S+ = \S+ loss\))?$")
SNAPSHOT = re.compile(r"^Snapshotting (solver state )?to (?:binary proto|HDF5) file (.+)$")
SNAPSHOT_ITERATION = re.compile(r"_iter_(\d+)\.(?:solverstate|caffemodel)(?:\.h5)?$")
STOPPED_EARLY = "Optimization stopped early."
DONE = "Optimization Done."
TRACE = re.compile(r"^(\*\*\*|PC: @|    ?@ )")
# A line of the nets and solvers that Caffe writes out in full.
PROTOTXT = re.compile(r"^ *(\w+ \{|\w+: .*|\})?$")
# What one watches a training by: where it starts from, iterations, losses and tests, snapshots, its end.
WATCHED = re.compile(
    r"^ *(Iteration \d|(Train|Test) net output #|Snapshotting |Finetuning from|Resuming from|Restoring |Optimization )"
)

TAIL_LINES = 8


def is_watched(line: str) -> bool:
    """Tell whether a line is for the eyes of who watches a training, and not of the set-up or a stack trace.

    Warnings and errors are, and what does not come from Caffe's log at all, such as a Python layer's words.
    """
    match = GLOG.match(line)
    if match:
        return match.group(1) != "I" or bool(WATCHED.match(match.group(2)))
    return not TRACE.match(line) and not PROTOTXT.match(line)


class Loss(NamedTuple):
    """The training loss as displayed at an iteration: averaged over the solver's average_loss."""

    iteration: int
    loss: float


@dataclass
class NetTest:
    """What one test of one test net gave: its outputs in the net's order, each the mean over the test's batches."""

    iteration: int
    net: int
    outputs: List[Tuple[str, float]] = field(default_factory=list)


@dataclass
class TrainingLog:
    """What a log tells, as far as it has been fed. ``snapshots`` are the solver states that are whole on disk."""

    iteration: Optional[int] = None
    losses: List[Loss] = field(default_factory=list)
    tests: List[NetTest] = field(default_factory=list)
    snapshots: List[str] = field(default_factory=list)
    writing: Optional[str] = None
    stopped_early: bool = False
    done: bool = False
    fatal: List[str] = field(default_factory=list)
    tail: List[str] = field(default_factory=list)

    def feed(self, line: str) -> None:
        """Take the next line, with or without its line break."""
        line = line.rstrip("\n")
        match = GLOG.match(line)
        severity, message = match.groups() if match else ("", line)
        if TRACE.match(line):
            return
        if severity == "F":
            self.writing = None
        self._finish_snapshot()
        if match or not PROTOTXT.match(line):
            self.tail = [*self.tail[1 - TAIL_LINES :], line]
        # A failed check may go on for several lines, which then have no head of their own.
        if severity == "F" or (self.fatal and not severity):
            self.fatal.append(message)
        else:
            self._read(message)

    def finish(self) -> None:
        """Take note that Caffe ended by itself, so that whatever it was writing is written."""
        self._finish_snapshot()

    def _finish_snapshot(self) -> None:
        # Caffe names a file before it writes it: only what comes after says that it is whole.
        if self.writing:
            self.snapshots.append(self.writing)
            self.writing = None

    def _read(self, message: str) -> None:
        snapshot = SNAPSHOT.match(message)
        if snapshot:
            found = SNAPSHOT_ITERATION.search(snapshot.group(2))
            if found:
                self.iteration = int(found.group(1))
            if snapshot.group(1):
                self.writing = snapshot.group(2)
            return
        output = TEST_OUTPUT.match(message)
        if output and self.tests:
            self.tests[-1].outputs.append((output.group(1), float(output.group(2))))
            return
        counted = ITERATION.match(message)
        if counted:
            self.iteration = int(counted.group(1))
            self._read_iteration(message)
        elif message == STOPPED_EARLY:
            self.stopped_early = True
        elif message == DONE:
            self.done = True

    def _read_iteration(self, message: str) -> None:
        testing, loss = TESTING.match(message), TRAIN_LOSS.match(message)
        if testing:
            self.tests.append(NetTest(int(testing.group(1)), int(testing.group(2))))
        elif loss:
            self.losses.append(Loss(int(loss.group(1)), float(loss.group(2))))

    def last_tests(self) -> List[NetTest]:
        """Return the last complete test of each test net, in the order of the nets."""
        last = {test.net: test for test in self.tests if test.outputs}
        return [last[net] for net in sorted(last)]
