"""The child process of a preview: ``python -m prototxt_gen.train.preview_child FOLDER``.

FOLDER holds ``job.json`` and ``net.prototxt``, a net of one data layer. Its batches go back as ``data<i>.npy`` and
``label<i>.npy``. A process of its own, because Caffe aborts on what it refuses.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from pathlib import Path


def main(folder: str) -> None:
    """Run the job in ``folder``: ``batches`` forward passes in ``phase``, random numbers drawn from ``seed``."""
    import numpy as np

    # Only the compiled half of pycaffe: its Python half imports packages that are not needed here.
    package = types.ModuleType("caffe")
    package.__path__ = list(importlib.util.find_spec("caffe").submodule_search_locations)
    sys.modules["caffe"] = package
    from caffe import _caffe

    place = Path(folder)
    job = json.loads((place / "job.json").read_text())
    _caffe.set_random_seed(job["seed"])
    net = _caffe.Net(str(place / "net.prototxt"), job["phase"])
    blobs = dict(zip(net._blob_names, net._blobs))
    for number in range(job["batches"]):
        net._forward(0, len(net.layers) - 1)
        for kind, name in zip(("data", "label"), job["tops"]):
            np.save(place / f"{kind}{number}.npy", blobs[name].data)


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # the layer's threads still read ahead
