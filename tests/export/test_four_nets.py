"""The four networks with seeded weights: every form in its engine gives what our Caffe gives for the net itself."""

from dataclasses import replace

import numpy as np
import pytest

from prototxt_gen.export import engines
from prototxt_gen.nets.builder import DEPLOY, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.base import registry
from prototxt_gen.train import caffe

# Passes, engine, and the largest difference of a logit, as a share of the logits' standard deviation.
FORMS = {
    "split in Caffe": (["split-bn"], "caffe", 1e-5),
    "folded in Caffe": (["fold-bn"], "caffe", 1e-4),
    "split, merged in Caffe": (["split-bn", "merge-bn"], "caffe", 1e-5),
    "fixed Interp in Caffe": (["fix-interp"], "caffe", 1e-5),
    "numpy": ([], "numpy", 1e-5),
    "onnxruntime": ([], "onnx", 1e-5),
    "folded in onnxruntime": (["fold-bn"], "onnx", 1e-4),
    "split, fixed Interp in OpenCV": (["split-bn", "fix-interp"], "opencv", 1e-5),
    "folded, split, fixed Interp in OpenCV": (["fold-bn", "split-bn", "fix-interp"], "opencv", 1e-4),
}


def converted(model, passes):
    for name in passes:
        model = registry.find(name)(model).model
    return model


@pytest.mark.parametrize("size", [224, 320])
@pytest.mark.parametrize("name", ["attention56", "attention92", "attentionnext56", "attentionnext92"])
def test_every_form_in_its_engine(caffe_build, name, size):
    environment = {**caffe.child_environment(caffe_build), "GLOG_minloglevel": "2"}
    model = build(NETWORKS[name], DEPLOY, input_size=size)
    model = registry.find("seed-weights")(model, seed=7).model
    # The classifier's bias would hide what the net makes of the image.
    weights, bias = model.blobs["classifier"]
    model = replace(model, blobs={**model.blobs, "classifier": (weights, np.zeros_like(bias))})
    image = {"data": np.random.RandomState(size).standard_normal((1, 3, size, size)).astype(np.float32)}
    wanted = engines.run("caffe", model, image, environment=environment)["classifier"]
    assert wanted.shape == (1, 1000) and 0.01 < wanted.std() < 100
    off = {}
    for form, (passes, engine, tolerance) in FORMS.items():
        found = engines.run(engine, converted(model, passes), image, environment=environment)["classifier"]
        off[form] = np.abs(found - wanted).max() / wanted.std()
        assert off[form] <= tolerance, (form, off)
