"""The two families of networks, narrowed but of full depth, through the passes of BN: the same scores in Caffe."""

from dataclasses import replace

import numpy as np
import pytest

from prototxt_gen.nets.builder import DEPLOY, PUBLISHED, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.base import registry

FORMS = {  # passes, and how far scores may be off relative to their spread
    "split": (["split-bn"], 1e-5),
    "split, merged": (["split-bn", "merge-bn"], 1e-5),
    "folded": (["fold-bn"], 1e-4),
    "split, folded": (["split-bn", "fold-bn"], 1e-4),
    "split, all of it": (["split-bn", "fold-bn", "fuse-scale", "drop-dropout", "drop-split"], 1e-4),
}


def narrowed(name):
    config = NETWORKS[name]
    groups = 4 if config.groups > 1 else 1
    return replace(config, widths=(8, 8, 16, 16), stem_width=16, groups=groups, classes=10, input_size=64)


@pytest.mark.parametrize("name, form", [("attention56", DEPLOY), ("attentionnext56", PUBLISHED)])
def test_scores_stay(run_in_caffe, name, form):
    inputs = {"data": np.random.RandomState(3).standard_normal((1, 3, 64, 64)).astype(np.float32)}
    model = registry.find("seed-weights")(build(narrowed(name), form), seed=5).model
    pairs = [(model, inputs)]
    for passes, _ in FORMS.values():
        converted = model
        for one in passes:
            converted = registry.find(one)(converted).model
        pairs.append((converted, inputs))
    original, *scores = [blobs["classifier"] for blobs, _ in run_in_caffe(pairs)]
    assert original.std() > 0
    for (way, (_, limit)), found in zip(FORMS.items(), scores):
        assert np.abs(found - original).max() <= limit * original.std(), way
