#!/usr/bin/env python3
"""Peak memory and time of a training step with the memory of blobs plain, shared and lean, beside the estimate.

Each mode is a child process with the same net, parameters and input, and all take their steps in turn: a time is the
ratio to the first mode's step of the same round, medians. Peak is the growth of the resident set, from the start of the
solver on. Gradients and parameters are compared to the last bit. --modes leaves out what has no room. Needs a built
Caffe: prototxt-gen caffe build.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import click
from bench_command import Bench

from prototxt_gen.core.graph import TRAIN
from prototxt_gen.core.io import dumps, loads
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.spec.infer import infer
from prototxt_gen.spec.lean import SHARING
from prototxt_gen.spec.memory import memory
from prototxt_gen.spec.rules import CAFFE, OWN
from prototxt_gen.train import caffe

SOLVER = """train_net: "{net}" type: "Nesterov" momentum: 0.9 base_lr: 0.01 lr_policy: "fixed" max_iter: 99
solver_mode: CPU random_seed: 1 snapshot_after_train: false"""
# Data by DummyData: drawn anew at every pass, the same for every mode.
DATA = """layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
  shape {{ dim: {batch} dim: 3 dim: {size} dim: {size} }} shape {{ dim: {batch} }}
  data_filler {{ type: "gaussian" std: 50 }} data_filler {{ type: "constant" value: 1 }} }} }}
"""
CHILD = r"""
import hashlib, re, resource, sys, time
import caffe._caffe as caffe
caffe.set_mode_cpu()
start = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
solver = caffe.get_solver(sys.argv[1])
for _ in sys.stdin:
    began = time.perf_counter()
    solver.step(1)
    took = time.perf_counter() - began
    peak = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1)) * 1024 - start
    digest = hashlib.sha256()
    for blobs in dict(zip(solver.net._layer_names, solver.net.layers)).values():
        for blob in blobs.blobs:
            digest.update(bytes(memoryview(blob.data).cast("B")) + bytes(memoryview(blob.diff).cast("B")))
    print(took, peak, digest.hexdigest(), flush=True)
"""


def start(mode: str, solver: Path, root: Any) -> Any:
    environment = {**caffe.child_environment(root), "PROTOTXT_GEN_MEMORY": mode, "GLOG_minloglevel": "2"}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(solver)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True, bufsize=1, env=environment)


def _modes(context: click.Context, option: click.Parameter, value: str) -> List[str]:
    modes = value.split(",")
    if not set(modes) <= set(SHARING):
        raise click.BadParameter(f"'{value}' is not a list of {', '.join(SHARING)}")
    return modes


@click.command(cls=Bench, help=__doc__)
@click.option("--net", "name", type=click.Choice(list(NETWORKS)), default="attention56", show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--modes", default=",".join(SHARING), show_default=True, callback=_modes)
def main(name: str, batch: int, rounds: int, modes: List[str]) -> None:
    net = build(NETWORKS[name], batch_size=batch).net
    body = type(net)(name=net.name, layer=[layer for layer in net.layer if layer.bottom])
    root = caffe.find(os.environ.get("CAFFE_ROOT"))
    with tempfile.TemporaryDirectory() as folder:
        text = DATA.format(batch=batch, size=NETWORKS[name].input_size) + dumps(body)
        Path(folder, "net.prototxt").write_text(text)
        solver = Path(folder, "solver.prototxt")
        solver.write_text(SOLVER.format(net=Path(folder, "net.prototxt")))
        children = {mode: start(mode, solver, root) for mode in modes}
        times: Dict[str, List[float]] = {mode: [] for mode in modes}
        peaks: Dict[str, int] = {}
        seen: Dict[str, Any] = {mode: hashlib.sha256() for mode in modes}
        for _ in range(rounds):
            for mode, child in children.items():
                child.stdin.write("step\n")
                took, peak, digest = child.stdout.readline().split()
                times[mode].append(float(took))
                peaks[mode] = int(peak)
                seen[mode].update(digest.encode())
        for child in children.values():
            child.stdin.close()
            child.wait()
    info = infer(loads(text, type(net)), TRAIN)
    same = "equal" if len({one.hexdigest() for one in seen.values()}) == 1 else "DIFFERENT"
    click.echo(f"{name}, batch {batch}, {rounds} rounds" + f"; gradients and parameters {same}" * (len(modes) > 1))
    for mode in modes:
        ratio = statistics.median(one / first for one, first in zip(times[mode], times[modes[0]]))
        estimate = memory(info, sharing=mode).held(OWN if root.runs_own_engines else CAFFE)
        click.echo(f"{mode:7} {peaks[mode] / 1e6:7.0f} MB peak, estimate {estimate / 1e6:6.0f} MB; "
                   f"{statistics.median(times[mode]):7.3f} s a step, {ratio:.2f} x {modes[0]}")


if __name__ == "__main__":
    main()
