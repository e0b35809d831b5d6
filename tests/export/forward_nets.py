"""Run nets in pycaffe: python forward_nets.py JOBS.json ARRAYS.npz OUTPUT.npz

JOBS holds a list of [prototxt, phase]; ARRAYS has ``<job>/input/<blob>`` and ``<job>/blob/<layer>/<number>``;
OUTPUT gets ``<job>/<blob>`` for all blobs.
"""

import json
import sys
import tempfile
import types

# caffe.io is left out: it brings image libraries that no test here needs and that take longest to load.
sys.modules["caffe.io"] = types.ModuleType("caffe.io")
import caffe  # noqa: E402
import numpy as np  # noqa: E402


def run(text, phase, arrays):
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text)
        file.flush()
        net = caffe.Net(file.name, phase)
    for key, array in arrays.items():
        kind, _, name = key.partition("/")
        if kind == "input":
            net.blobs[name].data[...] = array
        else:
            layer, _, number = name.rpartition("/")
            net.params[layer][int(number)].data[...] = array
    net.forward()
    return {name: blob.data.copy() for name, blob in net.blobs.items()}


def main(jobs, arrays, output):
    told, results = np.load(arrays), {}
    by_job = {}
    for key in told.files:
        number, _, name = key.partition("/")
        by_job.setdefault(int(number), {})[name] = told[key]
    with open(jobs) as file:
        for number, (text, phase) in enumerate(json.load(file)):
            out = run(text, phase, by_job.get(number, {}))
            results.update({f"{number}/{name}": array for name, array in out.items()})
    np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
