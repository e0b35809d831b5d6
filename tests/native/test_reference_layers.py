"""The bench's layers in the manner of the fork compute what ours compute, and the bench of single layers runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "tools/bench"
PAIR = """
import ctypes
ctypes.CDLL({library!r}, ctypes.RTLD_GLOBAL)
rng = np.random.default_rng(0)
x, dy = rng.standard_normal((3, 4, 5, 7)), rng.standard_normal({out})
net = net_of('''force_backward: true
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 3 dim: 4 dim: 5 dim: 7 }} }} }}
layer {{ name: "layer" type: "{type}" bottom: "x" top: "y" {fields} }}''')
net.blobs["x"].data[...] = x
if net.params:
    net.params["layer"][0].data[...] = np.arange(1, 5).reshape(1, 4, 1, 1)
net.forward()
net.blobs["y"].diff[...] = dy
net._backward(1, 0)
out = [net.blobs["y"].data, net.blobs["x"].diff] + [part for blob in net.params.get("layer", [])
                                                    for part in (blob.data, blob.diff)]
"""


@pytest.fixture(scope="module")
def library(caffe_build):
    code = "import sys, pathlib, reference_layers as r; print(r.compiled(pathlib.Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, str(caffe_build.root)], cwd=BENCH, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kind, fields, out", [
    ("BN", "bn_param { slope_filler { value: 1 } bias_filler { value: 0.5 } }", (3, 4, 5, 7)),
    ("Interp", "interp_param { height: 10 width: 13 }", (3, 4, 10, 13)),
    ("Interp", "interp_param { height: 3 width: 1 }", (3, 4, 3, 1)),
])
def test_same_values(in_caffe, library, kind, fields, out):
    ours, reference = (in_caffe(PAIR.format(library=library, type=one, fields=fields, out=out))
                       for one in (kind, f"Reference{kind}"))
    assert len(ours) == len(reference) >= 2
    for one, other in zip(ours, reference):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_bench_prints_every_contender_beside_the_floor(caffe_build, library, tmp_path):
    net = tmp_path / "pool.prototxt"
    net.write_text("""layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 2 kernel_size: 3
  weight_filler { type: "msra" } } }""")
    command = [sys.executable, str(BENCH / "layers.py"), "--caffe", str(caffe_build.root), "--rounds", "1",
               "--bn", "2,3,4,5", "--interp", "2,3,4,5", "--net", str(net)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cases = done.stdout.split("\n\n")[1:]
    # Two columns a contender; PyTorch is one where it is installed.
    found = [len(re.findall(r"x floor", case)) for case in cases]
    assert found in ([6, 4, 2], [8, 6, 2])
    assert "BatchNorm + Scale" in cases[0] and "as the fork" in cases[1] and "pool.prototxt" in cases[2]
