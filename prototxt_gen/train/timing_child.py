"""The child process of a timing: ``python -m prototxt_gen.train.timing_child FOLDER FD``.

FOLDER holds ``net.prototxt``, ``product.prototxt`` and ``copy.prototxt`` (the nets whose one layer is the machine's
measure), weights or none, and ``job.json``. FD gets a JSON document a line: the measures, each iteration, the layers.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

from prototxt_gen.train.caffe_child import load_caffe

MEASURES = 9  # forward passes of a measure; the fastest tells what the machine can do
DROPPED = 2  # iterations before those that count: Caffe allocates on the way


def main(folder: str, descriptor: str) -> None:
    """Measure the machine, then the net, layer by layer."""
    place = Path(folder)
    job = json.loads((place / "job.json").read_text())
    caffe = load_caffe(job["gpu"])
    wait = _waiter() if job["gpu"] is not None else lambda: None
    with os.fdopen(int(descriptor), "w", buffering=1) as results:

        def tell(**values: Any) -> None:
            results.write(json.dumps(values) + "\n")

        tell(**{f"{name}_s": _measure(caffe, place / f"{name}.prototxt", wait) for name in ("product", "copy")})
        weights = place / "weights.caffemodel"
        given = {"weights": str(weights)} if weights.exists() else {}
        net = caffe.Net(str(place / "net.prototxt"), job["phase"], **given)
        _fill(net, job["classes"])
        count = len(net.layers)
        forward: List[List[float]] = [[] for _ in range(count)]
        backward: List[List[float]] = [[] for _ in range(count)]
        for number in range(DROPPED + job["iterations"]):
            for index in range(count):
                forward[index].append(_seconds(lambda: net._forward(index, index), wait))
            for index in reversed(range(count)) if job["backward"] else ():
                backward[index].append(_seconds(lambda: net._backward(index, index), wait))
            net.clear_param_diffs()
            tell(iteration=number + 1)
        tell(
            names=list(net._layer_names),
            forward_s=[statistics.median(one[DROPPED:]) for one in forward],
            backward_s=[statistics.median(one[DROPPED:]) if one else 0.0 for one in backward],
        )


def _seconds(work: Callable[[], Any], wait: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def _measure(caffe: Any, path: Path, wait: Callable[[], Any]) -> float:
    """Return the seconds of the fastest forward pass of the last layer of a net."""
    import numpy as np

    net = caffe.Net(str(path), 1)
    for blob in [net._blobs[0], *(blob for layer in net.layers for blob in layer.blobs)]:
        blob.data[...] = np.random.RandomState(1).standard_normal(blob.data.shape)
    last = len(net.layers) - 1
    return min(_seconds(lambda: net._forward(last, last), wait) for _ in range(MEASURES))


def _fill(net: Any, classes: Dict[str, int]) -> None:
    """Fill the inputs: labels with classes in turn, all else with a standard normal draw."""
    import numpy as np

    random = np.random.RandomState(1)
    blobs = dict(zip(net._blob_names, net._blobs))
    for name in (net._blob_names[index] for index in net._inputs):
        values = blobs[name].data
        if name in classes:
            values[...] = np.arange(values.size).reshape(values.shape) % classes[name]
        else:
            values[...] = random.standard_normal(values.shape)


def _waiter() -> Callable[[], Any]:
    """Return cudaDeviceSynchronize of the CUDA that Caffe has loaded: without it only the start of work is timed."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if os.path.basename(path).startswith("libcudart."):
            return ctypes.CDLL(path).cudaDeviceSynchronize
    raise RuntimeError("Caffe is linked with a CUDA whose end of work cannot be waited for")


if __name__ == "__main__":
    main(*sys.argv[1:])
