"""The weights of two caffemodels, blob by blob; what real Caffe saves is the net it was given."""

import math

import pytest

from prototxt_gen.check.diff import compare
from prototxt_gen.check.diff_weights import BlobChange, compare_weights
from prototxt_gen.core.caffemodel import parse_weights, read_weights
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import loads

NetParameter = DEFAULT_DIALECT.message("NetParameter")


def net(text):
    return loads(text, NetParameter)


def weights(message):
    """The model of a NetParameter with blobs in it."""
    return parse_weights(message.SerializeToString())


def model(*values, shape=None, layer="ip"):
    made = NetParameter()
    made.layer.add(name=layer).blobs.add(data=values).shape.dim.extend(shape or [len(values)])
    return weights(made)


def test_values_are_compared():
    [one] = compare_weights(model(1, 2, -4), model(1, 2.5, -4))
    assert one == BlobChange("ip", 0, (3,), (3,), max_abs=0.5, relative=0.125) and not one.same
    [same] = compare_weights(model(1, math.nan, math.inf), model(1, math.nan, math.inf))
    assert same.same
    [odd] = compare_weights(model(1, 2), model(1, math.nan))
    assert odd.max_abs is None and not odd.same
    [tiny] = compare_weights(model(0, 0), model(0, 1e-30))
    assert not tiny.same and tiny.relative == 1


def test_shapes_and_missing_blobs():
    assert compare_weights(model(1, 2, 3, 4), model(1, 2, 3, 4, shape=[2, 2])) == (BlobChange("ip", 0, (4,), (2, 2)),)
    assert compare_weights(model(1), model(1, layer="fc")) == (
        BlobChange("ip", 0, (1,), None), BlobChange("fc", 0, None, (1,)))


def test_old_blobs_have_four_sizes():
    old = net('layers { name: "ip" type: INNER_PRODUCT'
              ' blobs { num: 1 channels: 1 height: 2 width: 2 data: [1, 2, 3, 4] } }')
    [one] = compare_weights(weights(old), model(1, 2, 3, 4, shape=[2, 2]))
    assert one.same
    [other] = compare_weights(weights(old), model(1, 2, 3, 4))
    assert not other.same and other.old == (2, 2)


def test_doubles():
    wide = net('layer { name: "ip" blobs { shape { dim: 1 } double_data: 1e300 } }')
    narrow = net('layer { name: "ip" blobs { shape { dim: 1 } double_data: -1e308 } }')
    assert compare_weights(weights(wide), weights(narrow))[0].relative == pytest.approx(1)


@pytest.mark.parametrize("text, what", [
    ('layer { name: "ip" }', "holds no weights"),
    ('layer { name: "ip" blobs { shape { dim: 3 } data: 1 } }', "holds 1 values, and its shape says 3"),
    ('layer { name: "ip" blobs { shape { dim: 4000000000000000000 dim: 4000000000000000000 } } }', "no shape of Caffe's"),
])
def test_what_cannot_be_compared(text, what):
    with pytest.raises(Error, match=what):
        compare_weights(model(1), weights(net(text)))


NET = """
name: "saved"
layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 2 }
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "bn" type: "BN" bottom: "conv" top: "bn" bn_param { slope_filler { value: 1 } } }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "pool" type: "Pooling" bottom: "bn" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "side" type: "Pooling" bottom: "bn" top: "side" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "pool" bottom: "side" top: "sum" }
layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_what_caffe_saves_is_the_net_it_was_given(run_caffe_python, tmp_path):
    """Caffe saves its Split layers, the phase, and what layers add to their own settings."""
    (tmp_path / "net.prototxt").write_text(NET)
    run_caffe_python("""
        import os, sys, caffe
        os.chdir(sys.argv[1])
        for phase, name in ((caffe.TRAIN, "train"), (caffe.TEST, "test"), (caffe.TRAIN, "again")):
            caffe.Net("net.prototxt", phase).save(name + ".caffemodel")
        """, tmp_path)
    models = {name: read_weights(str(tmp_path / f"{name}.caffemodel")) for name in ("train", "test", "again")}
    saved = {name: one.net for name, one in models.items()}
    assert any(layer.type == "Split" for layer in saved["train"].layer)
    for name, phase in (("train", TRAIN), ("test", TEST)):
        assert compare(net(NET), saved[name], phase).differences == ()
    # Fillers draw other numbers each time; biases and statistics start the same.
    apart = [(one.layer, one.index) for one in compare_weights(models["train"], models["again"]) if not one.same]
    assert apart == [("conv", 0), ("ip", 0)]
    assert all(one.same for one in compare_weights(models["train"], models["train"]))
