"""Sets that come as arrays of pixels: Fashion-MNIST, other sets in IDX files, CIFAR's binary files."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.train.data import (
    CHUNK_ITEMS, TEST_LMDB, TRAIN_LMDB, Image, ImageSet, Part, Run, pack, write_parts,
)
from prototxt_gen.train.data_tally import Chunk

FASHION_MNIST_DIR = "/usr/share/datasets/fashion-mnist"
FASHION_MNIST_HINT = "apt-get install dataset-fashion-mnist"
# Names and order: the table "Labels" of github.com/zalandoresearch/fashion-mnist.
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# 28x28 becomes 32x32, the input of the CIFAR networks.
FASHION_MNIST_SIDE_PX = 28
FASHION_MNIST_PAD_PX = 2
# IDX: two zero bytes, the type (8: unsigned byte) and the number of axes, then the length of each axis; big-endian.
IDX_IMAGES = 0x00000803
IDX_LABELS = 0x00000801
IDX_NAME = re.compile(r"(.*?)(train|t10k|test)([-_.])images([-_.])idx3([-_.])ubyte(\.gz)?")


class Pixels(NamedTuple):
    """The images of one LMDB: ``images`` is (N, H, W) grey or (N, 3, H, W) in the order B, G, R; labels are (N,)."""

    images: Any
    labels: Any


def write_fashion_mnist(
    out: Path, source: str = FASHION_MNIST_DIR, limit: Optional[int] = None, run: Run = Run()
) -> ImageSet:
    """Write Fashion-MNIST as a set of images: 32x32 with a border of zeros, three equal channels.

    ``source`` is the folder of the four IDX files, ``limit`` keeps the first so many images of each split. Raises Error
    when the package is not installed and when a file is truncated or not what its name says.
    """
    side = FASHION_MNIST_SIDE_PX
    pairs = []
    for half in ("train", "t10k"):
        images_file = Path(source) / f"{half}-images-idx3-ubyte.gz"
        pixels = _read_pair(images_file, Path(source) / f"{half}-labels-idx1-ubyte.gz")
        if pixels.images.shape[1:] != (side, side):
            what = f"holds images of {pixels.images.shape[2]}x{pixels.images.shape[1]} where Fashion-MNIST has 28x28"
            raise Error(what, where=str(images_file))
        _check_labels(pixels.labels, len(FASHION_MNIST_CLASSES), images_file.with_name(f"{half}-labels-idx1-ubyte.gz"))
        pairs.append(Pixels(_padded(pixels.images[:limit], FASHION_MNIST_PAD_PX), pixels.labels[:limit]))
    return _write(out, FASHION_MNIST_CLASSES, *pairs, run)


def write_idx(
    out: Path, folder: str, prefix: str = "", pad_px: int = 0, classes: Optional[Sequence[str]] = None,
    run: Run = Run(),
) -> ImageSet:
    """Write the two pairs of IDX files in a folder, named as MNIST's are, as a set of images of three equal channels.

    ``prefix`` is what the names have before 'train', 't10k' or 'test'. Without ``classes`` the labels' numbers are
    the names.
    """
    train_files, test_files = _find_pairs(Path(folder), prefix)
    train, test = (_read_pair(*files) for files in (train_files, test_files))
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = " and of ".join(f"{one.images.shape[2]}x{one.images.shape[1]}" for one in (train, test))
        raise Error(f"holds images of {sizes}", where=folder)
    if classes is None:
        classes = [str(label) for label in range(int(max(train.labels.max(), test.labels.max())) + 1)]
    for pixels, files in ((train, train_files), (test, test_files)):
        _check_labels(pixels.labels, len(classes), files[1])
    pairs = [Pixels(_padded(one.images, pad_px), one.labels) for one in (train, test)]
    return _write(out, classes, *pairs, run)


def _padded(images: Any, pad_px: int) -> Any:
    import numpy

    return numpy.pad(images, ((0, 0), (pad_px, pad_px), (pad_px, pad_px)))


def _find_pairs(folder: Path, prefix: str) -> Tuple[Tuple[Path, Path], Tuple[Path, Path]]:
    """Return the files (images, labels) to train with and to test with."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", str(folder)) from None
    matches = [match for match in map(IDX_NAME.fullmatch, names) if match]
    found: Dict[str, Tuple[Path, Path]] = {}
    for match in matches:
        if match[1] != prefix:
            continue
        half = "train" if match[2] == "train" else "test"
        if half in found:
            raise Error(f"holds the images to {half} with twice: '{found[half][0].name}', '{match[0]}'", str(folder))
        stem = f"{match[1]}{match[2]}{match[3]}labels{match[4]}idx1{match[5]}ubyte"
        labels = [name for name in names if name in (stem, stem + ".gz")]
        if not labels:
            raise Error(f"there are no labels '{stem}' for '{match[0]}'", str(folder))
        found[half] = (folder / match[0], folder / labels[0])
    for half, example in (("train", "train-images-idx3-ubyte.gz"), ("test", "t10k-images-idx3-ubyte.gz")):
        if half not in found:
            others = sorted({match[1] for match in matches} - {prefix})
            named = ", ".join(one or "'', the default" for one in others)
            hint = f"--prefix is one of {named}" if others else "names are as MNIST's, .gz or not"
            raise Error(f"there is no '{prefix}{example}'", str(folder), hint)
    return found["train"], found["test"]


def _read_pair(images_file: Path, labels_file: Path) -> Pixels:
    """Return images (N, H, W) and labels (N,), both uint8."""
    images = read_idx(images_file, IDX_IMAGES)
    labels = read_idx(labels_file, IDX_LABELS)
    if len(images) != len(labels):
        raise Error(f"holds {len(labels)} labels for {len(images)} images", where=str(labels_file))
    if not images.size:
        raise Error("holds no images", where=str(images_file))
    return Pixels(images, labels)


def _check_labels(labels: Any, classes: int, place: Path) -> None:
    if labels.max() >= classes:
        raise Error(f"holds the label {labels.max()} where there are {classes} classes", where=str(place))


def read_idx(path: Path, magic: int) -> Any:
    """Return the unsigned bytes of an IDX file, gzipped or not, in the shape it tells. Raises Error naming the file."""
    import numpy

    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            header = file.read(4)
            if len(header) < 4 or struct.unpack(">I", header)[0] != magic:
                raise Error(f"is not an IDX file of the kind 0x{magic:08x}: it begins with 0x{header.hex()}", str(path))
            axes = magic & 0xFF
            lengths = file.read(4 * axes)
            if len(lengths) < 4 * axes:
                raise Error("is truncated inside its header", where=str(path))
            shape = struct.unpack(f">{axes}I", lengths)
            size = int(numpy.prod(shape, dtype=object))
            data = file.read()
    except FileNotFoundError:
        # The package brings the files into its own folder only.
        hint = FASHION_MNIST_HINT if path.parent == Path(FASHION_MNIST_DIR) else ""
        raise Error("there is no such file", where=str(path), hint=hint) from None
    except (OSError, EOFError, zlib.error) as error:
        raise Error(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=str(path)) from None
    if len(data) != size:
        raise Error(f"holds {len(data)} bytes where its header tells {size}", where=str(path))
    return numpy.frombuffer(data, dtype=numpy.uint8).reshape(shape)


# ---- CIFAR ---------------------------------------------------------------------------------------------------------

CIFAR_SIDE_PX = 32
CIFAR_PIXEL_BYTES = 3 * CIFAR_SIDE_PX**2


class _Cifar(NamedTuple):
    """A binary version: its files, the bytes of labels before the pixels of a record, and the files of names."""

    train: Tuple[str, ...]
    test: str
    label_bytes: int
    names: Tuple[str, ...]
    classes: Tuple[int, ...]


# After www.cs.toronto.edu/~kriz/cifar.html, "Binary version". CIFAR-100 has the coarse label first, then the fine one.
CIFAR10 = _Cifar(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", 1, ("batches.meta.txt",), (10,))
CIFAR100 = _Cifar(("train.bin",), "test.bin", 2, ("coarse_label_names.txt", "fine_label_names.txt"), (20, 100))
CIFAR_HINT = "the binary version is wanted: cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, or its folder"


def write_cifar(out: Path, source: str, coarse: bool = False, run: Run = Run()) -> ImageSet:
    """Write CIFAR-10 or CIFAR-100 as a set of images, from the tar file of its binary version or the folder in it.

    ``coarse`` takes CIFAR-100's 20 superclasses.
    """
    files = _cifar_files(Path(source))
    kind = next((one for one in (CIFAR10, CIFAR100) if one.test in files), None)
    if kind is None:
        raise Error("is no CIFAR set: there is no 'test_batch.bin' and no 'test.bin' in it", source, CIFAR_HINT)
    if coarse and kind is not CIFAR100:
        raise Error("is CIFAR-10, which has no coarse labels", source)
    column = kind.label_bytes - 1 - coarse
    for name in (*kind.train, kind.test, kind.names[column]):
        if name not in files:
            raise Error(f"there is no '{name}' in it", source, CIFAR_HINT)
    classes = files[kind.names[column]].decode("utf-8", "surrogateescape").split()
    if len(classes) != kind.classes[column]:
        raise Error(f"'{kind.names[column]}' holds {len(classes)} names, not {kind.classes[column]}", source)
    train = _cifar_pixels(b"".join(_whole_records(files, name, kind, source) for name in kind.train), kind, column)
    test = _cifar_pixels(_whole_records(files, kind.test, kind, source), kind, column)
    for pixels in (train, test):
        _check_labels(pixels.labels, len(classes), Path(source))
    return _write(out, classes, train, test, run)


def _cifar_files(source: Path) -> Dict[str, bytes]:
    """Return the content of the files that belong to a CIFAR set, by their names without folder."""
    wanted = {name for kind in (CIFAR10, CIFAR100) for name in (*kind.train, kind.test, *kind.names)}
    try:
        if source.is_dir():
            return {name: (source / name).read_bytes() for name in sorted(wanted) if (source / name).is_file()}
        found = {}
        with tarfile.open(source) as archive:
            for member in archive:
                name = os.path.basename(member.name)
                if member.isfile() and name in wanted:
                    found[name] = _member(archive, member).read()
        return found
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise Error(f"cannot be read: {getattr(error, 'strerror', None) or error}", str(source), CIFAR_HINT) from None


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    file = archive.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"'{member.name}' is no file")
    return file


def _whole_records(files: Dict[str, bytes], name: str, kind: _Cifar, source: str) -> bytes:
    data, record = files[name], kind.label_bytes + CIFAR_PIXEL_BYTES
    if not data or len(data) % record:
        raise Error(f"'{name}' holds {len(data)} bytes, which is no number of records of {record}", source)
    return data


def _cifar_pixels(data: bytes, kind: _Cifar, column: int) -> Pixels:
    import numpy

    records = numpy.frombuffer(data, numpy.uint8).reshape(-1, kind.label_bytes + CIFAR_PIXEL_BYTES)
    images = records[:, kind.label_bytes :].reshape(-1, 3, CIFAR_SIDE_PX, CIFAR_SIDE_PX)
    # Red, green, blue in the file.
    return Pixels(images[:, ::-1], records[:, column])


# ---- Arrays into LMDBs ---------------------------------------------------------------------------------------------


def _write(out: Path, classes: Sequence[str], train: Pixels, test: Pixels, run: Run) -> ImageSet:
    hasher = hashlib.sha256(repr((run.shuffle, run.seed, list(classes))).encode("utf-8", "surrogateescape"))
    for pixels in (train, test):
        hasher.update(repr(pixels.images.shape).encode())
        hasher.update(pixels.images.tobytes())
        hasher.update(pixels.labels.tobytes())
    parts = [_part(*one, run) for one in ((TRAIN_LMDB, "train", train), (TEST_LMDB, "test", test))]
    return write_parts(out, classes, *parts, hasher.hexdigest(), run)


def _part(lmdb: str, half: str, pixels: Pixels, run: Run) -> Part:
    """Return the images as what becomes an LMDB. They are made by this process: there is nothing to decode."""
    import numpy

    order = run.ordered(range(len(pixels.labels)))
    size = pixels.images.shape[-2:]

    def image(index: int) -> Image:
        planes = numpy.broadcast_to(pixels.images[index], (3, *size))
        return Image(f"{half}-{index:05d}", int(pixels.labels[index]), planes)

    def chunks(start: int) -> Iterator[Chunk]:
        for first in range(start, len(order), CHUNK_ITEMS):
            yield pack(image(index) for index in order[first : first + CHUNK_ITEMS])

    return Part(lmdb, len(order), chunks)
