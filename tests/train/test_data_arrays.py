"""Images in arrays: IDX and CIFAR files."""

import gzip
import os
import struct

import numpy
import pytest

from image_files import pixels_of, tar_of
from prototxt_gen.core.errors import Error
from prototxt_gen.train.data import Run
from prototxt_gen.train.data_arrays import write_cifar, write_idx


def idx(values):
    return struct.pack(f">I{values.ndim}I", 0x0800 | values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def mnist(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for half, count in (("train", 20), ("t10k", 10)):
        images = numpy.arange(count, dtype=numpy.uint8).repeat(9).reshape(count, 3, 3)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(idx(images))
        labels = idx((numpy.arange(count) % 5).astype(numpy.uint8))
        (folder / f"{half}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


def test_idx_files_gzipped_or_not(mnist, tmp_path, read_lmdb):
    written = write_idx(tmp_path / "out", str(mnist), pad_px=1, run=Run(shuffle=False))
    assert (written.train, written.test, written.classes) == (20, 10, ("0", "1", "2", "3", "4"))
    for index, (_, record) in enumerate(read_lmdb(tmp_path / "out" / "train_lmdb")):
        planes = pixels_of(record)
        assert planes.shape == (3, 5, 5) and record.label == index % 5
        assert (planes[:, 1:4, 1:4] == index).all() and planes.sum() == 27 * index


def test_idx_files_that_do_not_fit(mnist, tmp_path):
    with pytest.raises(Error, match="there is no 'kmnist-train-images") as caught:
        write_idx(tmp_path / "out", str(mnist), "kmnist-")
    assert caught.value.hint == "--prefix is one of '', the default"
    for path in list(mnist.iterdir()):
        path.rename(mnist / f"emnist-{path.name}")
    with pytest.raises(Error, match="there is no 'train-images") as caught:
        write_idx(tmp_path / "out", str(mnist))
    assert caught.value.hint == "--prefix is one of emnist-"
    assert write_idx(tmp_path / "out", str(mnist), "emnist-").train == 20
    with pytest.raises(Error, match="the label 4 where there are 3 classes"):
        write_idx(tmp_path / "three", str(mnist), "emnist-", classes=["a", "b", "c"])
    (mnist / "emnist-t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(Error, match="there are no labels 'emnist-t10k-labels-idx1-ubyte'"):
        write_idx(tmp_path / "labels", str(mnist), "emnist-")


def cifar_record(labels, number):
    planes = numpy.stack([numpy.full((32, 32), value, numpy.uint8) for value in (number, number + 1, number + 2)])
    return bytes(labels) + planes.tobytes()


CIFAR10 = {
    **{f"data_batch_{batch}.bin": b"".join(cifar_record([i], 10 * batch + i) for i in range(10))
       for batch in range(1, 6)},
    "test_batch.bin": b"".join(cifar_record([i], i) for i in range(10)),
    "batches.meta.txt": "".join(f"class{i}\n" for i in range(10)).encode() + b"\n",
}
CIFAR100 = {
    "train.bin": b"".join(cifar_record([i % 20, i % 100], i) for i in range(200)),
    "test.bin": b"".join(cifar_record([i % 20, i % 100], i) for i in range(100)),
    "coarse_label_names.txt": "".join(f"coarse{i}\n" for i in range(20)).encode(),
    "fine_label_names.txt": "".join(f"fine{i}\n" for i in range(100)).encode(),
}


def test_cifar_10_from_its_tar_file(tmp_path, read_lmdb):
    tar_of({f"cifar-10-batches-bin/{name}": content for name, content in CIFAR10.items()},
           tmp_path / "cifar.tar.gz", "gz")
    written = write_cifar(tmp_path / "out", str(tmp_path / "cifar.tar.gz"), run=Run(shuffle=False))
    assert (written.train, written.test, written.classes[9]) == (50, 10, "class9")
    for index, (_, record) in enumerate(read_lmdb(tmp_path / "out" / "train_lmdb")):
        number = 10 * (index // 10 + 1) + index % 10
        assert record.label == index % 10
        # Red comes first in the file, blue in Caffe.
        assert [set(plane.ravel()) for plane in pixels_of(record)] == [{number + 2}, {number + 1}, {number}]


def test_cifar_100_from_its_folder(tmp_path, read_lmdb):
    for name, content in CIFAR100.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    fine = write_cifar(tmp_path / "fine", str(tmp_path / "in"))
    coarse = write_cifar(tmp_path / "coarse", str(tmp_path / "in"), coarse=True)
    assert (len(fine.classes), fine.train_counts) == (100, (2,) * 100)
    assert (len(coarse.classes), coarse.train_counts) == (20, (10,) * 20)


@pytest.mark.parametrize("name, content, message", [
    ("data_batch_3.bin", CIFAR10["data_batch_3.bin"][:-1], "'data_batch_3.bin' holds 30729 bytes"),
    ("data_batch_3.bin", b"", "'data_batch_3.bin' holds 0 bytes"),
    ("data_batch_3.bin", None, "there is no 'data_batch_3.bin' in it"),
    ("test_batch.bin", None, "is no CIFAR set"),
    ("test_batch.bin", cifar_record([10], 0), "holds the label 10"),
    ("batches.meta.txt", b"one\n", "'batches.meta.txt' holds 1 names, not 10"),
])
def test_wrong_cifar_files_are_named(tmp_path, name, content, message):
    files = {**CIFAR10, name: content}
    tar_of({one: data for one, data in files.items() if data is not None}, tmp_path / "cifar.tar")
    with pytest.raises(Error, match=message):
        write_cifar(tmp_path / "out", str(tmp_path / "cifar.tar"))
    with pytest.raises(Error, match="has no coarse labels|is no CIFAR set"):
        write_cifar(tmp_path / "out", str(tmp_path / "cifar.tar"), coarse=True)
    assert os.listdir(tmp_path) == ["cifar.tar"]


def test_a_cut_tar_file_of_cifar_is_told(tmp_path):
    (tmp_path / "cifar.tar.gz").write_bytes(tar_of(CIFAR10, compress="gz")[:300])
    with pytest.raises(Error, match="cannot be read"):
        write_cifar(tmp_path / "out", str(tmp_path / "cifar.tar.gz"))
