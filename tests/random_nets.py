"""Random small nets that Caffe accepts, with weights, for property tests.

    import random_nets

    @given(model=random_nets.models())
    def test_...(model):
        out = forward(model, random_nets.inputs_of(model))
"""

import math
from collections import Counter

import numpy as np
from google.protobuf import text_format
from hypothesis import strategies as st

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import Model
from prototxt_gen.spec.infer import infer
from prototxt_gen.spec.rules import Place, rules
from prototxt_gen.spec.shapes import Misfit

# Their tops stand in the memory of their bottom: to work in place on the one changes the other.
SHARING = {"Split", "Flatten", "Reshape", "Concat", "Slice"}
IN_PLACE = {"ReLU", "PReLU", "Sigmoid", "TanH", "ELU", "BN", "BatchNorm", "Scale", "Bias", "Dropout", "Power"}
BOOLS = st.booleans()


def few(first, last):
    return st.integers(first, last)


def convolution(draw, shape):
    group = draw(st.sampled_from([n for n in range(1, shape[1] + 1) if shape[1] % n == 0]))
    text = f"num_output: {group * draw(few(1, 3))} group: {group} bias_term: {str(draw(BOOLS)).lower()} "
    if draw(few(0, 2)) == 2:
        return f"convolution_param {{ {text} kernel_h: {draw(few(1, 3))} kernel_w: {draw(few(1, 3))} pad_h: " \
               f"{draw(few(0, 1))} pad_w: {draw(few(0, 2))} stride_h: {draw(few(1, 2))} stride_w: {draw(few(1, 2))} }}"
    text += f"kernel_size: {draw(few(1, 3))} pad: {draw(few(0, 2))} stride: {draw(few(1, 2))}"
    return f"convolution_param {{ {text} dilation: {draw(few(1, 2))} }}"


def pooling(draw, shape):
    pool = draw(st.sampled_from(["MAX", "AVE"]))
    if draw(few(0, 3)) == 3:
        return f"pooling_param {{ pool: {pool} global_pooling: true }}"
    kernel = draw(few(1, 4))
    mode = draw(st.sampled_from(["CEIL", "CEIL", "FLOOR"]))
    # Above a stride of kernel + pad a window may hold nothing.
    return f"pooling_param {{ pool: {pool} kernel_size: {kernel} stride: {draw(few(1, kernel))} " \
           f"pad: {draw(few(0, kernel - 1))} round_mode: {mode} }}"


def eltwise(draw, shape):
    operation = draw(st.sampled_from(["SUM", "SUM", "PROD", "MAX"]))
    coefficients = "coeff: 1 coeff: -0.5" if operation == "SUM" and draw(BOOLS) else ""
    return f"eltwise_param {{ operation: {operation} {coefficients} }}"


def scale(draw, shape):
    axis = draw(st.sampled_from([1, 1, 1, 0, len(shape) - 1, -1]))
    axes = draw(st.sampled_from([1, 1, 1, 0, -1]))
    return f"scale_param {{ axis: {axis} num_axes: {axes} bias_term: {str(draw(BOOLS)).lower()} }}"


def interp(draw, shape):
    return "interp_param { %s }" % draw(st.sampled_from(
        ["zoom_factor: 2", "shrink_factor: 2", "height: 5 width: 4", "height: 1 width: 7", "zoom_factor: 1"]))


def lrn(draw, shape):
    region = draw(st.sampled_from(["ACROSS_CHANNELS", "WITHIN_CHANNEL"]))
    return f"lrn_param {{ local_size: {draw(st.sampled_from([1, 3, 5]))} alpha: 0.5 norm_region: {region} " \
           + ("" if region == "WITHIN_CHANNEL" else f"k: {draw(st.sampled_from([1, 2]))} ") + "}"


def reshape(draw, shape):
    return "reshape_param { %s }" % draw(st.sampled_from(
        ["shape { dim: 0 dim: -1 }", "shape { dim: 0 dim: 1 dim: -1 dim: 1 }", "axis: 1 num_axes: 0 shape { dim: 1 }",
         "axis: 2 shape { dim: -1 }"]))


def fixed(*texts):
    return lambda draw, shape: draw(st.sampled_from(texts))


# By layer type, how its parameters are drawn from the shape of its first bottom.
TYPES = {
    "Convolution": convolution,
    "BN": fixed("", "bn_param { frozen: true eps: 0.01 }"),
    "BatchNorm": fixed("", "batch_norm_param { eps: 0.01 }", "batch_norm_param { use_global_stats: true }"),
    "Scale": scale,
    "ReLU": fixed("", "", "relu_param { negative_slope: 0.25 }"),
    "Eltwise": eltwise,
    "Pooling": pooling,
    "InnerProduct": lambda draw, shape: f"inner_product_param {{ num_output: {draw(few(1, 4))} "
    f"bias_term: {str(draw(BOOLS)).lower()} transpose: {str(draw(BOOLS)).lower()} axis: {draw(few(1, 2))} }}",
    "Deconvolution": convolution,
    "Concat": fixed("", "concat_param { axis: 1 }", "concat_param { axis: -1 }", "concat_param { axis: 0 }"),
    "Slice": fixed("", "slice_param { axis: 1 slice_point: 1 }", "slice_param { axis: -1 }"),
    "PReLU": fixed("", "prelu_param { channel_shared: true }"),
    "Sigmoid": fixed(""),
    "TanH": fixed(""),
    "ELU": fixed("", "elu_param { alpha: 0.5 }"),
    "AbsVal": fixed(""),
    "Interp": interp,
    "Dropout": fixed("dropout_param { dropout_ratio: 0.3 }"),
    "LRN": lrn,
    "Power": fixed("", "power_param { scale: 2 shift: -1 }", "power_param { power: 2 scale: 0.5 }"),
    "Softmax": fixed("", "softmax_param { axis: -1 }"),
    "Flatten": fixed("", "flatten_param { axis: 2 }", "flatten_param { end_axis: 1 }"),
    "Reshape": reshape,
    "Split": fixed(""),
    "Bias": fixed("", "bias_param { axis: 0 }"),
    "Crop": fixed("", "crop_param { axis: 1 }"),
}

# The chains that converters look for come up often.
USUAL = (*["Convolution"] * 6, *["BN", "BatchNorm", "Scale", "ReLU", "Eltwise"] * 2, *TYPES)


@st.composite
def models(draw, *, types=USUAL, most=10, dialect=DEFAULT_DIALECT, sharing=True):
    """A Model in ``dialect`` of up to ``most`` layers of these types, the frequent ones given more than once.

    Some layers work in place, blobs are read by several layers, and with ``sharing`` two layers may share parameters.
    """
    net = dialect.message("NetParameter")(name="random")
    shapes = {}
    for number in range(draw(few(1, 2))):
        name = ("data", "more")[number]
        sizes = [few(1, 2), few(1, 6), few(2, 9), few(2, 9)]
        shapes[name] = tuple(map(draw, sizes)) if number == 0 else shapes["data"]
        net.layer.add(name=name, type="Input", top=[name]).input_param.shape.add().dim.extend(shapes[name])
    readers = Counter()
    for number in range(draw(few(2, most))):
        _add_layer(draw, net, draw(st.sampled_from(types)), f"l{number}", shapes, readers)
    if sharing and draw(BOOLS):
        _share(draw, net)
    return Model(net, dialect, weights(net, draw(few(0, 2**16))))


def _add_layer(draw, net, type_name, name, shapes, readers):
    """Add a layer that reads the newest blob, or any; none where its type cannot be set up there."""
    names = list(shapes)
    bottoms = [names[-1] if draw(few(0, 2)) < 2 else draw(st.sampled_from(names))]
    shape = shapes[bottoms[0]]
    if type_name in ("Eltwise", "Concat"):
        bottoms.append(draw(st.sampled_from([other for other in names if shapes[other] == shape])))
    elif type_name == "Crop" or (type_name in ("Interp", "Scale") and draw(few(0, 2)) == 2):
        bottoms.append(draw(st.sampled_from(names)))
    # A blob that others read already, or that stands in the memory of another, is not overwritten.
    in_place = type_name in IN_PLACE and not readers[bottoms[0]] and len(bottoms) == 1 and draw(BOOLS)
    tops = [name, f"{name}b"] if type_name in ("Slice", "Split") else bottoms if in_place else [name]
    if len(shape) < 2 and type_name in ("Convolution", "Deconvolution", "Scale"):
        return
    layer = type(net)().layer.add(name=name, type=type_name, bottom=bottoms, top=tops)
    if _fields(net).get(type_name) != _fields(DEFAULT_DIALECT.message("NetParameter")()).get(type_name):
        return  # the dialect lacks its parameters
    parameters = "" if len(bottoms) == 2 and type_name == "Interp" else TYPES[type_name](draw, shape)
    if parameters:
        text_format.Merge(parameters, layer)
    try:
        made = rules.apply(layer, [shapes[bottom] for bottom in bottoms], Place(TEST, {}))
    except Misfit:
        return
    if max(map(math.prod, made.tops)) > 5000 or not all(map(math.prod, made.tops)):
        return
    net.layer.add().CopyFrom(layer)
    readers.update(set(bottoms) if not in_place else ())
    readers.update(tops if type_name in SHARING else ())
    shapes.update(zip(tops, made.tops))


def _fields(net):
    """Map layer types to the fields of their parameters, in a net's dialect."""
    fields = net.DESCRIPTOR.fields_by_name["layer"].message_type.fields
    return {one.message_type.name[:-len("Parameter")]: one.name for one in fields if one.message_type}


def _share(draw, net):
    """Let two layers with the same parameters share them, if there are such."""
    alike = {}
    for info in infer(net, TEST).layers:
        if info.params:
            alike.setdefault((info.type, tuple(param.shape for param in info.params)), []).append(info.name)
    pairs = [(key, names) for key, names in alike.items() if len(names) > 1]
    if pairs:
        (_, params), names = draw(st.sampled_from(pairs))
        for layer in net.layer:
            if layer.name in names[:2]:
                for number in range(len(params)):
                    layer.param.add(name=f"shared{number}")


def weights(net, seed):
    """Return blobs for all layers of a net; statistics are drawn as such, all else from a normal distribution."""
    rng = np.random.RandomState(seed)
    blobs, named = {}, {}
    for info in infer(net, TEST).layers:
        drawn = []
        for number, param in enumerate(info.params):
            if info.type == "BN" and number == 3 or info.type == "BatchNorm" and number > 0:
                blob = rng.uniform(0.5, 1.5, param.shape)
            else:
                fan_in = math.prod(param.shape[1:]) if info.type in ("Convolution", "InnerProduct") else 1
                blob = rng.standard_normal(param.shape) / math.sqrt(fan_in)
            name = info.layer.param[number].name if number < len(info.layer.param) else ""
            drawn.append(named.setdefault(name or (info.name, number), np.asarray(blob, np.float32)))
        if drawn:
            blobs[info.name] = tuple(drawn)
    return blobs


def inputs_of(model, seed=0):
    """Return an array for each Input layer of a random model."""
    rng = np.random.RandomState(seed)
    return {layer.top[0]: rng.standard_normal(tuple(layer.input_param.shape[0].dim)).astype(np.float32)
            for layer in model.net.layer if layer.type == "Input"}
