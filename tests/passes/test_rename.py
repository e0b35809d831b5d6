"""rename: names change, and nothing else."""


import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import random_nets
from prototxt_gen.check.diff import compare
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model, dumps, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.rename import read_map, rename


NetParameter = DEFAULT_DIALECT.message("NetParameter")
quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { name: "conv1" }
        convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "conv1/relu" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2_out"
        convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "conv10" type: "Convolution" bottom: "conv2_out" top: "conv10"
        convolution_param { num_output: 2 kernel_size: 1 } }
"""


def model(text=NET, **blobs):
    return Model(loads(text, NetParameter), blobs=blobs)


def names(net):
    return [(layer.name, list(layer.bottom), list(layer.top)) for layer in net.layer]


@pytest.mark.parametrize("renames, layers, tops", [
    ([("conv1", "first")],
     ["data", "first", "conv1/relu", "conv2", "conv10"], ["data", "first", "conv2_out", "conv10"]),
    ([("conv1", "conv2"), ("conv2", "conv1")],
     ["data", "conv2", "conv1/relu", "conv1", "conv10"], ["data", "conv2", "conv2_out", "conv10"]),
    ([(r"^conv(\d+)", r"c\1")], ["data", "c1", "c1/relu", "c2", "c10"], ["data", "c1", "c2_out", "c10"]),
    ([(r"onv", "x"), (r"cx", "y"), ("/", "_")], ["data", "y1", "y1_relu", "y2", "y10"],
     ["data", "y1", "y2_out", "y10"]),
    ([("conv1", r"\1"), (r"conv", "c")], ["data", r"\1", "c1/relu", "c2", "c10"], ["data", r"\1", "c2_out", "c10"]),
])
def test_names(renames, layers, tops):
    found = rename(model(), renames=renames).model.net
    assert [layer.name for layer in found.layer] == layers
    assert list(dict.fromkeys(top for layer in found.layer for top in layer.top)) == tops
    assert found.layer[1].param[0].name == "conv1"


def test_weights_inputs_and_edits():
    one, two = np.ones(1, np.float32), np.zeros(1, np.float32)
    old = Model(loads('input: "data" input_dim: 1 layer { name: "a" bottom: "data" top: "b" }', NetParameter),
                blobs={"a": (one,), "gone": (two,)})
    done = rename(old, renames=[("data", "image"), ("^(a|b)$", r"new_\1")])
    assert list(done.model.net.input) == ["image"] and names(done.model.net) == [("new_a", ["image"], ["new_b"])]
    assert done.model.blobs == {"new_a": (one,), "gone": (two,)}
    assert done.edits == ("layer 'a': now 'new_a'", "blob 'data': now 'image'", "blob 'b': now 'new_b'")
    assert names(old.net) == [("a", ["data"], ["b"])]


@pytest.mark.parametrize("renames, message", [
    ([("conv_1", "x")], "'conv_1' fits no name of the net\nhint: did you mean 'conv1'"),
    ([("conv1", "a"), ("conv1", "b")], "'conv1' is renamed twice"),
    ([("conv1", "conv2")], "layers 'conv1' and 'conv2' would both be called 'conv2'"),
    ([("conv2_out", "conv1")], "blobs 'conv1' and 'conv2_out' would both be called 'conv1'"),
    ([(r"\d+", "")], "layers 'conv1' and 'conv2' would both be called 'conv'"),
    ([("(conv", "x")], r"'\(conv' is no name of the net, and no regular expression: .*\n?"),
    ([("conv(1)", r"\2")], r"cannot take the place of 'conv\(1\)': invalid group"),
    ([("^data$|^conv10$", "")], "'data' would have no name"),
])
def test_refusals(renames, message):
    with pytest.raises(Error, match=message):
        rename(model(), renames=renames)


def test_data_sets_keep_their_names():
    net = model('layer { name: "h" type: "HDF5Data" top: "image" } layer { name: "p" bottom: "image" top: "p" }')
    with pytest.raises(Error, match="layer 'h': it reads the data set 'image' by that name"):
        rename(net, renames=[("image", "data")])
    assert rename(net, renames=[("h", "data")]).model.net.layer[0].name == "data"


def test_our_nets_under_other_names_are_the_same_nets():
    """diff pairs layers by structure where their names differ, and finds the names only."""
    for name in ("attention56-cifar", "attentionnext56"):
        net = build(NETWORKS[name])
        other = rename(net, renames=[("^Attention", "Att"), ("/", "__"), ("data", "image")]).model
        assert not any("/" in layer.name for layer in other.net.layer)
        assert {change.kind for change in compare(net.net, other.net).differences} == {"renamed"}
        assert rename(other, renames=[("^Att", "Attention"), ("__", "/"), ("image", "data")]).model.net == net.net


@quick
@given(random=random_nets.models(), data=st.data())
def test_random_nets_compute_the_same_under_other_names(random, data):
    known = list(dict.fromkeys([*(layer.name for layer in random.net.layer),
                                *(top for layer in random.net.layer for top in layer.top)]))
    fresh = [f"n{number}" for number in range(len(known))]
    new = data.draw(st.permutations(fresh if data.draw(st.booleans()) else known))
    there = dict(zip(known, new))
    other = rename(random, renames=list(there.items())).model
    inputs = random_nets.inputs_of(random)
    wanted = forward(random, inputs)
    found = forward(other, {there[name]: array for name, array in inputs.items()})
    assert found.keys() == {there[name] for name in wanted}
    assert all(np.array_equal(found[there[name]], wanted[name], equal_nan=True) for name in wanted)
    back = rename(other, renames=[(one, name) for name, one in there.items()]).model
    assert back.net == random.net and back.blobs == random.blobs


def test_caffe_computes_the_same(caffe_pairs):
    other = rename(model(), renames=[("^conv", "block/conv"), ("data", "image")]).model
    layers = {one.name: new.name for one, new in zip(model().net.layer, other.net.layer)}
    blobs = {one: new for a, b in zip(model().net.layer, other.net.layer) for one, new in zip(a.top, b.top)}
    job = dict(a=NET, b=dumps(other.net), phase_a=1, phase_b=1, layers=layers, blobs=blobs)
    [found] = caffe_pairs([job])
    assert found["outputs_b"] == ["block/conv10"]
    assert found["apart"] == dict.fromkeys(["image", "block/conv1", "block/conv2_out", "block/conv10"], 0)


MAPS = {
    "columns": ("# names\nconv1 first\nconv2\tsecond   # the other\n\n", (("conv1", "first"), ("conv2", "second"))),
    "equals": ("conv1 = first\n  ^(\\w+) out$ = \\1_out\n", (("conv1", "first"), (r"^(\w+) out$", r"\1_out"))),
    "hash in a name": ("a#1 b#1\n", (("a#1", "b#1"),)),
    "lookahead": ("conv(?=1) c\n", (("conv(?=1)", "c"),)),
    "object": ('{"conv1": "first", "conv2": "second"}', (("conv1", "first"), ("conv2", "second"))),
    "list": (' [["conv1", "first"], ["conv1", "second"]]', (("conv1", "first"), ("conv1", "second"))),
    "empty": ("# nothing\n", ()),
}


@pytest.mark.parametrize("text, pairs", MAPS.values(), ids=MAPS)
def test_maps(tmp_path, text, pairs):
    (tmp_path / "map").write_text(text)
    assert read_map(str(tmp_path / "map")) == pairs


@pytest.mark.parametrize("text, message", [
    ("conv1 first\nconv2\n", "map:2: 'conv2' is no pair of names\nhint: write 'old = new'"),
    ("a = b = c", "map:1: 'a = b = c' is no pair"),
    ("a b c", "map:1: 'a b c' is no pair"),
    ('{"a": 1}', r'map: \["a", 1\] is no pair of names'),
    ('["ab"]', 'map: "ab" is no pair of names'),
    ('{"a": ', "map: is not JSON"),
    ("[" * 100000, "map: is not JSON"),
])
def test_maps_with_a_slip(tmp_path, text, message):
    (tmp_path / "map").write_text(text)
    with pytest.raises(Error, match=message):
        read_map(str(tmp_path / "map"))
