"""BN inside Caffe: its blobs, what a solver does to them, what it refuses and what it says."""

import re

import numpy as np
import pytest


def input_layer(*shape):
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n'


def bn(fields="", bottom="x", top="y", params="", name="bn"):
    return (f'layer {{ name: "{name}" type: "BN" bottom: "{bottom}" top: "{top}" {params} '
            f"bn_param {{ {fields} }} }}\n")


# ---- Statistics under a solver -------------------------------------------------------------------------------------

SOLVER = """
base_lr: 0.1 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed" max_iter: 1000 solver_mode: CPU random_seed: 5
train_net: "train.prototxt" snapshot_prefix: "s" iter_size: {iter_size}
"""
TRAIN = """
layer {{ name: "x" type: "DummyData" top: "x" top: "target"
  dummy_data_param {{ shape {{ dim: 4 dim: 3 dim: 2 dim: 2 }} shape {{ dim: 4 dim: 2 }}
    data_filler {{ type: "gaussian" mean: 3 std: 2 }} data_filler {{ type: "gaussian" }} }} }}
{bn}
layer {{ name: "fc" type: "InnerProduct" bottom: "y" top: "fc"
  inner_product_param {{ num_output: 2 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "target" top: "loss" }}
"""
STEPS = """
solver = caffe.get_solver("solver.prototxt")
blobs = [blob.data for blob in solver.net.params["bn"]]
start = [blob.copy() for blob in blobs]
batches = []
# The images of every forward pass, as the data layer left them.
solver.net.after_forward(lambda layer: batches.append(solver.net.blobs["x"].data.copy()) if layer == 0 else None)
solver.step(ITERATIONS)
out = dict(start=start, end=[blob.copy() for blob in blobs], batches=batches)
"""
FILLER = "slope_filler { value: 1 }"


def trained(in_caffe, tmp_path, bn_layer, iterations=40, iter_size=1, **options):
    (tmp_path / "solver.prototxt").write_text(SOLVER.format(iter_size=iter_size))
    (tmp_path / "train.prototxt").write_text(TRAIN.format(bn=bn_layer))
    told = in_caffe(STEPS.replace("ITERATIONS", str(iterations)), **options)
    return {key: [np.array(one) for one in value] for key, value in told.items()}


def moving(batches, momentum=0.9):
    """The moving averages after these batches."""
    mean, inv_std = np.zeros(3), np.ones(3)
    for x in batches:
        mean = momentum * mean + (1 - momentum) * x.mean((0, 2, 3))
        inv_std = momentum * inv_std + (1 - momentum) / np.sqrt(x.var((0, 2, 3)) + 1e-5)
    return mean, inv_std


@pytest.mark.parametrize("params", ["", "param { lr_mult: 1 }", "param { } param { } param { name: 'm' } param { }"])
@pytest.mark.parametrize("iter_size", [1, 2])
def test_weight_decay_leaves_the_statistics_alone(in_caffe, tmp_path, params, iter_size):
    told = trained(in_caffe, tmp_path, bn(FILLER, params=params), iter_size=iter_size)
    assert len(told["batches"]) == 40 * iter_size
    mean, inv_std = moving(told["batches"])
    np.testing.assert_allclose(told["end"][2].ravel(), mean, rtol=1e-5)
    np.testing.assert_allclose(told["end"][3].ravel(), inv_std, rtol=1e-5)
    assert not np.allclose(told["end"][0], told["start"][0], rtol=1e-3)


def test_a_learning_rate_given_for_the_statistics_is_what_corrupts_them(in_caffe, tmp_path):
    told = trained(in_caffe, tmp_path, bn(FILLER, params="param { lr_mult: 1 }" * 4))
    mean, _ = moving(told["batches"])
    assert (told["end"][2].ravel() / mean < 0.97).all()


def test_frozen_changes_no_blob(in_caffe, tmp_path):
    params = "param { lr_mult: 0 decay_mult: 0 }" * 4
    for given in ("", params):
        told = trained(in_caffe, tmp_path, bn(f"{FILLER} frozen: true", params=given))
        assert [one.ravel().tolist() for one in told["end"][2:]] == [[0] * 3, [1] * 3]
    assert (told["end"][0] == 1).all() and (told["end"][1] == 0).all()


# ---- What the log says ---------------------------------------------------------------------------------------------

WARNING = re.compile(r"W\d")


def test_the_log_says_once_that_the_statistics_are_protected(caffe_log):
    text = input_layer(2, 3) + bn() + bn(bottom="y", top="z", name="second")
    said = [line for line in caffe_log(f"net_of('''{text}''')") if "no param" in line]
    assert len(said) == 1 and "'bn'" in said[0] and said[0].startswith("I")


def test_the_log_warns_of_a_learning_rate_for_the_statistics(caffe_log):
    text = input_layer(2, 3) + bn(params="param { lr_mult: 1 }" * 4, name="careless")
    said = [line for line in caffe_log(f"net_of('''{text}''')") if WARNING.match(line)]
    assert len(said) == 2 and all("'careless'" in line and "weight decay" in line for line in said)
    text = input_layer(2, 3) + bn(params="param { lr_mult: 0 }" * 4)
    lines = caffe_log(f"net_of('''{text}''')")
    assert not [line for line in lines if WARNING.match(line) or "no param" in line]


# ---- Differences ---------------------------------------------------------------------------------------------------

WITH_LOSS = """
layer { name: "loss" type: "Reduction" bottom: "%s" top: "loss" loss_weight: 1 reduction_param { operation: SUMSQ } }
"""
DIFFERENCES = """
rng = np.random.default_rng(0)
net.blobs["x"].data[...] = rng.standard_normal(net.blobs["x"].data.shape)
net.blobs["x"].diff[...] = 7
for i, blob in enumerate(net.params["bn"]):
    blob.data[...] = rng.uniform(0.5, 1.5, blob.data.shape)
    blob.diff[...] = 7
net.forward()
net.backward()
out = dict(x=net.blobs["x"].diff, bn=[blob.diff for blob in net.params["bn"]])
"""


@pytest.mark.parametrize("top", ["y", "x"])
@pytest.mark.parametrize("still", [(), (0,), (1,), (0, 1)])
def test_only_the_differences_that_are_wanted(in_caffe, top, still):
    rates = "".join(f"param {{ lr_mult: {0 if i in still or i > 1 else 1} }}" for i in range(4))
    text = input_layer(4, 3, 2, 2) + bn(top=top, params=rates) + WITH_LOSS % top
    told = in_caffe(f"net = net_of('''{text}''')\n{DIFFERENCES}")
    for i, diff in enumerate(told["bn"]):
        untouched = (np.array(diff) == 7).all()
        assert untouched == (i in still or i > 1), f"blob {i}"
    # Nothing before the layer learns, so its bottom's difference is not wanted either.
    if top == "y":
        assert (np.array(told["x"]) == 7).all()


@pytest.mark.parametrize("fields", ["", "frozen: true"])
def test_fixed_statistics_are_constants_in_the_backward_pass(in_caffe, fields):
    """In TEST and where frozen, dx = dy g v, also where the fork takes the batch's statistics for variables."""
    text = "force_backward: true\n" + input_layer(4, 3, 2, 2) + bn(fields)
    told = in_caffe(f"""net = net_of('''{text}''', caffe.TEST)
rng = np.random.default_rng(0)
x = net.blobs["x"].data[...] = rng.standard_normal((4, 3, 2, 2)).astype("f4")
for blob in net.params["bn"]:
    blob.data[...] = rng.uniform(0.5, 1.5, blob.data.shape)
slope, bias, m, v = (blob.data.copy() for blob in net.params["bn"])
net.forward()
dy = net.blobs["y"].diff[...] = rng.standard_normal((4, 3, 2, 2)).astype("f4")
net.backward()
out = dict(dx=net.blobs["x"].diff - dy * (slope * v), slope=net.params["bn"][0].diff.ravel(),
           bias=net.params["bn"][1].diff.ravel(), expected=(dy * (x - m) * v).sum((0, 2, 3)), sums=dy.sum((0, 2, 3)))
""")
    assert not np.any(told["dx"])
    zero = [0, 0, 0]
    np.testing.assert_allclose(told["slope"], zero if fields else told["expected"], rtol=1e-5)
    np.testing.assert_allclose(told["bias"], zero if fields else told["sums"], rtol=1e-5)


def test_in_place_in_test_the_slope_has_no_difference_and_the_log_says_so(in_caffe, caffe_log):
    text = "force_backward: true\n" + input_layer(4, 3, 2, 2) + bn(top="x")
    code = f"net = net_of('''{text}''', caffe.TEST)\n{DIFFERENCES}"
    told = in_caffe(code)
    assert (np.array(told["bn"][0]) == 7).all() and not (np.array(told["bn"][1]) == 7).any()
    said = [line for line in caffe_log(code) if WARNING.match(line)]
    assert len(said) == 1 and "'bn'" in said[0] and "slope" in said[0]


# ---- Shapes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 5, 2), (2, 3, 2, 3, 2)])
def test_any_number_of_spatial_axes(in_caffe, shape):
    text = input_layer(*shape) + bn("slope_filler { value: 2 }")
    told = in_caffe(f"""net = net_of('''{text}''')
x = net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal({shape})
net.forward()
out = dict(x=x, y=net.blobs["y"].data, shapes=[blob.data.shape for blob in net.params["bn"]])
""")
    x = np.array(told["x"], np.float32).astype(np.float64)
    axes = (0, *range(2, len(shape)))
    expected = 2 * (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(told["y"], expected, rtol=1e-5, atol=1e-6)
    assert told["shapes"] == [[1, 3, 1, 1]] * 4


def test_reshape_and_weights_file(in_caffe):
    text = input_layer(2, 3, 4, 4) + bn(FILLER)
    told = in_caffe(f"""net = net_of('''{text}''')
net.blobs["x"].reshape(5, 3, 7, 2)
net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal((5, 3, 7, 2))
net.forward()
net.save("w.caffemodel")
again = net_of('''{text}''')
again.copy_from("w.caffemodel")
out = dict(shape=net.blobs["y"].data.shape, same=[bool((a.data == b.data).all()) for a, b in
                                                 zip(net.params["bn"], again.params["bn"])])
""")
    assert told == {"shape": [5, 3, 7, 2], "same": [True] * 4}


# ---- What it refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, reason", [
    (input_layer(6) + bn(), "layer 'bn': BN needs a bottom of shape (N, C, ...), not 6 (6)"),
    (input_layer(2, 3) + bn("eps: 0"), "layer 'bn': bn_param.eps must be positive"),
    (input_layer(2, 3) + bn("momentum: 1.5"), "layer 'bn': bn_param.momentum must lie between 0 and 1, not 1.5"),
    (input_layer(0, 3, 2) + bn(), "layer 'bn': the bottom 0 3 2 (0) holds no values"),
])
def test_refusals_name_the_layer(refusal, text, reason):
    assert reason in refusal(text)


def test_refuses_another_number_of_channels(refusal):
    reason = refusal(input_layer(2, 3, 2, 2) + bn(), then="net.blobs['x'].reshape(2, 4, 2, 2); net.reshape()")
    assert "layer 'bn': the bottom has 4 channels, but the blobs are 1 3 1 1 (3)" in reason
