"""``prototxt-gen export``: ONNX files with weights, Python scripts, and what it refuses."""

import os
import pty
import stat
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.io import loads

NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BN" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "pool" top: "prob" }
"""
WITH_WEIGHTS = ["net.prototxt", "--to", "onnx", "--weights", "weights.caffemodel"]


@pytest.fixture(scope="module")
def files(cli, tmp_path_factory):
    """A folder with net.prototxt and weights.caffemodel."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "net.prototxt").write_text(NET)
    done = cli("convert", "net.prototxt", "--pass", "seed-weights", "--seed", 3, "--out-weights", "weights.caffemodel",
               cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def shapes_of(path):
    graph = onnx.load(path).graph
    return {one.name: [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim]
            for one in (*graph.input, *graph.output)}


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["prob"], {"data": images})[0]


def test_onnx_with_weights(cli, files, tmp_path):
    output = tmp_path / "net.onnx"
    done = cli("export", files / "net.prototxt", "--to", "onnx", "--weights", files / "weights.caffemodel",
               "-o", output)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    onnx.checker.check_model(str(output), full_check=True)
    assert shapes_of(output) == {"data": [2, 3, 8, 8], "prob": [2, 4, 1, 1]}
    assert os.listdir(tmp_path) == ["net.onnx"] and stat.S_IMODE(output.stat().st_mode) & 0o444
    images = np.random.RandomState(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(output, images).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("options, data, prob", [
    (["--batch", "dynamic"], ["N", 3, 8, 8], ["N", 4, 1, 1]),
    (["--batch", "5"], [5, 3, 8, 8], [5, 4, 1, 1]),
    (["--input", "data=1,3,6,7"], [1, 3, 6, 7], [1, 4, 1, 1]),
    (["--batch", "dynamic", "--input", "data=1,3,6,7"], ["N", 3, 6, 7], ["N", 4, 1, 1]),
])
def test_batch_and_input(cli, files, tmp_path, options, data, prob):
    output = tmp_path / "net.onnx"
    done = cli("export", files / "net.prototxt", "--to", "onnx", "--weights", files / "weights.caffemodel", *options,
               "-o", output)
    assert done.returncode == 0, done.stderr
    assert shapes_of(output) == {"data": data, "prob": prob}


def test_stdout_takes_the_same_bytes_every_time(cli_path, files):
    command = [cli_path, "export", "-", "--to", "onnx", "--weights", "weights.caffemodel", "--opset", "21"]
    runs = {subprocess.run(command, input=NET.encode(), cwd=files, capture_output=True, check=True).stdout
            for _ in range(2)}
    assert len(runs) == 1 and onnx.ModelProto.FromString(runs.pop()).opset_import[0].version == 21


def test_bn_statistic_changes_the_numbers(cli, files, tmp_path):
    images = np.random.RandomState(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    found = []
    for statistic in ("inv-std", "variance"):
        cli("export", "net.prototxt", "--to", "onnx", "--weights", "weights.caffemodel", "--bn-statistic", statistic,
            "-o", tmp_path / "net.onnx", cwd=files)
        found.append(run(tmp_path / "net.onnx", images))
    assert np.abs(found[0] - found[1]).max() > 1e-4


def test_weights_of_other_layers_are_named(cli, files, tmp_path):
    short = NET.replace('layer { name: "bn" type: "BN" bottom: "conv" top: "conv" }\n', "")
    done = cli("export", "-", "--to", "onnx", "--weights", files / "weights.caffemodel", "-o", tmp_path / "net.onnx",
               stdin=short)
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "weights of 'bn' left out" in done.stderr


def test_python_prints_an_equal_net(cli, files, tmp_path):
    script = tmp_path / "net.py"
    assert cli("export", files / "net.prototxt", "--to", "python", "-o", script).returncode == 0
    assert cli("export", files / "net.prototxt", "--to", "python").stdout == script.read_text()
    printed = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    net = DEFAULT_DIALECT.message("NetParameter")
    assert loads(printed, net) == loads(NET, net)


@pytest.mark.parametrize("arguments, message", [
    (["net.prototxt", "--to", "onnx"],
     "layer 'conv' (Convolution): it has no weights\nhint: --weights FILE gives them; prototxt-gen convert"),
    (["attention56", "--to", "onnx"], "layer 'data': its type Data reads data itself"),
    (["net.prototxt", "--to", "onnx", "--weights", "none"], "'none'"),
    ([*WITH_WEIGHTS, "--batch", "0"], "--batch 0 is no batch size"),
    ([*WITH_WEIGHTS, "--batch", "many"], "--batch many is no batch size"),
    ([*WITH_WEIGHTS, "--batch", "2", "--input", "data=2,3,8,8"], "--batch N and --input exclude one another"),
    ([*WITH_WEIGHTS, "--opset", "7"], "opset 7"),
    (["net.prototxt", "--to", "python", "--batch", "2"], "--batch has no meaning with --to python"),
    (["net.prototxt", "--to", "torch"], "'torch' is not one of 'onnx', 'python'"),
    (["net.prototxt"], "Missing option '--to'"),
])
def test_refusals_leave_no_file(cli, files, tmp_path, arguments, message):
    done = cli("export", *arguments, "-o", tmp_path / "out", cwd=files)
    assert done.returncode == 2 and message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_terminal_gets_no_binary(cli_path, files):
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run([cli_path, "export", "net.prototxt", "--to", "onnx"], cwd=files, stdout=theirs,
                              stderr=subprocess.PIPE, text=True)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2 and "standard output is a terminal\nhint: -o FILE" in done.stderr


def test_a_missing_onnx_is_named(cli, files, tmp_path):
    (tmp_path / "onnx.py").write_text("raise ImportError('no onnx here')\n")
    done = cli("export", files / "net.prototxt", "--to", "onnx", "--weights", files / "weights.caffemodel", "-o",
               tmp_path / "net.onnx", environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2 and "hint: pip install 'prototxt-gen[onnx]'" in done.stderr
