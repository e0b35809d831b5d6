"""The child process of a test: ``python -m prototxt_gen.train.testing_child FOLDER FD``.

FOLDER holds ``net.prototxt``, ``weights.caffemodel`` and ``job.json``: the blobs ``input`` and ``scores``, and ``gpu``.
Batches come on standard input as float32 of the input's shape, scores go back on FD as float32, batch by batch.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from prototxt_gen.train.caffe_child import load_caffe


def main(folder: str, descriptor: str) -> None:
    """Run the net on every batch that comes, until there are no more."""
    import numpy as np

    place = Path(folder)
    job = json.loads((place / "job.json").read_text())
    caffe = load_caffe(job["gpu"])
    net = caffe.Net(str(place / "net.prototxt"), 1, weights=str(place / "weights.caffemodel"))
    blobs = dict(zip(net._blob_names, net._blobs))
    images, scores = blobs[job["input"]], blobs[job["scores"]]
    size = images.count * 4
    with os.fdopen(int(descriptor), "wb") as results:
        while True:
            data = sys.stdin.buffer.read(size)
            if len(data) < size:
                return
            images.data[...] = np.frombuffer(data, np.float32).reshape(images.data.shape)
            net._forward(0, len(net.layers) - 1)
            results.write(np.ascontiguousarray(scores.data).tobytes())
            results.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
