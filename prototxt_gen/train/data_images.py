"""One image file into what a record of an LMDB holds of it."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from prototxt_gen.core.errors import Error
from prototxt_gen.train.data import Image, Skipped, pack
from prototxt_gen.train.data_lmdb import EXTRA_HINT
from prototxt_gen.train.data_tally import Chunk

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
JPEG_QUALITY = 95
SHORT_SIDE_PX = 256
EXIF_ORIENTATION = 0x0112
# The first picture of these is the photograph; the others are its previews.
PREVIEW_FORMATS = ("JPEG", "MPO")
OPEN_FILES = 64


class Place(NamedTuple):
    """Where an image file lies: the whole of ``path``, or so many bytes of it, as a member of a tar file."""

    path: str
    offset: int = 0
    length: Optional[int] = None


class Item(NamedTuple):
    """An image file to be written: its name in the LMDB and in messages, its label, its place."""

    name: str
    label: int
    place: Place


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


def read_items(items: Sequence[Item], form: ImageForm) -> Chunk:
    """Return image files as records; one that cannot be read is told, with the reason, in its place."""
    return pack(_images(items, form))


def _images(items: Sequence[Item], form: ImageForm) -> Iterator[Union[Image, Skipped]]:
    pillow, _ = import_pillow()
    for item in items:
        try:
            pixels, encoded = _read_image(_read(item.place), form)
        except MemoryError:
            raise
        except pillow.UnidentifiedImageError:
            yield Skipped(shown_name(item), "is no image")
        # Pillow's decoders raise whatever a damaged file leads them to: OSError, SyntaxError, struct.error, ...
        except Exception as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            yield Skipped(shown_name(item), " ".join(reason.split()))
        else:
            yield Image(item.name, item.label, pixels, encoded)


def shown_name(item: Item) -> str:
    """Return the name of an image for messages: its file's, or the tar file's with its own behind it."""
    return item.place.path if item.place.length is None else f"{item.place.path}:{item.name}"


def _read(place: Place) -> bytes:
    if place.length is None:
        return Path(place.path).read_bytes()
    data = os.pread(_descriptor(place.path), place.length, place.offset)
    if len(data) != place.length:
        raise OSError("the tar file ends inside it")
    return data


@lru_cache(maxsize=OPEN_FILES)
def _descriptor(path: str) -> int:
    return os.open(path, os.O_RDONLY)


def _read_image(data: bytes, form: ImageForm) -> Tuple[Any, Optional[bytes]]:
    """Return an image's pixels (3, H, W) in the order B, G, R and, for the encoded form, its JPEG file.

    A JPEG of three channels and the wanted size is kept as it is. The pixels are those before encoding. What Caffe
    decodes of an encoded Datum must have three channels and stand upright, so grey and turned ones are encoded anew.
    """
    import numpy

    pillow, turn = import_pillow()
    with warnings.catch_warnings():
        # What Pillow warns of here, such as odd EXIF tags, does not touch the pixels.
        warnings.simplefilter("ignore")
        with pillow.open(io.BytesIO(data)) as image:
            as_it_is = image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(EXIF_ORIENTATION, 1) == 1
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format not in PREVIEW_FORMATS:
                raise ValueError(f"holds {frames} pictures: which of them is meant is not known")
            upright = _as_rgb(turn(image))
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


def _as_rgb(image: Any) -> Any:
    """Return an image in eight bits a channel: the upper eight of sixteen; alpha is dropped, as Caffe does by itself.

    Raises ValueError for values whose range is not known.
    """
    import numpy

    pillow, _ = import_pillow()
    if image.mode.startswith("I"):
        # Pillow's own conversion cuts off what is above 255.
        values = numpy.asarray(image)
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 0xFFFF:
            raise ValueError(f"holds values from {values.min()} to {values.max()}: more than sixteen bits")
        image = pillow.fromarray((values >> 8).astype(numpy.uint8))
    elif image.mode == "F":
        raise ValueError("holds floating-point values, whose range is not known")
    return image.convert("RGB")


def grouped(items: Sequence[Any], start: int, size: int) -> Iterator[List[Any]]:
    """Yield the items from number ``start`` on, ``size`` at a time."""
    for first in range(start, len(items), size):
        yield list(items[first : first + size])


def import_pillow() -> Tuple[Any, Any]:
    """Return Pillow's Image module and its function that turns an image as its EXIF tag says."""
    try:
        from PIL import Image as pillow
        from PIL import ImageOps
    except ImportError as error:
        raise Error("reading image files needs the Python package 'Pillow'", hint=EXTRA_HINT) from error
    return pillow, ImageOps.exif_transpose
