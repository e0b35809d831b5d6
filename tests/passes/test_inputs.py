"""resize-input and batch: the builder's nets of other sizes and batches, the same values, and refusals."""

from dataclasses import replace

import numpy as np
import pytest
import random_nets
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import loads
from prototxt_gen.export.reference import forward
from prototxt_gen.nets.builder import DEPLOY, PUBLISHED, build
from prototxt_gen.nets.builder import TRAIN as TRAINING
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.inputs import batch, resize_input
from prototxt_gen.spec.infer import infer
from texts import NetParameter, image, layer, model, padded


quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
PAPER_NETS = [name for name, config in NETWORKS.items() if config.published_name]
NAMES = ["attention56", "attentionnext92", "attention92-cifar"]


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


NINE = "image_data_param { new_height: 9 new_width: 9 }"
INPUTS = {
    "a field": ('input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8', (2, 3, 5, 6),
                'input: "data" input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 6'),
    "fields without four axes": (
        'input: "data" input: "b" ' + "input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8 " * 2, (2, 3),
        'input: "data" input: "b" input_shape { dim: 2 dim: 3 } input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }'),
    "a shape": ('input: "data" input_shape { dim: 1 dim: 8 }', (2, 4, 4),
                'input: "data" input_shape { dim: 2 dim: 4 dim: 4 }'),
    "one shape for all tops": (
        layer("Input", "", "a data", "input_param { shape { dim: 1 } }"), (4, 4),
        layer("Input", "", "a data", "input_param { shape { dim: 1 } shape { dim: 4 dim: 4 } }")),
    "no shape": (layer("Input", "", "data"), (4,), layer("Input", "", "data", "input_param { shape { dim: 4 } }")),
    "Data": (layer("Data", "", "data l", "data_param { batch_size: 4 } transform_param { crop_size: 8 mirror: true }"),
             (1, 3, 6, 6),
             layer("Data", "", "data l", "data_param { batch_size: 4 } transform_param { crop_size: 6 mirror: true }")),
    "ImageData": (layer("ImageData", "", "data l", "image_data_param { new_height: 9 new_width: 8 }"), (1, 3, 5, 6),
                  layer("ImageData", "", "data l", "image_data_param { new_height: 5 new_width: 6 }")),
    "a crop of ImageData": (
        layer("ImageData", "", "data l", f"{NINE} transform_param {{ crop_size: 7 }}"), (1, 3, 9, 9),
        layer("ImageData", "", "data l", f"{NINE} transform_param {{ crop_size: 9 }}")),
    "MemoryData": (
        layer("MemoryData", "", "data l", "memory_data_param { batch_size: 2 channels: 3 height: 8 width: 8 }"),
        (9, 1, 6, 5),
        layer("MemoryData", "", "data l", "memory_data_param { batch_size: 2 channels: 1 height: 6 width: 5 }")),
    "DummyData": (layer("DummyData", "", "data", "dummy_data_param { shape { dim: 1 } }"), (2, 2),
                  layer("DummyData", "", "data", "dummy_data_param { shape { dim: 2 dim: 2 } }")),
}


@pytest.mark.parametrize("old, shape, new", INPUTS.values(), ids=INPUTS)
def test_where_a_shape_stands(old, shape, new):
    given_model = model(old)
    assert resize_input(given_model, input_shapes={"data": shape}).model.net == loads(new, NetParameter)
    assert given_model.net == loads(old, NetParameter)


IP = layer("InnerProduct", "data", "ip", "inner_product_param { num_output: 2 }")
UP = "interp_param { height: 8 width: 8 }"
RESIZE_REFUSALS = {
    "no such input": (image(1, 3, 8, 8), {"dota": (1, 2)}, "the net has no input 'dota'\nhint: did you mean 'data'"),
    "not an input": (image(1, 3, 8, 8) + IP, {"ip": (1, 2)}, "the net has no input 'ip'\nhint: inputs: data"),
    "no size": (image(1, 3, 8, 8), {"data": (1, 0)}, "input 'data' cannot be 1x0"),
    "a plane that runs dry": (image(1, 3, 8, 8) + layer("Pooling", "data", "y", "pooling_param { kernel_size: 5 }"),
                              {"data": (1, 3, 4, 4)}, r"layer 'y' \(Pooling\): its window 5x5 is larger"),
    "a crop that is no square": (layer("Data", "", "data", "transform_param { crop_size: 8 }"), {"data": (1, 3, 4, 5)},
                                 "layer 'data': Data cuts out squares, not 4x5"),
    "labels": (layer("Data", "", "data l", "transform_param { crop_size: 8 }"), {"l": (1, 3, 4, 4)},
               "layer 'data': 'l' of Data cannot be 1x3x4x4"),
    "images too small": (
        layer("ImageData", "", "d l", f"{NINE} transform_param {{ crop_size: 7 }}"), {"d": (1, 3, 10, 10)},
        "layer 'd': its images are 9x9, too small for a crop_size of 10"),
    "files": (layer("HDF5Data", "", "data"), {"data": (1, 3, 4, 4)}, "only the data of HDF5Data tell"),
    "old fields of DummyData": (
        layer("DummyData", "", "d", "dummy_data_param { num: 1 channels: 1 height: 1 width: 1 }"), {"d": (1,)},
        "its size is given by num, channels, height and width"),
    "an Input without shapes": (layer("Input", "", "a b"), {"a": (1,)}, "it gives none of its tops a shape"),
    "too few dims": ('input: "data" input_dim: 1 ' + IP, {"data": (1, 2)}, "input 'data' has 1 of 4 values"),
    "too many dims": ('input: "data"' + " input_dim: 1" * 5, {"data": (1, 2, 3, 4)},
                      "input_dim has 5 values for 1 input\n"),
    "a shape for one of two": ('input: "a" input: "b" input_shape { dim: 1 }' + " input_dim: 1" * 8, {"b": (1,)},
                               "input 'b' has no input_shape"),
    "an Interp that cannot follow": (
        image(1, 3, 4, 4) + layer("Interp", "data", "y", UP), {"data": (1, 3, 5, 5)},
        "layer 'y': its size 8x8 is fixed, and what it should be now is not known: no earlier blob has that plane"),
    "an Interp that could go two ways": (
        image(1, 3, 16, 16) + padded("data", "a", stride=2) + layer(
            "Pooling", "data", "b", "pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }")
        + padded("a", "c", stride=2) + layer("Interp", "c", "y", UP), {"data": (1, 3, 19, 19)},
        "what it should be now is not known: 10x10 or 9x9\nhint: --pass resize-input before --pass fix-interp"),
}


@pytest.mark.parametrize("text, shapes, message", RESIZE_REFUSALS.values(), ids=RESIZE_REFUSALS)
def test_resizing_is_refused(text, shapes, message):
    with pytest.raises(Error, match=message):
        resize_input(model(text), input_shapes=shapes)


def test_weights_that_no_longer_fit():
    text = image(1, 3, 8, 8) + padded("data", "a", 2) + IP.replace('bottom: "data"', 'bottom: "a"')
    free = resize_input(model(text), input_shapes={"data": (1, 3, 6, 6)})
    assert "layer 'ip': parameters 2x128 and 2 -> 2x72 and 2" in free.edits
    blobs = random_nets.weights(model(text).net, 0)
    with pytest.raises(Error, match="layer 'ip': its weights are 2x128, and the new input asks for 2x72"):
        resize_input(model(text, **blobs), input_shapes={"data": (1, 3, 6, 6)})
    with pytest.raises(Error, match="layer 'a': its weights are 2x3x3x3, and the new input asks for 2x1x3x3"):
        resize_input(model(text, **blobs), input_shapes={"data": (1, 1, 8, 8)})


@pytest.mark.parametrize("between, becomes", [
    (layer("Dropout", "p", "p", name="d"), True),
    (layer("Flatten", "p", "f"), True),
    (padded("p", "f", 2, 1), False),
])
def test_which_pooling_becomes_global(between, becomes):
    pool = layer("Pooling", "data", "p", "pooling_param { pool: AVE kernel_h: 8 kernel_w: 6 }")
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
    text = image(1, 3, 8, 8) + layer("Python", "", "y", 'python_param { module: "a" layer: "B" }', "py")
    text += layer("Reshape", "data", "z", "reshape_param { shape { dim: 0 dim: -1 } }", "r")
    text += layer("Reshape", "data", "w", "reshape_param { num_axes: 0 shape { dim: 1 } }", "s")
    done = batch(model(text), batch_size=5)
    assert [(one.layer, one.reason) for one in done.skipped] == [("py", "no field of the file sets its batch")]
    assert done.edits == ("layer 'data': batch of 5",)
    assert done.model.net.layer[1:] == model(text).net.layer[1:]


BATCH_REFUSALS = {
    "none": (image(1, 3, 8, 8), 0, "a batch of 0 is none"),
    "Reshape": (image(1, 3, 8, 8) + layer("Reshape", "data", "y", "reshape_param { shape { dim: 1 dim: -1 } }"), 2,
                "layer 'y': its shape fixes a batch of 1\nhint: write 0"),
    "time": (image(4, 1, 3) + image(4, 1, name="cont") + layer("LSTM", "data cont", "y"), 2,
             "layer 'y': the first axis of what LSTM reads is time"),
    "weights": (image(2, 3) + layer("InnerProduct", "data", "y", "inner_product_param { num_output: 2 axis: 0 }"), 4,
                "layer 'y': its parameters are 2x6 and 2 and would be 2x12 and 2: they depend on the batch"),
    "a slice of the batch": (image(4, 3) + layer("Slice", "data", "a b", "slice_param { axis: 0 }"), 3,
                             r"layer 'a' \(Slice\): an axis of 3 does not divide into 2 tops"),
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
