"""Run nets in real Caffe: python onnx_caffe_child.py JOBS.npz OUT.npz

JOBS holds, for each net i: ``i/net`` (prototxt), ``i/input/NAME`` and ``i/blob/LAYER/INDEX``. OUT holds every blob as
``i/NAME``. An input of another batch than the net's makes the net take that batch.
"""

import sys
import tempfile

import caffe
import numpy as np


def main(jobs, output):
    jobs, found = np.load(jobs), {}
    keys = {}
    for key in jobs.files:
        number, _, rest = key.partition("/")
        keys.setdefault(number, []).append(rest)
    for number, parts in keys.items():
        with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
            file.write(str(jobs[f"{number}/net"]))
            file.flush()
            net = caffe.Net(file.name, caffe.TEST)
        for part in parts:
            kind, _, name = part.partition("/")
            values = jobs[f"{number}/{part}"]
            if kind == "blob":
                layer, _, index = name.rpartition("/")
                net.params[layer][int(index)].data[...] = values
            elif kind == "input":
                net.blobs[name].reshape(*values.shape)
                net.blobs[name].data[...] = values
        net.reshape()
        net.forward()
        found.update({f"{number}/{name}": blob.data.copy() for name, blob in net.blobs.items()})
    np.savez(output, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
