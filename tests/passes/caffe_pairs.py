"""Run pairs of nets in real Caffe, with the same weights and inputs, and tell how far their blobs lie apart.

Arguments: a JSON file with a list of {"a": text, "b": text, "phase_a": 0 or 1, "phase_b": 0 or 1, "layers": {name in a:
name in b}, "blobs": {name in a: name in b}}, and the file for the answers: [{"apart": {blob of b: largest difference by
the largest value}, "outputs_a": [], "outputs_b": [], "shapes": {blob of b: shape}}]. Names that no map holds are the
same in both. Inputs of ``a`` are drawn; those of ``b`` get what stands in ``a``, and its shape.
"""

import json
import sys
import tempfile
import types

# caffe.io is left out: it brings image libraries that no test here needs and that take longest to load.
sys.modules["caffe.io"] = types.ModuleType("caffe.io")
import caffe  # noqa: E402
import numpy  # noqa: E402


def load(text, phase):
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text)
        file.flush()
        return caffe.Net(file.name, phase)


def run(job):
    a, b = load(job["a"], job["phase_a"]), load(job["b"], job["phase_b"])
    layers, blobs = job.get("layers", {}), job.get("blobs", {})
    random = numpy.random.RandomState(0)
    for name, params in a.params.items():
        for index, blob in enumerate(params):
            values = random.uniform(0.5, 1.5, blob.data.shape) if index > 1 or blob.data.ndim < 2 else (
                random.standard_normal(blob.data.shape) / numpy.sqrt(max(1, blob.data[0].size)))
            blob.data[...] = values
            if layers.get(name, name) in b.params:
                b.params[layers.get(name, name)][index].data[...] = blob.data
    for name in a.inputs:
        a.blobs[name].data[...] = random.standard_normal(a.blobs[name].data.shape)
    a.forward()
    back = {new: old for old, new in blobs.items()}
    for name in b.inputs:
        values = a.blobs[back.get(name, name)].data
        b.blobs[name].reshape(*values.shape)
        b.blobs[name].data[...] = values
    b.reshape()
    b.forward()
    apart = {}
    for name, blob in a.blobs.items():
        name = blobs.get(name, name)
        if name in b.blobs and b.blobs[name].data.shape == blob.data.shape:
            scale = max(1e-6, float(numpy.abs(blob.data).max(initial=0)))
            apart[name] = float(numpy.abs(blob.data - b.blobs[name].data).max(initial=0)) / scale
    return {"apart": apart, "outputs_a": list(a.outputs), "outputs_b": list(b.outputs),
            "shapes": {name: list(blob.data.shape) for name, blob in b.blobs.items()}}


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    found = list(map(run, jobs))
    with open(sys.argv[2], "w") as file:
        json.dump(found, file)
