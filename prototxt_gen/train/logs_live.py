"""What a training that runs tells beside its history: the snapshots that are whole, and how its log ends."""

from __future__ import annotations

from typing import List, Optional

from prototxt_gen.train.logs_history import History, TestRow
from prototxt_gen.train.logs_lines import PROTOTXT, SNAPSHOT, TRACE, WATCHED, split_line

TAIL_LINES = 8


class LiveLog:
    """One training's log, fed line by line as Caffe writes it.

    ``history`` is what it tells of iterations, tests and the end; ``snapshots`` are the solver states that are whole
    on disk, ``tail`` the last lines, without stack traces and the nets that Caffe writes out. ``fatal`` is the
    message of a failed check, also where another GPU's process sets up after it. ``is_watched`` tells of the last line
    whether it is for the eyes of who watches a training, and not of the set-up or a stack trace: warnings and errors
    are, and what does not come from Caffe's log at all, such as a Python layer's words.
    """

    def __init__(self) -> None:
        self.history = History()
        self.snapshots: List[str] = []
        self.tail: List[str] = []
        self.fatal: List[str] = []
        self.is_watched = False
        self._writing: Optional[str] = None
        self._in_text = False

    @property
    def iteration(self) -> Optional[int]:
        """The iteration that is known to be reached."""
        return self.history.reached

    def feed(self, line: str) -> None:
        """Take the next line, with or without its line break."""
        line = line.rstrip("\r\n")
        self.history.feed(line)
        self.fatal = self.history.fatal or self.fatal
        self.is_watched = False
        if TRACE.match(line):
            return
        head, message = split_line(line)
        if head is not None and head[0] == "F":
            self._writing = None
        self.finish()
        # A net that Caffe writes out ends with an empty line, unless glog cuts it off in the middle of a line.
        text = head is None and bool(PROTOTXT.match(line))
        if not (text or (head is None and self._in_text)):
            self.tail = [*self.tail[1 - TAIL_LINES:], line]
            self.is_watched = head is None or head[0] != "I" or bool(WATCHED.match(message))
        self._in_text = text and line.strip() != ""
        snapshot = SNAPSHOT.match(message)
        if snapshot:
            state, path = snapshot.groups()
            self._writing = path if state else None

    def finish(self) -> None:
        """Take note that what Caffe was writing is written: it names a file before, and a next line comes after."""
        if self._writing:
            self.snapshots.append(self._writing)
            self._writing = None

    def last_tests(self) -> List[TestRow]:
        """Return the last complete test of each test net, in the order of the nets."""
        last = {test.net: test for test in self.history.tests}
        return [last[net] for net in sorted(last)]
