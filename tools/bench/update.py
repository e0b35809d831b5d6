#!/usr/bin/env python3
"""The update of a network's parameters: our solver of a type beside Caffe's own class, and the least it can take.

Both have the same net in one process, and update in turn; ratios are medians within a round. The floor moves
parameters, differences and history once each way at the rate of a copy in numpy, measured in each round. Needs a built
Caffe: prototxt-gen caffe build.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from bench_command import Bench

from prototxt_gen.core.io import dumps
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.train import caffe

DATA = """layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
  shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }} shape {{ dim: 1 }} }} }}
"""
SOLVER = """train_net: "{net}" type: "{kind}" momentum: 0.9 weight_decay: 0.0001 base_lr: 0.1 lr_policy: "fixed"
solver_mode: CPU snapshot_after_train: false"""
CHILD = """
import json, sys, time, types
sys.modules["caffe.io"] = types.ModuleType("caffe.io")
import caffe
import numpy as np
path, kind, rounds = sys.argv[1:]
solvers = [caffe.get_solver(path), getattr(caffe, kind + "Solver")(path)]
values = sum(blob.count for layer in solvers[0].net.layers for blob in layer.blobs)
source = np.ones(3 * values, "f4")
work = [*(solver.apply_update for solver in solvers), lambda: np.copyto(target, source)]
target = np.zeros_like(source)
for round in range(-1, int(rounds)):
    seconds = []
    for one in work:
        start = time.perf_counter()
        one()
        seconds.append(time.perf_counter() - start)
    if round >= 0:
        print(json.dumps([values, *seconds]), flush=True)
"""


@click.command(cls=Bench, help=__doc__)
@click.option("--net", "name", type=click.Choice(list(NETWORKS)), default="attention56", show_default=True)
@click.option("--type", "kind", type=click.Choice(["SGD", "Nesterov"]), default="Nesterov", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=11, show_default=True)
def main(name: str, kind: str, rounds: int) -> None:
    found = caffe.find()
    net = build(NETWORKS[name], batch_size=1).net
    body = type(net)(name=net.name, layer=[layer for layer in net.layer if layer.bottom])
    with tempfile.TemporaryDirectory() as folder:
        path, solver = Path(folder, "net.prototxt"), Path(folder, "solver.prototxt")
        path.write_text(DATA.format(size=NETWORKS[name].input_size) + dumps(body))
        solver.write_text(SOLVER.format(net=path, kind=kind))
        environment = {**caffe.child_environment(found), "GLOG_minloglevel": "2"}
        done = subprocess.run([sys.executable, "-c", CHILD, str(solver), kind, str(rounds)], stdout=subprocess.PIPE,
                              text=True, env=environment)
    if done.returncode != 0:
        raise click.ClickException(f"the process with Caffe ended with {done.returncode}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    click.echo(f"{name}, {kind}: {rows[0][0] / 1e6:.1f} M parameters, {rounds} rounds")
    for place, what in ((1, "ours"), (2, "Caffe's own"), (3, "floor")):
        taken = [row[place] for row in rows]
        ratio = statistics.median(row[place] / row[1] for row in rows)
        click.echo(f"{what:12} median {statistics.median(taken) * 1e3:6.1f} ms  ({min(taken) * 1e3:.1f} to "
                   f"{max(taken) * 1e3:.1f})  {ratio:.2f} x ours")


if __name__ == "__main__":
    main()
