"""Logs on disk: found in a run's folder, put in order, read as they grow."""

from __future__ import annotations

import codecs
import gzip
import os
import re
import zlib
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.train.logs_history import History
from prototxt_gen.train.logs_lines import CREATED, HEAD, ITERATION, Stamp, day_of_year
from prototxt_gen.train.run_folder import SNAPSHOTS

CHUNK_BYTES = 1 << 22
# Set-up lines come first, and a net's text may stand between the first heads.
SNIFFED_BYTES = 1 << 16
LOG_NAME = re.compile(r"(\.log(\.\d+|\.txt)?|^log(\.txt)?|\.INFO\.[\w.-]+)(\.gz)?$")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DAY_S = 86400
_YEAR_S = 366 * _DAY_S


def _encoding(data: bytes) -> str:
    return "utf-16" if data[:2] in UTF_16 else "utf-8-sig"


def is_compressed(path: str) -> bool:
    """Tell whether a log is a gzip file, by its name; no training writes to it any more."""
    return path.endswith(".gz")


def open_log(path: str) -> Any:
    """Open a log to read its bytes; ``-`` is standard input, which stays open when the log is closed."""
    return gzip.open(path) if is_compressed(path) else open(os.dup(0) if path == "-" else path, "rb")


def _read(method: Callable[[int], bytes], count: int, where: str) -> bytes:
    try:
        return method(count)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        hint = "zcat gives what is left of it: zcat FILE | prototxt-gen log -"
        raise Error("is no whole gzip file", where, hint) from None


class LogReader:
    """Gives the whole lines of an open log as they come; ``rest`` is a last line without its line break.

    A log may be UTF-8 or, as PowerShell redirects it, UTF-16. Bytes that are neither are replaced.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.rest = ""
        self._decoder: Optional[codecs.IncrementalDecoder] = None

    def lines(self) -> Iterator[List[str]]:
        """Yield the lists of lines that have come since the last call; a pipe is read as it is written, to its end."""
        lines = self.take()
        while lines is not None:
            yield lines
            lines = self.take()

    def take(self) -> Optional[List[str]]:
        """Read once and return the lines that became whole, None at the end of the file."""
        data = _read(self.file.read1, CHUNK_BYTES, self.file.name)
        if not data:
            return None
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder(_encoding(data))("replace")
        *lines, self.rest = (self.rest + self._decoder.decode(data)).split("\n")
        return lines

    def was_cut(self) -> bool:
        """Tell whether the file has become shorter than what has been read of it, as when it was begun anew."""
        return os.fstat(self.file.fileno()).st_size < self.file.tell()


def find_logs(paths: Iterable[str]) -> List[str]:
    """Return the logs that files and folders of runs and recipes mean, in the order of their first lines' times.

    Where one tells no time, all stay in the order given, and those of a folder in that of their names. ``-`` is one.
    """
    logs: List[str] = []
    for path in paths:
        if path == "-":
            logs.append(path)
        elif os.path.isdir(path):
            found = _logs_in(path) or _logs_in(os.path.join(path, SNAPSHOTS))
            if not found:
                hint = "a run's folder has a file NAME.log; name the log itself if it is called otherwise"
                raise Error(f"there is no log of Caffe in this folder, nor in its folder {SNAPSHOTS}", path, hint)
            logs += found
        elif not os.path.exists(path):
            raise Error("there is no such log", path)
        else:
            logs.append(path)
    stamps = [None if path == "-" else _sniff(path)[1] for path in logs] if len(logs) > 1 else [None]
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(logs):
        return logs
    return [logs[index] for index in _in_order(known)]


def _logs_in(folder: str) -> List[str]:
    names = sorted(name for name in os.listdir(folder) if LOG_NAME.search(name)) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, name) for name in names]
    # glog's links to its newest files are left out, and the second name of any other file.
    return [path for path in paths if os.path.isfile(path) and not os.path.islink(path) and _sniff(path)[0]]


def _sniff(path: str) -> Tuple[bool, Optional[Stamp]]:
    """Tell whether a file begins like a log of Caffe, and return its first time, with the year if glog wrote one."""
    with open_log(path) as file:
        data = _read(file.read, SNIFFED_BYTES, path)
    text = data.decode(_encoding(data), "replace")
    year = CREATED.match(text)
    for line in text.split("\n"):
        head = HEAD.search(line.rstrip("\r"))
        if head and head.group(3):
            date, hour, minute, second = head.group(2, 3, 4, 5)
            date = year.group(1) + date if year and len(date) == 4 else date
            return True, (date, int(hour) * 3600 + int(minute) * 60 + float(second))
        if head or ITERATION.match(line):
            return True, None
    return False, None


def _in_order(stamps: List[Stamp]) -> List[int]:
    """Return the indices of stamps in the order of time.

    Without years they lie on the circle of one year, and the longest stretch of it without a log is taken for the time
    before the first.
    """
    if all(len(date) == 8 for date, _ in stamps):
        return sorted(range(len(stamps)), key=lambda index: stamps[index])
    times = [day_of_year(date, leap=True) * _DAY_S + seconds for date, seconds in stamps]
    order = sorted(range(len(times)), key=times.__getitem__)
    gaps = [(times[index] - times[order[place - 1]]) % _YEAR_S for place, index in enumerate(order)]
    start = gaps.index(max(gaps))
    return order[start:] + order[:start]


def read_log(history: History, reader: LogReader, where: str) -> None:
    """Feed a whole log to a history. Raises Error when it is none."""
    history.start_file()
    size = 0
    for lines in reader.lines():
        size += len(lines)
        for line in lines:
            history.feed(line)
    if not size and not reader.rest:
        raise Error("the log is empty", where)
    if not history.is_log:
        raise Error("holds no line of a log of caffe train", where, "Caffe's log goes to its standard error: 2> FILE")
