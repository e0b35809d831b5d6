"""Laws of the ONNX export over random nets, names, versions, determinism, and what it refuses."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import random_nets
from prototxt_gen.core.dialects import DEFAULT_DIALECT, find_dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.onnx_ops.layer import Converters
from prototxt_gen.export.reference import forward
from prototxt_gen.export.to_onnx import DEFAULT_OPSET, to_onnx
from prototxt_gen.nets.builder import DEPLOY, TRAIN, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.base import registry
from prototxt_gen.spec.infer import infer

# A random net may have come out without a layer, and then has no output.
nets = random_nets.models().filter(lambda model: any(one.type != "Input" for one in model.net.layer))
quick = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def read(text, dialect=DEFAULT_DIALECT, **blobs):
    return Model(loads(text, dialect.message("NetParameter")), dialect, blobs)


def image(shape, name="data"):
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(kind, settings="", bottom="data", top="y", name="layer"):
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {settings} }}\n'


def run(exported, inputs, every=True):
    """All tensors that nodes make, or the outputs, by name."""
    exported = onnx.ModelProto.FromString(exported.SerializeToString())
    names = [one.name for one in exported.graph.output]
    if every:
        made = [name for node in exported.graph.node for name in node.output]
        exported.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in names)
        names = made
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {one.name: inputs[one.name] for one in session.get_inputs()})))


def assert_close(found, wanted, name):
    assert found.shape == wanted.shape, name
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * scale, err_msg=name)


@quick
@given(model=nets)
def test_random_nets_compute_what_the_numpy_forward_does(model):
    exported = to_onnx(model)
    onnx.checker.check_model(exported, full_check=True)
    inputs = random_nets.inputs_of(model)
    found, wanted = run(exported, inputs), forward(model, inputs)
    of_inputs = {top for one in model.net.layer if one.type == "Input" for top in one.top}
    made = {top for one in model.net.layer for top in one.top} - of_inputs
    assert made <= set(found)
    for name in made:
        assert_close(found[name], wanted[name], name)


@quick
@given(model=nets)
def test_random_nets_with_an_open_batch_run_at_another(model):
    try:
        exported = to_onnx(model, dynamic_batch=True)
    except Error as error:
        # Such nets exist: they join the batch with other axes, or hold weights for it.
        assert "the batch cannot be dynamic" in error.what and "layer 'l" in str(error) and "--batch N" in error.hint
        return
    onnx.checker.check_model(exported, full_check=True)
    inputs = {name: np.concatenate([values, values[:1] * 0.5])
              for name, values in random_nets.inputs_of(model).items()}
    found, wanted = run(exported, inputs, every=False), forward(model, inputs)
    for name in found:
        assert_close(found[name], wanted[name.partition(".")[0]], name)


windows = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 7), st.integers(0, 4))


@quick
@given(high=windows, wide=windows, pool=st.sampled_from(["MAX", "AVE"]), mode=st.sampled_from(["CEIL", "FLOOR"]))
def test_any_window_pools_as_in_the_numpy_forward(high, wide, pool, mode):
    (height, *rows), (width, *columns) = high, wide
    fields = " ".join(f"{field}_h: {a} {field}_w: {b}"
                      for field, a, b in zip(("kernel", "stride", "pad"), rows, columns))
    model = read(image((1, 2, height, width))
                 + layer("Pooling", f"pooling_param {{ pool: {pool} round_mode: {mode} {fields} }}"))
    try:
        infer(model.net, TEST)
    except Error as refused:  # as Caffe does
        assert "window" in refused.what or "padding must be smaller" in refused.what
        return
    inputs = {"data": np.random.RandomState(0).standard_normal((1, 2, height, width)).astype(np.float32)}
    assert_close(run(to_onnx(model), inputs)["y"], forward(model, inputs)["y"], fields)


def narrow(name, **options):
    """A network with an eighth of its channels, and weights."""
    config = NETWORKS[name]
    groups = 1 if config.groups == 1 else 4
    config = replace(config, widths=tuple(width // 8 for width in config.widths), groups=groups)
    return registry.find("seed-weights")(build(config, DEPLOY, **options), seed=5).model


@pytest.mark.parametrize("name", ["attention56", "attention92", "attentionnext56", "attentionnext92"])
def test_the_networks_with_an_open_batch(name):
    model = narrow(name, input_size=96)
    exported = to_onnx(model, dynamic_batch=True)
    assert [tuple(dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim)
            for one in (*exported.graph.input, *exported.graph.output)] == [("N", 3, 96, 96), ("N", 1000)]
    images = np.random.RandomState(6).standard_normal((2, 3, 96, 96)).astype(np.float32)
    found = run(exported, {"data": images})["classifier"]
    wanted = forward(model, {"data": images})["classifier"]
    assert np.abs(found - wanted).max() <= 1e-5 * wanted.std()


@pytest.mark.parametrize("name", ["attention56", "attentionnext92"])
def test_the_networks_at_full_size_have_their_shapes(name):
    model = narrow(name)
    exported = to_onnx(model)
    onnx.checker.check_model(exported, full_check=True)
    graph = onnx.shape_inference.infer_shapes(exported, check_type=True, strict_mode=True).graph
    told = {one.name: tuple(dim.dim_value for dim in one.type.tensor_type.shape.dim)
            for one in (*graph.input, *graph.value_info, *graph.output)}
    shapes = infer(model.net, TEST).blobs
    blobs = {name for one in model.net.layer for name in one.top}
    assert {name: told[name] for name in blobs} == {name: shapes[name] for name in blobs}


VERSIONS = image((1, 2, 3, 3)) + layer("BN", name="bn") + "".join(
    layer(kind, bottom="y", name=name) for kind, name in (("ReLU", "relu"), ("Dropout", "drop"))
) + layer("Eltwise", 'bottom: "data"', bottom="y", top="y.0", name="relu/Add")


def test_an_input_keeps_its_name():
    text = image((1, 2)) + layer("ReLU", top="data", name="r") + layer("Power", "power_param { scale: 2 }", top="data")
    exported = to_onnx(read(text))
    assert [one.name for one in (*exported.graph.input, *exported.graph.output)] == ["data", "data.2"]
    assert run(exported, {"data": np.float32([[-1, 3]])})["data.2"].tolist() == [[0, 6]]


def test_the_last_version_of_a_blob_bears_its_name():
    blobs = tuple(np.full((1, 2, 1, 1), value, np.float32) for value in (2, 1, 0, 1))
    exported = to_onnx(read(VERSIONS, bn=blobs))
    assert [(node.name, node.op_type, list(node.output)) for node in exported.graph.node] == [
        ("bn", "BatchNormalization", ["y.0_2"]), ("relu", "Relu", ["y.1"]), ("drop", "Identity", ["y"]),
        ("relu/Add", "Add", ["y.0"])]
    assert [one.name for one in exported.graph.initializer] == ["bn/slope", "bn/bias", "bn/mean", "bn/variance"]
    assert [one.name for one in exported.graph.output] == ["y.0"]
    found = run(exported, {"data": np.full((1, 2, 3, 3), 3, np.float32)})
    assert found["y"].ravel()[0] == 7 and found["y.0"].ravel()[0] == 10


@pytest.mark.parametrize("dialect, statistic, wanted", [
    ("attention", None, 2 * (3 - 1) * 0.25 + 5),
    ("attention", "variance", 2 * (3 - 1) / np.sqrt(0.25 + 0.5) + 5),
    ("happynear", "inv-std", 2 * (3 - 1) * 0.25 + 5),
    ("happynear", "variance", 2 * (3 - 1) / np.sqrt(0.25 + 0.5) + 5),
])
def test_what_bns_fourth_blob_holds(dialect, statistic, wanted):
    blobs = tuple(np.full((1, 1), value, np.float32) for value in (2, 5, 1, 0.25))
    model = read(image((1, 1, 2, 2)) + layer("BN", "bn_param { eps: 0.5 }"), find_dialect(dialect), layer=blobs)
    found = run(to_onnx(model, bn_statistic=statistic), {"data": np.full((1, 1, 2, 2), 3, np.float32)})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_batch_norm_without_a_weight_has_no_statistics():
    blobs = (np.full(1, 7, np.float32), np.full(1, 9, np.float32), np.zeros(1, np.float32))
    model = read(image((1, 1, 2, 2)) + layer("BatchNorm", "batch_norm_param { eps: 0.25 }"), layer=blobs)
    assert run(to_onnx(model), {"data": np.ones((1, 1, 2, 2), np.float32)})["y"].ravel()[0] == 2


def test_shared_weights_may_stand_in_their_owner_alone():
    share = 'param { name: "w" } param { name: "b" } inner_product_param { num_output: 2 }'
    text = image((1, 3)) + layer("InnerProduct", share, name="a") + layer("InnerProduct", share, top="z", name="b")
    blobs = (np.ones((2, 3), np.float32), np.float32([1, 2]))
    found = run(to_onnx(read(text, a=blobs)), {"data": np.ones((1, 3), np.float32)})
    assert found["y"].tolist() == found["z"].tolist() == [[4, 5]]


def test_old_inputs_and_old_blob_shapes():
    text = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 1 input_dim: 1\n' + layer(
        "InnerProduct", "inner_product_param { num_output: 2 }")
    blobs = (np.ones((1, 1, 2, 3)), np.ones((1, 1, 1, 2)))
    exported = to_onnx(read(text, layer=blobs), input_shapes={"data": (4, 3, 1, 1)})
    assert run(exported, {"data": np.ones((4, 3, 1, 1), np.float32)})["y"].tolist() == [[4, 4]] * 4


def test_a_fork_without_input_layers():
    text = 'input: "data" input_dim: 1 input_dim: 1 input_dim: 3 input_dim: 3\n' + layer(
        "Interp", "interp_param { zoom_factor: 2 }")
    exported = to_onnx(read(text, find_dialect("pspnet")))
    assert run(exported, {"data": np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)})["y"][0, 0, 1].tolist() == [
        1.5, 2, 2.5, 3, 3.5]


def test_a_net_of_2013():
    text = 'input: "data" input_dim: 1 input_dim: 2 input_dim: 1 input_dim: 1\n'
    text += 'layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "y" inner_product_param { num_output: 1 } }'
    exported = to_onnx(read(text, ip=(np.ones((1, 1, 1, 2), np.float32), np.ones((1, 1, 1, 1), np.float32))))
    assert run(exported, {"data": np.ones((1, 2, 1, 1), np.float32)})["y"].tolist() == [[3]]


def test_layers_of_the_phase_train_are_left_out():
    text = image((1, 2)) + layer("Python", "include { phase: TRAIN }", top="z") + layer("ReLU")
    assert [node.op_type for node in to_onnx(read(text)).graph.node] == ["Relu"]


def test_what_the_file_says_of_itself():
    exported = to_onnx(read('name: "mine" ' + image((1, 2)) + layer("ReLU")))
    assert (exported.graph.name, exported.producer_name, exported.doc_string) == ("mine", "prototxt-gen", "")
    # onnxruntime 1.16 reads operators up to 19 and IR up to 9.
    assert DEFAULT_OPSET == 19 and exported.ir_version == 9 and exported.opset_import[0].version == 19


@pytest.mark.parametrize("opset", [18, 21, 23])
def test_other_opsets_compute_the_same(opset):
    model = registry.find("seed-weights")(build(NETWORKS["attention56-cifar"], DEPLOY), seed=5).model
    exported = to_onnx(model, opset=opset)
    onnx.checker.check_model(exported, full_check=True)
    images = {"data": np.random.RandomState(6).standard_normal((1, 3, 32, 32)).astype(np.float32)}
    found, wanted = run(exported, images, every=False), run(to_onnx(model), images, every=False)
    assert all(np.allclose(found[name], wanted[name], rtol=1e-5) for name in wanted)


SCRIPT = """
import hashlib
from prototxt_gen.export.to_onnx import to_onnx
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.base import registry
model = registry.find("seed-weights")(build(NETWORKS["attention56-cifar"], "deploy"), seed=5).model
print(hashlib.sha256(to_onnx(model).SerializeToString(deterministic=True)).hexdigest())
"""


def test_equal_nets_give_equal_bytes():
    runs = {subprocess.run([sys.executable, "-c", SCRIPT], env={"PYTHONHASHSEED": seed}, capture_output=True,
                           check=True).stdout for seed in ("1", "2")}
    assert len(runs) == 1


PLANES = image((2, 4, 5, 5))
FULL = layer("InnerProduct", "inner_product_param { num_output: 2 }")
ONES = np.ones((2, 100), np.float32), np.ones(2, np.float32)
# A blob "rows" of which the batch is the height.
TURNED = PLANES + layer("Reshape", "reshape_param { shape { dim: 1 dim: 1 dim: -1 dim: 100 } }", top="rows", name="r")
REFUSALS = {
    "no weights": (PLANES + FULL, {}, {}, "layer 'layer' (InnerProduct): it has no weights", "--weights FILE"),
    "half of the weights": (PLANES + FULL, dict(layer=ONES[:1]), {}, "it has 1 parameter blobs, and", "this net's"),
    "other weights": (PLANES + FULL, dict(layer=ONES[::-1]), {}, "parameter blob 0 is 2, and the net wants 2x100", ""),
    "turned weights": (PLANES + FULL, dict(layer=(ONES[0].T, ONES[1])), {}, "100x2, and the net wants 2x100", "this"),
    "unknown type": (PLANES + layer("Relu"), {}, {}, "layer 'layer': its type Relu cannot be exported", "'ReLU'?"),
    "no operator": (PLANES + layer("Im2col", "convolution_param { kernel_size: 3 }"), {}, {}, "Im2col cannot be", ""),
    "data": (layer("Data") + layer("ReLU"), {}, {}, "its type Data reads data itself", "--pass train-to-deploy"),
    "loss": (PLANES + layer("SoftmaxWithLoss", 'bottom: "label"'), {}, {}, "SoftmaxWithLoss needs labels",
             "--pass train-to-deploy"),
    "accuracy": (PLANES + layer("Accuracy"), {}, {}, "Accuracy needs labels", "--pass train-to-deploy"),
    "no output": (PLANES + 'layer { name: "s" type: "Silence" bottom: "data" }', {}, {}, "the net has no output", ""),
    "stochastic": (PLANES + layer("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"), {}, {},
                   "stochastic pooling has no ONNX operator", "AVE"),
    "stochastic pyramid": (PLANES + layer("SPP", "spp_param { pool: STOCHASTIC pyramid_height: 1 }"), {}, {},
                           "stochastic pooling has no ONNX operator", "AVE"),
    "no index": (PLANES + layer("Pooling", 'top: "mask" pooling_param { kernel_size: 1 stride: 3 }'), {}, {},
                 "a window lies behind its bottom", "stride"),
    "2 GB": (image((1, 40000)) + layer("InnerProduct", "inner_product_param { num_output: 20000 }"), {}, {},
             "the weights are 3.0 GB, and an ONNX file holds at most 2 GB", ""),
    "opset": (PLANES + layer("ReLU"), {}, dict(opset=11), "opset 11", "18, the first"),
    "sliced batch": (PLANES + layer("Slice", 'top: "z" slice_param { axis: 0 }'), {}, dict(dynamic_batch=True),
                     "the batch cannot be dynamic: its top 1x4x5x5 does not follow it", "--batch N"),
    "weights of one batch": (PLANES + layer("InnerProduct", "inner_product_param { num_output: 2 axis: 0 }"),
                             dict(layer=(np.ones((2, 200), np.float32), ONES[1])), dict(dynamic_batch=True),
                             "its weights fit one batch size", "--batch N"),
    "shape of one batch": (PLANES + layer("Reshape", "reshape_param { shape { dim: 4 dim: 50 } }"), {},
                           dict(dynamic_batch=True), "with 4 in place of 2, layer 'layer' (Reshape)", "--batch N"),
    "argmax over the batch": (PLANES + layer("ArgMax", "argmax_param { axis: 0 }"), {}, dict(dynamic_batch=True),
                              "the batch cannot be dynamic here: it stands in an axis that the layer", "--batch N"),
    "crop along the batch": (PLANES + image((1, 1, 2, 2), "like")
                             + layer("Crop", 'bottom: "like" crop_param { axis: 0 }'), {}, dict(dynamic_batch=True),
                             "it stands in an axis that the layer works along", "--batch N"),
    "batch in two axes": (TURNED + image((2,), "index")
                          + layer("BatchReindex", 'bottom: "index"', bottom="rows", top="both", name="choose")
                          + layer("Reshape", "reshape_param { shape { dim: 1 } axis: 0 num_axes: 0 }", bottom="both"),
                          {}, dict(dynamic_batch=True), "it stands in several axes", "--batch N"),
    "size of the batch": (TURNED + layer("Interp", 'bottom: "rows"'), {}, dict(dynamic_batch=True),
                          "layer 'layer' (Interp): the batch cannot be dynamic here", "--batch N"),
    **{kind: (TURNED + layer(kind, settings, bottom="rows"), {}, dict(dynamic_batch=True),
              f"layer 'layer' ({kind}): the batch cannot be dynamic here", "--batch N")
       for kind, settings in (("Pooling", "pooling_param { kernel_size: 1 }"), ("ArgMax", ""),
                              ("SPP", "spp_param { pyramid_height: 1 }"),
                              ("Interp", "interp_param { height: 3 width: 3 }"))},
    "no batch": (image(()) + layer("ReLU"), {}, dict(dynamic_batch=True), "no input has a batch axis", "--batch N"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    text, blobs, options, message, hint = REFUSALS[case]
    with pytest.raises(Error) as caught:
        to_onnx(read(text, **blobs), **options)
    assert message in str(caught.value) and hint in caught.value.hint


def test_the_statistic_of_an_open_dialect_must_be_told():
    model = read(image((1, 1, 2, 2)) + layer("BN"), find_dialect("happynear"), layer=(np.ones((1, 1), np.float32),) * 4)
    with pytest.raises(Error, match="layer 'layer' .BN.: nothing says what BN's fourth blob holds"):
        to_onnx(model)


def test_a_training_net_is_sent_to_its_deploy_form():
    with pytest.raises(Error, match="layer 'data': its type Data reads data itself") as caught:
        to_onnx(build(NETWORKS["attention56"], TRAIN))
    assert "--pass train-to-deploy" in caught.value.hint


def test_a_type_has_one_converter():
    own = Converters()
    own.add("Mine", "Yours")(lambda layer: layer.x)
    with pytest.raises(ValueError, match="'Yours' has a converter already"):
        own.add("Yours")(lambda layer: layer.x)


def test_the_model_is_left_as_it_was():
    model = read(VERSIONS, bn=tuple(np.ones((1, 2, 1, 1), np.float32) for _ in range(4)))
    before = replace(model, net=type(model.net).FromString(model.net.SerializeToString()))
    to_onnx(model, dynamic_batch=True)
    assert model.net == before.net and all((blob == 1).all() for blob in model.blobs["bn"])
