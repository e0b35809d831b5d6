"""The newest weights that a training has left and that are whole.

Caffe writes a snapshot straight into its files, so that a training that is killed leaves half a caffemodel. One that
ends between two of its layers still parses: weights are whole where they hold blobs for every layer of the net.
"""

from __future__ import annotations

import os
import re
from typing import List, Tuple

from prototxt_gen.core.caffemodel import read_weights, with_weights
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model
from prototxt_gen.spec.weights import fit_weights
from prototxt_gen.train.run_folder import SNAPSHOTS

_NAME = re.compile(r"(.+)_iter_(\d+)\.caffemodel(\.h5)?")


def newest_whole(model: Model, folder: str) -> Tuple[str, List[str]]:
    """Return the newest caffemodel that is whole for this net, and what is to be told of newer ones.

    ``folder`` holds snapshots itself or, as a run's and a recipe's, in ``snapshots``. Raises Error where there are
    none, none is whole, or they are of several trainings.
    """
    passed: List[str] = []
    for path in _weights_in(folder) or _weights_in(os.path.join(folder, SNAPSHOTS)):
        try:
            found, _ = with_weights(model, read_weights(path, model.dialect), path)
            bare = fit_weights(found)[1]
        except Error as error:
            bare = (error.what,)
        if not bare:
            return path, passed
        passed.append(f"passed over {path}: {bare[0]}")
    if not passed:
        raise Error("there are no weights in this folder", folder, "training leaves them as NAME_iter_N.caffemodel")
    raise Error("\n".join(["no weights in this folder are whole", *passed]), folder, "are they of this net?")


def _weights_in(folder: str) -> List[str]:
    """Return the caffemodels in a folder, the newest first."""
    try:
        matches = [match for match in map(_NAME.fullmatch, os.listdir(folder)) if match]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", folder) from None
    trainings = sorted({match.group(1) for match in matches})
    if len(trainings) > 1:
        raise Error(f"holds weights of several trainings: {', '.join(trainings)}", folder, "name the file")
    return [os.path.join(folder, match.group()) for match in sorted(matches, key=lambda one: -int(one.group(2)))]
