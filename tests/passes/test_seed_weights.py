"""seed-weights: the same weights everywhere, for every layer that has some, and activations that stay in range."""

import numpy as np
import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT, find_dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.reference import steps
from prototxt_gen.nets.builder import DEPLOY, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.base import registry
from prototxt_gen.spec.infer import infer

SMALL = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 dim: 8 dim: 8 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" param { name: "w" } param { name: "b" }
        convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "b" type: "Convolution" bottom: "data" top: "b" param { name: "w" } param { name: "b" }
        convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "b" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "scale" scale_param { bias_term: true } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 64 kernel_size: 3 } }
layer { name: "mask" type: "Sigmoid" bottom: "c" top: "mask" }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "scale" top: "sum" }
layer { name: "up" type: "Deconvolution" bottom: "sum" top: "up"
        convolution_param { num_output: 64 kernel_size: 4 stride: 2 pad: 1 group: 2 } }
layer { name: "prelu" type: "PReLU" bottom: "up" top: "up" }
"""


def seeded(text, seed=0, dialect=DEFAULT_DIALECT, **options):
    model = Model(loads(text, dialect.message("NetParameter")), dialect)
    return registry.find("seed-weights")(model, seed=seed, **options)


def test_blobs_have_the_shapes_that_infer_tells():
    model = seeded(SMALL).model
    infos = [info for info in infer(model.net, TEST).layers if info.params]
    assert list(model.blobs) == [info.name for info in infos]
    for info in infos:
        assert [blob.shape for blob in model.blobs[info.name]] == [param.shape for param in info.params]
        assert {blob.dtype for blob in model.blobs[info.name]} == {np.dtype(np.float32)}


def test_scales():
    blobs = seeded(SMALL).model.blobs
    assert blobs["c"][0].std() == pytest.approx(0.05 * np.sqrt(2 / 36), rel=0.1)  # feeds a Sigmoid
    assert blobs["up"][0].std() == pytest.approx(np.sqrt(2 / 8), rel=0.1)  # 2 x 16 weights, a quarter meets an output
    mean, variance, factor = blobs["bn"]
    assert factor != 1 and 0.5 <= (variance / factor).min() <= (variance / factor).max() <= 1.5
    assert abs(mean / factor).max() < 0.5


def test_shared_parameters_are_drawn_once():
    blobs = seeded(SMALL).model.blobs
    assert all(np.shares_memory(mine, others) for mine, others in zip(blobs["a"], blobs["b"]))


def test_the_seed_decides():
    first, again, other = (seeded(SMALL, seed).model.blobs for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for name in first for a, b in zip(first[name], again[name]))
    assert not np.array_equal(first["c"][0], other["c"][0])
    # Drawn with numpy's RandomState, whose stream is frozen for good.
    draws = np.random.RandomState(1).standard_normal(16) * 0.2 * np.sqrt(2 / 4)
    assert np.array_equal(first["a"][0].ravel(), draws.astype(np.float32))


def test_bn_as_the_dialect_writes_it():
    text = """
    layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }
    layer { name: "bn" type: "BN" bottom: "data" top: "bn" }
    """
    for name, shape in (("attention", (1, 3, 1, 1)), ("happynear", (1, 3)), ("pspnet", (1, 3, 1, 1))):
        blobs = seeded(text, dialect=find_dialect(name)).model.blobs["bn"]
        assert {blob.shape for blob in blobs} == {shape}
        assert all(0.5 <= blob.min() <= blob.max() <= 1.5 for blob in (blobs[0], blobs[3]))


def test_activations_of_deep_nets_stay_in_range():
    model = build(NETWORKS["attention56"], DEPLOY)
    model = registry.find("seed-weights")(model, seed=3).model
    image = np.random.RandomState(0).standard_normal((1, 3, 224, 224))
    for layer, tops in steps(model, {"data": image}):
        for name, top in tops.items():
            assert layer.type == "Softmax" or 0.005 < top.std() < 50, layer.name


def test_a_net_for_one_phase_only():
    text = SMALL.replace('name: "data"', 'name: "data" include { phase: TRAIN }')
    assert set(seeded(text).model.blobs) == set(seeded(SMALL).model.blobs)


def test_shapes_that_nobody_tells():
    text = """
    layer { name: "data" type: "HDF5Data" top: "data" hdf5_data_param { source: "x" batch_size: 2 } }
    layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3 } }
    """
    with pytest.raises(Error, match="does not tell the size of 'data'"):
        seeded(text)
    assert seeded(text, input_shapes={"data": (2, 5)}).model.blobs["ip"][0].shape == (3, 5)


def test_edits_and_input():
    before = Model(loads(SMALL, DEFAULT_DIALECT.message("NetParameter")))
    result = registry.find("seed-weights")(before, seed=0)
    assert not before.blobs and result.model.net == before.net
    assert result.coverage == "drew weights for 7 layers" and len(result.edits) == 7
    assert result.edits[0] == "layer 'a': 2 blobs drawn, 20 values"
