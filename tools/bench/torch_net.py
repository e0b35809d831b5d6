"""A net in PyTorch, from layers that ``nets.py`` describes: python torch_net.py LAYERS.json plain|channels-last

LAYERS.json holds the layers in order: name, type, bottoms, tops, the shapes of both, of the parameters, and ``fields``,
the layer's own parameter message as plain data. Needs torch alone. Speaks as every child of ``nets.py`` does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
from torch.nn import functional


def pair(fields: Dict[str, Any], name: str, short: str, default: int) -> List[int]:
    """Return a height and a width from Caffe's ways to give them."""
    if f"{short}_h" in fields or f"{short}_w" in fields:
        return [fields.get(f"{short}_h", default), fields.get(f"{short}_w", default)]
    given = fields.get(name, default)
    values = given if isinstance(given, list) else [given]
    return [*values, *values][:2] if values else [default] * 2


def convolution(layer: Dict[str, Any]) -> torch.nn.Module:
    fields = layer["fields"]
    return torch.nn.Conv2d(
        layer["bottom_shapes"][0][1], fields["num_output"], pair(fields, "kernel_size", "kernel", 1),
        pair(fields, "stride", "stride", 1), pair(fields, "pad", "pad", 0), pair(fields, "dilation", "dilation", 1),
        fields.get("group", 1), fields.get("bias_term", True))


def pooling(layer: Dict[str, Any]) -> Callable[..., Any]:
    fields = layer["fields"]
    if fields.get("global_pooling"):
        return lambda x: functional.adaptive_avg_pool2d(x, 1)
    kernel, stride, pad = pair(fields, "kernel_size", "kernel", 1), pair(fields, "stride", "stride", 1), pair(
        fields, "pad", "pad", 0)
    if fields.get("pool", "MAX") == "MAX":
        return lambda x: functional.max_pool2d(x, kernel, stride, pad, ceil_mode=True)
    return lambda x: functional.avg_pool2d(x, kernel, stride, pad, ceil_mode=True)


def eltwise(layer: Dict[str, Any]) -> Callable[..., Any]:
    if layer["fields"].get("coeff") or layer["fields"].get("operation") == "MAX":
        sys.exit(f"layer '{layer['name']}': torch_net.py knows sums without coefficients, and products")

    def run(*x: torch.Tensor) -> torch.Tensor:
        result = x[0]
        for one in x[1:]:
            result = result * one if layer["fields"].get("operation", "SUM") == "PROD" else result + one
        return result

    return run


def interp(layer: Dict[str, Any]) -> Callable[..., Any]:
    size = layer["top_shapes"][0][2:]
    return lambda x, *_: functional.interpolate(x, size, mode="bilinear", align_corners=True)


MAKERS: Dict[str, Callable[[Dict[str, Any]], Callable[..., Any]]] = {
    "Convolution": convolution,
    # Momentum is the share of the new batch here, of the old average in Caffe.
    "BN": lambda layer: torch.nn.BatchNorm2d(layer["bottom_shapes"][0][1], layer["fields"].get("eps", 1e-5),
                                             1 - layer["fields"].get("momentum", 0.9)),
    "ReLU": lambda layer: torch.nn.ReLU(inplace=layer["bottoms"] == layer["tops"]),
    "Sigmoid": lambda layer: torch.sigmoid,
    "Pooling": pooling,
    "Eltwise": eltwise,
    "Interp": interp,
    "Split": lambda layer: lambda x: (x,) * len(layer["tops"]),
    "InnerProduct": lambda layer: torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(layer["params"][0][1], layer["fields"]["num_output"])),
    "SoftmaxWithLoss": lambda layer: lambda x, label: functional.cross_entropy(x, label),
}


class Net(torch.nn.Module):
    """The layers one after another, blobs by name."""

    def __init__(self, layers: List[Dict[str, Any]]) -> None:
        super().__init__()
        self.layers = []
        for layer in layers:
            if layer["type"] not in MAKERS:
                sys.exit(f"layer '{layer['name']}' has the type '{layer['type']}', which torch_net.py does not know")
            run = MAKERS[layer["type"]](layer)
            if isinstance(run, torch.nn.Module):
                self.add_module(layer["name"].replace(".", "_"), run)
            self.layers.append((layer["bottoms"], layer["tops"], run))

    def forward(self, blobs: Dict[str, torch.Tensor]) -> torch.Tensor:
        blobs = dict(blobs)
        left = {}
        for index, (bottoms, _, _) in enumerate(self.layers):
            left.update(dict.fromkeys(bottoms, index))
        for index, (bottoms, tops, run) in enumerate(self.layers):
            made = run(*(blobs[name] for name in bottoms))
            for name in bottoms:
                if left[name] == index:
                    blobs.pop(name, None)
            blobs.update(zip(tops, made if isinstance(made, tuple) else (made,)))
        return made


def main(path: str, layout: str) -> None:
    described = json.loads(Path(path).read_text())
    torch.manual_seed(0)
    blobs = {}
    layers = []
    for layer in described:
        if layer["type"] == "Input":
            for name, shape in zip(layer["tops"], layer["top_shapes"]):
                blobs[name] = torch.randn(shape) if len(shape) == 4 else torch.arange(shape[0])
        elif layer["type"] not in ("Accuracy", "Silence"):
            layers.append(layer)
    net = Net(layers)
    if layout == "channels-last":
        net = net.to(memory_format=torch.channels_last)
        blobs = {name: blob.contiguous(memory_format=torch.channels_last) if blob.dim() == 4 else blob
                 for name, blob in blobs.items()}
    trains = layers[-1]["type"].endswith("Loss")
    net.train(trains)
    for line in sys.stdin:
        if line.startswith("memory"):
            status = Path("/proc/self/status").read_text()
            print(int(status.partition("VmHWM:")[2].split()[0]) * 1024, flush=True)
            continue
        net.zero_grad(set_to_none=False)
        start = time.perf_counter()
        if line.startswith("step"):
            net(blobs).backward()
        else:
            with torch.no_grad():
                net(blobs)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
