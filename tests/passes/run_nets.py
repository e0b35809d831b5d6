"""Run nets in real Caffe: python run_nets.py JOBS.json ARRAYS.npz OUTPUT.npz

JOBS holds {"net": prototxt text, "phase": 0 or 1, "weights": {layer: number of blobs}, "inputs": [blob]} for each
net i; ARRAYS "i/weights/<n>/<layer>" and "i/inputs/<blob>". OUTPUT gets the final "i/blobs/<blob>" after one forward
pass, and "i/params/<n>/<layer>" as they are then.
"""

import json
import sys
import tempfile
import types

# caffe.io is left out: it brings image libraries that no test here needs and that take longest to load.
sys.modules["caffe.io"] = types.ModuleType("caffe.io")
import caffe  # noqa: E402
import numpy as np  # noqa: E402


def run(number, job, arrays):
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(job["net"])
        file.flush()
        net = caffe.Net(file.name, job["phase"])
    for layer, blobs in net.params.items():
        if job["weights"].get(layer, 0) != len(blobs):
            sys.exit(f"net {number}: layer '{layer}' has {len(blobs)} blobs, not {job['weights'].get(layer, 0)}")
        for i, blob in enumerate(blobs):
            blob.data[...] = arrays[f"{number}/weights/{i}/{layer}"]
    for name in job["inputs"]:
        net.blobs[name].data[...] = arrays[f"{number}/inputs/{name}"]
    net.forward()
    yield from ((f"{number}/blobs/{name}", blob.data.copy()) for name, blob in net.blobs.items())
    for layer, blobs in net.params.items():
        yield from ((f"{number}/params/{i}/{layer}", blob.data.copy()) for i, blob in enumerate(blobs))


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    with np.load(sys.argv[2]) as given:
        results = dict(pair for number, job in enumerate(jobs) for pair in run(number, job, given))
    np.savez(sys.argv[3], **results)
