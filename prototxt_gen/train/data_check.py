"""Walks an LMDB of images and tells what is wrong with it, and what there is."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from google.protobuf.message import DecodeError

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.train.data import CHUNK_ITEMS, LABELS_FILE, TEST_LMDB, TRAIN_LMDB, Progress
from prototxt_gen.train.data_images import import_pillow
from prototxt_gen.train.data_out import FINGERPRINT_FILE, PROGRESS_FOLDER
from prototxt_gen.train.data_workers import all_cores, in_order
from prototxt_gen.train.lmdb_file import DamagedLmdb, Place, count_entries, places

# Corrupt records that are named; the others are counted.
NAMED_RECORDS = 20
CHANNELS = {"1": 1, "L": 1, "LA": 2, "P": 3, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3}

Size = Tuple[int, int, int]
# The first and the last of neighbouring labels.
Span = Tuple[int, int]


class Looked(NamedTuple):
    """What a record is: its label, (channels, height, width), whether it is encoded; or what is wrong with it."""

    key: str
    label: int
    size: Optional[Size]
    encoded: bool
    wrong: str = ""


class Corrupt(NamedTuple):
    """A record that Caffe could not use."""

    key: str
    reason: str


@dataclass
class LmdbReport:
    """What an LMDB holds. ``entries`` is how many records it says it has, ``records`` how many were reached.

    ``counts`` has the images of each label, ``sizes`` those of each (channels, height, width); ``classes`` is the
    number of classes where it is known.
    """

    path: str
    entries: int
    classes: Optional[int]
    records: int = 0
    encoded: int = 0
    corrupt_count: int = 0
    corrupt: List[Corrupt] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    damage: str = ""

    def gaps(self) -> List[Span]:
        """Return the labels without an image below the largest one, or below the number of classes."""
        # By spans: a damaged label may be any number of 31 bits.
        found, expected = [], 0
        for label in sorted(self.counts):
            if label > expected:
                found.append((expected, label - 1))
            expected = label + 1
        if expected < (self.classes or 0):
            found.append((expected, self.classes - 1))
        return found

    def problems(self) -> List[str]:
        """Return what is wrong, in words."""
        found = []
        if self.damage:
            found.append(self.damage)
        if self.corrupt_count:
            found.append(f"{self.corrupt_count} of {self.records} records are corrupt")
        if not self.entries:
            found.append("holds no records")
        if self.classes is not None:
            beyond = {label: count for label, count in self.counts.items() if label >= self.classes}
            if beyond:
                images, labels = sum(beyond.values()), spans_text(spans(sorted(beyond)))
                found.append(f"{images} images have a label beyond the {self.classes} classes: {labels}")
        channels = sorted({size[0] for size in self.sizes})
        if len(channels) > 1:
            found.append(f"images have different numbers of channels: {', '.join(map(str, channels))}")
        if 0 < self.encoded < self.records - self.corrupt_count:
            found.append(f"{self.encoded} images are encoded, the others are raw")
        return found

    def as_dict(self) -> Dict[str, Any]:
        """Return all of it for a JSON document."""
        labels = sorted(self.counts)
        return {
            "path": self.path, "ok": not self.problems(), "problems": self.problems(), "entries": self.entries,
            "records": self.records, "encoded": self.encoded, "classes": self.classes,
            "corrupt": {"count": self.corrupt_count, "named": [one._asdict() for one in self.corrupt]},
            "labels": {
                "lowest": labels[0] if labels else None, "highest": labels[-1] if labels else None,
                "without_images": self.gaps(), "images": {str(label): self.counts[label] for label in labels},
            },
            "sizes": [
                {"channels": size[0], "height_px": size[1], "width_px": size[2], "images": count}
                for size, count in sorted(self.sizes.items())
            ],
        }


def spans(numbers: Sequence[int]) -> List[Span]:
    """Return ascending numbers as spans (first, last)."""
    found: List[Span] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def spans_text(found: Sequence[Span]) -> str:
    """Return spans in words: '3, 7-9'."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def lmdbs_in(folder: str) -> List[str]:
    """Return the LMDBs that a folder means: itself, or those of a set of images."""
    if os.path.exists(os.path.join(folder, "data.mdb")):
        return [folder]
    inside = [os.path.join(folder, name) for name in (TRAIN_LMDB, TEST_LMDB)]
    return [path for path in inside if os.path.isdir(path)] or [folder]


def check_lmdb(
    folder: str, classes: Optional[int] = None, workers: Optional[int] = None,
    progress: Progress = lambda what, done, total: None,
) -> LmdbReport:
    """Read every record of the LMDB at ``folder`` and decode its image.

    ``classes`` is the number of classes; where it is None and the LMDB lies in a set of images, labels.txt tells it.
    Raises Error when there is no LMDB.
    """
    import_pillow()
    place = Path(os.path.abspath(folder))
    entries = count_entries(folder)
    report = LmdbReport(folder, entries, _classes_beside(place) if classes is None else classes)
    if (place.parent / PROGRESS_FOLDER / FINGERPRINT_FILE).exists() and place.name in (TRAIN_LMDB, TEST_LMDB):
        report.damage = "is part of an unfinished set of images: run the command that writes it once more"
    walk = _Walk(folder)
    most = -(-entries // (4 * CHUNK_ITEMS))
    look = functools.partial(_look_at_all, os.path.join(folder, "data.mdb"))
    for chunk in in_order(look, walk.chunks(), min(workers or all_cores(), most)):
        for looked in chunk:
            _take(report, looked)
            progress(place.name, report.records, entries)
    if walk.broken or report.records != entries:
        report.damage = f"is damaged or truncated: {report.records} of {entries} records can be reached"
    return report


class _Walk:
    """The places of an LMDB's records, up to where it is damaged."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.broken = False

    def chunks(self) -> Iterator[List[Place]]:
        waiting: List[Place] = []
        try:
            for place in places(self._folder):
                waiting.append(place)
                if len(waiting) == CHUNK_ITEMS:
                    yield waiting
                    waiting = []
        except DamagedLmdb:
            self.broken = True
        if waiting:
            yield waiting


def _classes_beside(place: Path) -> Optional[int]:
    labels = place.parent / LABELS_FILE
    if place.name not in (TRAIN_LMDB, TEST_LMDB) or not labels.is_file():
        return None
    return labels.read_bytes().count(b"\n")


def _take(report: LmdbReport, looked: Looked) -> None:
    report.records += 1
    if looked.wrong:
        report.corrupt_count += 1
        if len(report.corrupt) < NAMED_RECORDS:
            report.corrupt.append(Corrupt(looked.key, looked.wrong))
        return
    report.counts[looked.label] += 1
    report.sizes[looked.size] += 1
    report.encoded += looked.encoded


def _look_at_all(path: str, chunk: Sequence[Place]) -> List[Looked]:
    with open(path, "rb") as file:
        return [_look_at(place.key, os.pread(file.fileno(), place.length, place.offset), place.length)
                for place in chunk]


def _look_at(key_bytes: bytes, value: bytes, length: int) -> Looked:
    key = os.fsdecode(key_bytes)
    if len(value) != length:
        return Looked(key, 0, None, False, "lies beyond the end of the file")
    try:
        datum = DEFAULT_DIALECT.message("Datum").FromString(value)
    except DecodeError:
        return Looked(key, 0, None, False, "is no Datum")
    told = (datum.channels, datum.height, datum.width)
    wrong, size = _decoded(datum, told) if datum.encoded else _raw(datum, told)
    if not wrong and datum.label < 0:
        wrong = f"has the label {datum.label}"
    return Looked(key, datum.label, size, datum.encoded, wrong)


def _raw(datum: Any, told: Size) -> Tuple[str, Optional[Size]]:
    values = len(datum.data) or len(datum.float_data)
    wanted = told[0] * told[1] * told[2]
    if min(told) < 1:
        return f"tells the size {_size_text(told)}", None
    if datum.data and datum.float_data:
        return "has both bytes and floating-point values", None
    if values != wanted:
        return f"holds {values} values where {_size_text(told)} are {wanted}", None
    return "", told


def _decoded(datum: Any, told: Size) -> Tuple[str, Optional[Size]]:
    """Decode an image all of it; a Datum written by convert_imageset tells no size beside it."""
    pillow, _ = import_pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pillow.open(io.BytesIO(datum.data)) as image:
                image.load()
                size = (CHANNELS.get(image.mode, 3), image.height, image.width)
    except MemoryError:
        raise
    # Pillow's decoders raise whatever a damaged file leads them to.
    except Exception as error:
        unknown = isinstance(error, pillow.UnidentifiedImageError)
        return "is encoded but is no image" if unknown else f"cannot be decoded: {' '.join(str(error).split())}", None
    if any(told) and told != size:
        return f"holds an image of {_size_text(size)} but tells {_size_text(told)}", None
    return "", size


def _size_text(size: Size) -> str:
    return f"{size[2]}x{size[1]} with {size[0]} channels"
