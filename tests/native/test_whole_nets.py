"""Whole nets of ours in our Caffe give what the authors' fork gave, with the same parameters and the same images."""

from pathlib import Path

import numpy as np
import pytest

from prototxt_gen.nets.builder import DEPLOY, PUBLISHED, build
from prototxt_gen.nets.configs import NETWORKS

HERE = Path(__file__).parent
RECORDED = HERE / "cases" / "nets.npz"
NAMES = {"Attention-56": "attention56", "AttentionNeXt-56": "attentionnext56"}
ENDS = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 224 dim: 224 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "classifier" bottom: "label" top: "loss" }\n'


def training_text(config):
    """The deploy net with its input and its Softmax exchanged for images, labels and a loss."""
    net = build(config, DEPLOY)
    del net.net.layer[0]
    del net.net.layer[-1]
    return ENDS + net.dumps() + LOSS


@pytest.fixture(scope="module", params=[(name, engine) for name in NAMES for engine in ("own", "caffe")], ids="-".join)
def outcome(request, run_caffe_python, tmp_path_factory):
    """(recorded, computed) arrays of one net, computed by our engines or by Caffe's own."""
    (name, engine), folder = request.param, tmp_path_factory.mktemp("nets")
    config = NETWORKS[NAMES[name]]
    texts = [build(config, PUBLISHED).dumps(), build(config, DEPLOY, input_size=320).dumps(), training_text(config)]
    paths = [folder / f"{i}.prototxt" for i in range(len(texts))]
    for path, text in zip(paths, texts):
        path.write_text(text)
    output = folder / "out.npz"
    # OpenBLAS may use all cores here: the nets are large.
    settings = {"OPENBLAS_NUM_THREADS": "", "PROTOTXT_GEN_ENGINE": engine}
    run_caffe_python(HERE / "whole_nets.py", RECORDED, name, *paths, output, environment=settings)
    told = np.load(RECORDED)
    return {key.partition("/")[2]: told[key] for key in told.files if key.startswith(f"{name}/")}, np.load(output)


@pytest.mark.parametrize("key", ["logits_224", "logits_320_global_pooling"])
def test_logits(outcome, key):
    recorded, computed = outcome[0][key], outcome[1][key]
    assert np.abs(computed - recorded).max() <= 1e-5 * recorded.std()


def test_training_loss(outcome):
    assert outcome[1]["train_loss_batch2"] == pytest.approx(outcome[0]["train_loss_batch2"], rel=1e-6)
