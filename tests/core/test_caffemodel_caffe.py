"""Real Caffe loads the caffemodels that we write, and we read what it saves, in both of its formats."""

import numpy as np
import pytest

from prototxt_gen.core.caffemodel import read_weights, with_weights, write_weights
from prototxt_gen.core.io import read_model
from prototxt_gen.core.solverstate import read_solverstate

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        param { name: "w" } param { name: "b" }
        convolution_param { num_output: 4 kernel_size: 1 pad: 1 weight_filler { type: "gaussian" std: 1 }
                            bias_filler { type: "uniform" } } }
layer { name: "twin" type: "Convolution" bottom: "data" top: "twin"
        param { name: "w" } param { name: "b" }
        convolution_param { num_output: 4 kernel_size: 1 pad: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "twin" top: "sum" }
layer { name: "bn" type: "BN" bottom: "sum" top: "bn" bn_param { slope_filler { type: "uniform" } } }
layer { name: "norm" type: "BatchNorm" bottom: "bn" top: "norm" }
layer { name: "scale" type: "Scale" bottom: "norm" top: "scale" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "scale" top: "ip"
        inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 1 } } }
"""
SOLVER = """net: "train.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 3 solver_mode: CPU
    snapshot_prefix: "snap" snapshot: 3 display: 0 random_seed: 1 snapshot_after_train: false"""


@pytest.fixture(scope="module")
def saved(run_caffe_python, tmp_path_factory):
    """A folder with what Caffe saves of a net, and of a few steps of training, in both formats."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "net.prototxt").write_text(NET)
    (folder / "train.prototxt").write_text("""
        layer { name: "x" type: "DummyData" top: "x" top: "y" dummy_data_param {
                shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 } data_filler { value: 1 } data_filler { value: 2 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }""")
    for form in ("BINARYPROTO", "HDF5"):
        (folder / f"{form}.prototxt").write_text(f"{SOLVER} snapshot_format: {form}")
    run_caffe_python("""
        import os, sys, numpy as np, caffe
        os.chdir(sys.argv[1])
        net = caffe.Net("net.prototxt", caffe.TEST)
        net.save("net.caffemodel")
        net.save_hdf5("net.caffemodel.h5")
        np.savez("blobs.npz", **{f"{name} {i}": blob.data for name, blobs in net.params.items()
                                 for i, blob in enumerate(blobs)})
        for form in ("BINARYPROTO", "HDF5"):
            caffe.SGDSolver(form + ".prototxt").solve()
        """, folder)
    return folder


def is_what_caffe_has(blobs, saved):
    with np.load(saved / "blobs.npz") as true:
        assert {f"{name} {i}" for name, some in blobs.items() for i in range(len(some))} == set(true)
        for key in true:
            name, index = key.split()
            assert blobs[name][int(index)].shape == true[key].shape
            np.testing.assert_array_equal(blobs[name][int(index)], true[key])


def test_what_caffe_saves_is_read(saved):
    model = read_weights(str(saved / "net.caffemodel"))
    is_what_caffe_has(model.blobs, saved)
    assert model.net.name == "small" and "Split" in {layer.type for layer in model.net.layer}


def test_hdf5_as_caffe_saves_it(saved):
    weights = read_weights(str(saved / "net.caffemodel.h5"))
    assert "twin" not in weights.blobs and "twin" in {layer.name for layer in weights.net.layer}
    model, notes = with_weights(read_model(str(saved / "net.prototxt")), weights)
    is_what_caffe_has(model.blobs, saved)
    assert notes == ()


@pytest.mark.parametrize("layout", ["current", "v1"])
def test_caffe_loads_what_is_written(saved, run_caffe_python, tmp_path, layout):
    path = tmp_path / "ours.caffemodel"
    write_weights(str(path), read_weights(str(saved / "net.caffemodel")), layout)
    run_caffe_python("""
        import sys, numpy as np, caffe
        net = caffe.Net(sys.argv[1] + "/net.prototxt", caffe.TEST)
        net.copy_from(sys.argv[2])
        true = np.load(sys.argv[1] + "/blobs.npz")
        for key in true:
            name, index = key.split()
            assert np.array_equal(net.params[name][int(index)].data, true[key]), key
        """, saved, path)


def test_solver_states_in_both_formats(saved):
    binary = read_solverstate(str(saved / "snap_iter_3.solverstate"))
    hdf5 = read_solverstate(str(saved / "snap_iter_3.solverstate.h5"))
    for state in (binary, hdf5):
        assert (state.iteration, state.current_step) == (3, 0)
        assert [one.shape for one in state.history] == [(2, 3), (2,)]
    assert binary.learned_net == "snap_iter_3.caffemodel" and hdf5.learned_net == "snap_iter_3.caffemodel.h5"
    for x, y in zip(binary.history, hdf5.history):
        assert x.any() and np.array_equal(x, y)
