"""Fashion-MNIST: the package as it is installed, and IDX files that are not what they should be."""

import gzip
import os
import struct

import numpy
import pytest

from prototxt_gen.core.errors import Error
from prototxt_gen.train import data_arrays
from prototxt_gen.train.lmdb_file import inspect_lmdb

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def idx(values):
    return struct.pack(f">I{values.ndim}I", 0x0800 | values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def source(tmp_path):
    """A folder of four small IDX files with random images; labels count up."""
    folder = tmp_path / "source"
    folder.mkdir()
    random = numpy.random.RandomState(0)
    for images, labels, count in ((TRAIN_IMAGES, TRAIN_LABELS, 50), (TEST_IMAGES, TEST_LABELS, 20)):
        pixels = random.randint(0, 256, (count, 28, 28)).astype(numpy.uint8)
        (folder / images).write_bytes(gzip.compress(idx(pixels)))
        (folder / labels).write_bytes(gzip.compress(idx((numpy.arange(count) % 10).astype(numpy.uint8))))
    return folder


def test_images_are_padded_and_tripled_with_their_labels(source, tmp_path, read_lmdb):
    written = data_arrays.write_fashion_mnist(tmp_path / "out", str(source))
    assert (written.train, written.test) == (50, 20)
    images = data_arrays.read_idx(source / TRAIN_IMAGES, data_arrays.IDX_IMAGES)
    assert written.mean == pytest.approx([images.sum() / (50 * 32 * 32)] * 3)
    pairs = read_lmdb(tmp_path / "out" / "train_lmdb")
    numbers = [int(key.rpartition("-")[2]) for key, _ in pairs]
    assert sorted(numbers) == list(range(50)) != numbers
    for number, (_, record) in zip(numbers, pairs):
        pixels = numpy.frombuffer(record.data, dtype=numpy.uint8).reshape(record.channels, record.height, record.width)
        assert pixels.shape == (3, 32, 32) and record.label == number % 10
        for channel in pixels:
            assert numpy.array_equal(channel[2:30, 2:30], images[number])
            assert channel.sum() == images[number].sum(dtype=int)


def test_two_runs_write_the_same(source, tmp_path, read_lmdb):
    for name in ("one", "two"):
        data_arrays.write_fashion_mnist(tmp_path / name, str(source), limit=30)
    for lmdb in ("train_lmdb", "test_lmdb"):
        assert read_lmdb(tmp_path / "one" / lmdb) == read_lmdb(tmp_path / "two" / lmdb)


def test_the_package_as_installed(tmp_path, read_lmdb):
    written = data_arrays.write_fashion_mnist(tmp_path / "out")
    assert (written.train, written.test, written.mean_text()) == (60000, 10000, "55.8450,55.8450,55.8450")
    assert inspect_lmdb(str(tmp_path / "out" / "train_lmdb")).entries == 60000
    labels = [record.label for _, record in read_lmdb(tmp_path / "out" / "test_lmdb")]
    assert [labels.count(label) for label in range(10)] == [1000] * 10
    assert (tmp_path / "out" / "labels.txt").read_text().splitlines()[9] == "Ankle boot"


def black_images(count, side):
    return idx(numpy.zeros((count, side, side), numpy.uint8))


def recompressed(change):
    return lambda content: gzip.compress(change(gzip.decompress(content)))


@pytest.mark.parametrize("name, damage, message", [
    (TRAIN_IMAGES, lambda content: content[: len(content) // 2], "cannot be read: Compressed file ended"),
    (TRAIN_IMAGES, lambda content: b"no gzip at all", "cannot be read: Not a gzipped file"),
    (TRAIN_IMAGES, lambda content: content[:200] + bytes(50) + content[250:], "cannot be read"),
    (TRAIN_IMAGES, lambda content: b"", "it begins with 0x$"),
    (TRAIN_IMAGES, recompressed(lambda content: content[:-1]), "holds 39199 bytes where its header tells 39200"),
    (TRAIN_IMAGES, recompressed(lambda content: content + b"x"), "holds 39201 bytes"),
    (TRAIN_IMAGES, recompressed(lambda content: content[:10]), "truncated inside its header"),
    (TRAIN_IMAGES, recompressed(lambda content: content[:4] + b"\xff" * 12 + content[16:]), "where its header tells"),
    (TRAIN_IMAGES, recompressed(lambda content: black_images(50, 32)), "images of 32x32"),
    (TRAIN_IMAGES, recompressed(lambda content: black_images(49, 28)), "50 labels for 49 images"),
    (TEST_LABELS, recompressed(lambda content: b"\0\0\x08\x03" + content[4:]), "it begins with 0x00000803"),
    (TEST_LABELS, recompressed(lambda content: content[:-1] + b"\x0a"), "label 10 where there are 10 classes"),
])
def test_a_wrong_file_is_named(source, tmp_path, name, damage, message):
    (source / name).write_bytes(damage((source / name).read_bytes()))
    with pytest.raises(Error, match=message) as caught:
        data_arrays.write_fashion_mnist(tmp_path / "out", str(source))
    assert caught.value.where.endswith((name, name.replace("images-idx3", "labels-idx1")))
    assert os.listdir(tmp_path) == ["source"]


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(data_arrays, "FASHION_MNIST_DIR", str(tmp_path))
    with pytest.raises(Error, match="there is no such file") as caught:
        data_arrays.write_fashion_mnist(tmp_path / "out", str(tmp_path))
    assert caught.value.hint == "apt-get install dataset-fashion-mnist"
    with pytest.raises(Error, match="there is no such file") as caught:
        data_arrays.write_fashion_mnist(tmp_path / "out", str(tmp_path / "own"))
    assert caught.value.hint == ""
