#!/usr/bin/env python3
"""Times of single layers beside what the machine allows: BN and Interp, or any layer given with --net.

Ours, stock BatchNorm + Scale in the same Caffe, the authors' fork's manner (a layer of this bench alone), and PyTorch
where --torch names a Python that has it (this one, if it does). Each round measures the copy rate and then every one of
them, forward and the backward pass after it; what is printed are medians over the rounds, and of ratios within a round.

"x floor" is the time beside the longer of two: the bytes that the layer must move if every array is read or written
just once (BN: 2 arrays forward, 3 backward; Interp and --net: input and output), at the rate of a copy of as many bytes
with all threads; and, with --net, its multiply-adds (thrice for both passes) at the rate of Caffe's matrix product.
Needs a built Caffe: prototxt-gen caffe build.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import click
from bench_command import Bench, with_torch
from reference_layers import compiled

from prototxt_gen.core.graph import TRAIN
from prototxt_gen.core.io import read_model
from prototxt_gen.spec.infer import infer
from prototxt_gen.train import caffe

ENGINES = Path(__file__).resolve().with_name("layer_engines.py")
# (N, C, H, W) as in Attention-56 and its relatives, from the stem to the last stage.
BN_SHAPES = [[32, 64, 112, 112], [32, 256, 56, 56], [32, 512, 28, 28], [32, 1024, 14, 14], [32, 2048, 7, 7]]
# Doubled in height and width.
INTERP_SHAPES = [[32, 1024, 7, 7], [32, 512, 14, 14], [32, 256, 28, 28]]
BN = """layer {{ name: "layer" type: "{type}" bottom: "x" top: "y"
  bn_param {{ slope_filler {{ value: 1 }} bias_filler {{ value: 0.5 }} }} }}"""
STOCK_BN = """layer { name: "norm" type: "BatchNorm" bottom: "x" top: "n" }
layer { name: "scale" type: "Scale" bottom: "n" top: "y" scale_param { bias_term: true filler { value: 1 } } }"""
INTERP = """layer {{ name: "layer" type: "{type}" bottom: "x" top: "y"
  interp_param {{ height: {size[0]} width: {size[1]} }} }}"""
PRODUCT = 2048
BOTH = ("forward", "forward + backward")


@dataclass
class Case:
    """One comparison: nets by name, the first ours; bytes moved and multiply-adds, forward and in both passes."""

    title: str
    nets: Dict[str, str]
    torch: Optional[List[Any]]
    bytes: Optional[Tuple[int, int]] = None
    macs: Tuple[int, int] = (0, 0)


class Engine:
    """A child process that runs layers."""

    def __init__(self, command: List[str], environment: Dict[str, str]):
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                      env=environment)

    def ask(self, *request: Any) -> Any:
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        if not answer:
            raise click.ClickException(f"{' '.join(self.child.args)} ended with {self.child.wait()}")
        # The threads of matrix products look for more work for a while, and would take the next one's cores.
        time.sleep(0.05)
        return json.loads(answer)


def input_layer(shape: List[int]) -> str:
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n'


def bn_case(shape: List[int]) -> Case:
    source, array = input_layer(shape), 4 * math.prod(shape)
    nets = {"ours": source + BN.format(type="BN"), "BatchNorm + Scale": source + STOCK_BN,
            "as the fork": source + BN.format(type="ReferenceBN")}
    return Case(f"BN {shape}", nets, ["BN", shape, None], (2 * array, 5 * array))


def interp_case(shape: List[int]) -> Case:
    source, size = input_layer(shape), [2 * shape[2], 2 * shape[3]]
    nets = {"ours": source + INTERP.format(type="Interp", size=size),
            "as the fork": source + INTERP.format(type="ReferenceInterp", size=size)}
    moved = 4 * (math.prod(shape) + math.prod(shape[:2]) * math.prod(size))
    return Case(f"Interp {shape} to {size}", nets, ["Interp", shape, size], (moved, 2 * moved))


def net_case(files: Tuple[str, ...]) -> Case:
    macs = infer(read_model(files[0]).net, TRAIN).macs
    return Case(", ".join(files), {name: Path(name).read_text() for name in files}, None, macs=(macs, 3 * macs))


def run_case(case: Case, engine: Engine, torch: Optional[Engine], rounds: int) -> None:
    runs = [(name, engine) for name in case.nets]
    for name, text in case.nets.items():
        sizes = engine.ask("load", name, text)
        if case.bytes is None:
            moved = 4 * (sizes["values"] + sizes["params"])
            case.bytes = (moved, 2 * moved)
    if torch and case.torch:
        torch.ask("load", "PyTorch", case.torch)
        runs.append(("PyTorch", torch))
    seconds: Dict[str, List[Tuple[float, float]]] = {name: [] for name, _ in runs}
    floors = []
    for round_ in range(-1, rounds):  # the first round touches all memory and wakes all threads
        copies = [engine.ask("copy", count) for count in case.bytes]
        rate = engine.ask("multiply", PRODUCT) / PRODUCT**3 if case.macs[0] else 0.0
        taken = {name: one.ask("time", name) for name, one in runs}
        if round_ >= 0:
            floors.append(tuple(max(copy, macs * rate) for copy, macs in zip(copies, case.macs)))
            for name, (forward, backward) in taken.items():
                seconds[name].append((forward, forward + backward))
    for name, one in runs:
        one.ask("drop", name)
    report(case, floors, seconds)


def report(case: Case, floors: List[Tuple[float, ...]], seconds: Dict[str, List[Tuple[float, float]]]) -> None:
    """Print medians: milliseconds, times the floor, and times ours, for both columns."""
    click.echo(f"\n{case.title}\n{'':20}" + "".join(f"{what:34}" for what in BOTH))
    middle = [statistics.median(1000 * one[k] for one in floors) for k in (0, 1)]
    click.echo(f"{'floor':20}" + "".join(f"{one:8.2f} ms{'':23}" for one in middle))
    ours = next(iter(seconds.values()))
    for name, rows in seconds.items():
        cells = []
        for k in (0, 1):
            over_floor = statistics.median(row[k] / floor[k] for row, floor in zip(rows, floors))
            over_ours = statistics.median(row[k] / own[k] for row, own in zip(rows, ours))
            took = statistics.median(1000 * row[k] for row in rows)
            beside = "" if rows is ours else f"{over_ours:6.2f} x ours"
            cells.append(f"{took:8.2f} ms {over_floor:5.2f} x floor{beside:12}")
        click.echo(f"{Path(name).name:20}" + "".join(f"{cell:34}" for cell in cells).rstrip())


def _shapes(context: click.Context, option: click.Parameter, values: Tuple[str, ...]) -> List[List[int]]:
    shapes = [[int(size) for size in value.split(",") if size.isdecimal()] for value in values]
    for shape, value in zip(shapes, values):
        if len(shape) != 4 or value.count(",") != 3 or not all(shape):
            raise click.BadParameter(f"'{value}' is not N,C,H,W")
    return shapes


@click.command(cls=Bench, help=__doc__)
@click.option("--bn", multiple=True, callback=_shapes, metavar="N,C,H,W", help="[default: sizes of these nets]")
@click.option("--interp", multiple=True, callback=_shapes, metavar="N,C,H,W", help="[default: sizes of these nets]")
@click.option("--net", multiple=True, type=click.Path(exists=True, dir_okay=False),
              help="Input layers and what is to be timed; several are compared with the first.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--torch", "torch_python", type=click.Path(exists=True, dir_okay=False), callback=with_torch,
              help="A Python that has PyTorch.")
@click.option("--caffe", "given", metavar="DIR", help="Another Caffe than the built one.")
def main(bn: List[List[int]], interp: List[List[int]], net: Tuple[str, ...], rounds: int,
         torch_python: Optional[str], given: Optional[str]) -> None:
    if not (bn or interp or net):
        bn, interp = BN_SHAPES, INTERP_SHAPES
    found = caffe.find(given)
    environment = {**caffe.child_environment(found), "GLOG_minloglevel": "2"}
    engine = Engine([sys.executable, str(ENGINES), "caffe", str(compiled(found.root))], environment)
    if torch_python is None and importlib.util.find_spec("torch"):
        torch_python = sys.executable
    torch = Engine([torch_python, str(ENGINES), "torch"], dict(os.environ)) if torch_python else None
    size = engine.ask("multiply", PRODUCT)
    click.echo(f"{len(os.sched_getaffinity(0))} cores, matrix product {2 * PRODUCT**3 / size / 1e9:.0f} GFLOP/s, "
               f"copy {2**28 / engine.ask('copy', 2**28) / 1e9:.1f} GB/s read and written")
    for make, shapes in ((bn_case, bn), (interp_case, interp)):
        for shape in shapes:
            run_case(make(shape), engine, torch, rounds)
    if net:
        run_case(net_case(net), engine, torch, rounds)


if __name__ == "__main__":
    main()
