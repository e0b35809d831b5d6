"""``prototxt-gen log``: the course of a training, from Caffe's logs."""

from __future__ import annotations

import csv
import io
import json
import os
from typing import List, Optional, Tuple

import click

from prototxt_gen.cli.log_follow import Follower, no_iteration, terminal_size
from prototxt_gen.cli.output import write_stdout
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import display_name, write_whole
from prototxt_gen.train import logs_figures as figures
from prototxt_gen.train import logs_view as view
from prototxt_gen.train.logs_files import LogReader, find_logs, open_log, read_log
from prototxt_gen.train.logs_history import History
from prototxt_gen.train.run_folder import is_running

NOT_FINITE = 1


@click.command("log", short_help="The course of a training, from Caffe's logs.")
@click.argument("paths", metavar="RUN|LOG...", nargs=-1, required=True)
@click.option("--rows", type=click.IntRange(min=0), default=20, show_default=True, metavar="N",
              help="Lines of the table, spread evenly; 0 shows every displayed iteration.")
@click.option("--smooth", type=click.IntRange(min=1), metavar="N",
              help="Average the last N displayed losses.  [default: a thirtieth of all, 3 at least]")
@click.option("--plot", metavar="FILE", help="Draw loss, scores, learning rate and speed: .png, .svg or .pdf.")
@click.option("--csv", "as_csv", is_flag=True, help="One line per iteration and quantity, with commas.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--follow", is_flag=True, help="Go on as the log grows, until training ends or Ctrl-C.")
@click.option("--strict", is_flag=True, help="Exit 1 if a loss or score is NaN or infinite.")
def log(
    paths: Tuple[str, ...], rows: int, smooth: Optional[int], plot: Optional[str], as_csv: bool, as_json: bool,
    follow: bool, strict: bool,
) -> int:
    """Show the course of a training, from the folder of a run or from any logs of caffe train.

    Several logs, .gz too, are joined in the order of their times; - reads standard input. Iterations that ran again
    after a resume count as the later run gave them, and are marked. Elapsed is time spent training, without pauses;
    speed is without tests.

    Notes tell of NaN and infinite values, of a loss of 87.3365 (diverged), and of a plateau: the median loss of the
    last fifth of the displayed iterations is less than 1 % below that of the fifth before (10 iterations at least).
    """
    if sum((plot is not None, as_csv, as_json, follow)) > 1:
        raise Error("--plot, --csv, --json and --follow exclude one another")
    form = _form(plot) if plot is not None else ""
    logs = find_logs(paths)
    if follow:
        history = Follower(logs, smooth).run()
        return NOT_FINITE if strict and figures.not_finite(history) else 0
    history, cut = History(), []
    for path in logs:
        with open_log(path) as file:
            reader = LogReader(file)
            read_log(history, reader, display_name(path))
            cut += [path] if reader.rest.strip() else []
    if history.iteration is None:
        raise no_iteration(history, display_name(logs[-1]))
    history.broken_off = not (history.ended or history.fatal) and is_running(logs[-1]) is False
    remarks = [f"note: the last line of {display_name(path)} is cut off, and left out" for path in cut]
    if as_json:
        document = figures.document(history, figures.window_of(history, smooth))
        click.echo(json.dumps(document, indent=2, sort_keys=True, allow_nan=False))
    elif as_csv:
        write_stdout(_csv(history))
    elif plot is not None:
        from prototxt_gen.train.plot import render

        if not (history.train or history.tests):
            raise Error("nothing is displayed yet that could be drawn", display_name(logs[-1]),
                        "display: 10 in the solver, or train --set display=10, shows every tenth iteration")
        picture = render(history, form, smooth)
        write_whole(plot, lambda file: file.write(picture))
    else:
        lines = view.entries(history, smooth)
        table = view.table(history, view.thinned(lines, rows) if rows else lines, terminal_size().columns)
        write_stdout("\n".join([*view.totals(history), "", *table, *_spaced(view.note_lines(history))]) + "\n")
    for line in remarks + (view.note_lines(history) if as_csv or plot is not None else []):
        click.echo(line, err=True)
    return NOT_FINITE if strict and figures.not_finite(history) else 0


def _form(path: str) -> str:
    from prototxt_gen.train.plot import FORMATS

    form = os.path.splitext(path)[1].lstrip(".").lower()
    if form not in FORMATS:
        raise Error(f"--plot {path} names no picture", hint=f"a name that ends with .{', .'.join(FORMATS)}")
    return form


def _spaced(lines: List[str]) -> List[str]:
    return ["", *lines] if lines else []


def _csv(history: History) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(figures.TIDY_COLUMNS)
    writer.writerows(figures.tidy(history))
    return out.getvalue()
