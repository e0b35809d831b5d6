"""Small nets for the ONNX export, one or more for each layer type and each branch of its parameters.

``CASES`` maps a name to (shapes, layers): the shapes of the inputs ``a``, ``b``, ..., and the prototxt of the layers.
``KINDS`` says which inputs hold something other than normal values.
"""

import string


def one(kind, shape, settings="", tops="y"):
    """One layer on inputs of the given shape or shapes."""
    shapes = shape if isinstance(shape[0], tuple) else (shape,)
    bottoms = " ".join(f'bottom: "{string.ascii_lowercase[i]}"' for i in range(len(shapes)))
    made = " ".join(f'top: "{top}"' for top in tops.split())
    return shapes, f'layer {{ name: "layer" type: "{kind}" {bottoms} {made} {settings} }}'


def conv(shape, settings, kind="Convolution"):
    return one(kind, shape, f"convolution_param {{ {settings} }}")


def pool(shape, settings, tops="y"):
    return one("Pooling", shape, f"pooling_param {{ {settings} }}", tops)


def interp(shape, settings):
    return one("Interp", shape, f"interp_param {{ {settings} }}")


PLANES = (2, 4, 7, 6)
CASES = {
    "convolution": conv(PLANES, "num_output: 3 kernel_size: 3 pad: 1 stride: 2"),
    "convolution, 1x1 without bias": conv(PLANES, "num_output: 5 kernel_size: 1 bias_term: false"),
    "convolution, groups": conv(PLANES, "num_output: 6 kernel_size: 3 group: 2"),
    "convolution, depthwise": conv(PLANES, "num_output: 4 kernel_size: 3 group: 4 pad: 1"),
    "convolution, dilation": conv(PLANES, "num_output: 3 kernel_size: 3 dilation: 2 pad: 2"),
    "convolution, pairs": conv(PLANES, "num_output: 3 kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 pad_w: 1"),
    "convolution, lists": conv(
        PLANES, "num_output: 3 kernel_size: 2 kernel_size: 4 pad: 0 pad: 2 dilation: 2 dilation: 1"),
    "convolution, beyond the plane": conv((2, 3, 4, 4), "num_output: 2 kernel_size: 6 stride: 3"),
    "convolution, 1 axis": conv((2, 4, 9), "num_output: 3 kernel_size: 3 pad: 1"),
    "convolution, 3 axes": conv(
        (2, 2, 4, 5, 6), "num_output: 3 kernel_size: 3 kernel_size: 2 kernel_size: 3 stride: 2"),
    "convolution, no axes": conv((2, 4), "num_output: 3 kernel_size: 3 pad: 1 stride: 2 dilation: 2"),
    "deconvolution, no axes": conv((2, 4), "num_output: 3 kernel_size: 3 pad: 1", "Deconvolution"),
    "convolution, axis 2": conv((2, 3, 4, 5, 6), "num_output: 3 kernel_size: 3 axis: 2"),
    "convolution, axis 0": conv((4, 5, 6), "num_output: 3 kernel_size: 3 axis: 0"),
    "convolution, two bottoms": (
        (PLANES, PLANES),
        'layer { name: "layer" type: "Convolution" bottom: "a" bottom: "b" top: "y" top: "z" '
        'convolution_param { num_output: 3 kernel_size: 3 } }'),
    "deconvolution": conv(PLANES, "num_output: 3 kernel_size: 4 stride: 2 pad: 1", "Deconvolution"),
    "deconvolution, groups": conv(PLANES, "num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 4 bias_term: false",
                                  "Deconvolution"),
    "deconvolution, dilation": conv(PLANES, "num_output: 2 kernel_size: 3 dilation: 2 stride: 2 group: 2",
                                    "Deconvolution"),
    "deconvolution, pairs": conv(PLANES, "num_output: 3 kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 2 pad_w: 2",
                                 "Deconvolution"),
    "deconvolution, 1 axis": conv((2, 4, 5), "num_output: 3 kernel_size: 3 stride: 2", "Deconvolution"),
    "pooling, max, last window clipped": pool(PLANES, "pool: MAX kernel_size: 3 stride: 2"),
    "pooling, max, pad": pool(PLANES, "pool: MAX kernel_size: 3 stride: 2 pad: 1"),
    "pooling, max, window dropped": pool((2, 3, 5, 5), "pool: MAX kernel_size: 2 stride: 2 pad: 1"),
    "pooling, max, floor": pool(PLANES, "pool: MAX kernel_size: 3 stride: 2 round_mode: FLOOR"),
    "pooling, max, pairs": pool(PLANES, "pool: MAX kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 2 pad_h: 1 pad_w: 2"),
    "pooling, max, window behind": pool((2, 3, 5, 7), "pool: MAX kernel_size: 1 stride: 3"),
    "pooling, max, mask": pool(PLANES, "pool: MAX kernel_size: 3 stride: 2 pad: 1", "y mask"),
    "pooling, max, global": pool(PLANES, "pool: MAX global_pooling: true"),
    "pooling, max, global, mask": pool(PLANES, "pool: MAX global_pooling: true", "y mask"),
    "pooling, average, last window clipped": pool(PLANES, "pool: AVE kernel_size: 3 stride: 2"),
    "pooling, average, pad": pool(PLANES, "pool: AVE kernel_size: 3 stride: 2 pad: 1"),
    "pooling, average, pad, exact": pool(PLANES, "pool: AVE kernel_size: 3 stride: 1 pad: 1"),
    "pooling, average, window dropped": pool((2, 3, 5, 5), "pool: AVE kernel_size: 2 stride: 2 pad: 1"),
    "pooling, average, floor": pool(PLANES, "pool: AVE kernel_size: 3 stride: 2 round_mode: FLOOR pad: 1"),
    "pooling, average, pairs": pool(
        PLANES, "pool: AVE kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 2 pad_h: 1 pad_w: 2"),
    "pooling, average, window behind": pool((2, 3, 5, 7), "pool: AVE kernel_size: 1 stride: 3"),
    "pooling, average, global": pool(PLANES, "pool: AVE global_pooling: true"),
    "pyramid, max": one("SPP", PLANES, "spp_param { pyramid_height: 3 pool: MAX }"),
    "pyramid, average": one("SPP", PLANES, "spp_param { pyramid_height: 2 pool: AVE }"),
    "pyramid, one level": one("SPP", PLANES, "spp_param { pyramid_height: 1 }"),
    "bn": one("BN", PLANES),
    "bn, no plane": one("BN", (3, 5)),
    "bn, frozen": one("BN", PLANES, "bn_param { frozen: true }"),
    "batch norm": one("BatchNorm", PLANES, "batch_norm_param { eps: 0.01 }"),
    "batch norm, no plane": one("BatchNorm", (3, 5)),
    "batch norm, statistics of the batch": one("BatchNorm", PLANES, "batch_norm_param { use_global_stats: false }"),
    "scale": one("Scale", PLANES),
    "scale, bias": one("Scale", PLANES, "scale_param { bias_term: true }"),
    "scale, axis 2, bias": one("Scale", PLANES, "scale_param { axis: 2 bias_term: true }"),
    "scale, two axes": one("Scale", PLANES, "scale_param { num_axes: 2 bias_term: true }"),
    "scale, all axes": one("Scale", PLANES, "scale_param { num_axes: -1 }"),
    "scale, scalar": one("Scale", PLANES, "scale_param { num_axes: 0 bias_term: true }"),
    "scale, two bottoms": one("Scale", (PLANES, (4, 7)), "scale_param { bias_term: true }"),
    "scale, two bottoms, axis 0": one("Scale", (PLANES, (2, 4)), "scale_param { axis: 0 }"),
    "bias": one("Bias", PLANES),
    "bias, last axis": one("Bias", PLANES, "bias_param { axis: -1 }"),
    "bias, scalar": one("Bias", PLANES, "bias_param { num_axes: 0 }"),
    "bias, two bottoms": one("Bias", (PLANES, (7, 6)), "bias_param { axis: 2 }"),
    "lrn": one("LRN", (2, 7, 4, 5), "lrn_param { local_size: 5 alpha: 0.7 beta: 0.6 k: 1.5 }"),
    "lrn, within channel": one(
        "LRN", PLANES, "lrn_param { local_size: 3 alpha: 0.7 beta: 0.6 norm_region: WITHIN_CHANNEL }"),
    "mvn": one("MVN", PLANES),
    "mvn, across channels": one("MVN", PLANES, "mvn_param { across_channels: true eps: 0.1 }"),
    "mvn, mean only": one("MVN", PLANES, "mvn_param { normalize_variance: false }"),
    "mvn, three axes": one("MVN", (2, 3, 5)),
    "relu": one("ReLU", PLANES),
    "relu, slope": one("ReLU", PLANES, "relu_param { negative_slope: 0.2 }"),
    "elu": one("ELU", PLANES, "elu_param { alpha: 0.7 }"),
    "prelu": one("PReLU", PLANES),
    "prelu, shared": one("PReLU", PLANES, "prelu_param { channel_shared: true }"),
    "prelu, no plane": one("PReLU", (2, 5)),
    "sigmoid": one("Sigmoid", PLANES),
    "tanh": one("TanH", PLANES),
    "absval": one("AbsVal", PLANES),
    "bnll": one("BNLL", PLANES),
    "swish": one("Swish", PLANES, "swish_param { beta: 1.5 }"),
    "clip": one("Clip", PLANES, "clip_param { min: -0.5 max: 0.8 }"),
    "threshold": one("Threshold", PLANES, "threshold_param { threshold: 0.3 }"),
    "dropout": one("Dropout", PLANES),
    "power, square": one("Power", PLANES, "power_param { power: 2 scale: 0.5 shift: 0.1 }"),
    "power, root": one("Power", PLANES, "power_param { power: 0.5 scale: 0.5 shift: 9 }"),
    "power, linear": one("Power", PLANES, "power_param { scale: 0.5 shift: -1 }"),
    "power, default": one("Power", PLANES),
    "power, zero": one("Power", PLANES, "power_param { power: 0 }"),
    "power, scale zero": one("Power", PLANES, "power_param { power: 3 scale: 0 shift: 2 }"),
    "power, infinite": one("Power", PLANES, "power_param { power: -1 scale: 0 }"),
    "exp": one("Exp", PLANES),
    "exp, base 2": one("Exp", PLANES, "exp_param { base: 2 scale: 0.5 shift: 1 }"),
    "log": one("Log", PLANES),
    "log, base 10": one("Log", PLANES, "log_param { base: 10 scale: 2 shift: 0.1 }"),
    "eltwise, sum": one("Eltwise", (PLANES, PLANES)),
    "eltwise, coefficients": one("Eltwise", (PLANES,) * 3, "eltwise_param { coeff: 0.5 coeff: -1 coeff: 1 }"),
    "eltwise, product": one("Eltwise", (PLANES,) * 3, "eltwise_param { operation: PROD }"),
    "eltwise, maximum": one("Eltwise", (PLANES,) * 3, "eltwise_param { operation: MAX }"),
    "interp, second bottom": one("Interp", (PLANES, (2, 1, 13, 4))),
    "interp, equal size": one("Interp", (PLANES, (2, 1, 7, 6))),
    "interp, zoom": interp(PLANES, "zoom_factor: 2"),
    "interp, shrink": interp(PLANES, "shrink_factor: 2"),
    "interp, size": interp(PLANES, "height: 14 width: 15"),
    "interp, to one value": interp(PLANES, "height: 1 width: 1"),
    "interp, crop": interp(PLANES, "height: 9 width: 3 pad_beg: -1 pad_end: -2"),
    "interp, crop alone": interp(PLANES, "height: 5 width: 4 pad_beg: -2"),
    "concat": one("Concat", (PLANES, (2, 3, 7, 6))),
    "concat, one bottom": one("Concat", PLANES),
    "concat, last axis": one("Concat", (PLANES, (2, 4, 7, 2)), "concat_param { axis: -1 }"),
    "concat, batch": one("Concat", (PLANES, PLANES), "concat_param { concat_dim: 0 }"),
    "slice": one("Slice", PLANES, "", "y z"),
    "slice, points": one("Slice", PLANES, "slice_param { axis: 2 slice_point: 1 slice_point: 5 }", "y z u"),
    "slice, one top": one("Slice", PLANES),
    "split": one("Split", PLANES, "", "y z"),
    "softmax": one("Softmax", (2, 5)),
    "softmax, planes": one("Softmax", PLANES),
    "softmax, last axis": one("Softmax", PLANES, "softmax_param { axis: -1 }"),
    "argmax": one("ArgMax", PLANES),
    "argmax, two": one("ArgMax", (2, 9), "argmax_param { top_k: 2 }"),
    "argmax, values": one("ArgMax", PLANES, "argmax_param { top_k: 3 out_max_val: true }"),
    "argmax, axis": one("ArgMax", PLANES, "argmax_param { axis: 1 top_k: 2 }"),
    "argmax, axis, values": one("ArgMax", PLANES, "argmax_param { axis: -1 out_max_val: true }"),
    "flatten": one("Flatten", PLANES),
    "flatten, middle": one("Flatten", PLANES, "flatten_param { axis: 1 end_axis: 2 }"),
    "flatten, all": one("Flatten", PLANES, "flatten_param { axis: 0 }"),
    "reshape": one("Reshape", PLANES, "reshape_param { shape { dim: 0 dim: -1 dim: 3 } }"),
    "reshape, some axes": one("Reshape", PLANES, "reshape_param { shape { dim: 2 dim: 2 } axis: 1 num_axes: 1 }"),
    "reshape, insert": one("Reshape", PLANES, "reshape_param { shape { dim: 1 dim: 1 } axis: -1 num_axes: 0 }"),
    "reshape, batch": one("Reshape", PLANES, "reshape_param { shape { dim: -1 dim: 6 } }"),
    "crop": one("Crop", (PLANES, (2, 1, 3, 4)), "crop_param { offset: 1 offset: 2 }"),
    "crop, nothing": one("Crop", (PLANES, PLANES)),
    "crop, all axes": one(
        "Crop", (PLANES, (2, 3, 3, 4)), "crop_param { axis: 0 offset: 0 offset: 1 offset: 1 offset: 2 }"),
    "tile": one("Tile", PLANES, "tile_param { tiles: 3 }"),
    "tile, batch": one("Tile", (2, 3), "tile_param { axis: 0 tiles: 2 }"),
    "reduction, sum": one("Reduction", PLANES, "reduction_param { axis: 1 coeff: 0.5 }"),
    "reduction, of all": one("Reduction", PLANES, "reduction_param { operation: MEAN }"),
    "reduction, absolute": one("Reduction", PLANES, "reduction_param { operation: ASUM axis: -1 }"),
    "reduction, squares": one("Reduction", PLANES, "reduction_param { operation: SUMSQ axis: 2 }"),
    "inner product": one("InnerProduct", PLANES, "inner_product_param { num_output: 5 }"),
    "inner product, matrix": one("InnerProduct", (2, 6), "inner_product_param { num_output: 5 bias_term: false }"),
    "inner product, axis 2": one("InnerProduct", PLANES, "inner_product_param { num_output: 5 axis: 2 }"),
    "inner product, axis 0": one("InnerProduct", (2, 6), "inner_product_param { num_output: 5 axis: 0 }"),
    "inner product, transposed": one("InnerProduct", PLANES, "inner_product_param { num_output: 5 transpose: true }"),
    "embed": one("Embed", (2, 3), "embed_param { num_output: 4 input_dim: 7 }"),
    "embed, no bias": one("Embed", (5,), "embed_param { num_output: 4 input_dim: 7 bias_term: false }"),
    "batch reindex": one("BatchReindex", (PLANES, (5,))),
    "parameter": (
        (PLANES,),
        'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 7 dim: 6 } } }'
        'layer { name: "s" type: "Bias" bottom: "a" bottom: "p" top: "y" bias_param { axis: 2 } }'),
    "silence": (
        (PLANES, PLANES),
        'layer { name: "r" type: "ReLU" bottom: "a" top: "y" }'
        'layer { name: "t" type: "TanH" bottom: "b" top: "quiet" }'
        'layer { name: "s" type: "Silence" bottom: "quiet" }'),
    "in place": (
        (PLANES,),
        'layer { name: "c" type: "Convolution" bottom: "a" top: "y" '
        'convolution_param { num_output: 4 kernel_size: 1 } }'
        'layer { name: "bn" type: "BN" bottom: "y" top: "y" }'
        'layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }'
        'layer { name: "drop" type: "Dropout" bottom: "y" top: "y" }'
        'layer { name: "y.0" type: "Eltwise" bottom: "y" bottom: "a" top: "y.0" }'),
    "shared weights": (
        ((2, 6), (2, 6)),
        'layer { name: "i" type: "InnerProduct" bottom: "a" top: "y" param { name: "w" } param { name: "b" } '
        'inner_product_param { num_output: 5 } }'
        'layer { name: "j" type: "InnerProduct" bottom: "b" top: "z" param { name: "w" } param { name: "b" } '
        'inner_product_param { num_output: 5 } }'),
    "attention": (
        (PLANES,),
        'layer { name: "pool" type: "Pooling" bottom: "a" top: "p" pooling_param { kernel_size: 3 stride: 2 } }'
        'layer { name: "up" type: "Interp" bottom: "p" bottom: "a" top: "u" }'
        'layer { name: "sig" type: "Sigmoid" bottom: "u" top: "m" }'
        'layer { name: "mul" type: "Eltwise" bottom: "a" bottom: "m" top: "am" eltwise_param { operation: PROD } }'
        'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "am" top: "y" }'),
}
KINDS = {"embed": "index", "embed, no bias": "index", "batch reindex": "second index", "log": "positive",
         "log, base 10": "positive", "argmax, axis": "ties", "argmax, two": "ties", "pooling, max, mask": "ties"}
# What no ONNX model with an open batch can say: its weights fit one batch.
ONE_BATCH = {"convolution, axis 0", "inner product, axis 0"}


def net_text(name):
    """The prototxt of a case."""
    shapes, layers = CASES[name]
    inputs = "".join(
        f'layer {{ name: "{letter}" type: "Input" top: "{letter}" input_param {{ shape {{ '
        f'{" ".join(f"dim: {size}" for size in shape)} }} }} }}\n'
        for letter, shape in zip(string.ascii_lowercase, shapes))
    return inputs + layers
