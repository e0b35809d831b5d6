"""Models as pycaffe runs them, many in one child process."""

import json
from pathlib import Path

import numpy as np
import pytest

from prototxt_gen.core.graph import TEST

SCRIPT = Path(__file__).with_name("run_nets.py")
PAIRS = Path(__file__).with_name("caffe_pairs.py")


@pytest.fixture(scope="session")
def run_in_caffe(run_caffe_python, tmp_path_factory):
    """Run (model, inputs) pairs; return a pair for each: the final value of every blob, and the layers' parameters."""

    def run(pairs, phase=TEST):
        folder = tmp_path_factory.mktemp("caffe_runs")
        jobs, arrays = [], {}
        for number, (model, inputs) in enumerate(pairs):
            jobs.append({"net": model.dumps(), "phase": phase, "inputs": list(inputs),
                         "weights": {name: len(blobs) for name, blobs in model.blobs.items()}})
            arrays.update({f"{number}/inputs/{name}": array for name, array in inputs.items()})
            arrays.update({f"{number}/weights/{i}/{layer}": blob
                           for layer, blobs in model.blobs.items() for i, blob in enumerate(blobs)})
        (folder / "jobs.json").write_text(json.dumps(jobs))
        np.savez(folder / "arrays.npz", **arrays)
        run_caffe_python(SCRIPT, folder / "jobs.json", folder / "arrays.npz", folder / "results.npz")
        found = [({}, {}) for _ in jobs]
        with np.load(folder / "results.npz") as results:
            for key in results.files:
                number, kind, name = key.split("/", 2)
                if kind == "blobs":
                    found[int(number)][0][name] = results[key]
                else:
                    position, layer = name.split("/", 1)
                    found[int(number)][1].setdefault(layer, {})[int(position)] = results[key]
        return found

    return run


@pytest.fixture
def caffe_pairs(run_caffe_python, tmp_path):
    """Run pairs of nets as caffe_pairs.py wants them; return what it found of each."""

    def run(jobs):
        (tmp_path / "jobs.json").write_text(json.dumps(jobs))
        run_caffe_python(PAIRS, tmp_path / "jobs.json", tmp_path / "found.json")
        return json.loads((tmp_path / "found.json").read_text())

    return run
