"""What the logs of a training tell, whole: every displayed iteration and test, over all its resumed sessions.

A session is one process that trains. Iterations that a later session runs again count as the later ran them; what they
gave before is kept apart. In a log with several solvers' lines, those of one count: the first that displays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple, Union

from prototxt_gen.train.logs_lines import (
    BATCH_SIZE, DONE, GPUS, ITERATION, LEARNING_RATE, LOSS, NET_HEAD, NET_NAME, OUTPUT, RATE, RESUMED, SCORE,
    SNAPSHOT, SNAPSHOT_ITERATION, SOLVER_FIELD, SOLVER_HEAD, SOLVING, STOPPED_EARLY, TEST_LOSS, TESTING, TRACE, Stamp,
    number, seconds_between, split_line,
)

FATAL_LINES = 5


@dataclass
class TrainRow:
    """A displayed iteration.

    ``seconds`` is the time spent training up to here, over all sessions and without the pauses between them, and
    ``test_seconds`` what of it went into tests. ``loss`` is as Caffe displays it: averaged over ``average_loss``
    iterations. ``logged_rate`` is in iterations per second, tests included. ``outputs`` are those of the net. A row is
    ``closing`` where it tells of one more forward pass, with which a solver ends, and of no iteration.
    """

    iteration: int
    session: int
    loss: float
    seconds: Optional[float] = None
    test_seconds: float = 0.0
    lr: Optional[float] = None
    logged_rate: Optional[float] = None
    outputs: Dict[str, float] = field(default_factory=dict)
    closing: bool = False


@dataclass
class TestRow:
    """A test of one test net; outputs are means over its batches. ``duration`` is in seconds."""

    __test__ = False  # for pytest, which takes it for a test case by its name

    iteration: int
    session: int
    net: int
    seconds: Optional[float] = None
    duration: Optional[float] = None
    loss: Optional[float] = None
    outputs: Dict[str, float] = field(default_factory=dict)


Row = Union[TrainRow, TestRow]


@dataclass
class Session:
    """One process that trains; ``replaced`` are the first and last iteration that it ran again."""

    first: int
    last: int
    resumed_from: Optional[str] = None
    replaced: Optional[Tuple[int, int]] = None


class _SetUp(NamedTuple):
    """What is known of a process that is setting up, before it displays anything."""

    resumed_from: Optional[str] = None
    started: Optional[Stamp] = None


class History:
    """What logs tell, fed line by line. Rows are in the order of their iterations, tests also in that of their nets.

    ``replaced`` are the rows that a later session ran again. ``settings`` are the last solver's max_iter, iter_size and
    test_interval; ``batch_size`` is that of the first training data layer. ``loss_outputs`` names the outputs with a
    loss weight. ``other_solvers`` counts the solvers whose lines are left out. ``fatal`` is a failed check's message.
    ``broken_off`` is for who knows that no process writes any more where the last one did not end of its own.
    """

    def __init__(self) -> None:
        self.train: List[TrainRow] = []
        self.tests: List[TestRow] = []
        self.replaced: List[Row] = []
        self.sessions: List[Session] = []
        self.loss_outputs: Set[str] = set()
        self.other_solvers = 0
        self.net_name: Optional[str] = None
        self.settings: Dict[str, int] = {}
        self.batch_size: Optional[int] = None
        self.gpus = 1
        self.done = False
        self.stopped_early = False
        self.broken_off = False
        self.fatal: List[str] = []
        self.is_log = False
        # Reading position: the text being printed, the process setting up, the solver that counts, unfinished rows.
        self._text = ""
        self._headed = False
        self._net_is_due = True
        self._setting_up: Optional[_SetUp] = _SetUp()
        self._saved: Optional[int] = None
        self._thread: Optional[str] = None
        self._others: Set[Optional[str]] = set()
        self._before = -1
        self._early_lr: Tuple[int, float] = (-1, 0.0)
        self._open_train: Optional[TrainRow] = None
        self._open_test: Optional[TestRow] = None
        # The clock: stamps turned into seconds of training.
        self._stamp: Optional[Stamp] = None
        self._clock = 0.0
        self._test_clock = 0.0

    @property
    def iteration(self) -> Optional[int]:
        """The last iteration that a row tells of."""
        return self.sessions[-1].last if self.sessions else None

    @property
    def reached(self) -> Optional[int]:
        """The iteration that the last process is known to have come to: displayed, tested, saved or asked for."""
        asked = self.settings.get("max_iter") if self.done else None
        return max((one for one in (self.iteration, self._saved, asked) if one is not None), default=None)

    @property
    def ended(self) -> bool:
        """True where the last process came to an end of its own: at max_iter, or early on a signal."""
        return self.done or self.stopped_early

    def start_file(self) -> None:
        """Take note that the lines of another file follow; ``is_log`` is about the file that is being read."""
        self._text = ""
        self.is_log = self._headed = False

    def feed(self, line: str) -> None:
        """Take the next whole line, with or without its line break."""
        head, message = split_line(line.rstrip("\r\n"))
        if head is None:
            self._feed_bare(message)
            return
        severity, stamp, thread = head
        self._text = ""
        self.is_log = self._headed = True
        if severity == "F":
            # With several solvers it is the first failure that makes the others fail.
            self.fatal = [*self.fatal, message][:FATAL_LINES]
        elif not self._feed_numbers(message, stamp, thread):
            self._feed_set_up(message, stamp)

    def _feed_bare(self, line: str) -> None:
        """Take a line without a head: a net's or solver's text, or one of a log whose heads were cut off."""
        if self._text == "solver":
            found = SOLVER_FIELD.match(line)
            if found:
                self.settings[found.group(1)] = int(found.group(2))
        elif self._text == "net":
            batch, name = BATCH_SIZE.match(line), NET_NAME.match(line)
            if batch:
                self.batch_size, self._text = int(batch.group(1)), ""
            elif name:
                self.net_name = name.group(1)
        elif self.fatal:
            if line.strip() and not TRACE.match(line) and len(self.fatal) < FATAL_LINES:
                self.fatal.append(line)
        elif not self._headed:
            self.is_log = self._feed_numbers(line, None, None) or self.is_log

    def _feed_numbers(self, message: str, stamp: Optional[Stamp], thread: Optional[str]) -> bool:
        kind = message.lstrip(" ")[:5]
        if kind == "Itera":
            found = ITERATION.match(message)
            if found:
                self._take_iteration(found, stamp, thread)
            return found is not None
        if kind not in ("Train", "Test "):
            return False
        found = OUTPUT.match(message)
        if found:
            self._take_output(found, stamp, thread)
            return True
        score, total = SCORE.match(message), TEST_LOSS.match(message)
        test = self._open_test if thread == self._thread else None
        if score and test is not None:
            self._add_test_output(test, f"score #{score.group(1)}", number(score.group(2)), stamp)
        elif total and test is not None:
            test.loss = number(total.group(1))
        return bool(score or total)

    def _feed_set_up(self, message: str, stamp: Optional[Stamp]) -> None:
        resumed, gpus, solving = RESUMED.match(message), GPUS.match(message), SOLVING.match(message)
        saved = SNAPSHOT.match(message)
        before = self._setting_up or _SetUp()
        if message == DONE:
            self.done = not self.stopped_early  # Caffe says so in either case
        elif message == STOPPED_EARLY:
            self.stopped_early = True
        elif message.startswith(SOLVER_HEAD):
            self._text, self._net_is_due = "solver", True
            self.settings, self.batch_size = {}, None
            self._set_up(_SetUp())
        elif message.startswith(NET_HEAD) and self._net_is_due:
            self._text, self._net_is_due = "net", False
        elif message.startswith(("Use CPU", "Use GPU with")):
            self.gpus = 1
        elif gpus:
            self.gpus = gpus.group(1).count(",") + 1
        elif solving or message == "Starting Optimization":
            self.net_name = solving.group(1) or self.net_name if solving else self.net_name
            self._set_up(before._replace(started=stamp))
        elif resumed:
            self._set_up(before._replace(resumed_from=resumed.group(1)))
        elif saved:
            named = SNAPSHOT_ITERATION.search(saved.group(2))
            self._saved = int(named.group(1)) if named else self._saved

    def _set_up(self, what: _SetUp) -> None:
        self._setting_up = what
        self.done = self.stopped_early = False
        self.fatal, self._saved = [], None

    def _take_iteration(self, found: Any, stamp: Optional[Stamp], thread: Optional[str]) -> None:
        iteration, rate, rest = int(found.group(1)), found.group(2), found.group(3)
        loss = LOSS.match(rest)
        testing = None if loss else TESTING.match(rest)
        lr = LEARNING_RATE.match(rest) if "lr" in rest else None
        if testing or loss:
            self._open_test = None
            if not self._admit(iteration, thread):
                self._open_train = None
                return
        if testing:
            seconds, net = self._advance(stamp), int(testing.group(1) or 0)
            self._open_test = TestRow(iteration, len(self.sessions) - 1, net, seconds)
        elif loss:
            seconds = self._advance(stamp)
            if self.train and self.train[-1].iteration == iteration:
                self.train.pop()
            before = self.train[-1] if self.train else None
            row = TrainRow(iteration, len(self.sessions) - 1, number(loss.group(1)), seconds, self._test_clock)
            logged = RATE.match(rate) if rate else None
            row.logged_rate = number(logged.group(1)) if logged else None
            row.lr = self._early_lr[1] if self._early_lr[0] == iteration else None
            unlike = before is not None and before.session == row.session and before.logged_rate is not None
            row.closing = iteration == self.settings.get("max_iter") or (unlike and row.logged_rate is None)
            self.train.append(row)
            self._open_train = row
        if lr and self._open_train is not None and self._open_train.iteration == iteration:
            if thread == self._thread:
                self._open_train.lr = number(lr.group(1))
        elif lr:
            self._early_lr = (iteration, number(lr.group(1)))

    def _take_output(self, found: Any, stamp: Optional[Stamp], thread: Optional[str]) -> None:
        phase, name, value, rest = found.groups()
        if thread != self._thread:
            return
        if "(* " in rest:
            self.loss_outputs.add(name)
        if phase == "Test" and self._open_test is not None:
            self._add_test_output(self._open_test, name, number(value), stamp)
        elif phase == "Train" and self._open_train is not None:
            _add(self._open_train.outputs, name, number(value))

    def _add_test_output(self, test: TestRow, name: str, value: float, stamp: Optional[Stamp]) -> None:
        if not test.outputs:
            place = len(self.tests)
            while place and (self.tests[place - 1].iteration, self.tests[place - 1].net) >= (test.iteration, test.net):
                place -= 1
            self.tests[place:] = [test, *(one for one in self.tests[place:] if one.net != test.net)]
        _add(test.outputs, name, value)
        now = self._advance(stamp)
        if now is not None and test.seconds is not None:
            self._test_clock += now - test.seconds - (test.duration or 0)
            test.duration = now - test.seconds

    def _admit(self, iteration: int, thread: Optional[str]) -> bool:
        """Tell whether a solver's row counts; begin a session where it belongs to a new one."""
        starting, same = self._setting_up, thread is not None and thread == self._thread
        if not self.sessions or (starting is not None and not (same and iteration >= self.sessions[-1].last)):
            self._begin(iteration, starting or _SetUp(), thread)
            return True
        self._setting_up = None
        session = self.sessions[-1]
        if thread != self._thread:
            # Solvers that run side by side display the same iterations; a process that follows another goes on.
            if thread in self._others or self._before <= iteration <= session.last:
                self._others.add(thread)
                self.other_solvers = max(self.other_solvers, len(self._others))
                return False
            self._thread = thread
        if iteration < session.last:
            self._begin(iteration, _SetUp(), thread)
        elif iteration > session.last:
            self._before, session.last = session.last, iteration
        return True

    def _begin(self, iteration: int, what: _SetUp, thread: Optional[str]) -> None:
        named = SNAPSHOT_ITERATION.search(what.resumed_from or "")
        first = min(int(named.group(1)), iteration) if named else iteration
        # A test at a snapshot's iteration was of the snapshot's parameters.
        tested_to = first if named else first - 1
        again: List[Row] = []
        for rows, kept in ((self.train, first - 1), (self.tests, tested_to)):
            while rows and rows[-1].iteration > kept:
                row = rows.pop()
                if not (isinstance(row, TrainRow) and row.closing):
                    again.append(row)
        self.replaced += reversed(again)
        replaced = (first, max(row.iteration for row in again)) if again else None
        self.sessions.append(Session(first, iteration, what.resumed_from, replaced))
        self._setting_up, self._thread, self._stamp = None, thread, what.started
        self._before, self._others, self._early_lr = first - 1, set(), (-1, 0.0)

    def _advance(self, stamp: Optional[Stamp]) -> Optional[float]:
        """Set the clock on to a stamp and return it; the time of a clock that was put back is lost."""
        if stamp is None:
            return None
        if self._stamp is not None:
            self._clock += max(0.0, seconds_between(self._stamp, stamp))
        self._stamp = stamp
        return self._clock


def _add(outputs: Dict[str, float], name: str, value: float) -> None:
    """Add an output; the values of one blob are called name, name[1], name[2] and so on."""
    key, index = name, 1
    while key in outputs:
        key, index = f"{name}[{index}]", index + 1
    outputs[key] = value
