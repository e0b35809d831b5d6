"""``prototxt-gen log --follow``: a view that is drawn anew in place on a terminal, else lines as they come."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from typing import IO, Any, List, Optional, Set, Tuple

import click

from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import display_name
from prototxt_gen.train import logs_figures as figures
from prototxt_gen.train import logs_view as view
from prototxt_gen.train.logs_files import LogReader, is_compressed, open_log, read_log
from prototxt_gen.train.logs_history import History, TestRow, TrainRow
from prototxt_gen.train.run_folder import is_running

POLL_S = 0.25
REDRAW_S = 1.0
# A log that is silent is drawn anew too, for the time of its silence.
SILENT_S = 5.0
# A view that takes a second to make is followed by as many without one.
MOST_DRAWING = 20
# Of what a log holds already, so many lines are appended.
LINES_BEFORE = 10
WIDTH_WITHOUT_TERMINAL, HEIGHT_WITHOUT_TERMINAL = 100, 24
MOST_ROWS = 12
WAITING = "waiting for the first iteration"


def terminal_size() -> os.terminal_size:
    """Return the terminal's columns and lines."""
    return shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, HEIGHT_WITHOUT_TERMINAL))


def no_iteration(history: History, where: str) -> Error:
    """Return the error of a log of Caffe that tells of no iteration."""
    if history.fatal:
        return Error(f"no iteration is in the log: Caffe failed: {' '.join(history.fatal)}", where)
    return Error("no iteration is in the log yet", where, "--follow waits for them; display in the solver writes them")


class Follower:
    """Follows the last of several logs to the end of the training, or of a pipe."""

    def __init__(self, logs: List[str], smooth: Optional[int]) -> None:
        self.history = History()
        self.logs = logs
        self.smooth = smooth
        self.show: Any = _Live() if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else _Appended()

    def run(self) -> History:
        """Follow until the log says that training has ended, or a run's is gone; a pipe, until it is closed."""
        for path in self.logs[:-1]:
            with open_log(path) as file:
                read_log(self.history, LogReader(file), display_name(path))
        path = self.logs[-1]
        file = open_log(path)
        try:
            self._follow(path, file)
        finally:
            file.close()
        if self.history.iteration is None:
            raise no_iteration(self.history, display_name(path))
        return self.history

    def _follow(self, path: str, file: IO[bytes]) -> None:
        reader = LogReader(file)
        self.history.start_file()
        heard = due = time.monotonic()
        while True:
            grown, closed = self._read_pipe(reader) if path == "-" else (self._read_file(reader), False)
            now = time.monotonic()
            heard = now if grown else heard
            ended = closed or (not grown and (self._ended() or is_compressed(path)))
            if not (grown or ended) and now - heard >= SILENT_S and is_running(path) is False:
                # Looked for once more, because the last lines may have come just now.
                ended = not self._read_file(reader)
                self.history.broken_off = ended and not self._ended()
            if not grown or now >= due:
                self.show.update(self.history, self.smooth, settled=not grown, silent_s=now - heard)
                shown = time.monotonic()
                due = shown + max(POLL_S, MOST_DRAWING * (shown - now))
            if ended:
                self.show.finish(self.history, self.smooth)
                return
            if path == "-" or is_compressed(path):
                continue
            time.sleep(POLL_S)
            if reader.was_cut() or _was_replaced(path, file):
                file.close()
                file = open_log(path)
                reader = LogReader(file)
                self.history.start_file()

    def _read_file(self, reader: LogReader) -> bool:
        """Feed what has come; tell whether something has."""
        grown = False
        for lines in reader.lines():
            self._feed(lines)
            grown = True
        return grown

    def _read_pipe(self, reader: LogReader) -> Tuple[bool, bool]:
        """Feed what comes within the time of a poll; tell whether something has, and whether the pipe is closed."""
        if not select.select([reader.file], [], [], POLL_S)[0]:
            return False, False
        lines = reader.take()
        self._feed(lines or [])
        return lines is not None, lines is None

    def _feed(self, lines: List[str]) -> None:
        for line in lines:
            self.history.feed(line)

    def _ended(self) -> bool:
        return self.history.ended or bool(self.history.fatal)


def _was_replaced(path: str, file: IO[bytes]) -> bool:
    try:
        now, read = os.stat(path), os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) != (read.st_dev, read.st_ino)


class _Appended:
    """One line for each displayed iteration and each test, notes as they arise."""

    def __init__(self) -> None:
        self.shown: Optional[Tuple[int, int, int]] = None
        self.rows = -1
        self.noted: Set[Tuple[str, Optional[int]]] = set()

    def update(self, history: History, smooth: Optional[int], settled: bool, silent_s: float) -> None:
        """Append what is new. The last row waits until the log has ``settled``: its rate and outputs may be to come."""
        rows = len(history.train) + len(history.tests) + len(history.replaced)
        if rows == self.rows or history.iteration is None:
            return
        lines = [key for key in self._keys(history) if self.shown is None or key[:3] > self.shown]
        if not settled:
            lines = lines[:-1]
        else:
            self.rows = rows
        if self.shown is None:
            for text in view.totals(history):
                click.echo(text)
            lines = lines[-LINES_BEFORE:]
        if not lines:
            return
        trains = {entry.iteration: entry for entry in view.entries(history, smooth)}
        for session, iteration, place, row in lines:
            if isinstance(row, TestRow):
                entry = view.Entry(iteration, None, None, None, {row.net: row})
            else:
                entry = trains[iteration]._replace(tests={})
            for text in view.line_of(history, entry):
                click.echo(text)
            self.shown = (session, iteration, place)
        self._note(history)

    def _keys(self, history: History) -> List[Tuple[int, int, int, Any]]:
        """Return rows as Caffe displays them: by session, iteration, the nets' tests, then the training."""
        rows: List[Any] = [*history.train, *history.tests]
        keys = [(row.session, row.iteration, sys.maxsize if isinstance(row, TrainRow) else row.net, row)
                for row in rows]
        return sorted(keys, key=lambda key: key[:3])

    def _note(self, history: History) -> None:
        for note in figures.notes(history):
            # A plateau goes on for a while, and is told of once until it ends.
            key = (note.kind, None if note.kind == "plateau" else note.iteration)
            if key not in self.noted:
                self.noted.add(key)
                click.echo(f"note: {note.text}")
        if not figures.plateau(history):
            self.noted.discard(("plateau", None))

    def finish(self, history: History, smooth: Optional[int]) -> None:
        """Append how it ended."""
        if history.iteration is not None:
            self._note(history)
            for text in view.totals(history):
                click.echo(text)


class _Live:
    """Totals, a bar, the course of the loss and the last rows, drawn over what was there before."""

    def __init__(self) -> None:
        self.height = 0
        self.next_s = 0.0

    def update(self, history: History, smooth: Optional[int], settled: bool, silent_s: float) -> None:
        """Draw again when there is something new, at most once a second, and with little of the processor's time."""
        start = time.monotonic()
        if start < self.next_s:
            return
        self._draw(self._lines(history, smooth, silent_s))
        end = time.monotonic()
        self.next_s = end + max(REDRAW_S if silent_s < REDRAW_S else SILENT_S, MOST_DRAWING * (end - start))

    def finish(self, history: History, smooth: Optional[int]) -> None:
        """Draw the end, which stays."""
        self._draw(self._lines(history, smooth, 0.0))

    def _lines(self, history: History, smooth: Optional[int], silent_s: float) -> List[str]:
        if history.iteration is None:
            return [WAITING]
        size = terminal_size()
        width = size.columns - 1
        above = view.totals(history) + view.progress(history, width)
        losses = [row.loss for row in history.train]
        try:
            view.BARS.encode(sys.stdout.encoding or "ascii")
            label = "loss "
            above += [label + view.sparkline(losses, width - len(label))] if losses else []
        except UnicodeEncodeError:
            pass
        below = view.note_lines(history)
        if silent_s >= SILENT_S:
            below.append(f"no new line for {view.duration(silent_s)}")
        # The heading, two blank lines and two remarks below the table take five.
        rows = max(1, min(MOST_ROWS, size.lines - len(above) - len(below) - 6))
        table = view.table(history, view.entries(history, smooth)[-rows:], width)
        lines = [*above, "", *table, *([""] if below else []), *below]
        return [line[:width] for line in lines[-(size.lines - 1):]]

    def _draw(self, lines: List[str]) -> None:
        up = f"\x1b[{self.height}F" if self.height else ""
        click.echo(up + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J", nl=False, color=True)
        self.height = len(lines)
