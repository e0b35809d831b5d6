"""Load nets in real Caffe, each in a forked process since a failed CHECK ends it: shapes of blobs and parameters.

Arguments: a JSON file with a list of {"net": prototxt text, "phase": 0 or 1, "stages": [], "folder": path}, and the
file for the answers: {"types": all layer types, "nets": [answer]}, each {"blobs": {name: shape}, "params": {layer:
[shapes]}}, or null where Caffe ended.
"""

import json
import os
import sys
import tempfile
import types

# caffe.io is left out: it brings image libraries that no test here needs and that take longest to load.
sys.modules["caffe.io"] = types.ModuleType("caffe.io")
import caffe  # noqa: E402


def load(job):
    os.chdir(job["folder"])
    sys.path.insert(0, job["folder"])  # Python layers
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(job["net"])
        file.flush()
        net = caffe.Net(file.name, job["phase"], stages=job["stages"])
    return {"blobs": {name: list(blob.shape) for name, blob in net.blobs.items()},
            "params": {name: [list(blob.shape) for blob in blobs] for name, blobs in net.params.items()}}


def load_in_child(job):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        with os.fdopen(write_end, "w") as pipe:
            json.dump(load(job), pipe)
        os._exit(0)  # a data layer's thread may still read
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        answer = pipe.read()
    failed = os.waitpid(child, 0)[1] != 0
    return None if failed else json.loads(answer)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    found = {"types": list(caffe.layer_type_list()), "nets": list(map(load_in_child, jobs))}
    with open(sys.argv[2], "w") as file:
        json.dump(found, file)
