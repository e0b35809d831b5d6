"""The source of AugmentedData is looked at before Caffe starts, as those of Data and ImageData are."""

import os

import numpy
import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TRAIN, net_state
from prototxt_gen.core.io import loads
from prototxt_gen.train.data import Image, datum, write_lmdb
from prototxt_gen.train.preflight import BUILD_HINT, UsedNet, check_net


@pytest.fixture
def refusal(tmp_path, monkeypatch):
    """Check a layer with these fields in a folder of its own; return the error's text, None where there is none."""
    monkeypatch.chdir(tmp_path)

    def check(fields, types=()):
        text = (f'layer {{ name: "data" type: "AugmentedData" top: "data" top: "label" '
                f'augmented_data_param {{ batch_size: 2 crop_size: 8 {fields} }} }}')
        net = loads(text, DEFAULT_DIALECT.message("NetParameter"))
        try:
            check_net(UsedNet(net, net_state(TRAIN, net), "net.prototxt"), "folder/solver.prototxt", types)
        except Error as error:
            assert error.where == "net.prototxt" and error.exit_code == 2
            return str(error)
        return None

    return check


def lmdb(path, records=None):
    image = Image("a", 0, numpy.zeros((3, 4, 4), "uint8"))
    write_lmdb(path, [("a", datum(image))] if records is None else records)


def test_a_database_of_images_of_any_size(refusal, tmp_path):
    lmdb(tmp_path / "set")
    assert refusal('source: "set"') is None
    assert refusal('source: "set" mean_value: 1 channels: 1') is None


def test_no_source_and_none_that_is_whole(refusal, tmp_path):
    assert "layer 'data' has no source" in refusal("")
    assert "layer 'data' cannot read 'set': there is no such LMDB" in refusal('source: "set"')
    lmdb(tmp_path / "set")
    os.truncate(tmp_path / "set" / "data.mdb", 5000)
    assert "layer 'data' cannot read 'set': is truncated" in refusal('source: "set"')
    (tmp_path / "folder").mkdir()
    lmdb(tmp_path / "folder" / "other")
    assert "run it in 'folder'" in refusal('source: "other"')


def test_a_database_of_other_things(refusal, tmp_path):
    lmdb(tmp_path / "set", [("a", b"\xff\xff")])
    assert "'set' does not hold Datum records" in refusal('source: "set"')


def test_lists(refusal, tmp_path):
    assert "reads 'list', which is no file" in refusal('source: "list" backend: LIST')
    lmdb(tmp_path / "set")
    assert "reads 'set', which is no file" in refusal('source: "set" backend: LIST')
    (tmp_path / "list").write_text("\n")
    assert "does not begin with an image and its label" in refusal('source: "list" backend: LIST')
    (tmp_path / "list").write_text("two words.jpg\n")
    assert "does not begin with an image and its label" in refusal('source: "list" backend: LIST')
    (tmp_path / "list").write_text("two words.jpg 3\n")
    message = refusal('source: "list" backend: LIST root_folder: "images"')
    assert "the list 'list' names 'imagestwo words.jpg', which is no file" in message and "its last '/'" in message
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "two words.jpg").write_bytes(b"")
    assert refusal('source: "list" backend: LIST root_folder: "images/"') is None


def test_a_mean_file_that_is_not_there(refusal, tmp_path):
    lmdb(tmp_path / "set")
    assert "layer 'data' reads 'mean.binaryproto', which is no file" in refusal(
        'source: "set" mean_file: "mean.binaryproto"')


def test_a_caffe_without_the_layer(refusal):
    message = refusal('source: "set"', types=("Data", "Convolution"))
    assert "has the type 'AugmentedData', which this Caffe lacks" in message and BUILD_HINT in message
