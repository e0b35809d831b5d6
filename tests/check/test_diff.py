"""Two nets are the same when Caffe cannot tell them apart, and any other change is named."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prototxt_gen.check.diff import compare
from prototxt_gen.check.diff_fields import PRESENCE
from prototxt_gen.check.diff_text import describe
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import loads
from prototxt_gen.nets.builder import DEPLOY, TRAIN as TRAIN_FORM, build
from prototxt_gen.nets.configs import NETWORKS

NetParameter = DEFAULT_DIALECT.message("NetParameter")

LENET = """
name: "LeNet"
layer {
  name: "mnist" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { scale: 0.5 crop_size: 28 } data_param { source: "train_lmdb" batch_size: 64 backend: LMDB }
}
layer {
  name: "mnist" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.5 crop_size: 28 } data_param { source: "test_lmdb" batch_size: 100 backend: LMDB }
}
layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 2 decay_mult: 3 }
  convolution_param { num_output: 6 kernel_size: 5 stride: 2 pad: 1 weight_filler { type: "xavier" } }
}
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "bn1" batch_norm_param { eps: 0.001 } }
layer { name: "scale1" type: "Scale" bottom: "bn1" top: "scale1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "scale1" top: "scale1" relu_param { negative_slope: 0.1 } }
layer {
  name: "pool1" type: "Pooling" bottom: "scale1" top: "pool1" pooling_param { pool: AVE kernel_size: 3 stride: 2 }
}
layer {
  name: "side" type: "Convolution" bottom: "pool1" top: "side" convolution_param { num_output: 6 kernel_size: 1 }
}
layer { name: "sum" type: "Eltwise" bottom: "side" bottom: "pool1" top: "sum" eltwise_param { coeff: 1 coeff: -1 } }
layer { name: "cat" type: "Concat" bottom: "sum" bottom: "pool1" top: "cat" concat_param { axis: 1 } }
layer {
  name: "ip" type: "InnerProduct" bottom: "cat" top: "ip" inner_product_param { num_output: 10 }
}
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_param { ignore_label: 255 } }
"""


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


def mutations(message, root, path=""):
    """Yield (path, twin of ``root``) with one scalar field changed, unset, or set where it was not."""
    for field in message.DESCRIPTOR.fields:
        repeated = isinstance(field.default_value, list)
        here = f"{path}{field.name}"
        if field.message_type is not None:
            if repeated:
                for index, one in enumerate(getattr(message, field.name)):
                    yield from mutations(one, root, f"{here}[{index}].")
            elif message.HasField(field.name):
                yield from mutations(getattr(message, field.name), root, here + ".")
            continue
        for value in other_values(field):
            if repeated:
                for index, old in enumerate(list(getattr(message, field.name))):
                    getattr(message, field.name)[index] = value
                    yield f"{here}[{index}]", copy(root)
                    getattr(message, field.name)[index] = old
            elif getattr(message, field.name) != value:
                was, old = message.HasField(field.name), getattr(message, field.name)
                setattr(message, field.name, value)
                yield here, copy(root)
                if was:
                    setattr(message, field.name, old)
                else:
                    message.ClearField(field.name)


def other_values(field):
    if field.enum_type is not None:
        return [one.number for one in field.enum_type.values]
    return {"str": ["other"], "bool": [False, True], "float": [7.5], "bytes": [b"x"]}.get(
        type(field.default_value).__name__ if not isinstance(field.default_value, list) else
        "str" if field.cpp_type == field.CPPTYPE_STRING else
        "bool" if field.cpp_type == field.CPPTYPE_BOOL else
        "float" if field.cpp_type == field.CPPTYPE_FLOAT else "int", [7])


def means_nothing(path, twin):
    """Fields that Caffe does not read here, and what is a matter of naming: at most a note."""
    layer = twin.layer[int(path[6:path.index("]")])] if path.startswith("layer[") else None
    leaf = path.rpartition(".")[2]
    if layer is None:
        return path == "name" or path.startswith("state")
    # Names of blobs that nobody reads, of layers without weights, of weights that are not shared; how these would be
    # shared; how a loss normalises by default; the phase that a layer has anyway.
    unread = leaf == "top[0]" and layer.type in ("Accuracy", "SoftmaxWithLoss")
    unnamed = leaf == "name" and not ("param[" not in path and layer.type in (
        "Convolution", "BatchNorm", "Scale", "InnerProduct"))
    return unread or unnamed or leaf == "share_mode" or leaf in ("normalize", "normalization") and (
        layer.loss_param.normalization == 1 or layer.loss_param.normalize) or (
        path.endswith("].phase") and "include" not in path and layer.include and layer.include[0].phase == layer.phase)


def test_every_single_field_counts():
    small = net(LENET)
    root = copy(small)
    silent = []
    tried = 0
    for path, twin in mutations(root, root):
        tried += 1
        found = compare(small, twin)
        if found.same and not means_nothing(path, twin):
            silent.append(path)
    assert tried > 150 and silent == []


@st.composite
def random_nets(draw):
    """Feed-forward nets over one input: layers of several types on blobs made before, some of them in place."""
    made = NetParameter(name="random")
    made.layer.add(name="data", type="Input", top=["data"]).input_param.shape.add(dim=[2, 4, 9, 9])
    blobs, read = ["data"], set()
    for index in range(draw(st.integers(2, 12))):
        kind = draw(st.sampled_from(["Convolution", "ReLU", "BatchNorm", "Pooling", "Eltwise", "Power", "inplace"]))
        bottoms = [draw(st.sampled_from(blobs)) for _ in range(2 if kind == "Eltwise" else 1)]
        if kind == "inplace":
            # Readers of a Split's tops see one array: what has been read is not overwritten here.
            free = [one for one in blobs if one not in read]
            if not free:
                continue
            blob = draw(st.sampled_from(free))
            made.layer.add(name=f"l{index}", type="ReLU", bottom=[blob], top=[blob])
            continue
        read.update(bottoms)
        layer = made.layer.add(name=f"l{index}", type=kind, bottom=bottoms, top=[f"b{index}"])
        if kind == "Convolution":
            layer.convolution_param.num_output = 4
            layer.convolution_param.kernel_size.append(draw(st.sampled_from([1, 3])))
            layer.convolution_param.pad.append(layer.convolution_param.kernel_size[0] // 2)
            layer.convolution_param.weight_filler.type = "xavier"
        elif kind == "Pooling":
            layer.pooling_param.kernel_size = 3
            layer.pooling_param.pad = 1
        elif kind == "Power":
            layer.power_param.scale = draw(st.sampled_from([1, 2]))
        blobs.append(f"b{index}")
    return made


def permuted(message, rng):
    """Another order of the layers that keeps every writer of a blob before its readers, and writers in order."""
    twin = copy(message)
    del twin.layer[:]
    waiting = list(message.layer)
    while waiting:
        free = [one for index, one in enumerate(waiting) if not any(
            set(earlier.top) & {*one.bottom, *one.top} or set(earlier.bottom) & set(one.top)
            for earlier in waiting[:index])]
        chosen = rng.choice(free)
        waiting.remove(chosen)
        twin.layer.add().CopyFrom(chosen)
    return twin


ASKED_FOR = {"concat_dim", "slice_dim", "normalize", "normalization", "use_global_stats"} | {one for _, one in PRESENCE}


def with_defaults(message, rng, own=False):
    """Write out defaults that Caffe does not ask for, in the parameter messages that there are."""
    for field in message.DESCRIPTOR.fields:
        if isinstance(field.default_value, list):
            if field.message_type is not None:
                for one in getattr(message, field.name):
                    with_defaults(one, rng, own=field.name not in ("layer", "include", "exclude", "shape"))
        elif field.message_type is not None:
            if message.HasField(field.name):
                with_defaults(getattr(message, field.name), rng, own=True)
        elif (own and field.has_default_value and not message.HasField(field.name) and field.name not in ASKED_FOR
              and not field.name.endswith(("_h", "_w")) and rng.random() < 0.7):
            setattr(message, field.name, field.default_value)


def with_other_blobs(message):
    for layer in message.layer:
        layer.bottom[:] = [f"{one}_x" for one in layer.bottom]
        layer.top[:] = [f"{one}_x" for one in layer.top]


@settings(deadline=None, max_examples=80)
@given(made=random_nets(), seed=st.integers(0, 2**32))
def test_order_defaults_and_blob_names_make_no_difference(made, seed):
    rng = random.Random(seed)
    twin = permuted(otherwise_named(made), rng)
    assert lines(made, twin) == []
    with_defaults(twin, rng)
    assert lines(made, twin) == []
    with_other_blobs(twin)
    assert lines(made, twin) == []
    assert compare(twin, made).same


@settings(deadline=None, max_examples=60)
@given(made=random_nets(), data=st.data())
def test_a_layer_taken_away_is_missed(made, data):
    twin = copy(made)
    gone = twin.layer.pop(data.draw(st.integers(1, len(made.layer) - 1)))
    kinds = {one.kind for one in compare(made, twin).differences if one.layer == gone.name}
    # One of two equal layers may stand in for the other: then another is missed, and this one renamed.
    assert kinds & {"removed", "renamed", "changed"}
