"""Draws a training's history: loss, scores, learning rate and speed over the iterations.

Colours are those of Okabe and Ito, which people with any kind of colour vision tell apart; test nets and phases differ
in marker and dash as well.
"""

from __future__ import annotations

import io
import math
from typing import Any, Callable, Dict, List, Optional, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.train.logs_figures import (
    best_tests, elapsed_seconds, images_per_iteration, not_finite, smoothed, speeds, window_of,
)
from prototxt_gen.train.logs_history import History, TestRow, TrainRow
from prototxt_gen.train.logs_view import duration

FORMATS = ("png", "svg", "pdf")
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#222222", "#999999"
LINE_COLOURS = (VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osD^vP"
LINES_SHOWN = len(LINE_COLOURS)
# A loss that spans more than this is read on a logarithmic scale.
LOG_SPAN = 10
# More points than this would only blacken the picture, and bloat a vector file.
POINTS_SHOWN = 4000
FEW_POINTS = 100
BELOW_LINES = 1.5  # matplotlib draws lines at 2
SIZE_INCHES, DPI = (11.0, 6.6), 130
STYLE = {
    "font.size": 10.0, "axes.titlesize": 11.0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "legend.frameon": True, "legend.framealpha": 0.85, "legend.edgecolor": "none", "legend.fontsize": 9.0,
    "svg.hashsalt": "prototxt-gen", "svg.fonttype": "path", "pdf.fonttype": 42,
}

Draw = Callable[[Any, History], None]
# (iteration, value) of each output of each test net.
Lines = Dict[Tuple[int, str], List[Tuple[float, float]]]


def render(history: History, form: str, window: Optional[int] = None) -> bytes:
    """Return the picture as bytes of a format of FORMATS, the same for the same history.

    ``window`` is how many displayed losses are averaged, as ``logs_figures.window_of`` takes it. Panels that the log
    has nothing for are left out.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise Error("matplotlib is missing", hint="pip install prototxt-gen[plot]") from None

    has_loss = bool(history.train) or any(_is_loss(history, name) for _, name in _test_lines(history))
    panels: List[Draw] = [lambda axes, one: _draw_loss(axes, one, window_of(one, window))] * has_loss
    panels += [_draw_scores] * bool(_score_lines(history))
    panels += [_draw_rate] * any(row.lr is not None for row in history.train)
    panels += [_draw_speed] * any(speed is not None for speed in speeds(history.train))
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"}):
        figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        for place, (axes, draw) in enumerate(zip(_places(figure, len(panels)), panels)):
            draw(axes, history)
            _mark_sessions(axes, history, named=place == 0)
            _finish_x(axes, history)
            if len(panels) > 2 and 0 < place < len(panels) - 1:
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel("iteration")
        figure.suptitle(_title(history), fontsize=12.5)
        out = io.BytesIO()
        dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
        figure.savefig(out, format=form, metadata=dates[form])
    return out.getvalue()


def _places(figure: Any, count: int) -> List[Any]:
    """Return the panels: the loss largest, on the left where there are three or more."""
    if count <= 2:
        return [figure.add_subplot(1, count, place + 1) for place in range(count)]
    grid = figure.add_gridspec(count - 1, 2, width_ratios=(1.35, 1))
    return [figure.add_subplot(grid[:, 0]), *(figure.add_subplot(grid[row, 1]) for row in range(count - 1))]


def _title(history: History) -> str:
    parts = [f"iteration {history.reached:,}".replace(",", " ")]
    if elapsed_seconds(history) is not None:
        parts.append(f"{duration(elapsed_seconds(history))} of training")
    scores = [one for one in best_tests(history) if one[1].split("[")[0] not in history.loss_outputs]
    many = len({test.net for test in history.tests}) > 1
    parts += [f"best {f'#{net} ' if many else ''}{name} {value:.4g} at {iteration}"
              for net, name, value, iteration in scores[:2]]
    return f"{_plain_text(history.net_name or 'training')}\n{', '.join(map(_plain_text, parts))}"


def _plain_text(text: str) -> str:
    """Return a name without what matplotlib takes for a formula."""
    return text.replace("$", r"\$")


def _thin(points: List[Tuple[float, float]]) -> Tuple[List[float], List[float]]:
    """Return x and y of at most POINTS_SHOWN points: the least and largest of each stretch stay."""
    if len(points) > POINTS_SHOWN:
        size = -(-2 * len(points) // POINTS_SHOWN)
        kept = []
        for start in range(0, len(points), size):
            stretch = points[start:start + size]
            kept += sorted({min(stretch, key=lambda one: one[1]), max(stretch, key=lambda one: one[1])})
        points = kept
    return [x for x, _ in points], [y for _, y in points]


def _dots(points: List[Tuple[float, float]]) -> Dict[str, Any]:
    """Return the style of a line's points: to be seen where they are few."""
    return {"marker": ".", "markersize": 4} if len(points) < FEW_POINTS else {}


def _finite(points: List[Tuple[float, float]]) -> List[Tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _draw_loss(axes: Any, history: History, window: int) -> None:
    losses = [(row.iteration, row.loss) for row in history.train]
    means = smoothed([loss for _, loss in losses], window)
    again = [(row.iteration, row.loss) for row in history.replaced if isinstance(row, TrainRow)]
    if again:
        axes.plot(*_thin(_finite(again)), color=GREY, alpha=0.7, linewidth=0.8, linestyle=(0, (2, 2)),
                  label="train, run again later")
    if losses:
        axes.plot(*_thin(_finite(losses)), color=SKY, alpha=0.75, linewidth=0.8, label="train, as displayed",
                  **_dots(losses))
        axes.plot(*_thin(_finite([(x, mean) for (x, _), mean in zip(losses, means)])), color=BLUE, linewidth=2,
                  label=f"train, mean of {window}")
    lines = {key: points for key, points in _test_lines(history).items() if _is_loss(history, key[1])}
    _draw_tests(axes, history, lines, "test ")
    shown = [value for _, value in _finite(losses + [one for points in lines.values() for one in points])]
    if shown and min(shown) > 0 and max(shown) / min(shown) > LOG_SPAN:
        _set_log(axes, shown)
    axes.set_ylabel("loss")
    axes.set_title("Loss", loc="left")
    _mark_not_finite(axes, history)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


def _set_log(axes: Any, values: List[float]) -> None:
    """Make a logarithmic scale with plain numbers, also between powers of ten where the span is small."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    decades = math.log10(max(values) / min(values))
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if decades < 3 else (1,), numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _mark_not_finite(axes: Any, history: History) -> None:
    bad = sorted({row.iteration for row, _, _ in not_finite(history)})
    if bad:
        axes.plot(bad, [0.985] * len(bad), transform=axes.get_xaxis_transform(), color=VERMILION, marker="x",
                  linestyle="none", markersize=7, markeredgewidth=2, clip_on=False, label="not a finite number")


def _is_loss(history: History, name: str) -> bool:
    return name.split("[")[0] in history.loss_outputs or name == "Test loss"


def _test_lines(history: History) -> Lines:
    lines: Lines = {}
    for test in history.tests:
        named = {**({"Test loss": test.loss} if test.loss is not None else {}), **test.outputs}
        for name, value in named.items():
            lines.setdefault((test.net, name), []).append((test.iteration, value))
    return lines


def _score_lines(history: History) -> Lines:
    return {key: points for key, points in _test_lines(history).items() if not _is_loss(history, key[1])}


def _draw_tests(axes: Any, history: History, lines: Lines, prefix: str) -> None:
    many = len({test.net for test in history.tests}) > 1
    again: Lines = {}
    for row in history.replaced:
        if isinstance(row, TestRow):
            for name, value in row.outputs.items():
                again.setdefault((row.net, name), []).append((row.iteration, value))
    for place, (key, points) in enumerate(list(lines.items())[:LINES_SHOWN]):
        label = _plain_text(f"{prefix}{f'#{key[0]} ' if many else ''}{key[1]}")
        x, y = _thin(_finite(points))
        size = 5 if len(x) < 60 else 0
        axes.plot(x, y, color=LINE_COLOURS[place], marker=MARKERS[place], markersize=size, linewidth=1.6, label=label)
        if key in again:
            axes.plot(*_thin(_finite(again[key])), color=GREY, marker=MARKERS[place], markersize=size, alpha=0.6,
                      linestyle="none", zorder=BELOW_LINES)
    if len(lines) > LINES_SHOWN:
        axes.plot([], [], linestyle="none", label=f"and {len(lines) - LINES_SHOWN} more, not drawn")


def _draw_scores(axes: Any, history: History) -> None:
    lines = _score_lines(history)
    _draw_tests(axes, history, lines, "")
    values = [value for points in lines.values() for _, value in _finite(points)]
    axes.set_title("Test scores", loc="left")
    if values and 0 <= min(values) and max(values) <= 1:
        from matplotlib.ticker import FuncFormatter

        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}"))
        axes.set_ylabel("score (%)")
    else:
        axes.set_ylabel("score")
    axes.margins(y=0.1)
    if len(lines) <= 2 and sum(len(name) for _, name in lines) < 36:
        # Beside the title, where no curve can be.
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1, borderpad=0.1)
    else:
        axes.legend(loc="best")


def _draw_rate(axes: Any, history: History) -> None:
    points = [(row.iteration, row.lr) for row in history.train if row.lr is not None]
    points.append((history.train[-1].iteration, points[-1][1]))
    axes.plot(*_thin(points), color=BLACK, linewidth=1.6, drawstyle="steps-post")
    rates = {rate for _, rate in points}
    if len(rates) > 1 and min(rates) > 0 and max(rates) / min(rates) >= LOG_SPAN:
        _set_log(axes, list(rates))
    elif min(rates) >= 0:
        axes.set_ylim(0, (max(rates) or 1) * 1.15)
    axes.set_ylabel("learning rate")
    axes.set_title("Learning rate", loc="left")


def _draw_speed(axes: Any, history: History) -> None:
    images = images_per_iteration(history)
    points = [(row.iteration, speed * (images or 1))
              for row, speed in zip(history.train, speeds(history.train)) if speed is not None]
    axes.plot(*_thin(points), color=GREEN, linewidth=1.2, **_dots(points))
    ordered = sorted(speed for _, speed in points)
    # A pause of the machine leaves no doubt about the rest; a single burst would flatten it.
    axes.set_ylim(0, 1.25 * ordered[int(0.98 * (len(ordered) - 1))])
    unit = "images/s" if images else "iterations/s"
    axes.set_ylabel(unit)
    axes.set_title(f"Speed without tests, median {ordered[len(ordered) // 2]:.3g} {unit}", loc="left")


def _mark_sessions(axes: Any, history: History, named: bool) -> None:
    for session in history.sessions[1:]:
        axes.axvline(session.first, color=PURPLE, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        if not named:
            continue
        axes.annotate("resumed" if session.first else "begun anew", (session.first, 1), rotation=90, fontsize=8,
                      color=PURPLE, xycoords=("data", "axes fraction"), xytext=(-3, -3), textcoords="offset points",
                      ha="right", va="top")


def _finish_x(axes: Any, history: History) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " ")))
    rows = [*history.train, *history.tests]
    first, last = min(row.iteration for row in rows), max(row.iteration for row in rows)
    margin = max(1, 0.02 * (last - first))
    axes.set_xlim(first - margin, last + margin)
