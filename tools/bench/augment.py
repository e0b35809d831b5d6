#!/usr/bin/env python3
"""Images a second of the AugmentedData layer beside loaders in the manner of torchvision, on the same JPEGs and cores.

Each makes batches (N, 3, 224, 224) of float32: crop of 8 to 100 % of the area and aspect 3/4 to 4/3, resize, mirror,
mean. The loaders run one process a core and hand their batches over in shared memory, decode with Pillow or OpenCV, and
resize as torchvision does (bilinear; Pillow smooths when it shrinks, OpenCV does not). In turn, pair by pair; medians.
Without --images DIR the JPEGs are made: 500 x 375, quality 90, noise with the spectrum of photographs.
Needs a built Caffe: prototxt-gen caffe build.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, Callable, List, Tuple

import click
import cv2
import numpy as np
from bench_command import Bench
from PIL import Image

from prototxt_gen.train import caffe

SIZE = 224
BATCH = 32
MEAN = (104.0, 117.0, 123.0)
OURS = """
import sys, time, types
sys.modules["caffe.io"] = types.ModuleType("caffe.io")
import caffe
net_file, batches = sys.argv[1], int(sys.argv[2])
start, cpu = time.perf_counter(), time.process_time()
net = caffe.Net(net_file, caffe.TRAIN)
for _ in range(batches):
    net.forward()
print(time.perf_counter() - start, time.process_time() - cpu)
"""
NET = """layer {{ name: "data" type: "AugmentedData" top: "data" top: "label" augmented_data_param {{ source: "{source}"
  backend: LIST batch_size: {batch} crop_size: {size} mirror: true mean_value: {mean[0]} mean_value: {mean[1]}
  mean_value: {mean[2]} threads: {threads} {colour} }} }}"""
COLOUR = "pca_std: 0.1 brightness: 0.4 contrast: 0.4 saturation: 0.4"


def made_images(folder: Path, count: int) -> List[Path]:
    """Write JPEGs whose amplitudes fall with 1 / frequency, as those of photographs do."""
    paths = []
    rows, columns = np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500)[None]
    fall = 1 / np.maximum(np.hypot(rows, columns), 1 / 500)
    for i in range(count):
        rng = np.random.default_rng(i)
        planes = []
        for _ in range(3):
            wave = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((375, 500))) * fall, s=(375, 500))
            planes.append(wave / wave.std())
        grey = planes[0]
        image = np.stack([128 + 50 * grey + 12 * plane for plane in (planes[1], 0 * grey, planes[2])], axis=2)
        paths.append(folder / f"{i}.jpg")
        cv2.imwrite(str(paths[-1]), np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def window(width: int, height: int) -> Tuple[int, int, int, int]:
    """Return (x, y, w, h) as torchvision's RandomResizedCrop draws it."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def by_pillow(path: str) -> Any:
    with Image.open(path) as file:
        image = file.convert("RGB")
    x, y, w, h = window(*image.size)
    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def by_opencv(path: str) -> Any:
    image = cv2.imread(path)
    x, y, w, h = window(image.shape[1], image.shape[0])
    image = cv2.resize(image[y:y + h, x:x + w], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return image[:, ::-1] if random.random() < 0.5 else image


LOADERS = {"Pillow": by_pillow, "OpenCV": by_opencv}
shared: Any = None


def attach(name: str) -> None:
    """Let a worker see the batches; its OpenCV must not start threads of its own."""
    global shared
    shared = shared_memory.SharedMemory(name)
    cv2.setNumThreads(1)


def fill(task: Tuple[str, int, List[str]]) -> Tuple[int, float]:
    start = time.process_time()
    loader, slot, paths = task
    batch = np.ndarray((BATCH, 3, SIZE, SIZE), np.float32, shared.buf, offset=slot * BATCH * 3 * SIZE * SIZE * 4)
    mean = np.array(MEAN, np.float32)
    for to, path in zip(batch, paths):
        to[...] = (LOADERS[loader](path) - mean).transpose(2, 0, 1)
    return slot, time.process_time() - start


def loader_seconds(pool: Any, loader: str, slots: int, batches: List[List[str]]) -> Tuple[float, float]:
    """Return the time until all batches have been made, a few at most ahead of the one that is taken, and CPU time."""
    start, cpu = time.perf_counter(), 0.0
    waiting = [pool.apply_async(fill, ((loader, i, batches[i]),)) for i in range(min(slots, len(batches)))]
    for i in range(len(batches)):
        slot, spent = waiting[i].get()
        cpu += spent
        if i + slots < len(batches):
            waiting.append(pool.apply_async(fill, ((loader, slot, batches[i + slots]),)))
    return time.perf_counter() - start, cpu


def our_seconds(net_file: Path, batches: int, environment: Any) -> Tuple[float, float]:
    """Return the same for the layer, its start included."""
    command = [sys.executable, "-c", OURS, str(net_file), str(batches)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise click.ClickException(done.stderr[-800:])
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


@click.command(cls=Bench, help=__doc__)
@click.option("--images", type=click.Path(exists=True, file_okay=False), help="JPEGs below this folder.")
@click.option("--count", default=200, show_default=True, help="JPEGs to make without --images.")
@click.option("--batches", default=40, show_default=True, help=f"Batches of {BATCH} in each measurement.")
@click.option("--pairs", default=5, show_default=True)
@click.option("--colour", is_flag=True, help="Ours alone also changes all colours.")
def main(images: str, count: int, batches: int, pairs: int, colour: bool) -> None:
    cores = len(os.sched_getaffinity(0))
    slots = cores + 2
    environment = {**caffe.child_environment(caffe.find()), "GLOG_minloglevel": "1"}
    memory = shared_memory.SharedMemory(create=True, size=slots * BATCH * 3 * SIZE * SIZE * 4)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            paths = sorted(Path(images).rglob("*.[jJ][pP]*[gG]")) if images else made_images(folder, count)
            if not paths:
                raise click.ClickException(f"no JPEG below '{images}'")
            mean_bytes = statistics.mean(path.stat().st_size for path in paths)
            click.echo(f"{len(paths)} JPEGs of {mean_bytes / 1000:.0f} kB on average, {cores} cores")
            (folder / "list").write_text("".join(f"{path.resolve()} 0\n" for path in paths))
            net_file = folder / "net.prototxt"
            net_file.write_text(NET.format(source=folder / "list", batch=BATCH, size=SIZE, mean=MEAN, threads=cores,
                                           colour=COLOUR if colour else ""))
            order = [str(path) for _ in range(batches * BATCH // len(paths) + 1) for path in paths]
            tasks = [order[i * BATCH:(i + 1) * BATCH] for i in range(batches)]
            with multiprocessing.Pool(cores, attach, (memory.name,)) as pool:
                runs: List[Tuple[str, Callable[[], Tuple[float, float]]]] = [
                    ("AugmentedData", lambda: our_seconds(net_file, batches, environment)),
                    *((one, lambda one=one: loader_seconds(pool, one, slots, tasks)) for one in LOADERS),
                ]
                for _, run in runs:
                    run()  # warm the file cache and the workers
                rows = [[run() for _, run in runs] for _ in range(pairs)]
    finally:
        memory.close()
        memory.unlink()
    report([name for name, _ in runs], rows, batches * BATCH)


def report(names: List[str], rows: List[List[Tuple[float, float]]], images: int) -> None:
    """Print images a second, CPU time an image, and the ratios of both to the first column's, row by row."""
    for name, column in zip(names, zip(*rows)):
        rates = [images / wall for wall, _ in column]
        cpu = statistics.median(1000 * spent / images for _, spent in column)
        spread = f"({min(rates):.0f} to {max(rates):.0f})"
        click.echo(f"{name:14} median {statistics.median(rates):6.0f} images/s  {spread:16} {cpu:5.2f} ms CPU an image")
    for place, name in enumerate(names[1:], start=1):
        for what, part in (("images/s", 0), ("CPU time", 1)):
            ratios = [row[place][part] / row[0][part] for row in rows]
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            click.echo(f"{names[0]} over {name:7} by {what}: median {statistics.median(ratios):.2f} {spread}")


if __name__ == "__main__":
    main()
