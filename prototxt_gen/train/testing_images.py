"""The images of a test: from an LMDB of Datums, a folder of classes or a list, decoded ahead, one crop of each.

Of an image x of (C, H, W), blue, green, red, the net gets for an input of (C, h, w)

    (crop(resize(x)) - mean) scale,    crop: the h x w in the middle, rows from floor((H - h) / 2), columns likewise

in float32, which is what Caffe's data layers compute in the phase TEST. Without ``resize_short`` nothing is resized;
with it the short side becomes that many pixels (Pillow, bicubic). Records of an LMDB are decoded as they are stored,
image files are turned upright first, as OpenCV does it for Caffe's ImageData.
"""

from __future__ import annotations

import io
import os
import warnings
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Deque, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from google.protobuf.message import DecodeError

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import BYTE_ORDER_MARK, read_text
from prototxt_gen.train.data import LABELS_FILE, TEST_LMDB
from prototxt_gen.train.data_images import IMAGE_SUFFIXES, import_pillow
from prototxt_gen.train.data_lmdb import EXTRA_HINT
from prototxt_gen.train.lmdb_file import inspect_lmdb

AHEAD = 2  # batches whose images are decoded before the net asks for them
SIZE_HINT = "--resize-short makes images larger, --size the net's input smaller"


class Item(NamedTuple):
    """An image that waits to be decoded: a Datum's bytes with its key as name, or a file with its label."""

    name: str
    datum: Optional[bytes]
    label: int = 0


@dataclass(frozen=True)
class Source:
    """A set of images. ``classes`` are their names by label, where they are known."""

    path: str
    count: int
    classes: Tuple[str, ...]
    items: Callable[[], Iterator[Item]]
    stored: bool  # in an LMDB


@dataclass(frozen=True)
class Crop:
    """How an image becomes the input (C, h, w) of a net; ``mean`` is None, one value or C, or an array (C, H, W)."""

    size: Tuple[int, int, int]
    resize_short: Optional[int]
    mean: Any
    scale: float


class Batch(NamedTuple):
    """Images as the net takes them, zeros where there are fewer than a batch; names and labels of those there are."""

    names: List[str]
    labels: List[int]
    images: Any


# ---- Sources -------------------------------------------------------------------------------------------------------


def open_source(path: str) -> Source:
    """Return the images at ``path``: an LMDB, a folder with one for each class, or a list of 'file label' lines."""
    if os.path.isfile(path):
        return _open_list(path)
    if not os.path.isdir(path):
        raise Error("there are no images", path, "prototxt-gen data writes an LMDB; --source names one")
    if os.path.exists(os.path.join(path, "data.mdb")):
        return _open_lmdb(path)
    for inner in (TEST_LMDB, "val"):
        if os.path.isdir(os.path.join(path, inner)):
            raise Error(f"holds '{inner}' and more", path, f"--source {os.path.join(path, inner)}")
    return _open_folder(path)


def _open_lmdb(path: str) -> Source:
    try:
        import lmdb
    except ImportError as error:
        raise Error("reading an LMDB needs the Python package 'lmdb'", hint=EXTRA_HINT) from error
    count = inspect_lmdb(path).entries

    def items() -> Iterator[Item]:
        # Without a lock a folder that is not writable can be read, too.
        try:
            with lmdb.open(path, readonly=True, lock=False) as environment, environment.begin() as transaction:
                for key, value in transaction.cursor():
                    yield Item(key.decode(errors="replace"), value)
        except lmdb.Error as error:
            raise Error(f"is damaged: {error}", path, "prototxt-gen data check tells what is left of it") from None

    names = Path(path).resolve().parent / LABELS_FILE
    classes = tuple(read_text(str(names)).splitlines()) if names.is_file() else ()
    return Source(path, count, classes, items, True)


def _open_folder(path: str) -> Source:
    root = Path(path)
    classes = tuple(sorted(one.name for one in root.iterdir() if one.is_dir() and not one.name.startswith(".")))
    files = [
        Item(str(file), None, label)
        for label, name in enumerate(classes)
        for file in sorted((root / name).rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise Error("holds no images", path, "a folder for each class is wanted, or an LMDB")
    return Source(path, len(files), classes, lambda: iter(files), False)


def _open_list(path: str) -> Source:
    files = []
    for number, line in enumerate(read_text(path).removeprefix(BYTE_ORDER_MARK).splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise Error("is no line of a list of images", f"{path}:{number}", "write the file, a space, its label")
        files.append(Item(name.strip(), None, int(label)))
    if not files:
        raise Error("lists no images", path)
    return Source(path, len(files), (), lambda: iter(files), False)


def stored_size(source: Source) -> Tuple[int, int, int]:
    """Return channels, height and width of the first image as it is stored."""
    with _quiet():
        pixels, _ = _pixels(next(source.items()), None, None, source.path)
    return pixels.shape


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings of odd EXIF tags, which do not touch the pixels, from the user: in all threads at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---- Batches -------------------------------------------------------------------------------------------------------


def read_batches(source: Source, crop: Crop, batch_size: int, limit: Optional[int]) -> Iterator[Batch]:
    """Yield the images in the order of the source, decoded by all cores while the net works."""
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    ahead: Deque[Tuple[str, Future]] = deque()
    try:
        with _quiet():
            for item in islice(source.items(), limit):
                ahead.append((item.name, pool.submit(load, item, crop, source.path)))
                if len(ahead) >= AHEAD * batch_size:
                    yield _gather([ahead.popleft() for _ in range(batch_size)], crop, batch_size)
            while ahead:
                yield _gather([ahead.popleft() for _ in range(min(batch_size, len(ahead)))], crop, batch_size)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _gather(loaded: Sequence[Tuple[str, Future]], crop: Crop, batch_size: int) -> Batch:
    import numpy as np

    images = np.zeros((batch_size, *crop.size), np.float32)
    labels = []
    for index, (_, future) in enumerate(loaded):
        label, images[index] = future.result()
        labels.append(label)
    return Batch([name for name, _ in loaded], labels, images)


def load(item: Item, crop: Crop, where: str) -> Tuple[int, Any]:
    """Return an image's label and its crop, (C, h, w) of float32."""
    import numpy as np

    channels, height, width = crop.size
    pixels, label = _pixels(item, channels, crop.resize_short, where)
    high, wide = pixels.shape[1:]
    if high < height or wide < width:
        what = f"image '{item.name}' has {wide}x{high} pixels, and the crop takes {width}x{height}"
        raise Error(what, where, SIZE_HINT)
    top, left = (high - height) // 2, (wide - width) // 2
    part = pixels[:, top:top + height, left:left + width].astype(np.float32)
    if crop.mean is not None:
        part -= _mean_of(crop, pixels.shape, top, left, item.name, where)
    if crop.scale != 1:
        part *= np.float32(crop.scale)
    return label, part


def _mean_of(crop: Crop, shape: Tuple[int, ...], top: int, left: int, name: str, where: str) -> Any:
    """Return what is subtracted from the crop of an image of this shape."""
    import numpy as np

    mean = np.asarray(crop.mean, np.float32)
    if mean.ndim == 1:
        return mean[:, None, None]
    if mean.shape == shape:
        return mean[:, top:top + crop.size[1], left:left + crop.size[2]]
    if mean.shape == crop.size:
        return mean
    sizes = "x".join(map(str, mean.shape)), "x".join(map(str, shape))
    raise Error(f"the mean is {sizes[0]}, and image '{name}' is {sizes[1]}", where, "--mean takes a value per channel")


# ---- Pixels --------------------------------------------------------------------------------------------------------


def _pixels(
    item: Item, channels: Optional[int], resize_short: Optional[int], where: str
) -> Tuple[Any, int]:
    """Return the pixels (C, H, W) of an image, and its label; ``channels`` None: as many as it has."""
    place = f"image '{item.name}'"
    if item.datum is None:
        try:
            data = Path(item.name).read_bytes()
        except OSError as error:
            raise Error(f"{place} cannot be read: {error.strerror}", where) from None
        return _decode(data, channels, resize_short, True, place, where), item.label
    try:
        datum = DEFAULT_DIALECT.message("Datum").FromString(item.datum)
    except DecodeError:
        raise Error(f"{place} is no Datum", where) from None
    if datum.encoded:
        return _decode(datum.data, channels, resize_short, False, place, where), datum.label
    return _raw(datum, channels, resize_short, place, where), datum.label


def _raw(datum: Any, channels: Optional[int], resize_short: Optional[int], place: str, where: str) -> Any:
    import numpy as np

    shape = (datum.channels, datum.height, datum.width)
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if not values.size or values.size != np.prod(shape, dtype=object):
        raise Error(f"{place} has {values.size} values for {'x'.join(map(str, shape))}", where)
    if channels is not None and channels != datum.channels:
        raise Error(f"{place} has {datum.channels} channels, and the net takes {channels}", where)
    values = values.reshape(shape)
    if resize_short is None or min(shape[1:]) == resize_short:
        return values
    if values.dtype != np.uint8 or datum.channels not in (1, 3):
        raise Error(f"{place} cannot be resized: it is none of bytes in 1 or 3 channels", where)
    pillow, _ = import_pillow()
    upright = values[0] if datum.channels == 1 else np.ascontiguousarray(values[::-1].transpose(1, 2, 0))
    return _planes(_resized(pillow.fromarray(upright), resize_short))


def _decode(
    data: bytes, channels: Optional[int], resize_short: Optional[int], turned: bool, place: str, where: str
) -> Any:
    pillow, turn = import_pillow()
    if channels not in (None, 1, 3):
        raise Error(f"{place} is encoded, and the net takes {channels} channels", where, "images have 1 or 3")
    try:
        with pillow.open(io.BytesIO(data)) as image:
            if image.mode[0] in "IF":
                raise ValueError("it has more than eight bits a channel")
            grey = channels == 1 or (channels is None and image.mode == "L")
            if grey:
                image.draft("L", image.size)  # a JPEG's own brightness, as OpenCV takes it
            upright = (turn(image) if turned else image).convert("L" if grey else "RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        said = "is no image" if isinstance(error, pillow.UnidentifiedImageError) else f"cannot be decoded: {error}"
        raise Error(f"{place} {said}", where) from None
    return _planes(upright if resize_short is None else _resized(upright, resize_short))


def _resized(image: Any, short_px: int) -> Any:
    """Return an image with its short side resized; halves of the long side are rounded up, as ``data`` does it."""
    short = min(image.size)
    if short == short_px:
        return image
    pillow, _ = import_pillow()
    return image.resize([(2 * side * short_px + short) // (2 * short) for side in image.size], pillow.BICUBIC)


def _planes(image: Any) -> Any:
    """Return a grey or RGB image as (C, H, W), C in the order blue, green, red."""
    import numpy as np

    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[::-1]
