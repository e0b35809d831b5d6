"""The lines of Caffe's logs as its versions write them, from 2013 to 1.0 and its forks.

| | until 2013 | 2014 and 2015 | 1.0 |
|---|---|---|---|
| loss | ``Iteration 20, loss = 0.3`` | the same | ``Iteration 20 (9.8 iter/s, 2s/20 iters), loss = 0.3`` |
| test | ``Iteration 20, Testing net`` | ``Iteration 20, Testing net (#0)`` | the same |
| its outputs | ``Test score #0: 0.9`` | ``    Test net output #0: accuracy = 0.9`` | the same |
| snapshot | ``Snapshotting to a_iter_9`` | the same | ``Snapshotting to binary proto file a_iter_9.caffemodel`` |

The learning rate has a line of its own, before the loss until 2013 and after it since; forks write more behind it.
"""

from __future__ import annotations

import re
from typing import Optional, Tuple

# glog: severity, month and day (newer versions: the year before them), time, thread, file:line] message. Looked for
# anywhere in a line, because launchers of several processes put their rank before it and terminals leave '^C' there.
HEAD = re.compile(
    r"([IWEF])(\d{8}|\d{4}) (?:(\d\d):(\d\d):(\d\d(?:\.\d+)?) +(\d+) )?[^ \]:]+:\d+\] ?(.*)$"
)
# The first line of a file that glog opens by itself.
CREATED = re.compile(r"^Log file created at: (\d{4})/")

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?(?:#\w+)?|nan(?:\(\w+\))?|inf(?:inity)?)"
ITERATION = re.compile(r" *Iteration (\d+)(?: \(([^)]*)\))?(, .*)$")
RATE = re.compile(rf"({_NUMBER}) iter/s")
LOSS = re.compile(rf", (?:.*, )?loss = ({_NUMBER})(?![^\s,])", re.IGNORECASE)
LEARNING_RATE = re.compile(rf", (?:.*, )?lr = ({_NUMBER})(?![^\s,])", re.IGNORECASE)
TESTING = re.compile(r", Testing net(?: \(#(\d+)\))?")
OUTPUT = re.compile(rf" *(Train|Test) net output #\d+: (.+?) = ({_NUMBER})(?!\S)(.*)$", re.IGNORECASE)
SCORE = re.compile(rf" *Test score #(\d+): ({_NUMBER})(?!\S)", re.IGNORECASE)
TEST_LOSS = re.compile(rf" *Test loss: ({_NUMBER})(?!\S)", re.IGNORECASE)
GPUS = re.compile(r"Using GPUs ((?:\d+, )*\d+)")
SOLVING = re.compile(r"Solving (.*)$")
RESUMED = re.compile(r"(?:Resuming from|Restoring previous solver status from) (.+)$")
SOLVER_FIELD = re.compile(r"(max_iter|iter_size|test_interval): (\d+)\s*$")
BATCH_SIZE = re.compile(r"\s*batch_?size: (\d+)\s*$")
NET_NAME = re.compile(r'name: "([^"]*)"\s*$')
SNAPSHOT = re.compile(r"Snapshotting (solver state )?to (?:(?:binary proto|HDF5) file )?(.+)$")
SNAPSHOT_ITERATION = re.compile(r"_iter_(\d+)\.(?:solverstate|caffemodel)(?:\.h5)?$")
STOPPED_EARLY = "Optimization stopped early."
DONE = "Optimization Done."
SOLVER_HEAD = "Initializing solver from parameters"
NET_HEAD = "Initializing net from parameters"
# Lines without a head: a failed check's stack trace, and the nets and solvers that Caffe writes out in full.
TRACE = re.compile(r"\*\*\*|PC: @|    ?@ ")
PROTOTXT = re.compile(r" *(\w+ \{|\w+: .*|\})?$")
# What one watches a training by: where it starts from, iterations, losses and tests, snapshots, its end.
WATCHED = re.compile(
    r" *(Iteration \d|(Train|Test) net output #|Snapshotting |Finetuning from|Resuming from|Restoring |Optimization )"
)


# A date, mmdd or yyyymmdd, and the seconds of its day.
Stamp = Tuple[str, float]


# A glog line's severity, its stamp and its thread, the last two None in a log whose heads are cut.
Head = Tuple[str, Optional[Stamp], Optional[str]]


def split_line(line: str) -> Tuple[Optional[Head], str]:
    """Return a line's head, None where it has none, and its message."""
    match = HEAD.search(line)
    if match is None:
        return None, line
    severity, date, hour, minute, second, thread, message = match.groups()
    stamp = (date, int(hour) * 3600 + int(minute) * 60 + float(second)) if hour else None
    return (severity, stamp, thread), message


def number(text: str) -> float:
    """Read a number as C++ prints it, those of Microsoft's library too: 1.#INF, -1.#IND, nan(ind)."""
    try:
        return float(text)
    except ValueError:
        infinite = "inf" in text.lower()
        return float(("-" if text.startswith("-") else "") + "inf") if infinite else float("nan")


# Days before each month. A year without the 29th of February is taken unless a line is of that day.
_BEFORE_MONTH = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_DAY_S = 86400
_HALF_YEAR_S = 183 * _DAY_S


def day_of_year(date: str, leap: bool = False) -> int:
    """Return the day of the year of a date written mmdd or yyyymmdd, from 0."""
    month, day = int(date[-4:-2]), int(date[-2:])
    return _BEFORE_MONTH[(month - 1) % 12] + day - 1 + (leap and month > 2)


def seconds_between(first: Stamp, second: Stamp) -> float:
    """Return the seconds from one stamp to another.

    Where glog wrote no year, the nearer reading is taken: a December before a January lies in the year before.
    """
    (date, time), (later_date, later_time) = first, second
    if date == later_date:
        return later_time - time
    if len(date) == 8 and len(later_date) == 8:
        days = _ordinal(later_date) - _ordinal(date)
        return days * _DAY_S + later_time - time
    leap = "0229" in (date[-4:], later_date[-4:])
    days = day_of_year(later_date, leap) - day_of_year(date, leap)
    seconds = days * _DAY_S + later_time - time
    if abs(seconds) > _HALF_YEAR_S:
        seconds -= (365 + leap) * _DAY_S * (1 if seconds > 0 else -1)
    return seconds


def _ordinal(date: str) -> int:
    import datetime

    try:
        return datetime.date(int(date[:4]), int(date[4:6]), int(date[6:])).toordinal()
    except ValueError:
        return 0
