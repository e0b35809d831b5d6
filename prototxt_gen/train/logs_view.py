"""A training's history as text: totals, a table of its course, and lines for a live view."""

from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Optional, Tuple

from prototxt_gen.train.logs_figures import (
    best_tests, elapsed_seconds, images_per_iteration, notes, ran_again, remaining_seconds, smoothed, speed_now, speeds,
    window_of,
)
from prototxt_gen.train.logs_history import History, Row, TestRow, TrainRow

BARS = "▁▂▃▄▅▆▇█"
AGAIN = "*"
GAP = "  "
SHORT_NAMES = (16, 12)


class Column(NamedTuple):
    """An output as a column: of which phase, which test net, which name."""

    title: str
    phase: str
    net: int
    name: str


class Entry(NamedTuple):
    """A line of the table: a displayed iteration, or the tests of one, or both; ``speed`` is in iterations/s."""

    iteration: int
    train: Optional[TrainRow]
    mean: Optional[float]
    speed: Optional[float]
    tests: Dict[int, TestRow]


def duration(seconds: Optional[float]) -> str:
    """Return a time as people write it: 0:07, 1:02:03, 4 d 01:02:03; '-' for one that is not known."""
    if seconds is None:
        return "-"
    minutes, second = divmod(int(seconds + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02}:{minute:02}:{second:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def value(number: Optional[float]) -> str:
    """Return a number with four digits, '' for None."""
    return "" if number is None else f"{number:.4g}"


def totals(history: History) -> List[str]:
    """Return the first lines: how far the training is, how long it takes, how fast it is, its best tests."""
    end, last = history.settings.get("max_iter"), history.reached
    state = (", done" if history.done else ", stopped early" if history.stopped_early
             else ", failed" if history.fatal else ", broken off" if history.broken_off else "")
    lines = [f"{history.net_name or '(no name)'}: iteration {last}{f' of {end}' if end is not None else ''}{state}"]
    speed, images = speed_now(history), images_per_iteration(history)
    parts = [f"{duration(elapsed_seconds(history))} of training"]
    if not (history.ended or history.fatal or history.broken_off):
        parts.append(f"{duration(remaining_seconds(history))} remaining")
    if speed:
        parts.append(f"{value(speed)} iterations/s")
        if images:
            parts.append(f"{value(speed * images)} images/s ({images} an iteration)")
    lines.append(", ".join(parts))
    nets = {test.net for test in history.tests}
    best = [f"{name}{f' (net {net})' if len(nets) > 1 else ''} {value(number)} at {iteration}"
            for net, name, number, iteration in best_tests(history)[:4]]
    return lines + [f"best tests: {', '.join(best)}"] * bool(best)


def note_lines(history: History) -> List[str]:
    """Return the notes as lines."""
    return [f"note: {note.text}" for note in notes(history)]


def entries(history: History, window: Optional[int] = None) -> List[Entry]:
    """Return all lines of the table, in the order of iterations."""
    means = smoothed([row.loss for row in history.train], window_of(history, window))
    trains = {row.iteration: (row, mean, speed)
              for row, mean, speed in zip(history.train, means, speeds(history.train))}
    tests: Dict[int, Dict[int, TestRow]] = {}
    for test in history.tests:
        tests.setdefault(test.iteration, {})[test.net] = test
    return [Entry(iteration, *trains.get(iteration, (None, None, None)), tests.get(iteration, {}))
            for iteration in sorted(trains.keys() | tests.keys())]


def thinned(lines: List[Entry], count: int) -> List[Entry]:
    """Return at most ``count`` lines, evenly spread; of each stretch its last test, or else its last line."""
    if len(lines) <= count:
        return lines
    chosen = []
    for place in range(count):
        stretch = lines[len(lines) * place // count:len(lines) * (place + 1) // count]
        chosen.append(next((line for line in reversed(stretch) if line.tests), stretch[-1]))
    if chosen[0].iteration != lines[0].iteration:
        chosen[0] = lines[0]
    if not chosen[-1].tests:
        chosen[-1] = lines[-1]
    return chosen


def columns(history: History) -> List[Column]:
    """Return the columns of outputs: those of each test net, then what the training net gives beside losses."""
    nets = sorted({test.net for test in history.tests})
    found: Dict[Tuple[str, int, str], Column] = {}
    for test in history.tests:
        for name in (["Test loss"] if test.loss is not None else []) + list(test.outputs):
            title = f"{f'#{test.net}' if len(nets) > 1 else 'test'} {name}"
            found.setdefault(("test", test.net, name), Column(title, "test", test.net, name))
    for row in history.train:
        for name in row.outputs:
            if name.split("[")[0] not in history.loss_outputs:
                found.setdefault(("train", 0, name), Column(f"train {name}", "train", 0, name))
    return sorted(found.values(), key=lambda one: (one.phase, one.net))


def table(history: History, lines: List[Entry], width: int) -> List[str]:
    """Return the table with its heading: all names where they fit into ``width``, else short ones.

    Outputs that do not fit even so are named below it.
    """
    images = images_per_iteration(history)
    heading = ["iteration", "loss", "smoothed", "lr", "images/s" if images else "iter/s", "elapsed"]
    cells = [[_mark(history, line), *_train_cells(line, images)] for line in lines]
    outputs = [(column.title, [_output(line, column) for line in lines]) for column in columns(history)]
    used = sum(_widths([heading, *cells])) + len(GAP) * (len(heading) - 1)
    last_parts = [title.split(" ")[0] + " " + title.split("/")[-1].split(" ")[-1] for title, _ in outputs]
    for longest in (width, *SHORT_NAMES):
        shown, room = [], width - used
        if longest < width and len(set(last_parts)) == len(outputs):
            outputs = [(short, added) for short, (_, added) in zip(last_parts, outputs)]
        for title, added in outputs:
            size = len(GAP) + max([min(len(title), longest), *map(len, added)])
            if size > room:
                break
            shown.append((_shortened(title, longest), added))
            room -= size
        if len(shown) == len(outputs):
            break
    left_out = [title for title, _ in outputs[len(shown):]]
    rows = [heading + [title for title, _ in shown]]
    rows += [row + [added[place] for _, added in shown] for place, row in enumerate(cells)]
    widths = _widths(rows)
    text = [GAP.join(cell.rjust(size) for cell, size in zip(row, widths)).rstrip() for row in rows]
    if any(AGAIN in row[0] for row in cells):
        text.append(f"{AGAIN} ran again after a resume: the later run counts")
    if left_out:
        more = f" and {len(left_out) - 4} more" if len(left_out) > 4 else ""
        text.append(f"not shown: {', '.join(left_out[:4])}{more}")
    return text


def _widths(rows: List[List[str]]) -> List[int]:
    return [max(map(len, column)) for column in zip(*rows)]


def _mark(history: History, line: Entry) -> str:
    row: Row = line.train or next(iter(line.tests.values()))
    return f"{line.iteration}{AGAIN if ran_again(history, row) else ''}"


def _train_cells(line: Entry, images: Optional[int]) -> List[str]:
    row = line.train
    if row is None:
        times = [test.seconds for test in line.tests.values()]
        return ["", "", "", "", duration(times[0]) if times[0] is not None else ""]
    speed = None if line.speed is None else line.speed * (images or 1)
    return [value(row.loss), value(line.mean), value(row.lr), value(speed), duration(row.seconds)]


def _output(line: Entry, column: Column) -> str:
    if column.phase == "train":
        return value(line.train.outputs.get(column.name)) if line.train else ""
    test = line.tests.get(column.net)
    if test is None:
        return ""
    return value(test.outputs.get(column.name, test.loss if column.name == "Test loss" else None))


def _shortened(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}~{text[len(text) - (width - 1 - head):]}"


def progress(history: History, width: int) -> List[str]:
    """Return a bar of the iterations done, [] where the log does not tell how many there will be."""
    end, last = history.settings.get("max_iter"), history.reached
    if not end or last is None:
        return []
    share = min(1.0, last / end)
    size = max(10, width - 8)
    return [f"[{'#' * int(share * size):.<{size}}] {100 * share:3.0f} %"]


def sparkline(values: List[float], width: int) -> str:
    """Return the course of values in block characters, the finite ones of each stretch averaged; '!' for none finite.

    The height is logarithmic where all values are positive.
    """
    count = min(width, len(values))
    stretches = [values[len(values) * place // count:len(values) * (place + 1) // count] for place in range(count)]
    finite = [[one for one in stretch if math.isfinite(one)] for stretch in stretches]
    means = [sum(stretch) / len(stretch) if stretch else None for stretch in finite]
    known = [one for one in means if one is not None]
    if known and min(known) > 0:
        means = [None if one is None else math.log(one) for one in means]
        known = [math.log(one) for one in known]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join("!" if one is None else BARS[round((one - low) * scale)] for one in means)


def line_of(history: History, entry: Entry) -> List[str]:
    """Return an entry as appended lines: its tests, then the iteration."""
    found = []
    # The last round of tests tells it: going through all for each line would take long.
    many = any(test.net for test in history.tests[-2:])
    for net, test in sorted(entry.tests.items()):
        outputs = [f"{name} {value(one)}" for name, one in test.outputs.items()]
        outputs += [f"Test loss {value(test.loss)}"] if test.loss is not None else []
        found.append(f"test at iteration {entry.iteration}{f', net {net}' if many else ''}: {', '.join(outputs)}")
    row = entry.train
    if row is not None:
        images = images_per_iteration(history)
        parts = [f"iteration {entry.iteration}: loss {value(row.loss)}", f"smoothed {value(entry.mean)}"]
        parts += [f"lr {value(row.lr)}"] if row.lr is not None else []
        if entry.speed is not None:
            parts.append(f"{value(entry.speed * (images or 1))} {'images' if images else 'iterations'}/s")
        found.append(", ".join(parts))
    return found
