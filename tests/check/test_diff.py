"""Two nets are the same when Caffe cannot tell them apart, and any other change is named."""

from pathlib import Path

import pytest

from prototxt_gen.check.diff import compare
from prototxt_gen.check.diff_fields import PRESENCE
from prototxt_gen.check.diff_text import describe
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import loads
from prototxt_gen.nets.builder import DEPLOY, TRAIN as TRAIN_FORM, build
from prototxt_gen.nets.configs import NETWORKS

NetParameter = DEFAULT_DIALECT.message("NetParameter")

LENET = Path(__file__).with_name("diff_lenet.prototxt").read_text()


def net(text):
    return loads(text, NetParameter)


def copy(message):
    twin = type(message)()
    twin.CopyFrom(message)
    return twin


def otherwise_named(message):
    """A twin that is not equal byte for byte, so that it is looked at and not waved through."""
    twin = copy(message)
    twin.name += " twin"
    return twin


def lines(a, b, **options):
    return [describe(one) for one in compare(a, b, **options).differences]


DEPLOY_NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 64 dim: 56 dim: 56 } } }
layer { name: "conv2" type: "Convolution" bottom: "data" top: "conv2"
        convolution_param { num_output: 64 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "conv3" type: "Convolution" bottom: "conv2" top: "conv3"
        convolution_param { num_output: 2 kernel_size: 1 } }
"""


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("form", [TRAIN_FORM, DEPLOY])
def test_every_network_is_itself(name, form):
    model = build(NETWORKS[name], form)
    found = compare(model.net, otherwise_named(model.net))
    assert found.same and not found.consequences
    assert len(found.notes) == 1 and "the net's name" in found.notes[0]
    assert compare(model.net, copy(model.net)).notes == ()


def test_a_change_is_told_with_its_consequence():
    found = compare(net(DEPLOY_NET), net(DEPLOY_NET.replace("num_output: 64", "num_output: 128")))
    assert [describe(one) for one in found.differences] == [
        "conv2: num_output 64 -> 128  (+36.9 k parameters, +115.6 M macs, 'conv2' 64x56x56 -> 128x56x56)"]
    [follows] = found.consequences
    assert (follows.layer, follows.effect.parameters, follows.effect.macs) == ("conv3", 128, 128 * 56 * 56)
    assert found.totals[0].parameters == (36864 + 130, 73728 + 258)


# Ways to write the same thing, each a text and what replaces it.
SAME = {
    "kernel_h and kernel_w": ("kernel_size: 5", "kernel_h: 5 kernel_w: 5"),
    "a kernel per axis": ("kernel_size: 5", "kernel_size: 5 kernel_size: 5"),
    "stride_h and stride_w": ("kernel_size: 3 stride: 2", "kernel_h: 3 kernel_w: 3 stride_h: 2 stride_w: 2"),
    "defaults of a convolution": ("num_output: 6", "num_output: 6 bias_term: true group: 1 dilation: 1 axis: 1"),
    "pad of a pooling": ("kernel_size: 3", "kernel_size: 3 pad_h: 0 pad_w: 0"),
    "the filler of a scale": ("bias_term: true", 'bias_term: true filler { type: "constant" value: 1 }'),
    "the axis of a concat": ("axis: 1", "concat_dim: 1"),
    "normalization": ("ignore_label: 255", "ignore_label: 255 normalization: VALID"),
    "normalize": ("ignore_label: 255", "ignore_label: 255 normalize: true"),
    "loss weight": ('top: "loss"', 'top: "loss" loss_weight: 1'),
    "a loss without a top": (' top: "loss"', ""),
    "an empty message": ("concat_param { axis: 1 }", ""),
    "statistics of BatchNorm": (
        "batch_norm_param",
        "param { lr_mult: 0 } param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 } batch_norm_param"),
    "a name for unshared weights": ("param { lr_mult: 2", 'param { name: "mine" lr_mult: 2'),
    "defaults of param": ("decay_mult: 3 }", "decay_mult: 3 } param { lr_mult: 1 decay_mult: 1 }"),
    "a phase excluded": ("include { phase: TEST }\n  transform", "exclude { phase: TRAIN }\n  transform"),
}


@pytest.mark.parametrize("old, new", SAME.values(), ids=SAME)
def test_ways_to_write_the_same(old, new):
    assert old in LENET
    assert lines(net(LENET), net(LENET.replace(old, new, 1))) == []


def test_what_batchnorm_does_unasked_depends_on_the_phase():
    told = net(LENET.replace("eps: 0.001", "eps: 0.001 use_global_stats: false"))
    assert lines(net(LENET), told, phase=TRAIN) == []
    assert lines(net(LENET), told, phase=TEST) == ["bn1: use_global_stats true -> false"]
    assert lines(net(LENET), told) == ["bn1: use_global_stats true -> false  [TEST]"]


@pytest.mark.parametrize("type_name, field, text", [
    ("ArgMax", "argmax_param", "axis: 0"),
    ("Accuracy", "accuracy_param", "ignore_label: 0"),
    ("Interp", "interp_param", "zoom_factor: 1"),
    ("PReLU", "prelu_param", "filler { }"),
    ("SoftmaxWithLoss", "loss_param", "normalize: false"),
    ("SigmoidCrossEntropyLoss", "loss_param", "normalization: VALID"),
])
def test_where_caffe_asks_whether_a_field_is_set(type_name, field, text):
    bare = f'layer {{ name: "it" type: "{type_name}" bottom: "x" top: "y" %s }}'
    assert len(lines(net(bare % ""), net(bare % f"{field} {{ {text} }}"))) == 1


def test_presence_names_fields_of_the_schema():
    for message, name in PRESENCE:
        assert name in DEFAULT_DIALECT.message(message).DESCRIPTOR.fields_by_name


IN_PLACE = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "ip" type: "InnerProduct" bottom: "conv1" top: "ip" inner_product_param { num_output: 4 } }
"""


def test_working_in_place_is_a_note():
    own_top = IN_PLACE.replace('bottom: "conv1" top: "conv1" }', 'bottom: "conv1" top: "conv1_relu" }')
    own_top = own_top.replace('bottom: "conv1" top: "ip"', 'bottom: "conv1_relu" top: "ip"')
    found = compare(net(IN_PLACE), net(own_top))
    assert found.same and found.notes == ("1 layer works in place in A only: 'relu1'",)
    assert compare(net(own_top), net(IN_PLACE)).notes == ("1 layer works in place in B only: 'relu1'",)
    unread = IN_PLACE.replace('bottom: "conv1" top: "conv1" }', 'bottom: "conv1" top: "conv1_relu" }')
    assert lines(net(IN_PLACE), net(unread)) == ["ip: reads 'conv1' instead of 'relu1'"]


def test_a_split_is_looked_through_unless_an_array_is_overwritten_under_a_reader():
    fork = 'layer { name: "fork" type: "Split" bottom: "data" top: "a" top: "b" }'
    head = IN_PLACE.splitlines()[1]
    relu = 'layer { name: "relu" type: "ReLU" bottom: "%s" top: "%s" }'
    power = 'layer { name: "power" type: "Power" bottom: "%s" top: "power" }'
    plain = net(head + relu % ("data", "r") + power % "data")
    assert compare(plain, net(head + fork + relu % ("a", "r") + power % "b")).same
    # Both tops of a Split are one array: behind the ReLU in place, the Power reads rectified values.
    assert lines(plain, net(head + fork + relu % ("a", "a") + power % "b")) == ["power: reads 'relu' instead of 'data'"]
    assert compare(plain, net(head + fork + power % "b" + relu % ("a", "a"))).same


def test_renamed_layers_are_known_by_structure():
    renamed = LENET.replace('"ip" type', '"ip_new" type').replace('"relu1"', '"rectifier"')
    found = compare(net(LENET), net(renamed))
    assert [describe(one) for one in found.differences] == ["ip: renamed to 'ip_new', and weights are found by name"]
    assert found.notes == ("1 layer without parameters is renamed: 'relu1' -> 'rectifier'",)


def test_renamed_layers_where_no_shapes_are_known():
    text = ('layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" }'
            'layer { name: "relu" type: "ReLU" bottom: "ip" top: "r" } layer { name: "own" type: "Own" bottom: "r" }')
    found = compare(net(text), net(text.replace('name: "', 'name: "new_')))
    assert [one.layer for one in found.differences] == ["ip", "own"]
    assert found.notes[0] == "1 layer without parameters is renamed: 'relu' -> 'new_relu'"


def test_all_layers_renamed_at_once():
    small = net(LENET)
    for layer in small.layer:
        layer.name = "new_" + layer.name
    found = compare(net(LENET), small)
    assert {one.kind for one in found.differences} == {"renamed"}
    assert [one.new_name for one in found.differences] == ["new_conv1", "new_bn1", "new_scale1", "new_side", "new_ip"]


def test_added_and_removed_layers():
    dropout = ('layer { name: "drop" type: "Dropout" bottom: "cat" top: "drop" }'
               ' layer { name: "ip" type: "InnerProduct" bottom: "drop"')
    with_dropout = net(LENET.replace('layer {\n  name: "ip" type: "InnerProduct" bottom: "cat"', dropout))
    assert lines(net(LENET), with_dropout) == [
        "ip: reads 'drop' instead of 'cat'", "drop: added, Dropout of 'cat'  ('drop' 12x6x6)"]
    assert lines(with_dropout, net(LENET)) == [
        "drop: removed, Dropout of 'cat'  ('drop' 12x6x6)", "ip: reads 'cat' instead of 'drop'"]
    in_train = LENET.replace('top: "acc" include { phase: TEST }', 'top: "acc"')
    assert lines(net(LENET), net(in_train)) == ["acc: added, Accuracy of 'ip', 'mnist/label'  ('acc' scalar)  [TRAIN]"]


def test_a_layer_of_a_stage_is_compared_too():
    staged = LENET.replace('top: "acc" include { phase: TEST }', 'top: "acc" include { stage: "val" }')
    top5 = staged.replace('top: "acc" include', 'top: "acc" accuracy_param { top_k: 5 } include')
    assert lines(net(staged), net(top5)) == [
        "acc: top_k 1 -> 5  [TRAIN with stage 'val', TEST with stage 'val']"]


def test_layers_of_a_level_are_compared_too():
    at_level = 'layer { name: "p" type: "Power" bottom: "x" top: "p" power_param { power: %d } include { %s } }'
    for rule, where in (("min_level: 3", "  [TRAIN at level 3]"), ("max_level: -1", "  [TRAIN at level -2]"),
                        ("max_level: 2147483647", "")):
        found = lines(net(at_level % (1, rule)), net(at_level % (2, rule)), phase=TRAIN)
        assert found == [f"p: power 1 -> 2{where}"]
    assert lines(net(at_level % (1, "max_level: 3")), net(at_level % (1, "max_level: 4")), phase=TRAIN) == [
        "p: added, Power of 'blob x'  [TRAIN at level 4]"]


def test_numbers_that_are_none():
    odd = net('layer { name: "l" type: "Power" bottom: "x" top: "y" loss_weight: nan power_param { scale: nan } }')
    assert compare(odd, otherwise_named(odd)).same


def test_inputs_are_known_by_their_blobs():
    legacy = net('input: "a" input: "b" input_shape { dim: 1 dim: 2 } input_shape { dim: 3 }')
    layers = ('layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 3 } } }'
              'layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 1 dim: %d } } }')
    assert compare(legacy, net(layers % 2)).same
    assert lines(legacy, net(layers % 4)) == ["a: shape [1, 2] -> [1, 4]  ('a' 2 -> 4)"]


def test_shared_parameters_are_compared_by_their_owner():
    two = ('layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "a" {0} }}'
           'layer {{ name: "b" type: "InnerProduct" bottom: "y" top: "b" {1} }}')
    shared = net(two.format('param { name: "w" }', 'param { name: "w" lr_mult: 2 }'))
    assert compare(shared, net(two.format('param { name: "v" lr_mult: 2 }', 'param { name: "v" }'))).same
    assert lines(shared, net(two.format('param { lr_mult: 2 }', "param { lr_mult: 2 }"))) == [
        "b: param[0] shared with a -> unset"]


def test_bottoms_of_a_plain_sum_may_come_in_any_order():
    plain = LENET.replace("coeff: 1 coeff: -1", "operation: SUM")
    swapped = 'bottom: "pool1" bottom: "side" top: "sum"'
    found = compare(net(plain), net(plain.replace('bottom: "side" bottom: "pool1" top: "sum"', swapped)))
    assert found.same and found.notes == ("1 Eltwise reads its bottoms in another order: 'sum'",)
    assert not compare(net(LENET), net(LENET.replace('bottom: "side" bottom: "pool1" top: "sum"', swapped))).same


def test_nets_without_shapes_are_compared_all_the_same():
    broken = DEPLOY_NET.replace('bottom: "conv2"', 'bottom: "conv22"')
    found = compare(net(DEPLOY_NET), net(broken))
    assert [describe(one) for one in found.differences] == ["conv3: reads 'blob conv22' instead of 'conv2'"]
    assert any("no shapes and counts: B: " in note for note in found.notes)
