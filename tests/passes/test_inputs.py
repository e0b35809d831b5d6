"""resize-input, fix-interp and batch: the builder's nets of other sizes, the same values, and refusals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import random_nets
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import Model, dumps, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.nets.builder import DEPLOY, PUBLISHED, build
from prototxt_gen.nets.builder import TRAIN as TRAINING
from prototxt_gen.nets.configs import NETWORKS, vary
from prototxt_gen.passes.inputs import batch, fix_interp, resize_input
from prototxt_gen.spec.infer import infer

PAIRS = Path(__file__).with_name("caffe_pairs.py")

NetParameter = DEFAULT_DIALECT.message("NetParameter")
quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
PAPER_NETS = [name for name, config in NETWORKS.items() if config.published_name]
NAMES = ["attention56", "attentionnext92", "attention92-cifar"]
SMALL = vary(NETWORKS["attention56-cifar"], dict(widths="4,8,8,8", stem_width="4"))


def model(text, **blobs):
    return Model(loads(text, NetParameter), blobs=blobs)


def image(*shape, name="data"):
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(kind, settings="", bottom="data", top="y", name="layer"):
    bottoms = " ".join(f'bottom: "{one}"' for one in bottom.split())
    tops = " ".join(f'top: "{one}"' for one in top.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} {tops} {settings} }}\n'


def conv(bottom, top, width=4, kernel=3, stride=1):
    param = f"num_output: {width} kernel_size: {kernel} stride: {stride} pad: {kernel // 2}"
    return layer("Convolution", f"convolution_param {{ {param} }}", bottom, top, top)


def run_pairs(run_caffe_python, folder, jobs):
    (folder / "jobs.json").write_text(json.dumps(jobs))
    run_caffe_python(PAIRS, folder / "jobs.json", folder / "found.json")
    return json.loads((folder / "found.json").read_text())

# resize-input


@pytest.mark.parametrize("name", NAMES)
def test_a_resized_net_is_the_net_that_the_builder_makes(name):
    config = NETWORKS[name]
    size = 320 if config.input_size == 224 else 40
    for form in (DEPLOY, *[PUBLISHED] * (name in PAPER_NETS), TRAINING):
        done = resize_input(build(config, form), input_shapes={"data": (1, 3, size, size)})
        assert done.model.net == build(config, form, input_size=size).net
        assert "layer 'ave_pool': global average pooling" in done.edits


def test_a_size_that_leaves_the_last_plane_leaves_the_pooling():
    config = NETWORKS["attention56"]
    done = resize_input(build(config, DEPLOY), input_shapes={"data": (2, 3, 220, 222)})
    assert done.edits == ("layer 'data': 1x3x224x224 -> 2x3x220x222",)
    assert done.model.net.layer[-3].pooling_param.kernel_size == 7

INPUTS = {
    "a field": ('input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8', (2, 3, 5, 6),
                'input: "data" input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 6'),
    "fields without four axes": (
        'input: "data" input: "b" ' + "input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8 " * 2, (2, 3),
        'input: "data" input: "b" input_shape { dim: 2 dim: 3 } input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }'),
    "a shape": ('input: "data" input_shape { dim: 1 dim: 8 }', (2, 4, 4),
                'input: "data" input_shape { dim: 2 dim: 4 dim: 4 }'),
    "one shape for all tops": (
        layer("Input", "input_param { shape { dim: 1 } }", "", "a data"), (4, 4),
        layer("Input", "input_param { shape { dim: 1 } shape { dim: 4 dim: 4 } }", "", "a data")),
    "no shape": (layer("Input", "", "", "data"), (4,), layer("Input", "input_param { shape { dim: 4 } }", "", "data")),
    "Data": (layer("Data", "data_param { batch_size: 4 } transform_param { crop_size: 8 mirror: true }", "", "data l"),
             (1, 3, 6, 6),
             layer("Data", "data_param { batch_size: 4 } transform_param { crop_size: 6 mirror: true }", "", "data l")),
    "ImageData": (layer("ImageData", "image_data_param { new_height: 9 new_width: 8 }", "", "data l"), (1, 3, 5, 6),
                  layer("ImageData", "image_data_param { new_height: 5 new_width: 6 }", "", "data l")),
    "a crop of ImageData": (
        layer("ImageData", "image_data_param { new_height: 9 new_width: 9 } transform_param { crop_size: 7 }", "",
              "data l"), (1, 3, 9, 9),
        layer("ImageData", "image_data_param { new_height: 9 new_width: 9 } transform_param { crop_size: 9 }", "",
              "data l")),
    "MemoryData": (
        layer("MemoryData", "memory_data_param { batch_size: 2 channels: 3 height: 8 width: 8 }", "", "data l"),
        (9, 1, 6, 5),
        layer("MemoryData", "memory_data_param { batch_size: 2 channels: 1 height: 6 width: 5 }", "", "data l")),
    "DummyData": (layer("DummyData", "dummy_data_param { shape { dim: 1 } }", "", "data"), (2, 2),
                  layer("DummyData", "dummy_data_param { shape { dim: 2 dim: 2 } }", "", "data")),
}


@pytest.mark.parametrize("old, shape, new", INPUTS.values(), ids=INPUTS)
def test_where_a_shape_stands(old, shape, new):
    given_model = model(old)
    assert resize_input(given_model, input_shapes={"data": shape}).model.net == loads(new, NetParameter)
    assert given_model.net == loads(old, NetParameter)

IP = layer("InnerProduct", "inner_product_param { num_output: 2 }", "data", "ip", "ip")
UP = "interp_param { height: 8 width: 8 }"
RESIZE_REFUSALS = {
    "no such input": (image(1, 3, 8, 8), {"dota": (1, 2)}, "the net has no input 'dota'\nhint: did you mean 'data'"),
    "not an input": (image(1, 3, 8, 8) + IP, {"ip": (1, 2)}, "the net has no input 'ip'\nhint: inputs: data"),
    "no size": (image(1, 3, 8, 8), {"data": (1, 0)}, "input 'data' cannot be 1x0"),
    "a plane that runs dry": (image(1, 3, 8, 8) + layer("Pooling", "pooling_param { kernel_size: 5 }"),
                              {"data": (1, 3, 4, 4)}, r"layer 'layer' \(Pooling\): its window 5x5 is larger"),
    "a crop that is no square": (layer("Data", "transform_param { crop_size: 8 }", "", "data"), {"data": (1, 3, 4, 5)},
                                 "layer 'layer': Data cuts out squares, not 4x5"),
    "labels": (layer("Data", "transform_param { crop_size: 8 }", "", "data l"), {"l": (1, 3, 4, 4)},
               "layer 'layer': 'l' of Data cannot be 1x3x4x4"),
    "images too small": (
        layer("ImageData", "image_data_param { new_height: 9 new_width: 9 } transform_param { crop_size: 7 }", "",
              "d l"), {"d": (1, 3, 10, 10)}, "layer 'layer': its images are 9x9, too small for a crop_size of 10"),
    "files": (layer("HDF5Data", "", "", "data"), {"data": (1, 3, 4, 4)}, "only the data of HDF5Data tell"),
    "old fields of DummyData": (
        layer("DummyData", "dummy_data_param { num: 1 channels: 1 height: 1 width: 1 }", "", "d"), {"d": (1,)},
        "its size is given by num, channels, height and width"),
    "an Input without shapes": (layer("Input", "", "", "a b"), {"a": (1,)}, "it gives none of its tops a shape"),
    "too few dims": ('input: "data" input_dim: 1 ' + IP, {"data": (1, 2)}, "input 'data' has 1 of 4 values"),
    "too many dims": ('input: "data"' + " input_dim: 1" * 5, {"data": (1, 2, 3, 4)},
                      "input_dim has 5 values for 1 input\n"),
    "a shape for one of two": ('input: "a" input: "b" input_shape { dim: 1 }' + " input_dim: 1" * 8, {"b": (1,)},
                               "input 'b' has no input_shape"),
    "an Interp that cannot follow": (
        image(1, 3, 4, 4) + layer("Interp", UP), {"data": (1, 3, 5, 5)},
        "layer 'layer': its size 8x8 is fixed, and what it should be now is not known: no earlier blob has that plane"),
    "an Interp that could go two ways": (
        image(1, 3, 16, 16) + conv("data", "a", stride=2) + layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 "
                                                                  "round_mode: FLOOR }", "data", "b", "b")
        + conv("a", "c", stride=2) + layer("Interp", UP, "c"), {"data": (1, 3, 19, 19)},
        "what it should be now is not known: 10x10 or 9x9\nhint: --pass resize-input before --pass fix-interp"),
}


@pytest.mark.parametrize("text, shapes, message", RESIZE_REFUSALS.values(), ids=RESIZE_REFUSALS)
def test_resizing_is_refused(text, shapes, message):
    with pytest.raises(Error, match=message):
        resize_input(model(text), input_shapes=shapes)


def test_weights_that_no_longer_fit():
    text = image(1, 3, 8, 8) + conv("data", "a", 2) + IP.replace('bottom: "data"', 'bottom: "a"')
    free = resize_input(model(text), input_shapes={"data": (1, 3, 6, 6)})
    assert "layer 'ip': parameters 2x128 and 2 -> 2x72 and 2" in free.edits
    blobs = random_nets.weights(model(text).net, 0)
    with pytest.raises(Error, match="layer 'ip': its weights are 2x128, and the new input asks for 2x72"):
        resize_input(model(text, **blobs), input_shapes={"data": (1, 3, 6, 6)})
    with pytest.raises(Error, match="layer 'a': its weights are 2x3x3x3, and the new input asks for 2x1x3x3"):
        resize_input(model(text, **blobs), input_shapes={"data": (1, 1, 8, 8)})


@pytest.mark.parametrize("between, becomes", [
    (layer("Dropout", "", "p", "p", "d"), True),
    (layer("Flatten", "", "p", "f", "f"), True),
    (conv("p", "f", 2, 1), False),
])
def test_which_pooling_becomes_global(between, becomes):
    pool = layer("Pooling", "pooling_param { pool: AVE kernel_h: 8 kernel_w: 6 }", "data", "p", "p")
    last = "f" if '"f"' in between else "p"
    text = image(1, 3, 8, 6) + pool + between + IP.replace('bottom: "data"', f'bottom: "{last}"')
    net = resize_input(model(text), input_shapes={"data": (1, 3, 10, 9)}).model.net
    assert net.layer[1].pooling_param.global_pooling == becomes
    assert infer(net, TEST).layers[1].top_shapes == ((1, 3, 1, 1) if becomes else (1, 3, 3, 4),)
    same = resize_input(model(text), input_shapes={"data": (2, 3, 8, 6)}).model.net
    assert same.layer[1:] == model(text).net.layer[1:]


@quick
@given(random=random_nets.models(), sizes=st.tuples(st.integers(1, 3), st.integers(2, 11), st.integers(2, 11)))
def test_random_nets_of_another_size_compute_what_they_do_on_it(random, sizes):
    batch_size, height, width = sizes
    new = {one.name: (batch_size, one.input_param.shape[0].dim[1], height, width)
           for one in random.net.layer if one.type == "Input"}
    old = replace(random, blobs={})
    try:
        done = resize_input(random, input_shapes=new)
    except Error:
        # Refused: the weights do not fit, or the net itself does not, or an Interp cannot follow.
        with pytest.raises(Error):
            forward(random, {name: np.ones(shape, np.float32) for name, shape in new.items()})
            resize_input(old, input_shapes=new)
        return
    assume(len(done.edits) == len(new))  # no pooling and no Interp had to follow
    inputs = random_nets.inputs_of(done.model)
    assert {name: array.shape for name, array in inputs.items()} == new
    found, wanted = forward(done.model, inputs), forward(random, inputs)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name], equal_nan=True) for name in wanted)

# fix-interp


@pytest.mark.parametrize("name", NAMES)
def test_fixing_and_resizing_change_places(name):
    config = NETWORKS[name]
    size = 320 if config.input_size == 224 else 40
    shapes = {"data": (1, 3, size, size)}
    deploy = build(config, DEPLOY)
    fixed = fix_interp(deploy)
    number = sum(layer.type == "Interp" for layer in deploy.net.layer)
    assert fixed.coverage == f"fixed {number} of {number} Interp" and not fixed.skipped
    assert all(len(layer.bottom) == 1 for layer in fixed.model.net.layer if layer.type == "Interp")
    assert len(fixed.model.net.layer) == len(deploy.net.layer)
    assert fix_interp(fixed.model).coverage == ""
    there = fix_interp(deploy, input_shapes=shapes).model.net
    assert there == resize_input(fixed.model, input_shapes=shapes).model.net
    assert there == fix_interp(build(config, DEPLOY, input_size=size)).model.net

INTERPS = {
    "a second bottom that others read": (
        conv("data", "a", stride=2) + layer("Interp", "", "a data", "up", "up") + conv("data", "b"), 0),
    "a second bottom of its own": (
        conv("data", "a", stride=2) + conv("data", "like") + layer("Interp", "", "a like", "up", "up"), 1),
    "an input of its own": (
        image(1, 1, 5, 6, name="like") + conv("data", "a") + layer("Interp", "", "a like", "up", "up"), 1),
    "two that share it": (
        conv("data", "a") + conv("data", "like", stride=2) + layer("Interp", "", "a like", "up", "up")
        + layer("Interp", "interp_param { pad_beg: -1 }", "a like", "up2", "up2"), 1),
    "written again in place": (
        conv("data", "a") + conv("data", "like", stride=2) + layer("Interp", "", "a like", "up", "up")
        + layer("ReLU", "", "data", "relu", "relu"), 1),
    "the same bottom twice": (layer("Interp", "", "data data", "up", "up"), 0),
    "factors": (layer("Interp", "interp_param { zoom_factor: 2 }", "data", "up", "up")
                + layer("Interp", "interp_param { shrink_factor: 2 pad_end: -1 }", "up", "down", "down"), 0),
}


@pytest.mark.parametrize("text, silences", INTERPS.values(), ids=INTERPS)
def test_fixed_interps_in_caffe(run_caffe_python, tmp_path, text, silences):
    old = model(image(2, 3, 8, 7) + text)
    done = fix_interp(old)
    assert sum(one.type == "Silence" for one in done.model.net.layer) == silences
    for one in done.model.net.layer:
        if one.type == "Interp":
            param = one.interp_param
            assert len(one.bottom) == 1 and param.height and param.width
            assert not param.HasField("zoom_factor") and not param.HasField("shrink_factor")
    [found] = run_pairs(run_caffe_python, tmp_path, [
        dict(a=dumps(old.net), b=dumps(done.model.net), phase_a=TEST, phase_b=TEST)])
    assert found["outputs_a"] == found["outputs_b"]
    assert {one.top[0] for one in old.net.layer} <= set(found["apart"]) and not any(found["apart"].values())


def test_fixing_in_both_phases():
    """A second bottom that TEST only does not read otherwise; and one that has two sizes."""
    text = """
    layer { name: "data" type: "Data" top: "data" top: "label" transform_param { crop_size: 8 }
            data_param { batch_size: 2 } include { phase: TRAIN } }
    layer { name: "data" type: "Data" top: "data" top: "label" transform_param { crop_size: %d }
            data_param { batch_size: 1 } include { phase: TEST } }
    """ + conv("data", "a", stride=2) + conv("data", "like") + layer("Interp", "", "a like", "up", "up")
    text += layer("EuclideanLoss", "include { phase: TRAIN }", "like up", "loss", "loss")
    done = fix_interp(model(text % 8))
    [silence] = [one for one in done.model.net.layer if one.type == "Silence"]
    assert (silence.name, list(silence.bottom), len(silence.include)) == ("up/silence", ["like"], 0)
    for phase in (TRAIN, TEST):
        assert infer(done.model.net, phase).blobs["up"][2:] == (8, 8)
    apart = fix_interp(model(text % 6))
    assert apart.coverage == "fixed 0 of 1 Interp" and apart.model.net == model(text % 6).net
    assert [(one.layer, one.reason) for one in apart.skipped] == [("up", "its size differs between the phases")]


def test_interps_of_unknown_size():
    text = layer("HDF5Data", "", "", "data", "h")
    text += layer("Interp", "interp_param { zoom_factor: 2 }", "data", "up", "up")
    assert [one.reason for one in fix_interp(model(text)).skipped] == ["the size of what it reads is not known"]
    told = fix_interp(model(text), input_shapes={"data": (1, 3, 4, 5)})
    assert told.coverage == "fixed 1 of 1 Interp"
    assert (told.model.net.layer[1].interp_param.height, told.model.net.layer[1].interp_param.width) == (7, 9)
    staged = image(1, 1, 4, 4) + layer("Interp", 'interp_param { zoom_factor: 2 } include { stage: "x" }')
    assert [one.reason for one in fix_interp(model(staged)).skipped] == ["no phase has it without a stage"]


@quick
@given(random=random_nets.models(types=("Interp", "Interp", "Convolution", "ReLU", "Pooling", "Eltwise", "BN")))
def test_random_nets_with_fixed_interps_compute_the_same(random):
    done = fix_interp(random)
    assert not done.skipped and done.model.blobs == random.blobs
    assert all(len(one.bottom) == 1 for one in done.model.net.layer if one.type == "Interp")
    inputs = random_nets.inputs_of(random)
    found, wanted = forward(done.model, inputs), forward(random, inputs)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name], equal_nan=True) for name in wanted)


def test_a_small_attention_net_at_other_sizes_in_caffe(run_caffe_python, tmp_path):
    """The same blobs from the net built for 40 pixels, the resized one, and the one with fixed Interps."""
    deploy = build(SMALL, DEPLOY)
    built = dumps(build(SMALL, DEPLOY, input_size=40).net)
    shapes = {"data": (1, 3, 40, 40)}
    others = [resize_input(deploy, input_shapes=shapes), fix_interp(deploy, input_shapes=shapes),
              resize_input(fix_interp(deploy).model, input_shapes=shapes),
              batch(resize_input(deploy, input_shapes=shapes).model, batch_size=3)]
    found = run_pairs(run_caffe_python, tmp_path, [
        dict(a=built, b=dumps(one.model.net), phase_a=TEST, phase_b=TEST) for one in others])
    for one in found:
        assert one["outputs_a"] == one["outputs_b"] == ["cls"] and one["shapes"]["cls"] == [1, 10]
        assert len(one["apart"]) > 300 and not any(one["apart"].values())

# batch


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_as_the_builder_has_it(name):
    config = NETWORKS[name]
    assert batch(build(config, DEPLOY), batch_size=7).model.net == build(config, DEPLOY, batch_size=7).net
    both = batch(build(config), batch_size=7)
    assert both.model.net == build(config, batch_size=7, test_batch_size=7).net
    assert both.edits == ("layer 'data': batch of 7",) * 2
    assert batch(both.model, batch_size=7).edits == ()
    if name in PAPER_NETS:
        done = batch(build(config, PUBLISHED), batch_size=7)
        assert done.model.net == build(config, PUBLISHED, batch_size=7).net
        assert done.edits == ("input 'data': batch of 7",)


def test_what_a_batch_leaves_alone():
    text = image(1, 3, 8, 8) + layer("Python", 'python_param { module: "a" layer: "B" }', "", "y", "py")
    text += layer("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", "data", "z", "r")
    text += layer("Reshape", "reshape_param { num_axes: 0 shape { dim: 1 } }", "data", "w", "s")
    done = batch(model(text), batch_size=5)
    assert [(one.layer, one.reason) for one in done.skipped] == [("py", "no field of the file sets its batch")]
    assert done.edits == ("layer 'data': batch of 5",)
    assert done.model.net.layer[1:] == model(text).net.layer[1:]

BATCH_REFUSALS = {
    "none": (image(1, 3, 8, 8), 0, "a batch of 0 is none"),
    "Reshape": (image(1, 3, 8, 8) + layer("Reshape", "reshape_param { shape { dim: 1 dim: -1 } }"), 2,
                "layer 'layer': its shape fixes a batch of 1\nhint: write 0"),
    "time": (image(4, 1, 3) + image(4, 1, name="cont") + layer("LSTM", "", "data cont"), 2,
             "layer 'layer': the first axis of what LSTM reads is time"),
    "weights": (image(2, 3) + layer("InnerProduct", "inner_product_param { num_output: 2 axis: 0 }"), 4,
                "layer 'layer': its parameters are 2x6 and 2 and would be 2x12 and 2: they depend on the batch"),
    "a slice of the batch": (image(4, 3) + layer("Slice", "slice_param { axis: 0 }", "data", "a b"), 3,
                             r"layer 'layer' \(Slice\): an axis of 3 does not divide into 2 tops"),
    "no axes": ('input: "data" input_shape { }', 2, "an input_shape has no axes"),
}


@pytest.mark.parametrize("text, size, message", BATCH_REFUSALS.values(), ids=BATCH_REFUSALS)
def test_a_batch_is_refused(text, size, message):
    with pytest.raises(Error, match=message):
        batch(model(text), batch_size=size)


@quick
@given(random=random_nets.models(), size=st.integers(1, 4))
def test_random_nets_compute_each_item_alike(random, size):
    """The net of the new batch, on its own shapes, is the old one on as many items."""
    try:
        done = batch(random, batch_size=size)
    except Error as error:
        assert error.where.startswith("layer '") or "layer '" in error.what
        return
    inputs = random_nets.inputs_of(done.model)
    assert {array.shape[0] for array in inputs.values()} == {size}
    found, wanted = forward(done.model, inputs), forward(random, inputs)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name], equal_nan=True) for name in wanted)
