"""``prototxt-gen data``: images into LMDBs."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any, Callable, Optional, Tuple

import click

from prototxt_gen.cli.data_preview import preview
from prototxt_gen.core.errors import Error
from prototxt_gen.train import data as sets
from prototxt_gen.train import data_sources

FORCE = click.option("--force", is_flag=True, help="Replace OUT where it is a set of images.")
# Seconds between two lines of progress, on a terminal and in a log.
TERMINAL_PERIOD_S = 0.2
LOG_PERIOD_S = 10.0


@click.group()
def data() -> None:
    """Make LMDBs from images, with class names and mean.

    OUT gets train_lmdb and test_lmdb, labels.txt with one class name a line, and mean.txt with the mean of the channels
    blue, green and red, as a network's --mean takes it. It appears only when all of it is written.
    """


data.add_command(preview)


@data.command("fashion-mnist")
@click.argument("out", metavar="OUT")
@click.option("--from", "source", metavar="DIR", default=data_sources.FASHION_MNIST_DIR, show_default=True,
              help="Folder of the four .gz files.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N images of each split only.")
@FORCE
def fashion_mnist(out: str, source: str, limit: Optional[int], force: bool) -> None:
    """Make LMDBs of Fashion-MNIST.

    The images come from Debian's package dataset-fashion-mnist. They are padded to 32x32 and have three channels.
    """
    _show(out, data_sources.write_fashion_mnist(Path(out), source, force, limit, _progress()))


@data.command("folder")
@click.argument("folder", metavar="DIR")
@click.argument("out", metavar="OUT")
@click.option("--resize", type=click.IntRange(min=1), metavar="SHORT",
              help=f"Resize to a short side of SHORT pixels.  [default: {data_sources.SHORT_SIDE_PX}]")
@click.option("--size", metavar="WxH", help="Resize to exactly W x H pixels instead.")
@click.option("--encoded/--raw", default=True, show_default=True, help="Store JPEG files, or the pixels themselves.")
@click.option("--test-share", type=float, metavar="SHARE",
              help=f"Share of each class to test with, where DIR has no val.  [default: {data_sources.TEST_SHARE}]")
@FORCE
def folder(
    folder: str, out: str, resize: Optional[int], size: Optional[str], encoded: bool, test_share: Optional[float],
    force: bool,
) -> None:
    """Make LMDBs of a folder of images.

    DIR holds train/CLASS/ and val/CLASS/, or CLASS/ alone, which is then split. Images that cannot be decoded are named
    and left out. Training then wants --crop, unless --size makes all images equal.
    """
    if resize is not None and size is not None:
        raise Error("--resize and --size exclude one another")
    form = data_sources.ImageForm(resize or data_sources.SHORT_SIDE_PX, _parse_size(size), encoded)
    skipped = []

    def skip(path: Path, reason: str) -> None:
        skipped.append(path)
        click.echo(f"skipped: {click.format_filename(path)}: {reason}", err=True)

    written = data_sources.write_folder(folder, Path(out), form, test_share, force, _progress(), skip)
    if skipped:
        click.echo(f"{len(skipped)} images could not be read and were left out", err=True)
    _show(out, written)


def _parse_size(text: Optional[str]) -> Optional[Tuple[int, int]]:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise Error(f"--size {text} is no size", hint="write width x height in pixels, such as 32x32")
    return int(match.group(1)), int(match.group(2))


def _show(out: str, written: sets.ImageSet) -> None:
    place = Path(click.format_filename(out))
    click.echo(f"{place / sets.TRAIN_LMDB}: {written.train} images of {len(written.classes)} classes")
    click.echo(f"{place / sets.TEST_LMDB}: {written.test} images")
    click.echo(f"{place / sets.LABELS_FILE}: {len(written.classes)} names")
    click.echo(f"{place / sets.MEAN_FILE}: {written.mean_text()}")


def _progress() -> Callable[[str, int, int], Any]:
    """Return a progress callback: one line written over on a terminal, a line now and then in a log."""
    terminal = sys.stderr.isatty()
    period = TERMINAL_PERIOD_S if terminal else LOG_PERIOD_S
    last = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < period and not (terminal and done == total):
            return
        last = now
        text = f"{what}: {done} of {total} images"
        click.echo(f"\r{text}" if terminal else text, nl=not terminal or done == total, err=True)

    return show
