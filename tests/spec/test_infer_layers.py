"""Single layers with random options on random bottoms, sound and unsound: ours and Caffe's answer are the same."""

import json

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import dumps
from prototxt_gen.spec.infer import infer

NetParameter = DEFAULT_DIALECT.message("NetParameter")
small = st.integers(1, 4)
axes = st.integers(-5, 4)


def shapes(least=1, most=5, largest=9):
    return st.lists(st.integers(1, largest), min_size=least, max_size=most)


def options(**fields):
    """A dict of some of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def layer(kind, bottoms, **params):
    return st.tuples(st.just(kind), bottoms, st.fixed_dictionaries(params))


def one(shape):
    return st.tuples(shape)


def pair(shape):
    """Two bottoms: alike, or of independent shapes."""
    return st.one_of(shape.map(lambda alike: (alike, alike)), st.tuples(shape, shape))


planes = st.tuples(small, st.integers(1, 12), st.integers(1, 20), st.integers(1, 20)).map(list)
filters = options(kernel_size=st.lists(st.integers(0, 5), max_size=3), stride=st.lists(st.integers(0, 3), max_size=2),
                  pad=st.lists(st.integers(0, 3), max_size=2), dilation=st.lists(small, max_size=2),
                  bias_term=st.booleans(), group=st.integers(1, 4), axis=st.integers(-4, 3),
                  num_output=st.integers(0, 8))
pairs_of_fields = st.fixed_dictionaries(
    # One stride alone leaves the other 0: Caffe takes that for Deconvolution, and divides by it when the net runs.
    dict(num_output=st.sampled_from([4, 8]), kernel_h=st.integers(1, 5), kernel_w=st.integers(1, 5), stride_h=small,
         stride_w=small),
    optional=dict(pad_h=st.integers(0, 3), pad_w=st.integers(0, 3),
                  group=st.sampled_from([1, 2, 4]), dilation=st.lists(st.integers(1, 3), max_size=2)))
square = st.fixed_dictionaries(
    dict(num_output=st.sampled_from([4, 6, 12]), kernel_size=st.lists(st.integers(1, 7), min_size=1, max_size=2)),
    optional=dict(stride=st.lists(small, max_size=2), pad=st.lists(st.integers(0, 3), max_size=2),
                  dilation=st.lists(st.integers(1, 3), max_size=1), group=st.sampled_from([1, 2, 3]),
                  bias_term=st.booleans()))
windows = st.one_of(
    layer(kind, bottoms, convolution_param=fields)
    for kind in ("Convolution", "Deconvolution", "Im2col")
    for bottoms, fields in ((one(planes), square), (one(planes), pairs_of_fields), (one(shapes(2)), filters)))
pooling = layer("Pooling", one(planes), pooling_param=st.one_of(
    st.fixed_dictionaries(dict(kernel_size=st.integers(1, 7)), optional=dict(
        stride=st.integers(1, 5), pad=st.integers(0, 4), round_mode=st.integers(0, 1), pool=st.integers(0, 2))),
    st.fixed_dictionaries(dict(kernel_h=st.integers(1, 5), kernel_w=st.integers(1, 5)), optional=dict(
        stride_h=small, stride_w=small, pad_h=st.integers(0, 3), pad_w=st.integers(0, 3), pool=st.integers(0, 1))),
    options(global_pooling=st.booleans(), kernel_size=small, stride=small, pad=st.integers(0, 1))))
plane_layers = st.one_of(
    windows, windows, pooling,
    layer("SPP", one(planes), spp_param=st.fixed_dictionaries(dict(
        pyramid_height=st.integers(0, 4), pool=st.integers(0, 1)))),
    layer("LRN", one(shapes(3, 5)), lrn_param=options(local_size=st.integers(1, 6), norm_region=st.integers(0, 1))),
    layer("Interp", st.one_of(one(planes), pair(planes)), interp_param=options(
        zoom_factor=st.integers(0, 3), shrink_factor=st.integers(0, 3), height=st.integers(0, 9),
        width=st.integers(0, 9), pad_beg=st.integers(-3, 1), pad_end=st.integers(-3, 0))))
broadcast = options(axis=axes, num_axes=st.integers(-2, 4))
shape_layers = st.one_of(
    layer("Reshape", one(shapes()), reshape_param=st.builds(
        lambda dims, rest: dict(shape=dict(dim=dims), **rest),
        st.lists(st.sampled_from([-1, 0, 0, 1, 2, 3, 6]), max_size=4),
        options(axis=axes, num_axes=st.integers(-2, 3)))),
    layer("Flatten", one(shapes()), flatten_param=options(axis=axes, end_axis=axes)),
    layer("Slice", one(shapes()), slice_param=options(
        axis=axes, slice_dim=st.integers(0, 4), slice_point=st.lists(small, max_size=2))),
    layer("Concat", pair(shapes()), concat_param=options(axis=axes, concat_dim=st.integers(0, 4))),
    layer("Crop", pair(shapes(2, 4, 6)), crop_param=options(axis=axes, offset=st.lists(st.integers(0, 3), max_size=3))),
    layer("Reduction", one(shapes()), reduction_param=options(axis=axes, operation=small)),
    layer("Tile", one(shapes()), tile_param=options(axis=axes, tiles=st.integers(0, 3))),
    layer("ArgMax", one(shapes()), argmax_param=options(axis=axes, top_k=st.integers(0, 5), out_max_val=st.booleans())),
    layer("InnerProduct", one(shapes()), inner_product_param=options(
        num_output=st.integers(1, 5), axis=axes, bias_term=st.booleans(), transpose=st.booleans())),
    layer("Embed", one(shapes()), embed_param=options(
        num_output=st.integers(0, 5), input_dim=st.integers(0, 5), bias_term=st.booleans())),
    layer("Scale", one(shapes()), scale_param=st.builds(
        lambda a, b: {**a, **b}, broadcast, options(bias_term=st.booleans()))),
    layer("Scale", st.tuples(shapes(2, 4, 3), shapes(1, 3, 3)), scale_param=options(
        axis=axes, bias_term=st.booleans())),
    layer("Bias", one(shapes()), bias_param=broadcast),
    layer("Bias", st.tuples(shapes(2, 4, 3), shapes(1, 3, 3)), bias_param=options(axis=axes)),
    layer("MVN", one(shapes()), mvn_param=options(across_channels=st.booleans())),
    layer("PReLU", one(shapes()), prelu_param=options(channel_shared=st.booleans())),
    layer("Softmax", one(shapes()), softmax_param=options(axis=axes)),
    layer("BatchNorm", one(shapes()), batch_norm_param=options(use_global_stats=st.booleans())),
    layer("BN", one(shapes()), bn_param=options(frozen=st.booleans())),
    layer("BatchReindex", pair(shapes(1, 3))),
    layer("Filter", pair(shapes(1, 3, 2))),
    layer("Eltwise", pair(shapes()), eltwise_param=options(
        operation=st.integers(0, 2), coeff=st.lists(st.just(1), max_size=2))),
    layer("SoftmaxWithLoss", pair(shapes(1, 3, 2)), softmax_param=options(axis=axes)),
    layer("Accuracy", pair(shapes(1, 3, 2)), accuracy_param=options(axis=axes, top_k=st.integers(1, 3))),
    layer("EuclideanLoss", pair(shapes(1, 3, 2))),
    layer("SigmoidCrossEntropyLoss", pair(shapes(1, 3, 2))),
    layer("HingeLoss", pair(shapes(1, 5, 2))),
    layer("MultinomialLogisticLoss", pair(shapes(1, 5, 2))),
    layer("ContrastiveLoss", st.tuples(shapes(1, 4, 2), shapes(1, 4, 2), shapes(1, 4, 2))),
    layer("LSTM", st.tuples(shapes(2, 4, 2), shapes(2, 2, 2)), recurrent_param=options(num_output=st.integers(0, 3))),
    layer("RNN", st.tuples(shapes(2, 4, 2), shapes(2, 2, 2), shapes(1, 3, 2)),
          recurrent_param=options(num_output=small)),
)


def net_of(case):
    kind, bottoms, params = case
    names = [f"bottom{index}" for index in range(len(bottoms))]
    shapes = [dict(dim=shape) for shape in bottoms]
    return NetParameter(layer=[
        dict(name="input", type="Input", top=names, input_param=dict(shape=shapes)),
        dict(name="layer", type=kind, bottom=names, top=["top", "top2"] if kind == "Slice" else ["top"], **params),
    ])


def ours(net):
    try:
        info = infer(net, TEST)
    except Error:
        return None
    params = {one.name: [list(param.shape) for param in one.params] for one in info.layers if one.params}
    return {"blobs": {name: list(shape) for name, shape in info.blobs.items()}, "params": params}


def check(load_in_caffe, cases):
    nets = [net_of(case) for case in cases]
    wrong, sound = [], 0
    for case, net, theirs in zip(cases, nets, load_in_caffe([(dumps(net), TEST) for net in nets])["nets"]):
        # Caffe sets up some layers that make nothing, and stops when such a net runs: we refuse it.
        if theirs is not None and any(0 in shape for shape in theirs["blobs"].values()):
            theirs = None
        mine = ours(net)
        sound += mine is not None
        if mine != theirs:
            wrong.append(f"{json.dumps(case)}: {mine and mine['blobs']['top']} {theirs and theirs['blobs']['top']}")
    assert not wrong, "\n".join(wrong)
    assert sound


without_shrinking = settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate],
                             suppress_health_check=list(HealthCheck))


@without_shrinking
@given(cases=st.lists(plane_layers, min_size=60, max_size=60, unique_by=json.dumps))
def test_layers_over_planes(load_in_caffe, cases):
    check(load_in_caffe, cases)


@without_shrinking
@given(cases=st.lists(shape_layers, min_size=60, max_size=60, unique_by=json.dumps))
def test_other_layers(load_in_caffe, cases):
    check(load_in_caffe, cases)
