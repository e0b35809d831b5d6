"""Sets of images as Caffe's Data layer reads them: two LMDBs of Datum records, the class names, counts and means.

A finished set is a folder with

    train_lmdb/, test_lmdb/  one Datum for each image; the key is its number in eight digits, '_' and its name, as
                             Caffe's convert_imageset writes it, so that Caffe reads the images in the order written
    labels.txt               one class name a line; the line number, from 0, is the label
    counts.txt               label, images to train with, images to test with, class name; parted by tabs
    mean.txt                 one line 'B,G,R': the mean of each channel over all pixels of the training images, four
                             digits after the point, as the networks' option --mean takes it
    mean.binaryproto         the mean of each pixel over the training images, a BlobProto as Caffe's mean_file wants it;
                             only where all of them have one size
    skipped.txt              the images left out, each with the reason; only where there are any
"""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import write_text, write_whole
from prototxt_gen.train.data_lmdb import LmdbWriter, told_errors, verified_start
from prototxt_gen.train.data_out import unfinished_folder
from prototxt_gen.train.data_tally import Chunk, Outcome, Tally, TallyFiles

TRAIN_LMDB = "train_lmdb"
TEST_LMDB = "test_lmdb"
LABELS_FILE = "labels.txt"
COUNTS_FILE = "counts.txt"
MEAN_FILE = "mean.txt"
PIXEL_MEAN_FILE = "mean.binaryproto"
SKIPPED_FILE = "skipped.txt"
MEMBERS = (TRAIN_LMDB, TEST_LMDB, LABELS_FILE, COUNTS_FILE, MEAN_FILE, PIXEL_MEAN_FILE)

# Images handed around together. A set is taken up again at the beginning of such a group.
CHUNK_ITEMS = 32
# The order of images and the split of a folder depend on this and on the names of the files only.
SEED = 1

# progress(what, done, total): images of a split gone through so far.
Progress = Callable[[str, int, int], None]
# skipped(path, reason): an image that cannot be read.
SkipReport = Callable[[Path, str], None]


class Image(NamedTuple):
    """One image: ``pixels`` is (3, H, W) uint8 in Caffe's order B, G, R; ``encoded`` its compressed file, if any."""

    name: str
    label: int
    pixels: Any
    encoded: Optional[bytes] = None


class Skipped(NamedTuple):
    """An image that cannot be read."""

    name: str
    reason: str


class Split(NamedTuple):
    """The images of one LMDB; ``total`` is how many there are at most."""

    total: int
    images: Iterable[Image]


class Part(NamedTuple):
    """What becomes one LMDB: ``chunks(start)`` yields all images from number ``start`` on, CHUNK_ITEMS at a time."""

    name: str
    total: int
    chunks: Callable[[int], Iterator[Chunk]]


@dataclass(frozen=True)
class Run:
    """How a set is written: whether OUT is replaced, in which order, by how many processes, and who hears of it.

    ``workers`` None means all cores. Without ``skip_corrupt`` an image that cannot be read is an error.
    """

    force: bool = False
    shuffle: bool = True
    seed: int = SEED
    workers: Optional[int] = None
    skip_corrupt: bool = True
    progress: Progress = lambda what, done, total: None
    skipped: SkipReport = lambda path, reason: None
    note: Callable[[str], None] = lambda text: None

    def ordered(self, items: Sequence[Any]) -> Sequence[Any]:
        """Return the items in the order in which they are written."""
        return shuffled(items, self.seed) if self.shuffle else items


@dataclass(frozen=True)
class ImageSet:
    """What was written: images in each LMDB, class names in the order of their labels, mean (B, G, R), images left out.

    ``train_counts`` and ``test_counts`` hold the images of each class; ``pixel_mean`` tells whether there is one.
    """

    train: int
    test: int
    classes: Tuple[str, ...]
    mean: Tuple[float, ...]
    train_counts: Tuple[int, ...]
    test_counts: Tuple[int, ...]
    pixel_mean: bool
    skipped: int

    def mean_text(self) -> str:
        """Return the mean as mean.txt and the networks' option --mean have it."""
        return ",".join(f"{value:.4f}" for value in self.mean)


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


def pack(images: Iterable[Union[Image, Skipped]]) -> Chunk:
    """Return images as records, with the sums that the means are made of."""
    import numpy

    outcomes, channel_sums, pixels, shapes = [], numpy.zeros(3, numpy.int64), 0, {}
    for image in images:
        if isinstance(image, Skipped):
            outcomes.append(Outcome(image.name, 0, None, image.reason))
            continue
        outcomes.append(Outcome(image.name, image.label, datum(image)))
        pixels += image.pixels[0].size
        shape = image.pixels.shape
        if shape in shapes:
            shapes[shape] += image.pixels
        else:
            shapes[shape] = image.pixels.astype(numpy.uint32)
    for sums in shapes.values():
        channel_sums += sums.sum(axis=(1, 2), dtype=numpy.int64)
    return Chunk(tuple(outcomes), pixels, channel_sums, next(iter(shapes.values())) if len(shapes) == 1 else None)


def write_image_set(out: Path, classes: Sequence[str], train: Split, test: Split, force: bool = False) -> ImageSet:
    """Write images that this process makes as the set of images ``out``; nothing is left behind when that fails."""

    def part(name: str, split: Split) -> Part:
        images = iter(split.images)
        groups = iter(lambda: list(itertools.islice(images, CHUNK_ITEMS)), [])
        return Part(name, split.total, lambda start: map(pack, groups))

    return write_parts(out, classes, part(TRAIN_LMDB, train), part(TEST_LMDB, test), None, Run(force=force))


def write_parts(
    out: Path, classes: Sequence[str], train: Part, test: Part, fingerprint: Optional[str], run: Run
) -> ImageSet:
    """Write a set of images as the folder ``out``, which gets its name only when all of it is on disk.

    A run of the same ``fingerprint`` that was cut short is gone on with. Raises Error when ``out`` exists (unless
    ``run.force`` and it is a set of images), when a split has no image, and when the disk is full or the place not
    writable.
    """
    for part in (train, test):
        if not part.total:
            hint = "a class of one image is trained with only: it takes two to have one to test with"
            raise Error(f"no image to write into '{part.name}'", str(out), hint)
    with unfinished_folder(out, (*MEMBERS, SKIPPED_FILE), run.force, fingerprint, run.note) as (folder, progress):
        tallies = [_write_part(folder, progress, part, len(classes), run) for part in (train, test)]
        written = _written(classes, *tallies)
        _write_texts(folder, written, *tallies)
    return written


def _write_part(folder: Path, progress: Path, part: Part, classes: int, run: Run) -> Tally:
    """Write one LMDB from where an earlier run has stopped, or from its beginning."""
    place, files = folder / part.name, TallyFiles(progress / part.name)
    tally = verified_start(place, files, part.total, run.note) or Tally.empty(classes)
    for name, reason in tally.skipped:
        _skip(run, name, reason)
    with told_errors(place):
        writer = LmdbWriter(place, tally.records, tally.checksum)
        try:
            if tally.done < part.total:
                for chunk in part.chunks(tally.done):
                    _take(chunk, tally, writer, part, run)
                    if writer.is_full():
                        _commit(writer, tally, files)
                _commit(writer, tally, files)
            writer.sync()
        finally:
            writer.close()
    if not tally.records:
        # Nothing to go on with.
        shutil.rmtree(progress)
        raise Error(f"none of the {part.total} images for '{part.name}' could be read")
    return tally


def _take(chunk: Chunk, tally: Tally, writer: LmdbWriter, part: Part, run: Run) -> None:
    for number, outcome in enumerate(chunk.outcomes, start=tally.done + 1):
        if outcome.record is not None:
            writer.put(outcome.name, outcome.record)
        else:
            _skip(run, outcome.name, outcome.reason)
        run.progress(part.name, number, part.total)
    tally.add(chunk)


def _skip(run: Run, name: str, reason: str) -> None:
    if not run.skip_corrupt:
        hint = "repair or remove it, or leave such images out with --skip-corrupt"
        raise Error(f"cannot be read: {reason}", name, hint)
    run.skipped(Path(name), reason)


def _commit(writer: LmdbWriter, tally: Tally, files: TallyFiles) -> None:
    """Write what waits. The tally goes first: whichever of the last two the LMDB agrees with is the true one."""
    tally.records, tally.checksum = writer.number, writer.checksum
    files.save(tally)
    writer.commit()


def _written(classes: Sequence[str], train: Tally, test: Tally) -> ImageSet:
    mean = tuple(float(value) for value in train.channel_sums / train.pixels)
    counts = [tuple(int(count) for count in one.counts) for one in (train, test)]
    skipped = len(train.skipped) + len(test.skipped)
    has_pixel_mean = train.pixel_sums is not None
    return ImageSet(train.records, test.records, tuple(classes), mean, *counts, has_pixel_mean, skipped)


def _write_texts(folder: Path, written: ImageSet, train: Tally, test: Tally) -> None:
    def write(name: str, lines: Iterable[str]) -> None:
        data = b"".join(os.fsencode(line) + b"\n" for line in lines)
        write_whole(str(folder / name), lambda file: file.write(data))

    write(LABELS_FILE, written.classes)
    rows = enumerate(zip(written.train_counts, written.test_counts, written.classes))
    write(COUNTS_FILE, (f"{label}\t{trained}\t{tested}\t{name}" for label, (trained, tested, name) in rows))
    write_text(str(folder / MEAN_FILE), written.mean_text() + "\n")
    if train.pixel_sums is not None:
        data = mean_blob(train.pixel_sums / train.records)
        write_whole(str(folder / PIXEL_MEAN_FILE), lambda file: file.write(data))
    left_out = [f"{name}\t{reason}" for name, reason in (*train.skipped, *test.skipped)]
    if left_out:
        write(SKIPPED_FILE, left_out)


def mean_blob(mean: Any) -> bytes:
    """Return the BlobProto of a mean (C, H, W), with the four sizes that all versions of Caffe read."""
    channels, height, width = mean.shape
    blob = DEFAULT_DIALECT.message("BlobProto")(num=1, channels=channels, height=height, width=width)
    blob.data.extend(mean.astype("float32").ravel().tolist())
    return blob.SerializeToString()


def write_lmdb(folder: Path, records: Iterable[Tuple[str, bytes]]) -> int:
    """Write (name, value) records into a new LMDB at ``folder`` in their order; return how many there were."""
    with told_errors(folder):
        writer = LmdbWriter(folder)
        try:
            for name, value in records:
                writer.put(name, value)
                if writer.is_full():
                    writer.commit()
            writer.commit()
            writer.sync()
        finally:
            writer.close()
    return writer.number
