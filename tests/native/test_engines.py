"""Our engines on the CPU beside Caffe's own, layer by layer, over drawn settings: values, differences, what is kept."""

import json

import numpy as np
import pytest

# Runs one layer with the engine given and returns its values and differences; differences begin at 1, so that what
# Caffe adds to and what it overwrites can be told apart.
RUN = """
def run(case, engine):
    fields = case["fields"] + (f" engine: {engine}" if engine and case["switch"] else "")
    bottoms = [f"x{i}" for i in range(len(case["shapes"]))]
    text = "force_backward: true" if case["backward"] else ""
    for name, shape in zip(bottoms, case["shapes"]):
        dims = " ".join(f"dim: {d}" for d in shape)
        text += f' layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}'
    text += f' layer {{ name: "l" type: "{case["type"]}" {case["extra"]}'
    text += "".join(f' bottom: "{name}"' for name in bottoms) + "".join(f' top: "{name}"' for name in case["tops"])
    text += f' {case["field"]} {{ {fields} }} }}'
    net = net_of(text)
    layer = net.layers[list(net._layer_names).index("l")]
    random = np.random.RandomState(case["seed"])
    for name in bottoms:
        net.blobs[name].data[...] = draw(random, case, net.blobs[name].data.shape)
    for blob in layer.blobs:
        blob.data[...] = random.standard_normal(blob.data.shape)
        blob.diff[...] = 1
    told = {}
    for round_ in range(2):
        net.forward()
        told.update({f"{name}{round_}": net.blobs[name].data.copy() for name in case["tops"]})
        for name in case["tops"]:
            net.blobs[name].diff[...] = random.standard_normal(net.blobs[name].diff.shape)
        net.backward()
        if case["backward"]:
            told.update({f"d{name}{round_}": net.blobs[name].diff.copy() for name in bottoms})
        told.update({f"b{i}{round_}": blob.diff.copy() for i, blob in enumerate(layer.blobs)})
        if case["again"] and round_ == 0:
            for name, shape in zip(bottoms, case["again"]):
                net.blobs[name].reshape(*shape)
                net.blobs[name].data[...] = draw(random, case, shape)
    return told

def draw(random, case, shape):
    # Few values, so that equal ones meet, zeros of both signs among them.
    values = random.standard_normal(shape).astype("f4")
    return np.round(values) if case["coarse"] else values

def worst(case):
    # By array, the largest difference beside the largest value; 0 where every bit is the same.
    own, stock = run(case, None), run(case, "CAFFE")
    assert own.keys() == stock.keys()
    far = {}
    for name in own:
        assert own[name].shape == stock[name].shape, name
        scale = max(1e-30, np.abs(stock[name]).max(initial=0))
        same = own[name].tobytes() == stock[name].tobytes()
        far[name] = 0.0 if same else max(1e-12, float(np.abs(own[name] - stock[name]).max() / scale))
    return far
"""


def case(type_, field, fields, shapes, tops=("y",), **options):
    defaults = {"extra": "", "seed": 1, "backward": True, "again": None, "coarse": False, "switch": True}
    return {"type": type_, "field": field, "fields": fields, "shapes": shapes, "tops": tops, **defaults, **options}


def far(in_caffe, cases, stock_by_environment=False):
    """Return for each case how far ours is from Caffe's own, by array."""
    switch = """
import os
plain_run = run
def run(case, engine):
    os.environ["PROTOTXT_GEN_ENGINE"] = "caffe" if engine else "own"
    return plain_run(case, None)
""" if stock_by_environment else ""
    return in_caffe(f"{RUN}\n{switch}\nout = [worst(case) for case in json.loads('''{json.dumps(cases)}''')]")


# ---- Convolution ---------------------------------------------------------------------------------------------------


def convolutions(count, seed):
    """Draw settings, all of which Caffe accepts."""
    rng = np.random.default_rng(seed)
    cases = []
    while len(cases) < count:
        groups = int(rng.choice([1, 1, 1, 2, 3, 4, 32]))
        c_in, c_out = (groups * int(rng.choice([1, 2, 3, 4, 8, 16, 20])) for _ in range(2))
        kernel, stride = rng.choice([1, 1, 2, 3, 5], 2), rng.choice([1, 1, 2, 3], 2)
        pad, dilation = rng.integers(0, 3, 2), rng.choice([1, 1, 1, 2], 2)
        if rng.random() < 0.3:
            kernel[:], pad[:] = 1, 0
        sizes = [rng.integers(1, 12, 2) for _ in range(2)]
        extent = dilation * (kernel - 1) + 1
        if any((size + 2 * pad < extent).any() for size in sizes):
            continue
        fields = (f"num_output: {c_out} group: {groups} kernel_h: {kernel[0]} kernel_w: {kernel[1]} "
                  f"stride_h: {stride[0]} stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]} "
                  f"dilation: {dilation[0]} dilation: {dilation[1]} bias_term: {str(rng.random() < 0.5).lower()}")
        images = [int(rng.choice([1, 2, 3, 5])) for _ in range(2)]
        bottoms = int(rng.choice([1, 1, 1, 2]))
        first, again = ([[n, c_in, *map(int, size)]] * bottoms for n, size in zip(images, sizes))
        cases.append(case("Convolution", "convolution_param", fields, first, [f"y{i}" for i in range(bottoms)],
                          again=again, seed=len(cases)))
    return cases


# Shapes of the nets, small: large planes are cut by images, small ones by channels, several images put together.
SHAPES = [
    ("num_output: 64 kernel_size: 3 pad: 1", [4, 64, 28, 28]),
    ("num_output: 128 kernel_size: 1", [4, 32, 20, 20]),
    ("num_output: 48 kernel_size: 1 stride: 2", [3, 32, 15, 14]),
    ("num_output: 256 kernel_size: 3 pad: 1", [2, 64, 7, 7]),
    ("num_output: 64 kernel_size: 7 stride: 2 pad: 3", [2, 3, 40, 40]),
    ("num_output: 128 group: 32 kernel_size: 3 pad: 1", [2, 128, 14, 14]),
    ("num_output: 256 group: 32 kernel_size: 3 pad: 1 stride: 2", [4, 256, 14, 14]),
    ("num_output: 64 group: 64 kernel_size: 3 pad: 1", [2, 64, 9, 9]),
    ("num_output: 40 kernel_size: 1", [40, 24, 3, 3]),
]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_convolution_is_that_of_caffe(in_caffe, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    cases = convolutions(60, 1)
    cases += [case("Convolution", "convolution_param", fields, [shape]) for fields, shape in SHAPES]
    for one, told in zip(cases, far(in_caffe, cases)):
        assert max(told.values()) < 3e-6, (one, told)
    assert sum(value > 0 for told in far(in_caffe, cases[-3:]) for value in told.values()), "both ran Caffe's own"


def test_convolution_leaves_to_caffe_what_onednn_does_not_do(in_caffe):
    """Three spatial axes, another channel axis, unfolding for any number of axes: bit by bit what Caffe does."""
    cases = [
        case("Convolution", "convolution_param", "num_output: 4 kernel_size: 3", [[2, 3, 5, 6, 4]]),
        case("Convolution", "convolution_param", "num_output: 4 kernel_size: 3", [[2, 3, 9]]),
        case("Convolution", "convolution_param", "num_output: 4 kernel_size: 3 axis: 2", [[2, 3, 3, 5, 6]]),
        case("Convolution", "convolution_param", "num_output: 4 kernel_size: 3 force_nd_im2col: true", [[2, 3, 5, 6]]),
    ]
    for told in far(in_caffe, cases):
        assert not any(told.values())


WANTED = """
net = net_of('''layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 5 } } }
layer { name: "l" type: "Convolution" bottom: "x" top: "y" PARAMS convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "loss" type: "Reduction" bottom: "y" top: "loss" loss_weight: 1 }''')
net.blobs["x"].data[...] = 1
for blob in (*net.params["l"], net.blobs["x"]):
    blob.diff[...] = 7
net.forward()
net.backward()
out = [bool((blob.diff == 7).all()) for blob in (*net.params["l"], net.blobs["x"])]
"""


@pytest.mark.parametrize("still", [(), (0,), (1,), (0, 1)])
def test_convolution_computes_only_the_differences_that_are_wanted(in_caffe, still):
    params = "".join(f"param {{ lr_mult: {int(i not in still)} }}" for i in range(2))
    assert in_caffe(WANTED.replace("PARAMS", params)) == [0 in still, 1 in still, True]


SHARED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 5 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" param { name: "w" }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 bias_term: false weight_filler { type: "msra" } ENGINE } }
layer { name: "b" type: "Convolution" bottom: "a" top: "b" param { name: "w" }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 bias_term: false ENGINE } }
layer { name: "loss" type: "Reduction" bottom: "b" top: "loss" loss_weight: 1 reduction_param { operation: SUMSQ } }
"""


def test_shared_weights_get_the_sum_of_both_layers_differences(in_caffe):
    told = in_caffe(f"""
out = []
for engine in ("", "engine: CAFFE"):
    net = net_of('''{SHARED}'''.replace("ENGINE", engine))
    random = np.random.RandomState(1)
    net.params["a"][0].data[...] = random.standard_normal((3, 3, 3, 3))
    net.blobs["x"].data[...] = random.standard_normal((2, 3, 5, 5))
    net.forward(); net.backward()
    out.append(net.params["a"][0].diff.copy())
""")
    np.testing.assert_allclose(told[0], told[1], rtol=1e-4, atol=1e-3)


FORKED = """
import os
net = net_of('''NET'''.replace("ENGINE", ""))
random = np.random.RandomState(1)
net.params["a"][0].data[...] = random.standard_normal((3, 3, 3, 3))
net.blobs["x"].reshape(4, 3, 64, 64)
net.blobs["x"].data[...] = random.standard_normal((4, 3, 64, 64))

def step():
    net.clear_param_diffs(); net.forward(); net.backward()
    return [net.params["a"][0].diff.tobytes().hex(), net.blobs["b"].data.tobytes().hex()]

before = step()
receive, send = os.pipe()
if os.fork() == 0:
    os.write(send, b"same" if step() == before else b"other")
    os._exit(0)
os.close(send)
out = [os.read(receive, 10).decode(), "same" if step() == before else "other"]
"""


def test_a_forked_child_without_the_threads_gets_the_same_results(in_caffe):
    assert in_caffe(FORKED.replace("NET", SHARED)) == ["same", "same"]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_inner_product_is_that_of_caffe(in_caffe, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    cases = [case("InnerProduct", "inner_product_param", f"num_output: {n} {fields}", [shape], switch=False)
             for n, shape in ((1, [1, 1]), (10, [3, 4, 5]), (33, [2, 70]), (300, [5, 7, 30, 11]), (40, [200, 90]))
             for fields in ("", "bias_term: false", "transpose: true", "axis: 0")]
    for one, told in zip(cases, far(in_caffe, cases, stock_by_environment=True)):
        assert max(told.values()) < 3e-6, (one, told)


# ---- Layers that only move and compare values ----------------------------------------------------------------------

# The last is large enough for threads.
SIZES = [[3, 4, 5, 7], [1], [7, 3], [2, 5, 61, 67]]


def test_relu_eltwise_and_split_are_caffes_bit_by_bit(in_caffe):
    cases = []
    for size in SIZES:
        for slope in (0, 0.25):
            cases.append(case("ReLU", "relu_param", f"negative_slope: {slope}", [size], coarse=True))
            cases.append(case("ReLU", "relu_param", f"negative_slope: {slope}", [size], ["x0"]))
        for bottoms in (2, 3):
            for fields in ("operation: SUM", "operation: PROD", "operation: PROD stable_prod_grad: false",
                           "operation: MAX", "operation: SUM " + "coeff: -0.3 " * bottoms):
                cases.append(case("Eltwise", "eltwise_param", fields, [size] * bottoms, coarse="stable" not in fields,
                                  switch=False))
        for tops in (1, 2, 3):
            cases.append(case("Split", "dummy_data_param", "", [size], [f"y{i}" for i in range(tops)], switch=False))
    for one, told in zip(cases, far(in_caffe, cases, stock_by_environment=True)):
        assert not any(told.values()), (one, told)


def poolings(count, seed):
    rng = np.random.default_rng(seed)
    cases = []
    while len(cases) < count:
        kernel, stride = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
        pad = np.array([rng.integers(0, k) for k in kernel])
        size = rng.integers(1, 14, 2)
        if (size + 2 * pad < kernel).any() or (stride > kernel + pad).any():
            continue  # a window that begins behind the image has no largest value
        pool = rng.choice(["MAX", "AVE"])
        rounding = rng.choice(["CEIL", "FLOOR"])
        fields = (f"pool: {pool} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} "
                  f"stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]} round_mode: {rounding}")
        tops = ["y", "mask"] if pool == "MAX" and rng.random() < 0.3 else ["y"]
        cases.append(case("Pooling", "pooling_param", fields, [[2, 3, *map(int, size)]], tops, seed=len(cases),
                          coarse=bool(rng.random() < 0.5)))
    return cases


def test_pooling_is_caffes_bit_by_bit(in_caffe):
    cases = [*poolings(80, 2), case("Pooling", "pooling_param", "pool: AVE global_pooling: true", [[2, 3, 7, 7]]),
             case("Pooling", "pooling_param", "pool: MAX kernel_size: 3 stride: 2", [[4, 16, 57, 56]], coarse=True)]
    for one, told in zip(cases, far(in_caffe, cases)):
        assert not any(told.values()), (one, told)


def test_max_pooling_of_what_has_no_largest_value(in_caffe):
    """A window of NaN alone has no place: it is left out of the differences, where Caffe writes before the array."""
    told = in_caffe("""
net = net_of('''force_backward: true layer { name: "x" type: "Input" top: "x"
  input_param { shape { dim: 1 dim: 1 dim: 2 dim: 4 } } }
layer { name: "p" type: "Pooling" bottom: "x" top: "y" top: "m" pooling_param { kernel_size: 2 stride: 2 } }''')
net.blobs["x"].data[...] = [[[[np.nan, np.nan, 1, np.nan], [np.nan, np.nan, 3, 2]]]]
net.forward()
net.blobs["y"].diff[...] = 5
net.backward()
out = [net.blobs["m"].data, net.blobs["x"].diff, net.blobs["y"].data[0, 0, 0, 1]]
""")
    assert told[0] == [[[[-1, 6]]]] and told[1] == [[[[0, 0, 0, 0], [0, 0, 5, 0]]]] and told[2] == 3


def test_sigmoid(in_caffe):
    told = in_caffe("""
net = net_of('''layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 70001 } } }
layer { name: "s" type: "Sigmoid" bottom: "x" top: "y" }''')
x = net.blobs["x"].data
x[...] = np.linspace(-100, 100, 70001)
x[:6] = [0, -0.0, np.inf, -np.inf, 1e-30, -87]
net.forward()
with np.errstate(over="ignore"):
    exact = 1 / (1 + np.exp(-x.astype("f8")))
y = net.blobs["y"].data.astype("f8")
normal = exact > 1.2e-38
out = [np.abs(y / exact - 1)[normal].max(), y[~normal].max(), y[0]]
""")
    assert told[0] < 2e-7 and told[1] < 1.2e-38 and told[2] == 0.5


# ---- The switch ----------------------------------------------------------------------------------------------------

TYPES = """
import os
out = {}
for engine in ("own", "caffe"):
    os.environ["PROTOTXT_GEN_ENGINE"] = engine
    net = net_of('''NET'''.replace("ENGINE", ""))
    net.params["a"][0].data[...] = np.random.RandomState(1).standard_normal((3, 3, 3, 3))
    net.blobs["x"].data[...] = np.random.RandomState(2).standard_normal((2, 3, 5, 5))
    net.forward()
    out[engine] = net.blobs["b"].data.copy()
net = net_of('''NET'''.replace("ENGINE", "engine: CAFFE"))
net.params["a"][0].data[...] = np.random.RandomState(1).standard_normal((3, 3, 3, 3))
net.blobs["x"].data[...] = np.random.RandomState(2).standard_normal((2, 3, 5, 5))
net.forward()
out = dict(types=[layer.type for layer in net.layers], own=bool((out["own"] == net.blobs["b"].data).all()),
           caffe=bool((out["caffe"] == net.blobs["b"].data).all()))
"""


def test_the_environment_chooses_the_engine_of_a_whole_net(in_caffe):
    told = in_caffe(TYPES.replace("NET", SHARED))
    assert told == {"types": ["Input", "Convolution", "Convolution", "Reduction"], "own": False, "caffe": True}


def test_another_engine_is_refused(refusal, monkeypatch):
    monkeypatch.setenv("PROTOTXT_GEN_ENGINE", "cafe")
    assert "PROTOTXT_GEN_ENGINE is 'cafe'; it can be own or caffe" in refusal(SHARED.replace("ENGINE", ""))
