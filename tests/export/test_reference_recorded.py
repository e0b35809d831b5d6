"""The numpy forward gives what the authors' fork gave: BN, Interp and whole nets, as recorded in tests/native/cases."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.graph import PHASES, TEST, TRAIN
from prototxt_gen.core.io import Model, loads
from prototxt_gen.export.reference import forward
from prototxt_gen.nets.builder import DEPLOY, PUBLISHED, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.spec.infer import infer

CASES = Path(__file__).parent.parent / "native" / "cases"
TOLD = json.loads((CASES / "cases.json").read_text())
NAMES = {"Attention-56": "attention56", "AttentionNeXt-56": "attentionnext56"}


def read(text):
    return loads(text, DEFAULT_DIALECT.message("NetParameter"))


def recorded(kind, case):
    """The arrays of one case by name."""
    told = np.load(CASES / f"{kind}.npz")
    return {key.partition("/")[2]: told[key] for key in told.files if key.startswith(f"{case}/")}


@pytest.mark.parametrize("case", TOLD["bn"])
def test_bn(case):
    told, about = recorded("bn", case), TOLD["bn"][case]
    net = read(about["prototxt"])
    blobs = [told[f"init_blob{i}"] for i in range(4)]
    for it in range(about["iters"]):
        channels = [blob.reshape(1, -1, 1, 1) for blob in blobs]
        out = forward(Model(net, blobs={"bn": tuple(channels)}), {"x": told[f"it{it}_x"]},
                      phase=PHASES[about["phase"].lower()])
        np.testing.assert_allclose(out[net.layer[-1].top[0]], told[f"it{it}_y"], rtol=2e-6, atol=2e-6)
        blobs = [told[f"it{it}_blob{i}_after_fwd"] for i in range(4)]


@pytest.mark.parametrize("case", TOLD["interp"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_interp(case, dtype):
    told, net = recorded("interp", case), read(TOLD["interp"][case]["prototxt"])
    inputs = {"x": told["x"]}
    for layer in net.layer:
        if layer.type == "Input" and layer.top[0] != "x":
            inputs[layer.top[0]] = np.zeros(layer.input_param.shape[0].dim)
    np.testing.assert_allclose(forward(Model(net), inputs, dtype=dtype)["y"], told["y"], rtol=1e-6, atol=1e-6)


def draw(model, seed):
    """Parameters as the recordings drew them (tests/native/whole_nets.py does so in pycaffe)."""
    rng = np.random.RandomState(seed)
    feeds_sigmoid = {layer.bottom[0] for layer in model.net.layer if layer.type == "Sigmoid"}
    blobs = {}
    for info in infer(model.net, TEST).layers:
        shapes = [param.shape for param in info.params]
        if info.type in ("Convolution", "InnerProduct"):
            weights = (rng.standard_normal(shapes[0]) * np.sqrt(2 / np.prod(shapes[0][1:]))).astype(np.float32)
            if info.name.endswith("conv3_1x1"):
                weights *= np.float32(0.2)
            if info.name == "classifier" or info.tops[0] in feeds_sigmoid:
                weights *= np.float32(0.05)
            biases = [0.1 * rng.standard_normal(shape) for shape in shapes[1:]]
            blobs[info.name] = (weights, *(bias.astype(np.float32) for bias in biases))
        elif info.type == "BN":
            drawn = [rng.uniform(0.5, 1.5, shape) if i in (0, 3) else 0.1 * rng.standard_normal(shape)
                     for i, shape in enumerate(shapes)]
            blobs[info.name] = tuple(blob.astype(np.float32) for blob in drawn)
    return replace(model, blobs=blobs)


def image(seed, shape):
    return np.random.RandomState(int(seed)).standard_normal(shape)


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_whole_nets(name):
    told, config = recorded("nets", name), NETWORKS[NAMES[name]]
    model = draw(build(config, PUBLISHED), told["param_seed"])
    wanted = told["logits_224"]
    found = forward(model, {"data": image(told["input_seed"], (1, 3, 224, 224))})["classifier"].ravel()
    assert np.abs(found - wanted).max() <= 1e-5 * wanted.std()
    # The image of 320 pixels was drawn from the seed 320.
    model, wanted = draw(build(config, DEPLOY, input_size=320), told["param_seed"]), told["logits_320_global_pooling"]
    found = forward(model, {"data": image(320, (1, 3, 320, 320))})["classifier"].ravel()
    assert np.abs(found - wanted).max() <= 1e-5 * wanted.std()


@pytest.mark.parametrize("name", NAMES)
def test_loss_of_whole_nets_in_training(name):
    told = recorded("nets", name)
    model = draw(build(NETWORKS[NAMES[name]], DEPLOY), told["param_seed"])
    net = type(model.net)()
    net.CopyFrom(model.net)
    del net.layer[-1]
    net.layer.add(name="label", type="Input", top=["label"]).input_param.shape.add().dim.append(2)
    net.layer.add(name="loss", type="SoftmaxWithLoss", bottom=["classifier", "label"], top=["loss"])
    inputs = {"data": image(told["train_input_seed"], (2, 3, 224, 224)), "label": told["train_labels"]}
    found = forward(replace(model, net=net), inputs, phase=TRAIN)["loss"]
    assert found == pytest.approx(told["train_loss_batch2"], rel=2e-6)
