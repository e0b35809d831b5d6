"""What ``prototxt-gen data`` shows: progress on stderr, and what was written or found on stdout."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence

import click

from prototxt_gen.spec.shapes import plural
from prototxt_gen.train import data as sets
from prototxt_gen.train.data_check import LmdbReport, spans, spans_text
from prototxt_gen.train.data_out import unfinished_name

# Seconds between two lines of progress, on a terminal and in a log.
TERMINAL_PERIOD_S = 0.2
LOG_PERIOD_S = 10.0
# Images left out that are named on stderr; skipped.txt names them all.
NAMES_SHOWN = 20
CLASSES_SHOWN = 20
SIZES_SHOWN = 5


class Progress:
    """Progress with rate and remaining time: one line written over on a terminal, a line now and then in a log."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._terminal = sys.stderr.isatty()
        self._period = TERMINAL_PERIOD_S if self._terminal else LOG_PERIOD_S
        self._what: Optional[str] = None
        self._start = self._last = time.monotonic()
        self._first = 0
        self._line_is_open = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self._end_line()

    def show(self, what: str, done: int, total: int) -> None:
        """Take how many are done; ``what`` is the split that they belong to."""
        now = time.monotonic()
        if what != self._what:
            self._end_line()
            # What an earlier run has done says nothing about the rate.
            self._what, self._start, self._first = what, now, done - 1
        if now - self._last < self._period and not (self._terminal and done == total):
            return
        self._last = now
        text = f"{what}: {done} of {total} {self._unit}{self._rate(done, total, now)}"
        if self._terminal:
            click.echo(f"\r{text}\x1b[K", nl=False, err=True)
            self._line_is_open = True
        else:
            click.echo(text, err=True)

    def say(self, text: str) -> None:
        """Write a line of its own."""
        self._end_line()
        click.echo(text, err=True)

    def _rate(self, done: int, total: int, now: float) -> str:
        seconds = now - self._start
        if seconds < TERMINAL_PERIOD_S:
            return ""
        rate = (done - self._first) / seconds
        number = f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"
        left = "" if done == total else f", {duration((total - done) / rate)} left"
        return f", {number} a second{left}"

    def _end_line(self) -> None:
        if self._line_is_open:
            click.echo("", err=True)
            self._line_is_open = False


def duration(seconds: float) -> str:
    """Return a time in words: '8 s', '3 min 05 s', '2 h 10 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def writing(out: str) -> Iterator[None]:
    """Say where an unfinished set lies when Ctrl-C ends the writing of ``out``."""
    try:
        yield
    except KeyboardInterrupt:
        partial = unfinished_name(Path(out))
        if partial.is_dir():
            click.echo(f"\nnote: '{click.format_filename(partial)}' holds the unfinished set; the same command goes on "
                       "from there", err=True)
        raise


def show_set(out: str, written: sets.ImageSet) -> None:
    """Sum up on stdout what was written."""
    place = Path(click.format_filename(out))
    classes = plural(len(written.classes), "class", "classes")
    click.echo(f"{place / sets.TRAIN_LMDB}: {plural(written.train, 'image')} of {classes}")
    click.echo(f"{place / sets.TEST_LMDB}: {plural(written.test, 'image')}")
    click.echo(f"{place / sets.LABELS_FILE}: {plural(len(written.classes), 'name')}")
    click.echo(f"{place / sets.MEAN_FILE}: {written.mean_text()}")
    if written.pixel_mean:
        click.echo(f"{place / sets.PIXEL_MEAN_FILE}: the mean of each pixel")
    if written.skipped:
        click.echo(f"{place / sets.SKIPPED_FILE}: {plural(written.skipped, 'image')} left out")
    train, test = (_range(counts) for counts in (written.train_counts, written.test_counts))
    click.echo(f"{place / sets.COUNTS_FILE}: {train} images of a class to train with, {test} to test with")
    names = [click.format_filename(name) for name in written.classes]
    if len(names) <= CLASSES_SHOWN:
        _show_table(["label", "train", "test", "class"], [
            [str(label), str(train), str(test), name]
            for label, (name, train, test) in enumerate(zip(names, written.train_counts, written.test_counts))
        ])


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _show_table(head: List[str], rows: List[List[str]]) -> None:
    """Write columns of numbers, and names at the end."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head) - 1)]
    for row in [head, *rows]:
        numbers = "  ".join(text.rjust(width) for text, width in zip(row, widths))
        click.echo(f"  {numbers}  {row[-1]}")


def show_report(report: LmdbReport) -> None:
    """Write on stdout what an LMDB holds and what is wrong with it."""
    path = click.format_filename(report.path)
    kinds = {0: "raw", report.records - report.corrupt_count: "encoded"}.get(report.encoded, "encoded or raw")
    click.echo(f"{path}: {plural(report.records, 'record')}, {kinds}")
    labels = sorted(report.counts)
    if labels:
        known = "" if report.classes is None else f" of {plural(report.classes, 'class', 'classes')}"
        counts = [report.counts[label] for label in labels]
        click.echo(f"  labels: {_shortened(spans_text(spans(labels)))}{known}, {_range(counts)} images each")
    if report.gaps():
        click.echo(f"  labels without images: {_shortened(spans_text(report.gaps()))}")
    common = report.sizes.most_common(SIZES_SHOWN)
    for (channels, height, width), count in common:
        click.echo(f"  size: {width}x{height}, {plural(channels, 'channel')}: {plural(count, 'image')}")
    if len(report.sizes) > len(common):
        heights, widths = ([size[axis] for size in report.sizes] for axis in (1, 2))
        others = len(report.sizes) - len(common)
        click.echo(f"  size: {others} others; widths {_range(widths)}, heights {_range(heights)}")
    if len(labels) <= CLASSES_SHOWN and labels:
        _show_table(["label", "images"], [[str(label), str(report.counts[label])] for label in labels])
    for record in report.corrupt:
        click.echo(f"  corrupt: {click.format_filename(record.key)}: {record.reason}")
    if report.corrupt_count > len(report.corrupt):
        click.echo(f"  corrupt: {report.corrupt_count - len(report.corrupt)} more")
    problems = report.problems()
    for problem in problems:
        click.echo(f"  wrong: {problem}")
    if not problems:
        click.echo("  nothing is wrong")


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[:most].rpartition(",")[0] + ", ..."
