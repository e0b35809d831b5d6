"""Which weights of a folder are tested: the newest that are whole, wherever a kill has cut the newest off."""

import os
from pathlib import Path

import numpy
import pytest

from prototxt_gen.core.caffemodel_write import write_weights
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model, loads
from prototxt_gen.train.newest_weights import newest_whole

NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" inner_product_param { num_output: 3 } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 2 } }
layer { name: "prob" type: "Softmax" bottom: "b" top: "prob" }
"""


@pytest.fixture
def model():
    return Model(loads(NET, DEFAULT_DIALECT.message("NetParameter")))


@pytest.fixture
def snapshots(model, tmp_path):
    """Weights of the iterations 2, 9 and 10."""
    arrays = {"a": ((3, 4), (3,)), "b": ((2, 3), (2,))}
    blobs = {name: tuple(numpy.ones(shape, numpy.float32) for shape in shapes) for name, shapes in arrays.items()}
    for iteration in (2, 9, 10):
        write_weights(str(tmp_path / f"net_iter_{iteration}.caffemodel"), Model(model.net, model.dialect, blobs))
    return tmp_path


def test_weights_cut_off_anywhere_are_passed_over(model, snapshots):
    newest, before = (str(snapshots / f"net_iter_{iteration}.caffemodel") for iteration in (10, 9))
    assert newest_whole(model, str(snapshots)) == (newest, [])
    whole = Path(newest).read_bytes()
    for size in range(len(whole)):
        Path(newest).write_bytes(whole[:size])
        path, told = newest_whole(model, str(snapshots))
        if path != newest:
            assert path == before and told[0].startswith(f"passed over {newest}: ")
        else:
            assert size > whole.rindex(b"\x00\x00\x80?")  # the last of all weights, which are ones


def test_a_folder_above_and_folders_without_weights(model, snapshots, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Error, match="there are no weights in this folder"):
        newest_whole(model, str(run))
    (run / "snapshots").mkdir(parents=True)
    os.rename(snapshots / "net_iter_9.caffemodel", run / "snapshots" / "net_iter_9.caffemodel")
    assert newest_whole(model, str(run)) == (str(run / "snapshots" / "net_iter_9.caffemodel"), [])
    (run / "snapshots" / "net_iter_9.caffemodel").write_bytes(b"")
    with pytest.raises(Error, match="no weights in this folder are whole\npassed over .*_iter_9"):
        newest_whole(model, str(run))
    (snapshots / "other_iter_3.caffemodel").write_bytes(b"")
    with pytest.raises(Error, match="weights of several trainings: net, other"):
        newest_whole(model, str(snapshots))
