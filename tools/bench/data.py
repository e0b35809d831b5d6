#!/usr/bin/env python3
"""Images a second of ``data folder``, with one process and with one for each core, in turn, on the same photographs.

The photographs are JPEG files of 500x375, ImageNet's usual size, resized to a short side of 256 and encoded anew. Whole
processes are timed, start included, and the written LMDBs are compared byte for byte.
"""

from __future__ import annotations

import filecmp
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from bench_command import Bench

from prototxt_gen.train.data_workers import all_cores

TOOL = str(Path(sys.executable).with_name("prototxt-gen"))
SIZE_PX = (500, 375)
CLASSES = 10


@click.command(cls=Bench, help=__doc__)
@click.option("--images", type=click.IntRange(min=CLASSES * 2), default=2000, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
def main(images: int, rounds: int) -> None:
    counts = sorted({1, 2, all_cores()})
    seconds = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        _make_photographs(source, images)
        for done in range(rounds):
            for count in counts:
                out = Path(folder) / f"out{count}-{done}"
                start = time.perf_counter()
                command = [TOOL, "data", "folder", source, out, "--workers", str(count)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                seconds[count].append(time.perf_counter() - start)
        same = all(filecmp.cmp(Path(folder) / f"out{counts[0]}-0" / lmdb / "data.mdb", path / lmdb / "data.mdb", False)
                   for path in Path(folder).glob("out*") for lmdb in ("train_lmdb", "test_lmdb"))
    for count in counts:
        ratios = [one / other for one, other in zip(seconds[counts[0]], seconds[count])]
        rate = images / statistics.median(seconds[count])
        click.echo(f"{count} processes: {rate:.0f} images a second, {statistics.median(ratios):.2f} x one process "
                   f"(rounds {min(ratios):.2f} to {max(ratios):.2f})")
    click.echo(f"{os.cpu_count()} cores, {all_cores()} usable; the LMDBs are {'the same' if same else 'DIFFERENT'}")
    sys.exit(0 if same else 1)


def _make_photographs(folder: Path, images: int) -> None:
    """Write JPEG files with about the detail, and so the bytes, of ImageNet's."""
    import numpy
    from PIL import Image

    coarse = numpy.random.RandomState(0).randint(0, 256, (75, 100, 3)).astype(numpy.uint8)
    for index in range(images):
        place = folder / f"class{index % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        shifted = numpy.roll(coarse, (index, 7 * index), (0, 1))
        Image.fromarray(shifted).resize(SIZE_PX, Image.BICUBIC).save(place / f"{index}.jpg", quality=90)


if __name__ == "__main__":
    main()
