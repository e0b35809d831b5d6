"""Runs every recorded case in pycaffe: python recorded.py CASES_FOLDER OUTPUT.npz

Same names in the output as in the recordings: ``case/it0_y`` and so on.
"""

import json
import sys
import tempfile
from pathlib import Path

import caffe
import numpy as np


def load_net(prototxt, phase):
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(prototxt)
        file.flush()
        return caffe.Net(file.name, getattr(caffe, phase))


def run_bn(case, told):
    net = load_net(case["prototxt"], case["phase"])
    blobs, top = net.params["bn"], net.blobs[net.outputs[0]]
    out = {"default_blob_shapes": np.array([blob.data.shape for blob in blobs])}
    for i, blob in enumerate(blobs):
        out[f"default_blob{i}"] = blob.data.ravel().copy()
        blob.data[...] = told[f"init_blob{i}"].reshape(blob.data.shape)
    for it in range(case["iters"]):
        net.blobs["x"].data[...] = told[f"it{it}_x"]
        net.forward()
        out[f"it{it}_y"] = top.data.copy()
        for i, blob in enumerate(blobs):
            out[f"it{it}_blob{i}_after_fwd"] = blob.data.ravel().copy()
            blob.diff[...] = 7 if i > 1 else 0
        top.diff[...] = told[f"it{it}_dy"]
        net.backward()
        out[f"it{it}_dx"] = net.blobs["x"].diff.copy()
        for i, blob in enumerate(blobs):
            out[f"it{it}_dblob{i}"] = blob.diff.ravel().copy()
    return out


def run_interp(case, told):
    net = load_net(case["prototxt"], "TRAIN")
    net.blobs["x"].data[...] = told["x"]
    if "r" in net.blobs:
        net.blobs["r"].diff[...] = 55
    net.forward()
    out = {"y": net.blobs["y"].data.copy()}
    net.blobs["y"].diff[...] = told["dy"]
    net.backward()
    out["dx"] = net.blobs["x"].diff.copy()
    if "r" in net.blobs:
        out["ref_diff_after"] = net.blobs["r"].diff.copy()
    return out


def main(folder, output):
    cases = json.loads((folder / "cases.json").read_text())
    results = {}
    for kind, run in (("bn", run_bn), ("interp", run_interp)):
        recorded = np.load(folder / f"{kind}.npz")
        for name, case in cases[kind].items():
            told = {key.partition("/")[2]: recorded[key] for key in recorded.files if key.startswith(f"{name}/")}
            results.update({f"{kind}/{name}/{key}": value for key, value in run(case, told).items()})
    np.savez(output, **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
