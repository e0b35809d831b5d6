"""What a training's history comes to: smoothed losses, speeds, time that remains, things to notice, tidy tables."""

from __future__ import annotations

import math
from statistics import median
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from prototxt_gen.train.logs_history import History, Row, TestRow, TrainRow

SMOOTHED_AT_LEAST = 3
SMOOTHED_SHARE = 30
# Displayed iterations whose median is the speed of now.
RECENT_ROWS = 20
PLATEAU_AT_LEAST = 10
PLATEAU_SHARE = 5
PLATEAU_GAIN = 0.01
# What SoftmaxWithLoss gives for a probability of 0: -log of the least float32.
LOST_SOFTMAX = 87.3365


class Note(NamedTuple):
    """Something to notice. ``kind`` is not finite, diverged, plateau, resumed, several solvers, failed or stopped."""

    kind: str
    text: str
    iteration: Optional[int]


def window_of(history: History, wanted: Optional[int] = None) -> int:
    """Return how many displayed losses are averaged: those wanted, or a thirtieth of all and 3 at least."""
    return wanted or max(SMOOTHED_AT_LEAST, math.ceil(len(history.train) / SMOOTHED_SHARE))


def smoothed(values: List[float], window: int) -> List[float]:
    """Return at each place the mean of the last ``window`` values up to it that are finite, NaN at one that is not."""
    means, total, count = [], 0.0, 0
    for place, value in enumerate(values):
        if math.isfinite(value):
            total, count = total + value, count + 1
        if place >= window and math.isfinite(values[place - window]):
            total, count = total - values[place - window], count - 1
        means.append(total / count if math.isfinite(value) else math.nan)
    return means


def speeds(rows: List[TrainRow]) -> List[Optional[float]]:
    """Return iterations per second between each displayed iteration and the one before, time of tests taken out.

    Without times in the log it is what Caffe displays, which has the tests in it. What closes a training has no speed:
    the iterations before it are known, their time is not.
    """
    found: List[Optional[float]] = []
    before: Optional[TrainRow] = None
    for row in rows:
        speed = None
        if row.closing:
            pass
        elif row.seconds is None:
            speed = row.logged_rate if row.logged_rate and row.logged_rate > 1e-9 else None
        elif before is not None and before.session == row.session and before.seconds is not None:
            seconds = row.seconds - before.seconds - (row.test_seconds - before.test_seconds)
            speed = (row.iteration - before.iteration) / seconds if seconds > 0 else None
        found.append(speed)
        before = row
    return found


def images_per_iteration(history: History) -> Optional[int]:
    """Return the images that one iteration takes: batch size x iter_size x GPUs, None where the log has no batch."""
    if not history.batch_size:
        return None
    return history.batch_size * history.settings.get("iter_size", 1) * history.gpus


def speed_now(history: History) -> Optional[float]:
    """Return the median speed of the last displayed iterations, in iterations per second, tests taken out."""
    recent = [speed for speed in speeds(history.train[-RECENT_ROWS:]) if speed is not None]
    return median(recent) if recent else None


def elapsed_seconds(history: History) -> Optional[float]:
    """Return the time spent training, over all sessions and without the pauses between them."""
    times = [history.train[-1].seconds] if history.train else []
    times += [(test.seconds or 0.0) + (test.duration or 0.0) for test in history.tests[-1:] if test.seconds is not None]
    known = [one for one in times if one is not None]
    return max(known) if known else None


def remaining_seconds(history: History) -> Optional[float]:
    """Return the time that the iterations left and their tests will take, None where it cannot be told."""
    if history.done:
        return 0.0
    last, end, speed = history.iteration, history.settings.get("max_iter"), speed_now(history)
    if last is None or end is None or not speed:
        return None
    left = max(0, end - last)
    seconds = left / speed
    interval = history.settings.get("test_interval") or _observed_interval(history)
    if interval and history.tests:
        rounds: Dict[int, float] = {}
        for test in history.tests[-RECENT_ROWS:]:
            rounds[test.iteration] = rounds.get(test.iteration, 0.0) + (test.duration or 0.0)
        seconds += max(0, end // interval - last // interval) * median(rounds.values())
    return seconds


def _observed_interval(history: History) -> Optional[int]:
    iterations = sorted({test.iteration for test in history.tests})
    return iterations[-1] - iterations[-2] if len(iterations) > 1 else None


def best_tests(history: History) -> List[Tuple[int, str, float, int]]:
    """Return (test net, output, best value, its iteration): the largest of scores, the least of losses.

    A test with a NaN does not count: Caffe's Accuracy is 1 where all scores are NaN.
    """
    best: Dict[Tuple[int, str], Tuple[float, int]] = {}
    for test in history.tests:
        if not all(math.isfinite(value) for _, value in values_of(test)):
            continue
        for name, value in test.outputs.items():
            key, sign = (test.net, name), -1 if name.split("[")[0] in history.loss_outputs else 1
            if key not in best or sign * value > sign * best[key][0]:
                best[key] = (value, test.iteration)
    return [(net, name, value, iteration) for (net, name), (value, iteration) in sorted(best.items())]


def values_of(row: Row) -> Iterator[Tuple[str, float]]:
    """Yield the names and values that a row displays: its loss, then its outputs."""
    if row.loss is not None:
        yield "loss", row.loss
    yield from row.outputs.items()


def not_finite(history: History) -> List[Tuple[Union[TrainRow, TestRow], str, float]]:
    """Return (row, name, value) for the rows that count and hold a NaN or an infinite value: the first of each row."""
    found = []
    for rows in (history.train, history.tests):
        for row in rows:
            bad = next(((name, value) for name, value in values_of(row) if not math.isfinite(value)), None)
            if bad:
                found.append((row, *bad))
    return sorted(found, key=lambda one: one[0].iteration)


def notes(history: History) -> List[Note]:
    """Return what is worth noticing, in a fixed order."""
    found = list(_session_notes(history))
    bad = not_finite(history)
    if bad:
        row, name, value = bad[0]
        where = "test" if isinstance(row, TestRow) else "train"
        more = f", and in {len(bad) - 1} more of the rows" if len(bad) > 1 else ""
        text = f"{where} {name} is {value:g} at iteration {row.iteration}{more}: a lower learning rate may help"
        found.append(Note("not finite", text, row.iteration))
    lost = next((row for row in history.train if any(abs(value - LOST_SOFTMAX) < 0.001 for _, value in values_of(row))),
                None)
    if lost is not None:
        text = (f"train loss is {LOST_SOFTMAX} at iteration {lost.iteration}: the right labels have a probability of 0,"
                " so the training has diverged")
        found.append(Note("diverged", text, lost.iteration))
    flat = plateau(history)
    if flat:
        first, last, before, after = flat
        text = (f"plateau: the median train loss of iterations {first} to {last} is {after:.4g}, less than 1 % below"
                f" the {before:.4g} of as many before")
        found.append(Note("plateau", text, first))
    if history.fatal:
        found.append(Note("failed", f"Caffe failed: {history.fatal[0]}", history.iteration))
    if history.stopped_early:
        found.append(Note("stopped", "stopped early, on a signal", history.iteration))
    if history.broken_off:
        found.append(Note("broken off", "nothing trains here, and the log has no end: the training was killed",
                          history.iteration))
    return found


def _session_notes(history: History) -> Iterator[Note]:
    for number, session in enumerate(history.sessions):
        if number == 0 and not session.resumed_from:
            continue
        verb = "resumed" if session.resumed_from or session.first else "begun anew"
        again = ""
        if session.replaced:
            again = f"; iterations {session.replaced[0]} to {session.replaced[1]} ran again, and the later run counts"
        yield Note("resumed", f"{verb} at iteration {session.first}{again}", session.first)
    if history.other_solvers:
        count = history.other_solvers
        yield Note("several solvers", f"lines of {count} other solver{'s' * (count > 1)} are left out", None)


def ran_again(history: History, row: Row) -> bool:
    """Tell whether an earlier session had run a row's iteration too."""
    replaced = history.sessions[row.session].replaced
    return replaced is not None and replaced[0] <= row.iteration <= replaced[1]


def plateau(history: History) -> Optional[Tuple[int, int, float, float]]:
    """Return (first iteration, last iteration, median loss before, median loss) when the loss stands still, else None.

    It does when the median of the last fifth of the displayed losses, and of 10 at least, is less than 1 % below the
    median of as many before.
    """
    rows = [row for row in history.train if math.isfinite(row.loss)]
    count = max(PLATEAU_AT_LEAST, len(rows) // PLATEAU_SHARE)
    if len(rows) < 2 * count:
        return None
    before = median(row.loss for row in rows[-2 * count:-count])
    after = median(row.loss for row in rows[-count:])
    if before - after >= PLATEAU_GAIN * abs(before):
        return None
    return rows[-count].iteration, rows[-1].iteration, before, after


def document(history: History, window: int) -> Dict[str, Any]:
    """Return everything as plain data for JSON: numbers that are none as 'nan', 'inf' and '-inf', None for unknown."""
    images, rates = images_per_iteration(history), speeds(history.train)
    means = smoothed([row.loss for row in history.train], window)
    return _plain({
        "net": history.net_name,
        "iteration": history.reached,
        "max_iter": history.settings.get("max_iter"),
        "done": history.done,
        "stopped_early": history.stopped_early,
        "broken_off": history.broken_off,
        "fatal": history.fatal,
        "images_per_iteration": images,
        "iterations_per_second": speed_now(history),
        "elapsed_seconds": elapsed_seconds(history),
        "remaining_seconds": remaining_seconds(history),
        "smoothed_over": window,
        "best": [{"net": net, "output": name, "value": value, "iteration": iteration}
                 for net, name, value, iteration in best_tests(history)],
        "notes": [note._asdict() for note in notes(history)],
        "sessions": [{"first": one.first, "last": one.last, "resumed_from": one.resumed_from, "replaced": one.replaced}
                     for one in history.sessions],
        "train": [{**_train_values(row, rate, images), "smoothed_loss": mean, "outputs": row.outputs,
                   "iteration": row.iteration, "session": row.session, "seconds": row.seconds,
                   "ran_again": ran_again(history, row)}
                  for row, rate, mean in zip(history.train, rates, means)],
        "test": [{"iteration": row.iteration, "net": row.net, "session": row.session, "seconds": row.seconds,
                  "duration_seconds": row.duration, "loss": row.loss, "outputs": row.outputs,
                  "ran_again": ran_again(history, row)}
                 for row in history.tests],
    })


def _train_values(row: TrainRow, rate: Optional[float], images: Optional[int]) -> Dict[str, Optional[float]]:
    return {"loss": row.loss, "lr": row.lr, "iterations_per_second": rate,
            "images_per_second": rate * images if rate and images else None}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


TIDY_COLUMNS = ("iteration", "seconds", "session", "phase", "net", "source", "quantity", "value")


def tidy(history: History) -> Iterator[Tuple[Any, ...]]:
    """Yield a row of TIDY_COLUMNS for each iteration and quantity that is known, in the order of iterations.

    ``source`` is solver for what the solver displays or what follows from it, output for the outputs of the net.
    """
    images = images_per_iteration(history)
    entries: List[Tuple[int, int, Row, List[Tuple[str, str, float]]]] = []
    for row, rate in zip(history.train, speeds(history.train)):
        known = _train_values(row, rate, images).items()
        cells = [("solver", name, value) for name, value in known if value is not None]
        entries.append((row.iteration, 1, row, cells + [("output", *one) for one in row.outputs.items()]))
    for test in history.tests:
        cells = [("solver", "loss", test.loss)] if test.loss is not None else []
        entries.append((test.iteration, 0, test, cells + [("output", *one) for one in test.outputs.items()]))
    # Caffe tests before it trains an iteration.
    for iteration, _, row, cells in sorted(entries, key=lambda one: one[:2]):
        phase, net = ("test", row.net) if isinstance(row, TestRow) else ("train", "")
        seconds = "" if row.seconds is None else f"{row.seconds:.3f}"
        for source, name, value in cells:
            yield iteration, seconds, row.session, phase, net, source, name, f"{value:.9g}"
