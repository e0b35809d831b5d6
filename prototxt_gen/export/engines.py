"""Runs a net in an engine: Caffe, the numpy reference, onnxruntime or OpenCV, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from prototxt_gen.core.caffemodel_write import write_weights
from prototxt_gen.core.errors import CaffeError, Error
from prototxt_gen.core.graph import TEST, Graph, layers_in, net_state
from prototxt_gen.core.io import Model
from prototxt_gen.export.engine_child import REFUSED
from prototxt_gen.passes.base import registry
from prototxt_gen.spec.infer import Shape, infer

ENGINES = ("caffe", "numpy", "onnx", "opencv")
NEEDS = {"onnx": ("onnxruntime", "onnx"), "opencv": ("cv2",)}
DATA_TYPES = ("AugmentedData", "Data", "ImageData", "HDF5Data", "WindowData", "MemoryData", "DummyData")


def input_shapes_of(model: Model, where: str) -> Dict[str, Shape]:
    """Return the inputs of a deploy net with their shapes, in the net's order; Error for one that reads data itself."""
    info = infer(model.net, TEST, where=where)
    shapes: Dict[str, Shape] = {}
    for layer in info.layers:
        if layer.type in DATA_TYPES:
            hint = "prototxt-gen convert NET --pass train-to-deploy makes a net that takes inputs"
            raise Error(f"layer '{layer.name}' ({layer.type}) reads data itself", where, hint)
        if layer.type == "Input":
            shapes.update(zip(layer.tops, layer.top_shapes))
    if not shapes:
        raise Error("takes no inputs", where, "an Input layer, or input fields, are wanted")
    return shapes


def outputs_of(model: Model) -> List[str]:
    """Return the blobs that no layer reads, in the net's order: what Caffe calls the net's outputs."""
    graph = Graph(layers_in(model.net, net_state(TEST, model.net)))
    return [version.blob for version in graph.versions() if not version.readers]


def makers_of(model: Model) -> Dict[str, str]:
    """Return for each blob the layer that makes its last version, in the net's order."""
    made: Dict[str, str] = {}
    for layer in layers_in(model.net, net_state(TEST, model.net)):
        for top in layer.top:
            made.pop(top, None)
            made[top] = layer.name
    return made


def run(
    engine: str, model: Model, inputs: Mapping[str, Any], *, environment: Optional[Mapping[str, str]] = None,
    bn_statistic: Optional[str] = None, where: str = "",
) -> Dict[str, Any]:
    """Run a deploy net in the phase TEST; return the final values of its blobs by name, in the net's order.

    ``environment`` is the child's; for the engine ``caffe`` one in which pycaffe is found. Raises Error with the
    engine's own words for a net that it refuses, CaffeError where it is Caffe that does.
    """
    for package in NEEDS.get(engine, ()):
        _need(package, engine)
    _check_weights(model, where)
    with tempfile.TemporaryDirectory(prefix="prototxt-gen-") as folder:
        place = Path(folder)
        _prepare(place, engine, model, bn_statistic, where)
        return _run(place, engine, inputs, makers_of(model), environment, where)


def run_onnx_file(
    path: str, inputs: Mapping[str, Any], environment: Optional[Mapping[str, str]] = None
) -> Dict[str, Any]:
    """Run an ONNX file in onnxruntime; return all tensors that its nodes make, in the file's order."""
    _need("onnx", "onnx")
    _need("onnxruntime", "onnx")
    import onnx

    try:
        graph = onnx.load(path).graph
    except Exception as error:  # onnx raises protobuf's own errors, and its own
        raise Error(f"is no ONNX model: {str(error).splitlines()[0]}", path) from None
    made = {name: node.name for node in graph.node for name in node.output if name}
    with tempfile.TemporaryDirectory(prefix="prototxt-gen-") as folder:
        place = Path(folder)
        (place / "model.onnx").symlink_to(Path(path).absolute())
        return _run(place, "onnx", inputs, made, environment, path)


def _check_weights(model: Model, where: str) -> None:
    layers = infer(model.net, TEST, where=where).layers
    lacking = [one.name for one in layers if one.params and one.name not in model.blobs]
    if lacking:
        more = f" and {len(lacking) - 1} more layers" if len(lacking) > 1 else ""
        hint = "give them with --weights FILE; convert --pass seed-weights --out-weights FILE draws some"
        raise Error(f"has no weights for layer '{lacking[0]}'{more}", where, hint)


def _prepare(place: Path, engine: str, model: Model, bn_statistic: Optional[str], where: str) -> None:
    """Write what the engine's child reads."""
    if engine == "onnx":
        from prototxt_gen.export.to_onnx import to_onnx

        (place / "model.onnx").write_bytes(to_onnx(model, bn_statistic=bn_statistic).SerializeToString())
        return
    types = {layer.type for layer in model.net.layer}
    if engine == "opencv" and "BN" in types:
        raise Error("OpenCV has no BN", where, "prototxt-gen convert --pass split-bn or fold-bn takes it out")
    model = _for_our_engines(model, bn_statistic)
    (place / "net.prototxt").write_text(model.dumps())
    write_weights(str(place / "weights.caffemodel"), model)


def _for_our_engines(model: Model, bn_statistic: Optional[str]) -> Model:
    """Return the model with BN's fourth blob as our engines read it: an inverse standard deviation."""
    if model.dialect.name == "attention" and bn_statistic in (None, "inv-std"):
        return model
    if any(layer.type == "BN" for layer in model.net.layer):
        # A pair of layers means the same to every engine.
        model = registry.find("split-bn")(model, bn_statistic=bn_statistic).model
    return registry.find("dialect")(model, to="attention").model


def _run(
    place: Path, engine: str, inputs: Mapping[str, Any], makers: Mapping[str, str],
    environment: Optional[Mapping[str, str]], where: str,
) -> Dict[str, Any]:
    import numpy as np

    job = {"inputs": list(inputs), "blobs": list(makers), "makers": dict(makers)}
    (place / "job.json").write_text(json.dumps(job))
    for i, values in enumerate(inputs.values()):
        np.save(place / f"in{i}.npy", np.asarray(values, np.float32))
    command = [sys.executable, "-m", "prototxt_gen.export.engine_child", engine, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode == REFUSED:
        told = json.loads((place / "error.json").read_text())
        raise Error(told["what"], told["where"] or where, told["hint"])
    if done.returncode != 0:
        kind = CaffeError if engine == "caffe" else Error
        raise kind(f"{engine} refuses the net: {_reason(done.stderr)}", where)
    names = json.loads((place / "out.json").read_text())
    return {name: np.load(place / f"out{i}.npy") for i, name in enumerate(names)}


def _reason(said: str) -> str:
    """Return the line in which an engine says what is wrong: Caffe's CHECK, or the last of a traceback."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("F") and "]" in line]
    if fatal:
        return fatal[0].partition("] ")[2]
    return lines[-1] if lines else "it said nothing"


def _need(package: str, engine: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        extra = "onnx,engines" if engine == "onnx" else "engines"
        hint = f"pip install 'prototxt-gen[{extra}]'"
        raise Error(f"the engine {engine} needs the Python package {package}", hint=hint)
