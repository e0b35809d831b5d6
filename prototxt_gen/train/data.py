"""Sets of images as Caffe's Data layer reads them: two LMDBs of Datum records, the class names and the mean.

A finished set is a folder with

    train_lmdb/, test_lmdb/  one Datum for each image; the key is its number in eight digits, '_' and its name, as
                             Caffe's convert_imageset writes it, so that Caffe reads the images in the order written
    labels.txt               one class name a line; the line number, from 0, is the label
    mean.txt                 one line 'B,G,R': the mean of each channel over all pixels of the training images, four
                             digits after the point, as the networks' option --mean takes it
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error

TRAIN_LMDB = "train_lmdb"
TEST_LMDB = "test_lmdb"
LABELS_FILE = "labels.txt"
MEAN_FILE = "mean.txt"
MEMBERS = (TRAIN_LMDB, TEST_LMDB, LABELS_FILE, MEAN_FILE)

EXTRA_HINT = "pip install 'prototxt-gen[data]'"
# Doubled when full. Without MDB_WRITEMAP the map is address space only: the file on disk grows with what is written.
FIRST_MAP_BYTES = 64 << 20
BATCH_RECORDS = 1000
BATCH_BYTES = 64 << 20
LITTLE_SPACE_BYTES = 1 << 20
# LMDB's own limit (MDB_MAXKEYSIZE).
KEY_BYTES = 511

# progress(what, done, total): images of a split written so far.
Progress = Callable[[str, int, int], None]


class Image(NamedTuple):
    """One image: ``pixels`` is (3, H, W) uint8 in Caffe's order B, G, R; ``encoded`` its compressed file, if any."""

    name: str
    label: int
    pixels: Any
    encoded: Optional[bytes] = None


class Split(NamedTuple):
    """The images of one LMDB; ``total`` is how many there are at most."""

    total: int
    images: Iterable[Image]


@dataclass(frozen=True)
class ImageSet:
    """What was written: images in each LMDB, class names in the order of their labels, mean (B, G, R)."""

    train: int
    test: int
    classes: Tuple[str, ...]
    mean: Tuple[float, ...]

    def mean_text(self) -> str:
        """Return the mean as mean.txt and the networks' option --mean have it."""
        return ",".join(f"{value:.4f}" for value in self.mean)


def ignore_progress(what: str, done: int, total: int) -> None:
    """Take progress and do nothing with it."""


def shuffled(items: Sequence[Any], seed: int) -> List[Any]:
    """Return the items in an order that depends on ``seed`` and their number only."""
    import numpy

    # RandomState's stream is frozen by numpy's compatibility policy; the default generator's is not.
    return [items[index] for index in numpy.random.RandomState(seed).permutation(len(items))]


def datum(image: Image) -> bytes:
    """Return the serialised Datum of an image: its compressed file, or its pixels as bytes (C, H, W)."""
    channels, height, width = image.pixels.shape
    record = DEFAULT_DIALECT.message("Datum")(channels=channels, height=height, width=width, label=image.label)
    if image.encoded is None:
        record.data = image.pixels.tobytes()
    else:
        record.data = image.encoded
        record.encoded = True
    return record.SerializeToString()


def write_image_set(
    out: Path,
    classes: Sequence[str],
    train: Split,
    test: Split,
    force: bool = False,
    progress: Progress = ignore_progress,
) -> ImageSet:
    """Write a set of images as the folder ``out``, which gets its name only when all of it is on disk.

    Raises Error when ``out`` exists (unless ``force`` and it is a set of images), when a split has no image, and when
    the disk is full or the place not writable; nothing is left behind then.
    """
    for name, split in ((TRAIN_LMDB, train), (TEST_LMDB, test)):
        if not split.total:
            raise Error(f"no image to write into '{name}'", where=str(out))
    with new_folder(out, MEMBERS, force) as folder:
        trained, mean = _write_split(folder / TRAIN_LMDB, train, progress)
        tested, _ = _write_split(folder / TEST_LMDB, test, progress)
        written = ImageSet(trained, tested, tuple(classes), mean)
        (folder / LABELS_FILE).write_bytes(b"".join(os.fsencode(name) + b"\n" for name in classes))
        (folder / MEAN_FILE).write_text(written.mean_text() + "\n", encoding="ascii")
    return written


def _write_split(folder: Path, split: Split, progress: Progress) -> Tuple[int, Tuple[float, ...]]:
    """Write one LMDB; return the number of images and the mean of their pixels (B, G, R)."""
    import numpy

    sums, pixels = numpy.zeros(3, dtype=numpy.int64), 0

    def records() -> Iterator[Tuple[str, bytes]]:
        nonlocal pixels
        for done, image in enumerate(split.images, start=1):
            sums[:] += image.pixels.sum(axis=(1, 2), dtype=numpy.int64)
            pixels += image.pixels[0].size
            progress(folder.name, done, split.total)
            yield image.name, datum(image)

    count = write_lmdb(folder, records())
    if not count:
        raise Error(f"none of the {split.total} images for '{folder.name}' could be read")
    return count, tuple(float(value) for value in sums / pixels)


def write_lmdb(folder: Path, records: Iterable[Tuple[str, bytes]]) -> int:
    """Write (name, value) records into a new LMDB at ``folder`` in their order; return how many there were."""
    lmdb = _import_lmdb()
    try:
        folder.mkdir()
        environment = lmdb.open(str(folder), map_size=FIRST_MAP_BYTES, sync=False, mode=0o644)
        try:
            number, batch, batch_bytes = 0, [], 0
            for name, value in records:
                batch.append((f"{number:08d}_".encode() + os.fsencode(name))[:KEY_BYTES])
                batch.append(value)
                number += 1
                batch_bytes += len(value)
                if len(batch) >= 2 * BATCH_RECORDS or batch_bytes >= BATCH_BYTES:
                    _commit(lmdb, environment, batch)
                    batch, batch_bytes = [], 0
            _commit(lmdb, environment, batch)
            environment.sync(True)
        finally:
            environment.close()
    except (lmdb.Error, OSError) as error:
        # LMDB reports a write cut short by a full disk as an input/output error.
        free = shutil.disk_usage(folder.parent).free
        what = f"the disk is full: {free} bytes are free" if free < LITTLE_SPACE_BYTES else str(error)
        raise Error(f"cannot write the LMDB: {what}", where=str(folder)) from error
    return number


def _commit(lmdb: Any, environment: Any, batch: Sequence[bytes]) -> None:
    """Write key, value, key, value, ... in one transaction, doubling the map until it holds them."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in zip(batch[::2], batch[1::2]):
                    # Keys come in order: appending fills the pages instead of splitting them in half.
                    transaction.put(key, value, append=True)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def _import_lmdb() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise Error("writing an LMDB needs the Python package 'lmdb'", hint=EXTRA_HINT) from error
    return lmdb


@contextmanager
def new_folder(out: Path, members: Sequence[str], force: bool = False) -> Iterator[Path]:
    """Yield an empty folder that gets the name ``out`` when the block ends well, and is deleted when it does not.

    It is called ``<out>.partial`` until then. What a killed run has left under that name is cleared by the next one;
    two runs at the same time are told apart by a lock. ``force`` replaces an existing ``out`` that holds nothing but
    ``members``. Raises Error, also for any OSError of the block.
    """
    out = Path(os.path.abspath(out))
    if os.path.lexists(out):
        _check_replaceable(out, members, force)
    partial = out.with_name(out.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Error(f"cannot make the folder: {error.strerror}", where=str(partial)) from error
    try:
        _lock(descriptor, partial)
        try:
            for member in partial.iterdir():
                shutil.rmtree(member) if member.is_dir() and not member.is_symlink() else member.unlink()
            yield partial
            _rename(partial, out, force)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError):
                what = f"cannot write: {error.strerror or error}"
                raise Error(what, where=str(error.filename or out)) from error
            raise
    finally:
        os.close(descriptor)


def _check_replaceable(out: Path, members: Sequence[str], force: bool) -> None:
    if not force:
        raise Error("exists already", where=str(out), hint="choose another name, or replace it with --force")
    if not out.is_dir() or out.is_symlink():
        raise Error("is not a folder", where=str(out), hint="choose another name")
    foreign = sorted(set(os.listdir(out)) - set(members))
    if foreign:
        hint = f"--force replaces only a folder that holds nothing but {', '.join(members)}"
        raise Error(f"'{foreign[0]}' in it is not part of a set of images", where=str(out), hint=hint)


def _lock(descriptor: int, partial: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Error("another run is writing this folder", where=str(partial)) from error
    except OSError:
        # Some network file systems have no locks; there two runs at once cannot be told apart.
        return
    if not partial.is_dir() or not os.path.samestat(os.fstat(descriptor), os.stat(partial)):
        raise Error("another run has just finished writing this folder", where=str(partial))


def _rename(partial: Path, out: Path, force: bool) -> None:
    """Give the finished folder its name; what had the name goes only after that."""
    replaced = out.with_name(out.name + ".replaced")
    if force and out.is_dir():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(out, replaced)
    os.rename(partial, out)
    shutil.rmtree(replaced, ignore_errors=True)
