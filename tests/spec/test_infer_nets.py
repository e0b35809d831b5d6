"""Whole nets: every blob's and every parameter's shape is pycaffe's, in both phases."""

import math
from pathlib import Path

import numpy
import pytest
from PIL import Image as Picture

from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import dumps, loads, read_model
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.spec.infer import infer, rules
from prototxt_gen.train.data import Image, datum, write_lmdb

ROOT = Path(__file__).resolve().parents[2]
GENERATED = sorted(path for path in ROOT.glob("generated/*/*.prototxt") if not path.name.startswith("solver"))
WRITTEN = sorted(Path(__file__).with_name("nets").glob("*.prototxt"))
PHASES = (TRAIN, TEST)
# What only the files that a net reads can tell.
GIVEN = {
    "lenet": {"data": {TRAIN: (64, 1, 28, 28), TEST: (100, 1, 28, 28)}},
    "shapes": {"python": (4, 12, 5, 7)},
    "files": {"digits": (3, 1, 28, 28), "as_is": (1, 3, 30, 40), "data": (7, 4, 3, 1), "label": (7, 2, 1, 1)},
}
STAGES = {"inception": ("measure",)}

DOUBLING = """
import caffe

class Doubling(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        n, c, h, w = bottom[0].data.shape
        top[0].reshape(n, 2 * c, h, w)
"""

# HDF5Output writes what HDF5Data reads, as arrays of four axes.
WRITE_HDF5 = """
    import os, sys
    os.chdir(sys.argv[1])
    import caffe
    open("write.prototxt", "w").write('''
        layer { name: "x" type: "DummyData" top: "x" top: "y" dummy_data_param {
            shape { dim: 5 dim: 4 dim: 3 } shape { dim: 5 dim: 2 } } }
        layer { name: "write" type: "HDF5Output" bottom: "x" bottom: "y" hdf5_output_param { file_name: "arrays.h5" } }
        ''')
    net = caffe.Net("write.prototxt", caffe.TEST)
    net.forward()
    """


@pytest.fixture(scope="module")
def folders(run_caffe_python, tmp_path_factory):
    """Folders in which the nets find what they read: by input size, and "files" for those written for the tests."""
    root = tmp_path_factory.mktemp("sources")

    def images(channels, *size):
        # Two images are enough: a data layer starts again at the end.
        return [(f"{i:08d}", datum(Image(f"{i:08d}", i, numpy.full((channels, *size), 9, "uint8")))) for i in range(2)]

    for size in (32, 224):
        (root / str(size)).mkdir()
        for name in ("train_lmdb", "test_lmdb"):
            write_lmdb(root / str(size) / name, images(3, size, size))
    files = root / "files"
    files.mkdir()
    write_lmdb(files / "gray_lmdb", images(1, 28, 28))
    write_lmdb(files / "color_lmdb", images(3, 28, 24))
    Picture.fromarray(numpy.zeros((30, 40, 3), "uint8")).save(files / "image.png")
    (files / "images.txt").write_text("image.png 0\n")
    # One background and one foreground window.
    (files / "windows.txt").write_text("# 0\nimage.png\n3\n30\n40\n2\n1 0.9 1 1 20 20\n1 0.1 5 5 15 15\n")
    (files / "arrays.txt").write_text("arrays.h5\n")
    (files / "doubling.py").write_text(DOUBLING)
    run_caffe_python(WRITE_HDF5, files)
    return {path.name: path for path in root.iterdir()}


def ours(net, phase, given=None, stages=()):
    """The shapes as load_nets.py tells them."""
    info = infer(net, phase, given=given, stages=stages)
    params = {}
    for layer in info.layers:
        if layer.params:
            params[layer.name] = [list(param.shape) for param in layer.params]
    return {"blobs": {name: list(shape) for name, shape in info.blobs.items()}, "params": params}


def differences(mine, theirs):
    return [(kind, name, mine[kind].get(name), theirs[kind].get(name)) for kind in ("blobs", "params")
            for name in {**mine[kind], **theirs[kind]} if mine[kind].get(name) != theirs[kind].get(name)]


def given_for(stem, phase):
    return {name: shape[phase] if isinstance(shape, dict) else shape for name, shape in GIVEN.get(stem, {}).items()}


def test_written_nets_have_caffes_shapes_and_meet_every_layer_type(load_in_caffe, folders, caffe_build):
    nets = {(path.stem, phase): read_model(str(path)).net for path in WRITTEN for phase in PHASES}
    found = load_in_caffe([(dumps(net), phase, folders["files"], STAGES.get(stem, ()))
                           for (stem, phase), net in nets.items()])
    met = set()
    for ((stem, phase), net), theirs in zip(nets.items(), found["nets"]):
        assert theirs is not None, f"Caffe refuses {stem} in phase {phase}"
        given, stages = given_for(stem, phase), STAGES.get(stem, ())
        assert not differences(ours(net, phase, given, stages), theirs), (stem, phase)
        met.update(layer.type for layer in infer(net, phase, given=given, stages=stages).layers)
    assert met == set(found["types"]) == set(rules.types())


def test_generated_nets_have_caffes_shapes(load_in_caffe, folders):
    nets = {}
    for path in GENERATED:
        source = folders["32" if "cifar" in path.parent.name else "224"]
        # A net without phases of its own is the same in both.
        for phase in PHASES if path.name == "train.prototxt" else (TEST,):
            nets[path, phase] = (read_model(str(path)).net, source)
    found = load_in_caffe([(dumps(net), phase, source) for (_, phase), (net, source) in nets.items()])
    assert len(nets) == len(found["nets"]) >= 32
    for ((path, phase), (net, _)), theirs in zip(nets.items(), found["nets"]):
        assert not differences(ours(net, phase), theirs), (path, phase)
        if path.name != "train.prototxt":
            assert infer(net, TRAIN).blobs == infer(net, TEST).blobs


# networks.md: convolution and InnerProduct parameters; those and BN's four blobs; multiply-adds, at 224x224.
TOTALS = {
    "attention56": (31738024, 31883432, 6270836736),
    "attention92": (52332712, 52599976, 10533789696),
    "attentionnext56": (31220392, 31417256, 6419106816),
    "attentionnext92": (51931816, 52274088, 10704337920),
}


@pytest.mark.parametrize("name", TOTALS)
def test_totals_of_the_four_networks(name):
    info = infer(read_model(str(ROOT / "generated" / name / "published.prototxt")).net, TEST)
    dense = sum(layer.learnable for layer in info.layers if layer.type != "BN")
    assert (dense, info.learnable + info.statistics, info.macs) == TOTALS[name]
    assert info.learnable - dense == info.statistics  # slope and bias against mean and inverse deviation


def info_of(text, phase=TEST, **options):
    return infer(loads(text, DEFAULT_DIALECT.message("NetParameter")), phase, **options)


def test_macs_are_the_multiply_adds_of_the_direct_formulas():
    info = info_of("""
        layer { name: "in" type: "Input" top: "x" top: "t" top: "cont" top: "s" input_param {
            shape { dim: 2 dim: 8 dim: 9 dim: 9 } shape { dim: 5 dim: 2 dim: 6 } shape { dim: 5 dim: 2 }
            shape { dim: 2 dim: 4 } } }
        layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
                convolution_param { num_output: 12 kernel_size: 3 group: 4 } }
        layer { name: "deconv" type: "Deconvolution" bottom: "x" top: "deconv"
                convolution_param { num_output: 6 kernel_size: 2 stride: 2 group: 2 } }
        layer { name: "fc" type: "InnerProduct" bottom: "t" top: "fc" inner_product_param { num_output: 3 axis: 2 } }
        layer { name: "lstm" type: "LSTM" bottom: "t" bottom: "cont" bottom: "s" top: "lstm"
                recurrent_param { num_output: 7 } }
        layer { name: "rnn" type: "RNN" bottom: "t" bottom: "cont" top: "rnn" recurrent_param { num_output: 7 } }
        layer { name: "embed" type: "Embed" bottom: "cont" top: "embed" embed_param { num_output: 7 input_dim: 50 } }
        layer { name: "scale" type: "Scale" bottom: "fc" top: "fc" }
        """)
    macs = {layer.name: layer.macs for layer in info.layers if layer.macs}
    assert macs == {
        "conv": 2 * 7 * 7 * 12 * (8 // 4) * 3 * 3,
        "deconv": 2 * 9 * 9 * 8 * (6 // 2) * 2 * 2,
        "fc": 5 * 2 * 6 * 3,
        "lstm": 5 * 2 * 4 * 7 * (6 + 7) + 2 * 4 * 7 * 4,
        "rnn": 5 * 2 * 7 * (6 + 7 + 7),
    }


def test_shared_parameters_count_once():
    info = infer(read_model(str(WRITTEN[[path.stem for path in WRITTEN].index("siamese")])).net, TRAIN)
    every = sum(math.prod(param.shape) for layer in info.layers for param in layer.params)
    shared = 4 * 9 + 4 + 2 * 400
    assert info.learnable == every - shared
