"""The numpy forward against Caffe: every layer type it runs, each branch of its parameters, and random nets."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import random_nets
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.export.reference.registry import layers
from prototxt_gen.export.reference.run import INPUT_TYPES
from prototxt_gen.spec.rules import rules

HERE = Path(__file__).parent

# (type, parameters, shapes of the bottoms, ...); a shape may be followed by how its values are drawn, the layer by the
# number of its tops, and by the phase.
PLANE = (2, 6, 7, 9)
CASES = [
    *[("Convolution", f"convolution_param {{ num_output: 4 {text} }}", PLANE) for text in (
        "kernel_size: 3", "kernel_size: 1 stride: 2", "kernel_size: 3 pad: 2 dilation: 2 group: 2 bias_term: false",
        "kernel_h: 1 kernel_w: 5 pad_w: 2 stride_h: 2 stride_w: 3", "kernel_size: 4 stride: 3 pad: 1 group: 2",
        "kernel_size: 3 kernel_size: 2 pad: 1 pad: 0 dilation: 1 dilation: 3", "kernel_size: 9 stride: 5",
        "axis: 2 kernel_size: 3", "kernel_size: 1", "kernel_size: 3 force_nd_im2col: true")],
    ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 }", (1, 6, 5, 5, 4)),
    ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 }", PLANE, PLANE, 2),
    *[("Deconvolution", f"convolution_param {{ num_output: 4 {text} }}", PLANE) for text in (
        "kernel_size: 4 stride: 2 pad: 1", "kernel_size: 1 stride: 3", "kernel_size: 3 dilation: 2 group: 2",
        "kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_w: 1 bias_term: false")],
    ("Im2col", "convolution_param { kernel_size: 3 stride: 2 pad: 1 dilation: 2 }", PLANE),
    *[("Pooling", f"pooling_param {{ pool: {pool} {text} }}", PLANE) for pool in ("MAX", "AVE") for text in (
        "kernel_size: 3 stride: 2", "kernel_size: 3 stride: 2 pad: 1", "kernel_size: 2 stride: 2 round_mode: FLOOR",
        "kernel_h: 3 kernel_w: 2 stride_h: 3 stride_w: 1 pad_h: 2 pad_w: 1", "global_pooling: true",
        "kernel_size: 5 stride: 4 pad: 4")],
    ("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", PLANE, 2),
    ("Pooling", "pooling_param { kernel_size: 1 stride: 4 }", (1, 1, 4, 4), 2),
    *[("SPP", f"spp_param {{ {text} }}", PLANE) for text in (
        "pyramid_height: 3", "pyramid_height: 1", "pyramid_height: 2 pool: AVE")],
    *[("BN", text, shape, phase) for phase in ("TRAIN", "TEST") for shape in (PLANE, (5, 3)) for text in (
        "", "bn_param { frozen: true }", "bn_param { eps: 0.1 }")],
    *[("BatchNorm", text, shape, phase) for phase in ("TRAIN", "TEST") for shape in (PLANE, (5, 3)) for text in (
        "", "batch_norm_param { eps: 0.1 use_global_stats: true }", "batch_norm_param { use_global_stats: false }")],
    *[("Scale", f"scale_param {{ {text} }}", PLANE) for text in (
        "", "bias_term: true", "axis: 2 bias_term: true", "axis: 1 num_axes: 2 bias_term: true", "num_axes: -1",
        "axis: 0 num_axes: 1", "num_axes: 0 bias_term: true", "axis: -2 num_axes: 2")],
    ("Scale", "scale_param { axis: 1 bias_term: true }", PLANE, (6, 7)),
    ("Scale", "scale_param { axis: 0 }", PLANE, (2,)),
    ("Scale", "", PLANE, ()),
    *[("Bias", f"bias_param {{ {text} }}", PLANE) for text in ("", "axis: 2", "axis: 0 num_axes: -1", "num_axes: 0")],
    ("Bias", "bias_param { axis: -1 }", PLANE, (9,)),
    *[("MVN", f"mvn_param {{ {text} }}", PLANE) for text in (
        "", "normalize_variance: false", "across_channels: true eps: 0.1")],
    ("MVN", "", (2, 3, 4)),
    *[("LRN", f"lrn_param {{ {text} }}", PLANE) for text in (
        "", "local_size: 3 alpha: 0.5 beta: 0.6 k: 2", "local_size: 9 alpha: 2",
        "norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2", "norm_region: WITHIN_CHANNEL local_size: 5 k: 3")],
    *[("Softmax", text, shape) for text in ("", "softmax_param { axis: -1 }") for shape in (PLANE, (3, 5))],
    ("ReLU", "", PLANE), ("ReLU", "relu_param { negative_slope: 0.1 }", PLANE),
    ("ReLU", "relu_param { negative_slope: -2 }", PLANE),
    ("PReLU", "", PLANE), ("PReLU", "prelu_param { channel_shared: true }", PLANE), ("PReLU", "", (3, 4)),
    ("Sigmoid", "", PLANE), ("TanH", "", PLANE), ("AbsVal", "", PLANE), ("BNLL", "", PLANE),
    ("ELU", "", PLANE), ("ELU", "elu_param { alpha: 0.3 }", PLANE),
    ("Swish", "", PLANE), ("Swish", "swish_param { beta: 0.4 }", PLANE),
    ("Threshold", "", PLANE), ("Threshold", "threshold_param { threshold: 0.5 }", PLANE),
    ("Clip", "clip_param { min: -0.5 max: 0.7 }", PLANE), ("Clip", "clip_param { min: 1 max: -1 }", PLANE),
    *[("Power", f"power_param {{ {text} }}", PLANE, "positive") for text in (
        "", "power: 2.5 scale: 2 shift: 1", "power: 0", "scale: 0 shift: 3 power: 2", "power: -1 shift: 0.5")],
    ("Power", "power_param { power: 3 scale: -1 shift: 0.5 }", PLANE),
    ("Power", "power_param { power: 0 }", PLANE), ("Power", "power_param { power: 0.5 shift: 0.1 }", PLANE),
    *[("Exp", f"exp_param {{ {text} }}", PLANE) for text in ("", "base: 2 scale: 0.5 shift: 1", "shift: -1")],
    *[("Log", f"log_param {{ {text} }}", PLANE, "positive") for text in (
        "", "base: 2 scale: 0.5 shift: 1", "scale: 3")],
    ("Dropout", "dropout_param { dropout_ratio: 0.4 }", PLANE),
    *[("Eltwise", f"eltwise_param {{ {text} }}", PLANE, PLANE, PLANE) for text in (
        "", "coeff: 1 coeff: -0.5 coeff: 2", "operation: PROD", "operation: MAX")],
    *[("InnerProduct", f"inner_product_param {{ num_output: 4 {text} }}", PLANE) for text in (
        "", "bias_term: false", "transpose: true", "axis: 2", "axis: -1 transpose: true bias_term: false")],
    ("Embed", "embed_param { num_output: 4 input_dim: 6 }", (2, 3), "index"),
    ("Embed", "embed_param { num_output: 4 input_dim: 6 bias_term: false }", (2, 3), "index"),
    ("Parameter", "parameter_param { shape { dim: 2 dim: 3 } }"),
    ("DummyData", "dummy_data_param { shape { dim: 2 dim: 3 } data_filler { value: 2 } }"),
    ("DummyData", "dummy_data_param { num: 2 channels: 3 height: 1 width: 4 }", 2),
    ("Split", "", PLANE, 3),
    ("Flatten", "", PLANE), ("Flatten", "flatten_param { axis: 0 end_axis: -2 }", PLANE),
    ("Reshape", "reshape_param { shape { dim: 0 dim: 3 dim: -1 } }", PLANE),
    ("Reshape", "reshape_param { shape { dim: 2 dim: 3 } axis: 1 num_axes: 1 }", PLANE),
    ("Reshape", "reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }", PLANE),
    ("Concat", "", PLANE, (2, 1, 7, 9), (2, 3, 7, 9)), ("Concat", "concat_param { axis: -1 }", PLANE, PLANE),
    ("Concat", "concat_param { concat_dim: 0 }", PLANE, (1, 6, 7, 9)), ("Concat", "", PLANE),
    ("Slice", "", PLANE, 3), ("Slice", "slice_param { slice_point: 1 slice_point: 4 }", PLANE, 3),
    ("Slice", "slice_param { axis: -1 slice_point: 2 }", PLANE, 2), ("Slice", "slice_param { slice_dim: 0 }", PLANE, 2),
    *[("Interp", f"interp_param {{ {text} }}", PLANE) for text in (
        "zoom_factor: 2", "shrink_factor: 3", "height: 4 width: 20", "height: 1 width: 1",
        "zoom_factor: 3 pad_beg: -1 pad_end: -2")],
    ("Interp", "", PLANE, (1, 2, 14, 5)), ("Interp", "interp_param { pad_beg: -2 }", PLANE, (1, 2, 5, 7)),
    *[("Reduction", f"reduction_param {{ operation: {operation} {text} }}", PLANE)
      for operation in ("SUM", "ASUM", "SUMSQ", "MEAN") for text in ("", "axis: 1 coeff: 2.5", "axis: -1")],
    ("Tile", "tile_param { tiles: 3 }", PLANE), ("Tile", "tile_param { axis: -1 tiles: 2 }", PLANE),
    ("Crop", "", PLANE, (1, 1, 5, 4)),
    ("Crop", "crop_param { axis: 1 offset: 2 offset: 1 offset: 3 }", PLANE, (9, 3, 5, 4)),
    ("Crop", "crop_param { axis: -1 offset: 3 }", PLANE, (1, 1, 1, 4)),
    ("ArgMax", "", PLANE), ("ArgMax", "argmax_param { out_max_val: true top_k: 3 }", PLANE),
    ("ArgMax", "argmax_param { axis: 1 top_k: 2 }", PLANE), ("ArgMax", "", (4, 6), "index"),
    ("ArgMax", "argmax_param { axis: -1 out_max_val: true top_k: 4 }", PLANE),
    ("ArgMax", "argmax_param { axis: 2 top_k: 4 }", PLANE, "index"),
    ("BatchReindex", "", PLANE, (5,), "bit"),
    ("Filter", "", (6, 3), (6, 2, 2), (6,), "bit", 2),
    ("Silence", "", PLANE, 0),
    *[("SoftmaxWithLoss", text, PLANE, (2, 7, 9), "index") for text in (
        "", "loss_param { ignore_label: 2 }", "loss_param { ignore_label: 2 normalization: FULL }",
        "loss_param { normalization: BATCH_SIZE }", "loss_param { normalization: NONE }",
        "loss_param { normalize: false }", "loss_param { ignore_label: 1 normalize: true }")],
    ("SoftmaxWithLoss", "softmax_param { axis: -1 }", (2, 3, 7), (2, 3), "index"),
    *[("Accuracy", text, PLANE, (2, 7, 9), "index", tops) for tops in (1, 2) for text in (
        "", "accuracy_param { top_k: 3 }", "accuracy_param { ignore_label: 2 }")],
    ("Accuracy", "accuracy_param { axis: 2 }", (2, 3, 6), (6,), "index"),
    ("EuclideanLoss", "", PLANE, PLANE),
    *[("SigmoidCrossEntropyLoss", text, PLANE, PLANE, "bit") for text in (
        "", "loss_param { ignore_label: 1 }", "loss_param { normalization: VALID ignore_label: 0 }",
        "loss_param { normalize: true }", "loss_param { normalization: FULL }")],
    ("HingeLoss", "", (5, 6), (5,), "index"), ("HingeLoss", "hinge_loss_param { norm: L2 }", (5, 6), (5,), "index"),
    ("MultinomialLogisticLoss", "", (5, 6), "positive", (5,), "index"),
    ("MultinomialLogisticLoss", "", (5, 6), (5,), "index"),
    ("InfogainLoss", "", PLANE, (2, 7, 9), "index", (6, 6), "positive"),
    ("InfogainLoss", "infogain_loss_param { axis: -1 } loss_param { ignore_label: 1 normalization: FULL }",
     (2, 3, 6), (2, 3), "index", (1, 1, 6, 6)),
    *[(name, "recurrent_param { num_output: 4 }", (3, 2, 5, 2), (3, 2), "bit", *static) for name in ("LSTM", "RNN")
      for static in ((), ((2, 7),))],
    *[("LSTM", "recurrent_param { num_output: 4 expose_hidden: true }", (3, 2, 5), (3, 2), "bit", *static, (1, 2, 4),
       (1, 2, 4), 3) for static in ((), ((2, 7),))],
    ("RNN", "recurrent_param { num_output: 4 expose_hidden: true }", (3, 2, 5), (3, 2), "bit", (1, 2, 4), 2),
    ("LSTMUnit", "", (1, 2, 4), (1, 2, 16), (1, 2), "bit", 2),
    *[("ContrastiveLoss", f"contrastive_loss_param {{ margin: 3 {text} }}", (8, 4), (8, 4), (8,), "bit") for text in (
        "", "legacy_version: true")],
]
DRAWS = {
    "index": lambda rng, shape: rng.randint(0, 6, shape), "bit": lambda rng, shape: rng.randint(0, 2, shape),
    "positive": lambda rng, shape: rng.uniform(0.01, 2, shape), "": lambda rng, shape: rng.standard_normal(shape),
}


def net_of(case, seed):
    """Return model, inputs and phase of a case."""
    type_name, parameters, *rest = case
    rng, inputs, text = np.random.RandomState(seed), {}, ""
    tops, phase = 1, TEST
    for at, one in enumerate(rest):
        if isinstance(one, tuple):
            name = f"bottom{len(inputs)}"
            kind = rest[at + 1] if at + 1 < len(rest) and rest[at + 1] in DRAWS else ""
            inputs[name] = np.asarray(DRAWS[kind](rng, one), np.float32)
            dims = " ".join(f"dim: {size}" for size in one)
            text += f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
        elif isinstance(one, int):
            tops = one
        elif one == "TRAIN":
            phase = TRAIN
    names = " ".join([f'bottom: "{name}"' for name in inputs] + [f'top: "top{number}"' for number in range(tops)])
    text += f'layer {{ name: "layer" type: "{type_name}" {names} {parameters} }}\n'
    net = loads(text, DEFAULT_DIALECT.message("NetParameter"))
    return Model(net, blobs=random_nets.weights(net, seed)), inputs, phase


@pytest.fixture(scope="module")
def in_caffe(run_caffe_python, tmp_path_factory):
    """Run (model, inputs, phase) in one child process; return the blobs of each."""

    def run(jobs):
        folder, arrays = tmp_path_factory.mktemp("forward"), {}
        for number, (model, inputs, _) in enumerate(jobs):
            arrays.update({f"{number}/input/{name}": array for name, array in inputs.items()})
            for layer, blobs in model.blobs.items():
                arrays.update({f"{number}/blob/{layer}/{i}": blob for i, blob in enumerate(blobs)})
        np.savez(folder / "arrays.npz", **arrays)
        (folder / "jobs.json").write_text(json.dumps([[model.dumps(), phase] for model, _, phase in jobs]))
        run_caffe_python(HERE / "forward_nets.py", folder / "jobs.json", folder / "arrays.npz", folder / "out.npz")
        out, found = np.load(folder / "out.npz"), [{} for _ in jobs]
        for key in out.files:
            number, _, name = key.partition("/")
            found[int(number)][name] = out[key]
        return found

    return run


def differences(job, wanted, dtype, tolerance):
    """Say which blobs differ by more than ``tolerance`` of their largest value, and by how much."""
    model, inputs, phase = job
    wrong = []
    for name, mine in forward(model, inputs, phase=phase, dtype=dtype).items():
        theirs = wanted[name]
        if mine.shape != theirs.shape:
            wrong.append(f"{name}: {mine.shape}, in Caffe {theirs.shape}")
        elif mine.size and not np.array_equal(mine, theirs, equal_nan=True):
            finite = np.isfinite(theirs)
            largest = max(np.abs(theirs[finite]).max(initial=0), 1e-3)
            far = np.abs(np.where(finite, mine - theirs, 0)).max() / largest
            if far > tolerance or not np.array_equal(mine[~finite], theirs[~finite], equal_nan=True):
                wrong.append(f"{name}: {far:.2g}")
    return wrong


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layer_type_and_branch(in_caffe, dtype):
    jobs = [net_of(case, seed) for seed, case in enumerate(CASES)]
    found = in_caffe(jobs)
    wrong = [(case, problem) for case, job, wanted in zip(CASES, jobs, found)
             for problem in differences(job, wanted, dtype, 2e-6)]
    assert not wrong, "\n".join(map(str, wrong))


def test_every_layer_type_can_be_run_and_is_among_the_cases():
    assert set(rules.types()) == {*layers.types(), *INPUT_TYPES, "Python"}
    assert {case[0] for case in CASES} | {"HDF5Output"} >= set(layers.types())


SHARED_MEMORY = [f"""
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 2 dim: 3 dim: 4 dim: 4 }} }} }}
layer {{ name: "x" type: "Power" bottom: "data" top: "x" power_param {{ scale: 2 }} }}
{changed}
layer {{ name: "late" type: "Eltwise" bottom: "x" bottom: "data" top: "late" }}
""" for changed in (
    'layer { name: "a" type: "Split" bottom: "x" top: "a" top: "b" } layer { type: "ReLU" bottom: "a" top: "a" }'
    'layer { type: "TanH" bottom: "b" top: "c" }',
    'layer { type: "Flatten" bottom: "x" top: "a" } layer { type: "ReLU" bottom: "a" top: "a" }',
    'layer { type: "Reshape" bottom: "x" top: "a" reshape_param { shape { dim: -1 } } } layer { type: "Flatten" '
    'bottom: "a" top: "b" flatten_param { axis: 0 } } layer { type: "Sigmoid" bottom: "b" top: "b" }',
    'layer { type: "Concat" bottom: "x" top: "a" } layer { type: "Slice" bottom: "a" top: "b" }'
    'layer { type: "TanH" bottom: "b" top: "b" }',
    'layer { type: "TanH" bottom: "x" top: "x" } layer { type: "Flatten" bottom: "x" top: "a" }',
)]


def test_what_works_in_place_changes_all_that_stand_in_that_memory(in_caffe):
    data = np.random.RandomState(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    models = [Model(loads(text, DEFAULT_DIALECT.message("NetParameter"))) for text in SHARED_MEMORY]
    jobs = [(model, {"data": data}, TEST) for model in models]
    assert [differences(job, wanted, np.float32, 1e-6) for job, wanted in zip(jobs, in_caffe(jobs))] == [[]] * len(jobs)


@pytest.mark.parametrize("phase", [TEST, TRAIN])
def test_random_nets(in_caffe, phase):
    # While training, one layer moves the statistics that another reads; the numpy forward moves none.
    sharing, models = phase == TEST, []

    @settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(model=random_nets.models(types=[name for name in random_nets.USUAL if name != "Dropout"], sharing=sharing))
    def collect(model):
        models.append(model)

    collect()
    jobs = [(model, random_nets.inputs_of(model), phase) for model in models]
    wrong = [(model.dumps(), problem) for model, job, wanted in zip(models, jobs, in_caffe(jobs))
             for problem in differences(job, wanted, np.float32, 1e-5)]
    assert not wrong, "\n".join(" ".join(one) for one in wrong)
