"""upgrade: nets of 2013 and 2014 (V0, V1, legacy inputs) as Caffe 1.0 writes them; see ``core.upgrade``."""

from __future__ import annotations

from dataclasses import replace

from prototxt_gen.core.caffemodel_dialect import upgrade_in_dialect
from prototxt_gen.core.io import Model
from prototxt_gen.passes.base import PassResult, registry


@registry.add("upgrade")
def upgrade(model: Model) -> PassResult:
    """Return the net as Caffe's own upgrade tools do; a current net comes back as it is."""
    upgraded = upgrade_in_dialect(model.net)
    return PassResult(replace(model, net=upgraded.message), tuple(upgraded.notes))
