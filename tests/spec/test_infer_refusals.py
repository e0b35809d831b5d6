"""Nets that Caffe refuses are refused with layer, type and reason; what only files tell is asked for."""

import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import loads
from prototxt_gen.spec.infer import Made, infer, rules

INPUT = """
    layer { name: "in" type: "Input" top: "data" top: "label" input_param {
        shape { dim: 2 dim: 8 dim: 6 dim: 6 } shape { dim: 2 } } }
    """

# What follows the input -> the error's first line, and a piece of its hint.
REFUSED = {
    "dangling bottom": (
        'layer { name: "relu" type: "ReLU" bottom: "dat" top: "relu" }',
        "layer 'relu' (ReLU) reads blob 'dat', which no layer before it makes", "'data'"),
    "top made twice": (
        'layer { name: "a" type: "ReLU" bottom: "data" top: "b" }'
        'layer { name: "c" type: "TanH" bottom: "label" top: "b" }',
        "layer 'c' (TanH) makes blob 'b', which layer 'a' makes already", "a name of its own"),
    "top twice in one layer": (
        'layer { name: "s" type: "Slice" bottom: "data" top: "b" top: "b" }',
        "layer 's' (Slice) makes blob 'b', which layer 's' makes already", "a name of its own"),
    "in place beside another reader": (
        'layer { name: "a" type: "ReLU" bottom: "data" top: "a" }'
        'layer { name: "b" type: "ReLU" bottom: "data" top: "data" }',
        "layer 'b' (ReLU) makes blob 'data' in place, and other layers read that blob too", "a name of its own"),
    "eltwise of two shapes": (
        'layer { name: "sum" type: "Eltwise" bottom: "data" bottom: "label" top: "sum" }',
        "layer 'sum' (Eltwise): its bottoms must have one shape; it reads 'data' 2x8x6x6, 'label' 2", ""),
    "concat that does not fit": (
        'layer { name: "cat" type: "Concat" bottom: "data" bottom: "label" top: "cat" }',
        "layer 'cat' (Concat): its bottoms must have one shape but for axis 1; it reads 'data' 2x8x6x6, 'label' 2", ""),
    "groups that do not divide": (
        'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" '
        'convolution_param { num_output: 6 kernel_size: 1 group: 4 } }',
        "layer 'conv' (Convolution): 8 channels and 6 outputs do not divide into 4 groups; "
        "it reads 'data' 2x8x6x6", ""),
    "a window larger than the plane": (
        'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" '
        'convolution_param { num_output: 6 kernel_size: 9 } }',
        "layer 'conv' (Convolution): its window 9x9 does not fit: the top would be -2x-2; it reads 'data' 2x8x6x6", ""),
    "pooling larger than the plane": (
        'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { kernel_size: 9 } }',
        "layer 'pool' (Pooling): its window 9x9 is larger than the plane 6x6; it reads 'data' 2x8x6x6", ""),
    "too many bottoms": (
        'layer { name: "fc" type: "InnerProduct" bottom: "data" bottom: "label" top: "fc" '
        'inner_product_param { num_output: 1 } }',
        "layer 'fc' (InnerProduct): it takes 1 bottom, not 2; it reads 'data' 2x8x6x6, 'label' 2", ""),
    "too few bottoms": (
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "data" top: "loss" }',
        "layer 'loss' (SoftmaxWithLoss): it takes 2 bottoms, not 1; it reads 'data' 2x8x6x6", ""),
    "too many tops": (
        'layer { name: "hush" type: "Silence" bottom: "data" top: "hush" }',
        "layer 'hush' (Silence): it takes 0 tops, not 1; it reads 'data' 2x8x6x6", ""),
    "no top": (
        'layer { name: "relu" type: "ReLU" bottom: "data" }',
        "layer 'relu' (ReLU): it takes 1 top, not 0; it reads 'data' 2x8x6x6", ""),
    "labels that do not fit": (
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "data" bottom: "label" top: "loss" }',
        "layer 'loss' (SoftmaxWithLoss): it wants 72 labels, one for each prediction along axis 1; "
        "it reads 'data' 2x8x6x6, 'label' 2", ""),
    "a second top of SoftmaxWithLoss": (
        'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 3 } }'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" top: "prob" '
        'loss_weight: 1 loss_weight: 0 }',
        "layer 'loss' (SoftmaxWithLoss): Caffe cannot set up its second top; it reads 'fc' 2x3, 'label' 2",
        "Softmax layer"),
    "more param than parameter blobs": (
        'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" param { lr_mult: 1 } }',
        "layer 'relu' (ReLU): it has 1 param for 0 parameter blobs; it reads 'data' 2x8x6x6", ""),
    "loss weights": (
        'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" loss_weight: 1 loss_weight: 1 }',
        "layer 'relu' (ReLU): it has 2 loss_weight for 1 top; it reads 'data' 2x8x6x6", ""),
    "shared parameters of two shapes": (
        'layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" } '
        'inner_product_param { num_output: 3 } }'
        'layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } '
        'inner_product_param { num_output: 3 } }',
        "layer 'b' (InnerProduct) shares parameter 'w' of layer 'a': 3x3 here, 3x288 there", ""),
    "a blob beyond counting": (
        'layer { name: "tile" type: "Tile" bottom: "data" top: "tile" tile_param { axis: 1 tiles: 2000000000 } }',
        "layer 'tile' (Tile): a blob of 1152000000000 values is made, and Caffe counts to 2147483647; "
        "it reads 'data' 2x8x6x6", ""),
    "interp of two sizes": (
        'layer { name: "up" type: "Interp" bottom: "data" top: "up" '
        'interp_param { zoom_factor: 2 height: 3 width: 3 } }',
        "layer 'up' (Interp): it takes its size from exactly one of a second bottom, zoom_factor, shrink_factor, "
        "or height and width; it reads 'data' 2x8x6x6", ""),
    "a second top of average pooling": (
        'layer { name: "p" type: "Pooling" bottom: "data" top: "p" top: "i" '
        'pooling_param { pool: AVE kernel_size: 2 } }',
        "layer 'p' (Pooling): this kind of pooling makes at most 1 top, not 2; it reads 'data' 2x8x6x6", ""),
    "padding as large as the kernel": (
        'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { kernel_size: 2 pad: 2 } }',
        "layer 'pool' (Pooling): its padding must be smaller than its kernel; it reads 'data' 2x8x6x6", ""),
    "unknown type": (
        'layer { name: "conv" type: "Convolutoin" bottom: "data" top: "conv" }',
        "layer 'conv' (Convolutoin): no rule is known for this type", "'Convolution'"),
}


def infer_text(text, phase=TEST, **options):
    return infer(loads(text, DEFAULT_DIALECT.message("NetParameter")), phase, **options)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_layer_type_and_reason(name):
    text, what, hint = REFUSED[name]
    with pytest.raises(Error) as refused:
        infer_text(INPUT + text, where="net.prototxt")
    assert refused.value.what == what
    assert hint in refused.value.hint and bool(hint) == bool(refused.value.hint)
    assert refused.value.where == "net.prototxt"


def test_caffe_refuses_the_same_nets(load_in_caffe):
    found = load_in_caffe([(INPUT + text, TEST) for text, _, _ in REFUSED.values()] + [(INPUT, TEST)])["nets"]
    assert found[-1] is not None
    assert [name for name, theirs in zip(REFUSED, found) if theirs is not None] == []


@pytest.mark.parametrize("text, hint", [
    ('layer { name: "x" type: "Data" top: "data" top: "label" data_param { batch_size: 4 } }', "--input data="),
    ('layer { name: "x" type: "ImageData" top: "data" top: "label" }', "--input data="),
    ('layer { name: "x" type: "HDF5Data" top: "features" }', "--input features="),
    ('layer { name: "x" type: "Python" top: "blob" }', "--input blob="),
    ('layer { name: "x" type: "Input" top: "image" }', "--input image="),
    ('input: "image"', "--input image="),
])
def test_what_only_files_tell_is_asked_for(text, hint):
    with pytest.raises(Error, match="the file does not tell the size of|has 0 of 4 values") as refused:
        infer_text(text)
    assert refused.value.hint.startswith(hint)
    name = hint.split()[1].rstrip("=")
    assert infer_text(text, given={name: (5, 4)}).blobs[name] == (5, 4)


def test_a_given_shape_beats_what_the_file_says_and_sets_the_labels_batch():
    text = """layer { name: "x" type: "Data" top: "data" top: "label" transform_param { crop_size: 8 }
              data_param { batch_size: 4 } }"""
    assert infer_text(text).blobs == {"data": (4, 3, 8, 8), "label": (4,)}
    assert infer_text(text, given={"data": (9, 1, 8, 8)}).blobs == {"data": (9, 1, 8, 8), "label": (9,)}
    assert infer_text('input: "data" input_dim: 1 input_dim: 3 input_dim: 5 input_dim: 5',
                      given={"data": (2, 3, 7, 7)}).blobs == {"data": (2, 3, 7, 7)}


def test_a_gap_is_left_where_that_is_allowed():
    text = INPUT + """
        layer { name: "odd" type: "Odd" bottom: "data" top: "odd" }
        layer { name: "after" type: "ReLU" bottom: "odd" top: "after" }
        layer { name: "python" type: "Python" bottom: "data" top: "python" }
        layer { name: "beside" type: "ReLU" bottom: "data" top: "beside" }
        """
    info = infer_text(text, allow_unknown=True)
    assert [layer.name for layer in info.unknown] == ["odd", "after", "python"]
    assert info.blobs["after"] is None and info.blobs["beside"] == (2, 8, 6, 6)
    assert infer_text(text, allow_unknown=True, given={"odd": (2, 3)}).blobs["after"] == (2, 3)


def test_a_layer_type_has_one_rule():
    with pytest.raises(ValueError, match="'ReLU' has a rule already"):
        rules.add("ReLU")(lambda layer, bottoms, place: Made(bottoms))


def buffers(text, phase):
    return {one.name: (one.values, one.diff) for one in infer_text(INPUT + text, phase).layers[-1].buffers}


@pytest.mark.parametrize("text, train, test", [
    ('type: "Convolution" top: "y" convolution_param { num_output: 4 kernel_size: 3 }',
     {"column": (8 * 9 * 16, False), "bias_multiplier": (16, False)}, None),
    ('type: "Convolution" top: "y" convolution_param { num_output: 4 kernel_size: 1 bias_term: false }',
     {"column": (8 * 36, True)}, None),
    ('type: "Dropout" top: "y"', {"mask": (576, False)}, {}),
    ('type: "Pooling" top: "y" pooling_param { kernel_size: 2 stride: 2 }',
     {"max_position": (36, False), "max_index": (108, False)}, None),
    ('type: "Pooling" top: "y" pooling_param { kernel_size: 2 stride: 2 engine: CAFFE }',
     {"max_index": (2 * 8 * 9, False)}, None),
    ('type: "BN" top: "data"', {"mean": (8, False), "inv_std": (8, False), "bottom_copy": (576, False)}, {}),
    ('type: "LRN" top: "y"', {"scale": (576, False)}, None),
])
def test_buffers_are_what_the_layers_allocate(text, train, test):
    layer = f'layer {{ name: "x" bottom: "data" {text} }}'
    assert buffers(layer, TRAIN) == train
    assert buffers(layer, TEST) == (train if test is None else test)
