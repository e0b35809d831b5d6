"""Where images come from: the Fashion-MNIST package and folders of image files."""

from __future__ import annotations

import gzip
import io
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.train.data import (
    EXTRA_HINT,
    Image,
    ImageSet,
    Progress,
    Split,
    ignore_progress,
    shuffled,
    write_image_set,
)

# The order of images and the split of a folder depend on this and on the names of the files only.
SEED = 1

# ---- Fashion-MNIST -------------------------------------------------------------------------------------------------

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


def write_fashion_mnist(
    out: Path,
    source: str = FASHION_MNIST_DIR,
    force: bool = False,
    limit: Optional[int] = None,
    progress: Progress = ignore_progress,
) -> ImageSet:
    """Write Fashion-MNIST as a set of images: 32x32 with a border of zeros, three equal channels.

    ``source`` is the folder of the four IDX files, ``limit`` keeps the first so many images of each split. Raises Error
    when the package is not installed and when a file is truncated or not what its name says.
    """
    folder = Path(source)
    splits = []
    for name, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = _read_idx_pair(folder, prefix)
        splits.append(_fashion_split(name, images[:limit], labels[:limit]))
    return write_image_set(out, FASHION_MNIST_CLASSES, splits[0], splits[1], force, progress)


def _fashion_split(name: str, images: Any, labels: Any) -> Split:
    import numpy

    pad = FASHION_MNIST_PAD_PX
    padded = numpy.pad(images, ((0, 0), (pad, pad), (pad, pad)))
    side = padded.shape[1]

    def in_order() -> Iterator[Image]:
        for index in shuffled(range(len(labels)), SEED):
            pixels = numpy.broadcast_to(padded[index], (3, side, side))
            yield Image(f"{name}-{index:05d}", int(labels[index]), pixels)

    return Split(len(labels), in_order())


def _read_idx_pair(folder: Path, prefix: str) -> Tuple[Any, Any]:
    """Return images (N, 28, 28) and labels (N,), both uint8."""
    images_file = folder / f"{prefix}-images-idx3-ubyte.gz"
    labels_file = folder / f"{prefix}-labels-idx1-ubyte.gz"
    images = read_idx(images_file, IDX_IMAGES)
    labels = read_idx(labels_file, IDX_LABELS)
    if images.shape[1:] != (FASHION_MNIST_SIDE_PX, FASHION_MNIST_SIDE_PX):
        what = f"holds images of {images.shape[2]}x{images.shape[1]} where Fashion-MNIST has 28x28"
        raise Error(what, where=str(images_file))
    if len(images) != len(labels):
        raise Error(f"holds {len(labels)} labels for {len(images)} images", where=str(labels_file))
    if not len(images):
        raise Error("holds no images", where=str(images_file))
    if labels.max() >= len(FASHION_MNIST_CLASSES):
        raise Error(f"holds the label {labels.max()} where there are 10 classes", where=str(labels_file))
    return images, labels


def read_idx(path: Path, magic: int) -> Any:
    """Return the unsigned bytes of a gzipped IDX file in the shape it tells. Raises Error naming the file."""
    import numpy

    try:
        with gzip.open(path, "rb") as file:
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


# ---- Folders of images ---------------------------------------------------------------------------------------------

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
JPEG_QUALITY = 95
SHORT_SIDE_PX = 256
TEST_SHARE = 0.1
EXIF_ORIENTATION = 0x0112

# skipped(path, reason): an image that cannot be read.
Skipped = Callable[[Path, str], None]


class _File(NamedTuple):
    path: Path
    name: str
    label: int


@dataclass(frozen=True)
class ImageForm:
    """How images are stored: resized to a short side of ``short_side_px``, or to ``size_px`` (width, height) exactly.

    ``encoded`` stores JPEG files, else the pixels themselves.
    """

    short_side_px: int = SHORT_SIDE_PX
    size_px: Optional[Tuple[int, int]] = None
    encoded: bool = True

    def target(self, width: int, height: int) -> Tuple[int, int]:
        """Return the (width, height) to which an image of this size is resized; halves are rounded up."""
        if self.size_px:
            return self.size_px
        short = min(width, height)
        width, height = ((2 * side * self.short_side_px + short) // (2 * short) for side in (width, height))
        return width, height


def write_folder(
    folder: str,
    out: Path,
    form: ImageForm = ImageForm(),
    test_share: Optional[float] = None,
    force: bool = False,
    progress: Progress = ignore_progress,
    skipped: Skipped = lambda path, reason: None,
) -> ImageSet:
    """Write a folder of images as a set of images.

    The folder holds train/<class>/ and val/<class>/, or <class>/ alone; then ``test_share`` (0.1 when None) of each
    class is drawn for the test LMDB. Classes are numbered in the order of their names. An image that cannot be decoded
    is told to ``skipped`` and left out. Raises Error when there are no images, no readable ones, or classes that do not
    agree.
    """
    _import_pillow()
    place, target = Path(folder).resolve(), Path(out).resolve()
    if place == target or place in target.parents:
        hint = "it would be taken for a class of images: write it beside the folder"
        raise Error(f"lies inside the folder of images '{folder}'", str(out), hint)
    classes, train, test = list_folder(folder, test_share)
    splits = []
    for files in (train, test):
        splits.append(Split(len(files), _read_images(shuffled(files, SEED), form, skipped)))
    return write_image_set(out, classes, splits[0], splits[1], force, progress)


def list_folder(folder: str, test_share: Optional[float] = None) -> Tuple[Tuple[str, ...], List[_File], List[_File]]:
    """Return the class names and the files for training and for testing."""
    root = Path(folder)
    if test_share is not None and not 0 < test_share < 1:
        raise Error(f"the share to test with must lie between 0 and 1, not {test_share}")
    if not root.is_dir():
        raise Error("there is no such folder", where=folder)
    halves = [half for half in ("train", "val") if (root / half).is_dir()]
    if len(halves) == 1:
        missing = "val" if halves == ["train"] else "train"
        hint = f"to split one set of classes, name '{root / halves[0]}' and the share to test with"
        raise Error(f"there is a folder '{halves[0]}' but no folder '{missing}'", where=folder, hint=hint)
    if not halves:
        classes, by_class = _list_classes(root, root)
        return (classes, *_split(by_class, TEST_SHARE if test_share is None else test_share))
    if test_share is not None:
        raise Error("has the folders train and val: there is nothing to split", where=folder)
    classes, train = _list_classes(root / "train", root)
    test_classes, test = _list_classes(root / "val", root)
    unknown = sorted(set(test_classes) - set(classes))
    if unknown:
        raise Error(f"class '{unknown[0]}' is not among the classes of train", where=str(root / "val"))
    labels = {name: label for label, name in enumerate(classes)}
    test_files = [one._replace(label=labels[name]) for name in test_classes for one in test[name]]
    return classes, [one for name in classes for one in train[name]], test_files


def _list_classes(folder: Path, root: Path) -> Tuple[Tuple[str, ...], Dict[str, List[_File]]]:
    """Return class names and their files, both in the order of names; hidden files and other kinds are passed over."""
    try:
        names = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
        files = {name: _list_files(folder / name, root, label) for label, name in enumerate(names)}
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", where=str(error.filename)) from None
    if not names:
        raise Error("there are no folders of classes in it", where=str(folder))
    for name in names:
        if "\n" in name:
            raise Error(f"the class {name!r} has a line break in its name", where=str(folder))
        if not files[name]:
            hint = f"an image's name ends in one of {' '.join(IMAGE_SUFFIXES)}"
            raise Error(f"class '{name}' has no images", where=str(folder), hint=hint)
    return tuple(names), files


def _list_files(folder: Path, root: Path, label: int) -> List[_File]:
    def fail(error: OSError) -> None:
        raise error

    found = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                path = Path(place, name)
                found.append(_File(path, str(path.relative_to(root)), label))
    return sorted(found)


def _split(by_class: Dict[str, List[_File]], test_share: float) -> Tuple[List[_File], List[_File]]:
    """Draw the share of each class for testing: at least one image where there are two, and never all of them."""
    train, test = [], []
    for files in by_class.values():
        drawn = shuffled(files, SEED)
        count = min(max(round(test_share * len(files)), 1), len(files) - 1)
        test.extend(drawn[:count])
        train.extend(drawn[count:])
    return train, test


def _read_images(files: Sequence[_File], form: ImageForm, skipped: Skipped) -> Iterator[Image]:
    pillow, _ = _import_pillow()
    for file in files:
        try:
            pixels, encoded = _read_image(file.path, form)
        except MemoryError:
            raise
        except pillow.UnidentifiedImageError:
            skipped(file.path, "is no image")
        # Pillow's decoders raise whatever a damaged file leads them to: OSError, SyntaxError, struct.error, ...
        except Exception as error:
            skipped(file.path, " ".join(str(getattr(error, "strerror", None) or error).split()))
        else:
            yield Image(file.name, file.label, pixels, encoded)


def _read_image(path: Path, form: ImageForm) -> Tuple[Any, Optional[bytes]]:
    """Return an image's pixels (3, H, W) in the order B, G, R and, for the encoded form, its JPEG file.

    A JPEG of three channels and the wanted size is kept as it is. The pixels are those before encoding. What Caffe
    decodes of an encoded Datum must have three channels and stand upright, so grey and turned ones are encoded anew.
    """
    import numpy

    pillow, turn = _import_pillow()
    data = path.read_bytes()
    with warnings.catch_warnings():
        # What Pillow warns of here, such as odd EXIF tags, does not touch the pixels.
        warnings.simplefilter("ignore")
        with pillow.open(io.BytesIO(data)) as image:
            as_it_is = image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(EXIF_ORIENTATION, 1) == 1
            upright = turn(image).convert("RGB")
        target = form.target(*upright.size)
        if upright.size != target:
            as_it_is = False
            upright = upright.resize(target, pillow.BICUBIC)
    pixels = numpy.ascontiguousarray(numpy.asarray(upright).transpose(2, 0, 1)[::-1])
    if not form.encoded:
        return pixels, None
    if as_it_is:
        return pixels, data
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return pixels, buffer.getvalue()


def _import_pillow() -> Tuple[Any, Any]:
    """Return Pillow's Image module and its function that turns an image as its EXIF tag says."""
    try:
        from PIL import Image as pillow
        from PIL import ImageOps
    except ImportError as error:
        raise Error("reading image files needs the Python package 'Pillow'", hint=EXTRA_HINT) from error
    return pillow, ImageOps.exif_transpose
