#!/usr/bin/env python3
"""Whole nets, one step of training (forward and backward) and forward alone: ours, stock layers, the fork, PyTorch.

``stock`` is the same Caffe with its own engines and BatchNorm + Scale in place of BN; ``fork-like`` has its own engines
and BN and Interp in the manner of the authors' fork (layers of the benches alone). PyTorch runs the same net, made from
the same prototxt, in its default layout and in channels-last, where --torch names a Python that has it. Each runs in a
process of its own, in turn, paired by round. The floor is the net's multiply-adds (three times as many in a step as
forward) at the rate of a matrix product in numpy, measured in each round. Memory is the peak resident set of a process
that has done one step. Without a NET there are two: attention56 and attentionnext56. --beside measures the same while
another process keeps one core busy.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import click
from bench_command import Bench, with_torch
from google.protobuf.json_format import MessageToDict
from reference_layers import compiled

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.io import Model, read_model, write_text
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.base import registry
from prototxt_gen.train import caffe as caffes
from prototxt_gen.train import timing

# Messages in which a layer can ask for Caffe's own engine; Eltwise and Split have the environment's.
STOCK_ENGINES = ("convolution_param", "pooling_param", "relu_param", "sigmoid_param")
STOCK = {"PROTOTXT_GEN_ENGINE": "caffe"}
# Reads 'step', 'forward' or 'memory' a line, answers with seconds or bytes.
SERVER = """
import ctypes, sys, time, types
sys.modules["caffe.io"] = types.ModuleType("caffe.io")
import caffe
import numpy as np
for library in sys.argv[2:]:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
net = caffe.Net(sys.argv[1], caffe.TRAIN)
for name in net.inputs:
    values = net.blobs[name].data
    drawn = np.random.RandomState(1).standard_normal(values.shape)
    values[...] = drawn if values.ndim == 4 else np.arange(values.size).reshape(values.shape)
for line in sys.stdin:
    if line.startswith("memory"):
        print(int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) * 1024, flush=True)
        continue
    net.clear_param_diffs()
    start = time.perf_counter()
    net.forward()
    if line.startswith("step"):
        net.backward()
    print(time.perf_counter() - start, flush=True)
"""
PRODUCT = """
import sys, time
import numpy as np
a = np.ones((2048, 2048), "f4")
for line in sys.stdin:
    start = time.perf_counter()
    a @ a
    print(time.perf_counter() - start, flush=True)
"""
PRODUCT_MACS = 2048 ** 3


class Server:
    """A child process that answers each word with a number."""

    def __init__(self, command: List[str], environment: Optional[Dict[str, str]] = None) -> None:
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                      env={**os.environ, **(environment or {})})

    def ask(self, word: str) -> float:
        self.child.stdin.write(f"{word}\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        if not answer:
            raise click.ClickException(f"{self.child.args[:3]} ended with {self.child.wait()}")
        return float(answer)

    def end(self) -> None:
        self.child.stdin.close()
        self.child.wait()


@click.command(cls=Bench, help=__doc__)
@click.argument("nets", nargs=-1, metavar="[NET...]")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--torch", "python", metavar="PYTHON", type=click.Path(exists=True, dir_okay=False),
              callback=with_torch, help="A Python that has PyTorch.")
@click.option("--no-stock", is_flag=True, help="Leave stock layers out.")
@click.option("--no-fork", is_flag=True, help="Leave the layers in the manner of the fork out.")
@click.option("--beside", is_flag=True, help="Keep one core busy with another process.")
@click.option("--caffe", "roots", multiple=True, metavar="DIR", help="Another Caffe to compare; may be repeated.")
def main(nets: Tuple[str, ...], batch_size: int, rounds: int, python: Optional[str], no_stock: bool, no_fork: bool,
         beside: bool, roots: Tuple[str, ...]) -> None:
    spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            for net in nets or ("attention56", "attentionnext56"):
                _bench(net, Path(folder), batch_size, rounds, python, not no_stock, not no_fork, roots)
    finally:
        if spinner:
            spinner.kill()


def _model(net: str) -> Model:
    if net in NETWORKS:
        return build(NETWORKS[net])
    return read_model(net, DEFAULT_DIALECT)


def _bench(net: str, folder: Path, batch_size: int, rounds: int, python: Optional[str], stock: bool, fork: bool,
           roots: Tuple[str, ...]) -> None:
    ours, others = caffes.find(), [caffes.find(root) for root in roots]
    job = timing.plan(_model(net), ours, batch_size=batch_size, where=net)
    product = Server([sys.executable, "-c", PRODUCT])
    servers = dict(_servers(job, ours, others, folder, python, stock, fork))
    memory, seconds, rates = {}, {name: {"step": [], "forward": []} for name in servers}, []
    for name, server in servers.items():
        server.ask("step")
        memory[name] = server.ask("memory")
        server.ask("forward")
    for _ in range(rounds):
        rates.append(PRODUCT_MACS / min(product.ask("") for _ in range(3)))
        for word in ("step", "forward"):
            for name, server in servers.items():
                seconds[name][word].append(server.ask(word))
    for server in (product, *servers.values()):
        server.end()
    rate = statistics.median(rates)
    click.echo(f"{net}, batch {batch_size}: {job.info.macs / 1e9:.2f} GMAC forward, {2 * rate / 1e9:.0f} GFLOP/s in a "
               f"product: floor {job.info.macs / rate * 1e3:.0f} ms forward, {3 * job.info.macs / rate * 1e3:.0f} ms "
               "a step")
    base = next(iter(servers))
    click.echo(f"{'':24} {'forward ms':>11} {'x ours':>7} {'step ms':>9} {'x ours':>7} {'of floor':>9} {'peak MB':>8}")
    for name, taken in seconds.items():
        cells = []
        for word in ("forward", "step"):
            ratio = statistics.median(one / other for one, other in zip(taken[word], seconds[base][word]))
            cells.append((statistics.median(taken[word]) * 1e3, ratio))
        share = 3 * job.info.macs / rate / cells[1][0] * 1e3
        click.echo(f"{name:24} {cells[0][0]:11.0f} {cells[0][1]:7.2f} {cells[1][0]:9.0f} {cells[1][1]:7.2f} "
                   f"{share:9.0%} {memory[name] / 1e6:8.0f}")


def _servers(job: Any, ours: Any, others: List[Any], folder: Path, python: Optional[str], stock: bool,
             fork: bool) -> Iterator[Tuple[str, Server]]:
    """Yield each competitor's name and its process."""
    def served(caffe: Any, model: Model, *libraries: str, **variables: str) -> Server:
        file, path = tempfile.mkstemp(".prototxt", dir=folder)
        os.close(file)
        write_text(path, model.dumps())
        environment = {**caffes.child_environment(caffe), "GLOG_minloglevel": "2", **variables}
        return Server([sys.executable, "-c", SERVER, path, *libraries], environment)

    yield "ours", served(ours, job.model)
    for other in others:
        yield str(other.root)[-24:], served(other, job.model)
    if stock:
        yield "stock layers", served(ours, _stock(registry.find("split-bn")(job.model).model), **STOCK)
    if fork:
        yield "fork-like layers", served(ours, _fork_like(job.model), str(compiled(ours.root)), **STOCK)
    if python:
        layers = folder / "layers.json"
        layers.write_text(json.dumps([_described(one) for one in job.info.layers]))
        for layout in ("plain", "channels-last"):
            script = str(Path(__file__).with_name("torch_net.py"))
            yield f"PyTorch, {layout}", Server([python, script, str(layers), layout], {"PYTHONPATH": ""})


def _stock(model: Model) -> Model:
    """Return a net whose layers ask for Caffe's own engines."""
    net = type(model.net)()
    net.CopyFrom(model.net)
    for layer in net.layer:
        for field in STOCK_ENGINES:
            if layer.HasField(field):
                param = getattr(layer, field)
                param.engine = param.CAFFE
    return Model(net, model.dialect, model.blobs)


def _fork_like(model: Model) -> Model:
    model = _stock(registry.find("fix-interp")(model).model)
    for layer in model.net.layer:
        if layer.type in ("BN", "Interp"):
            layer.type = f"Reference{layer.type}"
    return model


def _described(info: Any) -> Dict[str, Any]:
    fields = {}
    for descriptor, value in info.layer.ListFields():
        if descriptor.name.endswith("_param") and descriptor.name != "transform_param":
            fields.update(MessageToDict(value, preserving_proto_field_name=True))
    return {
        "name": info.name, "type": info.type, "bottoms": info.bottoms, "tops": info.tops, "fields": fields,
        "bottom_shapes": info.bottom_shapes, "top_shapes": info.top_shapes,
        "params": [param.shape for param in info.params],
    }


if __name__ == "__main__":
    main()
