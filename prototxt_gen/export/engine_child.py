"""The child process in which an engine runs a net: ``python -m prototxt_gen.export.engine_child ENGINE FOLDER``.

FOLDER holds what ``export.engines`` wrote: ``job.json``, the net, its weights, and the inputs as ``in<i>.npy``. The
outcome goes back as ``out.json`` (the names of the blobs in order) and ``out<i>.npy``; what this project itself refuses
as ``error.json``. A process of its own, because
Caffe aborts on what it refuses, and because engines bring libraries that get on badly in one process.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any, Dict, List

from prototxt_gen.core.errors import Error

REFUSED = 9  # the exit code that goes with error.json


def main(engine: str, folder: str) -> int:
    """Run the job in ``folder``, leave the outcome there, and return the exit code."""
    import numpy as np

    place = Path(folder)
    job = json.loads((place / "job.json").read_text())
    inputs = {name: np.load(place / f"in{i}.npy") for i, name in enumerate(job["inputs"])}
    try:
        blobs = ENGINES[engine](place, job, inputs)
    except Error as error:
        (place / "error.json").write_text(json.dumps({"what": error.what, "where": error.where, "hint": error.hint}))
        return REFUSED
    for i, values in enumerate(blobs.values()):
        np.save(place / f"out{i}.npy", values)
    (place / "out.json").write_text(json.dumps(list(blobs)))
    return 0


def run_caffe(place: Path, job: Dict[str, Any], inputs: Dict[str, Any]) -> Dict[str, Any]:
    """Run Caffe through the compiled half of pycaffe: its Python half imports packages that are not needed here."""
    import importlib.util

    folder = next(iter(importlib.util.find_spec("caffe").submodule_search_locations))
    package = types.ModuleType("caffe")
    package.__path__ = [folder]
    sys.modules["caffe"] = package
    from caffe import _caffe

    net = _caffe.Net(str(place / "net.prototxt"), 1, weights=str(place / "weights.caffemodel"))
    blobs = dict(zip(net._blob_names, net._blobs))
    for name, values in inputs.items():
        blobs[name].reshape(*values.shape)
        blobs[name].data[...] = values
    net._forward(0, len(net.layers) - 1)
    return {name: blobs[name].data for name in job["blobs"] if name in blobs}


def run_numpy(place: Path, job: Dict[str, Any], inputs: Dict[str, Any]) -> Dict[str, Any]:
    """Run the numpy forward, in float64: the judge."""
    from prototxt_gen.core.caffemodel import read_weights, with_weights
    from prototxt_gen.core.io import read_model
    from prototxt_gen.export.reference import forward

    model = read_model(str(place / "net.prototxt"))
    model, _ = with_weights(model, read_weights(str(place / "weights.caffemodel")))
    blobs = forward(model, inputs, dtype="float64")
    return {name: blobs[name] for name in job["blobs"] if name in blobs}


def run_onnx(place: Path, job: Dict[str, Any], inputs: Dict[str, Any]) -> Dict[str, Any]:
    """Run onnxruntime with every wanted blob as an output of the graph."""
    import onnx
    import onnxruntime

    model = onnx.load(str(place / "model.onnx"))
    outputs = {one.name for one in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name]
    wanted: List[str] = [name for name in made if name in job["blobs"] or name in outputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    types_of = {one.name: "int64" if "int64" in one.type else "float32" for one in session.get_inputs()}
    feed = {name: values.astype(types_of[name]) for name, values in inputs.items() if name in types_of}
    return dict(zip(wanted, session.run(wanted, feed)))


def run_opencv(place: Path, job: Dict[str, Any], inputs: Dict[str, Any]) -> Dict[str, Any]:
    """Run OpenCV's importer of Caffe nets; ``job["makers"]`` maps each blob to the layer that makes it last."""
    import cv2

    net = cv2.dnn.readNetFromCaffe(str(place / "net.prototxt"), str(place / "weights.caffemodel"))
    for name, values in inputs.items():
        net.setInput(values, name)
    makers = {blob: layer for blob, layer in job["makers"].items() if net.getLayerId(layer) > 0}
    return dict(zip(makers, net.forward(list(makers.values()))))


ENGINES = {"caffe": run_caffe, "numpy": run_numpy, "onnx": run_onnx, "opencv": run_opencv}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
