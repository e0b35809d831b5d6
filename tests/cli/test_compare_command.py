"""``prototxt-gen compare``: two nets in real engines, the first blob that differs by name and figures."""

import json

import numpy as np
import pytest

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "bn" type: "BN" bottom: "conv" top: "bn" bn_param { frozen: true } }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "pool" type: "Pooling" bottom: "bn" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "up" type: "Interp" bottom: "pool" bottom: "bn" top: "up" }
layer { name: "sum" type: "Eltwise" bottom: "up" bottom: "bn" top: "sum" }
layer { name: "fc" type: "InnerProduct" bottom: "sum" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cli):
    """net, its weights w.caffemodel; the net without BN as split; other weights in other.caffemodel."""
    tmp_path = tmp_path_factory.mktemp("nets")
    (tmp_path / "net").write_text(NET)
    for seed, name in ((1, "w.caffemodel"), (2, "other.caffemodel")):
        done = cli("convert", "net", "--pass", "seed-weights", "--seed", seed, "--out-weights", name, "-o", "same",
                   cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = cli("convert", "net", "--weights", "w.caffemodel", "--pass", "split-bn", "--pass", "fix-interp", "-o",
               "split", "--out-weights", "split.caffemodel", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


@pytest.mark.usefixtures("caffe_build")
@pytest.mark.parametrize("engine", ["caffe", "numpy", "onnx", "opencv"])
def test_a_split_net_agrees_in_every_engine(cli, folder, engine):
    done = cli("compare", "net", "split", "--weights-a", "w.caffemodel", "--weights-b", "split.caffemodel",
               "--engine-a", "caffe", "--engine-b", engine, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "blobs agree within 1e-05" in done.stdout and "output 'prob' 2x5" in done.stdout


@pytest.mark.usefixtures("caffe_build")
def test_the_first_blob_that_differs_is_named_with_figures(cli, folder):
    arguments = ["compare", "net", "net", "--weights-a", "w.caffemodel", "--weights-b", "other.caffemodel"]
    done = cli(*arguments, "--engine", "numpy", cwd=folder)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].endswith("blobs differ by more than 1e-05; the first:") and lines[1].startswith("'conv' 2x4x9x9: largest")
    assert lines[2].startswith("  at ") and " in A, " in lines[2]
    document = json.loads(cli(*arguments, "--json", cwd=folder).stdout)
    first = document["first_difference"]
    assert first["a"] == "conv" and not document["agree"] and document["engines"] == ["caffe", "caffe"]
    assert first["max_abs"] == pytest.approx(abs(first["value_a"] - first["value_b"]))
    assert [one["a"] for one in document["outputs"]] == ["prob"]
    assert cli(*arguments, "--engine", "numpy", "--tolerance", "1e9", cwd=folder).returncode == 0


def test_inputs_from_a_file(cli, folder):
    image = np.random.RandomState(3).standard_normal((2, 3, 9, 9))
    np.save(folder / "x.npy", image)
    np.savez(folder / "x.npz", data=image)
    same = ["compare", "net", "net", "--weights", "w.caffemodel", "--engine", "numpy", "--json"]
    outcomes = [cli(*same, *more, cwd=folder) for more in (["--input", "x.npy"], ["--input", "x.npz"], ["--seed", 3])]
    assert {done.returncode for done in outcomes} == {0}
    np.save(folder / "wrong.npy", image[:1])
    np.savez(folder / "other.npz", image=image)
    (folder / "text").write_text("no array")
    for name, complaint in (("wrong.npy", "the input is 2x3x9x9"), ("other.npz", "holds no array 'data'"),
                            ("text", "is no array file"), ("missing", "cannot be read")):
        done = cli(*same, "--input", name, cwd=folder)
        assert done.returncode == 2 and complaint in done.stderr and "Traceback" not in done.stderr


@pytest.mark.usefixtures("caffe_build")
def test_an_onnx_file_against_caffe(cli, folder):
    done = cli("export", "net", "--to", "onnx", "--weights", "w.caffemodel", "-o", "net.onnx", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = cli("compare", "net", "net.onnx", "--weights", "w.caffemodel", "--engine-a", "caffe", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "bad.onnx").write_bytes(b"\x08")
    done = cli("compare", "net", "bad.onnx", "--weights", "w.caffemodel", "--engine-a", "caffe", cwd=folder)
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.usefixtures("caffe_build")
def test_what_an_engine_refuses_is_told_and_not_a_crash(cli, folder):
    opencv = cli("compare", "net", "net", "--weights", "w.caffemodel", "--engine", "opencv", cwd=folder)
    assert opencv.returncode == 2 and "OpenCV has no BN" in opencv.stderr and "split-bn" in opencv.stderr
    bare = cli("compare", "net", "net", "--engine", "numpy", cwd=folder)
    assert bare.returncode == 2 and "weights" in bare.stderr
    training = cli("compare", "attention56", "net", "--engine", "numpy", cwd=folder)
    assert training.returncode == 2 and "train-to-deploy" in training.stderr
    (folder / "unfit").write_text(NET.replace('bottom: "up" bottom: "bn"', 'bottom: "pool" bottom: "bn"'))
    unfit = cli("compare", "unfit", "unfit", "--weights", "w.caffemodel", cwd=folder)
    assert unfit.returncode == 2 and "layer 'sum' (Eltwise)" in unfit.stderr and "Traceback" not in unfit.stderr


def test_two_nets_that_both_fail_do_not_agree(cli, folder):
    np.save(folder / "nan.npy", np.full((2, 3, 9, 9), np.nan))
    done = cli("compare", "net", "net", "--weights", "w.caffemodel", "--engine", "numpy", "--input", "nan.npy", cwd=folder)
    assert done.returncode == 1 and ": nan in A, nan in B" in done.stdout
