"""Our engines on the CPU beside Caffe's own, layer by layer, over drawn settings: values, differences, what is kept."""

import json

import numpy as np
import pytest

# Runs one layer with the engine given and returns its values and differences; differences begin at 1, so that what
# Caffe adds to and what it overwrites can be told apart.
RUN = """
def run(case, engine):
    fields = case["fields"] + (f" engine: {engine}" if engine and case["switch"] else "")
    shapes = "".join("input_param { shape { " + " ".join(f"dim: {d}" for d in shape) + " } }" for shape in case["shapes"])
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
    # In the order of what sums up rounding: per value, the largest difference beside the array's largest value.
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


# Shapes of the nets, small: large planes are cut by images, small ones by channels, and several images are put together.
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
    cases = convolutions(60, 1) + [case("Convolution", "convolution_param", fields, [shape]) for fields, shape in SHAPES]
    for one, told in zip(cases, far(in_caffe, cases)):
        assert max(told.values()) < 3e-6, (one, told)
    assert sum(value > 0 for told in far(in_caffe, cases[-3:]) for value in told.values()), "both ran Caffe's own"
