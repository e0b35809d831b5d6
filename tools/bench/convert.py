#!/usr/bin/env python3
"""Attention-92 with weights: seconds and memory of conversions, and one forward pass in onnxruntime and in our Caffe.

Conversions are whole processes, medians of their CPU and wall seconds and peak resident sets. The forward passes run in
turn in one process each, which keeps its net loaded, and are paired by round. Both use all cores.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from bench_command import Bench

from prototxt_gen.train import caffe

TOOL = str(Path(sys.executable).with_name("prototxt-gen"))
CONVERSIONS = {
    "split-bn": ["--pass", "split-bn"],
    "fold-bn": ["--pass", "fold-bn"],
    "split-bn, merge-bn": ["--pass", "split-bn", "--pass", "merge-bn"],
    "rename": ["--pass", "rename", "--rename", "^=renamed/"],
}
# Reads a line, answers with the seconds of one forward pass.
SERVER = """
import sys, time
import numpy as np
image = np.random.RandomState(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
{load}
for line in sys.stdin:
    start = time.perf_counter()
    {forward}
    print(time.perf_counter() - start, flush=True)
"""
LOADS = {
    "our Caffe": (
        "import caffe; net = caffe.Net('deploy.prototxt', 1, weights='weights.caffemodel')\n"
        "net.blobs['data'].data[...] = image",
        "net.forward()",
    ),
    "onnxruntime": (
        "import onnxruntime\n"
        "net = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])",
        "net.run(None, {'data': image})",
    ),
}


@click.command(cls=Bench, help=__doc__)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        _run(["attention92", "--phase", "deploy", "-o", "deploy.prototxt"])
        seeded = ["--pass", "seed-weights", "--seed", "1", "--out-weights", "weights.caffemodel", "-o", os.devnull]
        _run(["convert", "deploy.prototxt", *seeded])
        _run(["export", "deploy.prototxt", "--to", "onnx", "--weights", "weights.caffemodel", "-o", "model.onnx"])
        size = os.path.getsize("weights.caffemodel")
        click.echo(f"weights.caffemodel: {size / 1e6:.0f} MB")
        for name, passes in CONVERSIONS.items():
            _conversion(name, passes, size, rounds)
        _forward_passes(rounds)


def _run(arguments: list) -> None:
    subprocess.run([TOOL, *arguments], check=True, stderr=subprocess.DEVNULL)


def _conversion(name: str, passes: list, size: int, rounds: int) -> None:
    cpu, wall, peak = [], [], []
    arguments = ["convert", "deploy.prototxt", "--weights", "weights.caffemodel", *passes, "--out-weights",
                 "out.caffemodel", "-o", "out.prototxt"]
    for _ in range(rounds):
        start = time.perf_counter()
        child = subprocess.Popen([TOOL, *arguments], stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        wall.append(time.perf_counter() - start)
        if status:
            raise click.ClickException(f"{name} ended with {status}")
        cpu.append(used.ru_utime + used.ru_stime)
        peak.append(used.ru_maxrss * 1024)
    memory = statistics.median(peak)
    click.echo(f"{name:30} median {statistics.median(cpu):.2f} s CPU  ({min(cpu):.2f} to {max(cpu):.2f})  "
               f"{statistics.median(wall):.2f} s  peak {memory / 1e6:.0f} MB, {memory / size:.2f} x the weights")


def _forward_passes(rounds: int) -> None:
    environment = {**caffe.child_environment(caffe.find()), "GLOG_minloglevel": "2"}
    servers = {name: subprocess.Popen([sys.executable, "-c", SERVER.format(load=load, forward=forward)], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
               for name, (load, forward) in LOADS.items()}
    seconds = {name: [] for name in servers}
    for round_ in range(-1, rounds):  # the first pass allocates
        for name, server in servers.items():
            server.stdin.write("\n")
            server.stdin.flush()
            taken = float(server.stdout.readline())
            if round_ >= 0:
                seconds[name].append(taken)
    for server in servers.values():
        server.stdin.close()
        server.wait()
    for name, taken in seconds.items():
        ratio = statistics.median(one / base for one, base in zip(taken, seconds["our Caffe"]))
        click.echo(f"forward in {name:19} median {statistics.median(taken) * 1000:.0f} ms  "
                   f"({min(taken) * 1000:.0f} to {max(taken) * 1000:.0f})  {ratio:.2f} x our Caffe")


if __name__ == "__main__":
    main()
