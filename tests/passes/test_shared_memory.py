"""Blobs that stand in one memory: what works in place on one changes the other, and no pass may move layers there."""

import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import shared_writes
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.to_onnx import to_onnx
from prototxt_gen.passes.base import registry

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 3 kernel_size: 1 } }
%s
layer { name: "relu" type: "ReLU" bottom: "b" top: "%s" }
layer { name: "sum" type: "Eltwise" bottom: "%s" bottom: "%s" top: "sum" }
"""
SPLIT = 'layer { name: "split" type: "Split" bottom: "c" top: "a" top: "b" }'
RESHAPE = 'layer { name: "r" type: "Reshape" bottom: "c" top: "b" reshape_param { shape { dim: 0 dim: 0 dim: 0 dim: 0 } } }'


def model(*parts):
    net = loads(NET % parts, DEFAULT_DIALECT.message("NetParameter"))
    return registry.find("seed-weights")(Model(net), seed=1).model


@pytest.mark.parametrize("shares, other", [(SPLIT, "a"), (RESHAPE, "c")])
def test_in_place_on_one_of_two_names_is_refused(shares, other):
    found = model(shares, "b", "b", other)
    assert [(layer.name, name) for layer, name in shared_writes(found.net.layer)] == [("relu", other)]
    for name in ("drop-split", "fold-bn", "fuse-scale"):
        with pytest.raises(Error, match=f"layer 'relu': it works in place on 'b', and so changes '{other}'"):
            registry.find(name)(found)
    with pytest.raises(Error, match="of the same memory"):
        to_onnx(found)


@pytest.mark.parametrize("shares, other", [(SPLIT, "a"), (RESHAPE, "c")])
def test_a_top_of_its_own_is_not(shares, other):
    found = model(shares, "y", "y", other)
    assert not list(shared_writes(found.net.layer))
    registry.find("drop-split")(found)
    to_onnx(found)


def test_nor_in_place_where_nobody_reads_the_other_name_later():
    found = model(RESHAPE, "b", "b", "b")
    assert not list(shared_writes(found.net.layer))
