"""Every layer type and branch in onnxruntime gives what our Caffe gives, at the file's batch and at an open one."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.onnx_ops.layer import converters
from prototxt_gen.export.reference import forward
from prototxt_gen.export.to_onnx import to_onnx
from prototxt_gen.spec.infer import infer

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("onnx_cases", HERE / "onnx_cases.py")
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)


def model_of(name, seed=0):
    """A case's net with weights drawn for it."""
    net = loads(cases.net_text(name), DEFAULT_DIALECT.message("NetParameter"))
    rng = np.random.RandomState(seed)
    blobs, owners = {}, {}
    for one in infer(net, TEST).layers:
        drawn = []
        for index, param in enumerate(one.params):
            positive = one.type in ("BN", "BatchNorm")
            values = rng.uniform(0.5, 1.5, param.shape) if positive else rng.standard_normal(param.shape)
            shared = one.layer.param[index].name if index < len(one.layer.param) else ""
            values = owners.setdefault(shared, values) if shared else values
            drawn.append(np.float32(values))
        if drawn:
            blobs[one.name] = tuple(drawn)
    return Model(net, DEFAULT_DIALECT, blobs)


def inputs_of(name, batch=None):
    """Values for the inputs of a case; ``batch`` in place of the first axis of those that share the first one's."""
    shapes, kind = cases.CASES[name][0], cases.KINDS.get(name, "")
    rng = np.random.RandomState(1)
    values = {}
    for letter, shape in zip("abcdef", shapes):
        if batch and shape[0] == shapes[0][0]:
            shape = (batch, *shape[1:])
        drawn = rng.standard_normal(shape)
        if kind == "positive":
            drawn = np.abs(drawn) + 0.1
        elif kind == "ties":
            drawn = np.round(drawn)
        elif kind == "index" or (kind == "second index" and letter == "b"):
            drawn = rng.randint(0, 7 if kind == "index" else 2, shape)
        values[letter] = drawn.astype(np.float32)
    return values


@pytest.fixture(scope="module")
def in_caffe(run_caffe_python, tmp_path_factory):
    """All blobs of all cases in Caffe, by (name, batch)."""
    folder = tmp_path_factory.mktemp("onnx_cases")
    jobs, runs = {}, []
    for name in cases.CASES:
        model = model_of(name)
        for batch in (None,) if name in cases.ONE_BATCH else (None, 3):
            number = len(runs)
            runs.append((name, batch))
            jobs[f"{number}/net"] = np.array(cases.net_text(name))
            jobs.update({f"{number}/input/{key}": values for key, values in inputs_of(name, batch).items()})
            jobs.update({f"{number}/blob/{layer}/{index}": blob
                         for layer, blobs in model.blobs.items() for index, blob in enumerate(blobs)})
    np.savez(folder / "jobs.npz", **jobs)
    run_caffe_python(HERE / "onnx_caffe_child.py", folder / "jobs.npz", folder / "found.npz")
    found, blobs = np.load(folder / "found.npz"), {run: {} for run in runs}
    for key in found.files:
        number, _, name = key.partition("/")
        blobs[runs[int(number)]][name] = found[key]
    return blobs


def run_all(exported, inputs):
    """Every tensor that a node makes."""
    exported = onnx.ModelProto.FromString(exported.SerializeToString())
    outputs = {one.name for one in exported.graph.output}
    made = [name for node in exported.graph.node for name in node.output]
    exported.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = {one.name: inputs[one.name] for one in session.get_inputs()}
    return dict(zip(made, session.run(made, fed)))


def check_shapes(exported, model, batch=None):
    """The checker passes, and ONNX infers for every blob the shape that ``spec.infer`` does."""
    onnx.checker.check_model(exported, full_check=True)
    graph = onnx.shape_inference.infer_shapes(exported, check_type=True, strict_mode=True).graph
    told = {one.name: tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param
                            for dim in one.type.tensor_type.shape.dim)
            for one in [*graph.input, *graph.value_info, *graph.output]}
    for name, shape in infer(model.net, TEST).blobs.items():
        if name in told:
            assert len(told[name]) == len(shape), name
            for found, wanted in zip(told[name], shape):
                assert found == wanted or (batch and isinstance(found, str) and wanted % batch == 0), name
    return told


def assert_same(found, wanted, name):
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
    scale = 1 if scale > 1e30 else scale
    assert found.shape == wanted.shape, name
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * scale, err_msg=name)


@pytest.mark.parametrize("name", cases.CASES)
def test_caffe_and_onnxruntime_agree(name, in_caffe):
    model = model_of(name)
    exported = to_onnx(model)
    check_shapes(exported, model)
    found, wanted = run_all(exported, inputs_of(name)), in_caffe[name, None]
    made = [top for layer in model.net.layer if layer.type not in ("Input", "Silence") for top in layer.top]
    for blob in made:
        assert_same(found[blob], wanted[blob], blob)


@pytest.mark.parametrize("name", sorted(set(cases.CASES) - cases.ONE_BATCH))
def test_an_open_batch(name, in_caffe):
    model = model_of(name)
    exported = to_onnx(model, dynamic_batch=True)
    check_shapes(exported, model, batch=cases.CASES[name][0][0][0])
    assert exported.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    found, wanted = run_all(exported, inputs_of(name, 3)), in_caffe[name, 3]
    for one in exported.graph.output:
        assert_same(found[one.name], wanted[one.name], one.name)


@pytest.mark.parametrize("name", cases.CASES)
def test_the_numpy_forward_and_onnxruntime_agree(name):
    model, inputs = model_of(name), inputs_of(name)
    found, wanted = run_all(to_onnx(model), inputs), forward(model, inputs)
    for blob in set(found) & set(wanted):
        assert_same(found[blob], wanted[blob], blob)


def test_the_cases_meet_every_type():
    types = {layer.type for name in cases.CASES for layer in model_of(name).net.layer}
    assert types == {*converters.types(), "Input"}
