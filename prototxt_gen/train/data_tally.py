"""What has been written of an LMDB so far: counts, sums and checksum, and the two files that keep them over a kill."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Tuple

# A tally of another layout is not read.
FORMAT = 1


class Outcome(NamedTuple):
    """What became of one image: its record, or None and the reason why there is none."""

    name: str
    label: int
    record: Optional[bytes]
    reason: str = ""


class Chunk(NamedTuple):
    """Some images in their order, their pixels, and the sums of those: per channel (B, G, R) and per pixel.

    ``pixel_sums`` is (3, H, W), and None where the images differ in size or none could be read.
    """

    outcomes: Tuple[Outcome, ...]
    pixels: int
    channel_sums: Any
    pixel_sums: Any


@dataclass
class Tally:
    """Of the first ``done`` images: records written, their checksum, images of each class, sums, images left out.

    ``pixel_sums`` is (3, H, W) while all images have one size; ``one_size`` tells whether they have.
    """

    done: int
    records: int
    checksum: int
    counts: Any
    pixels: int
    channel_sums: Any
    pixel_sums: Any
    one_size: bool
    skipped: List[Tuple[str, str]]

    @classmethod
    def empty(cls, classes: int) -> Tally:
        """Return the tally of nothing."""
        import numpy

        return cls(0, 0, 0, numpy.zeros(classes, numpy.int64), 0, numpy.zeros(3, numpy.int64), None, True, [])

    def add(self, chunk: Chunk) -> None:
        """Take in a chunk, but for ``records`` and ``checksum``, which the LMDB's writer knows."""
        read = 0
        for outcome in chunk.outcomes:
            if outcome.record is None:
                self.skipped.append((outcome.name, outcome.reason))
            else:
                self.counts[outcome.label] += 1
                read += 1
        self.done += len(chunk.outcomes)
        self.pixels += chunk.pixels
        self.channel_sums += chunk.channel_sums
        if not read or not self.one_size:
            return
        if chunk.pixel_sums is None or self.pixel_sums is not None and self.pixel_sums.shape != chunk.pixel_sums.shape:
            self.one_size, self.pixel_sums = False, None
        elif self.pixel_sums is None:
            self.pixel_sums = chunk.pixel_sums.astype("int64")
        else:
            self.pixel_sums += chunk.pixel_sums

    def dumps(self) -> bytes:
        """Return the tally as a file's content."""
        import numpy

        plain = {
            "format": FORMAT, "done": self.done, "records": self.records, "checksum": self.checksum,
            "pixels": self.pixels, "one_size": self.one_size, "skipped": self.skipped,
        }
        arrays = {"counts": self.counts, "channel_sums": self.channel_sums}
        if self.pixel_sums is not None:
            arrays["pixel_sums"] = self.pixel_sums
        buffer = io.BytesIO()
        numpy.savez(buffer, plain=numpy.frombuffer(json.dumps(plain).encode(), numpy.uint8), **arrays)
        return buffer.getvalue()

    @classmethod
    def loads(cls, data: bytes) -> Optional[Tally]:
        """Return the tally in a file's content, or None where it holds none."""
        import numpy

        try:
            with numpy.load(io.BytesIO(data), allow_pickle=False) as arrays:
                plain = json.loads(arrays["plain"].tobytes())
                if plain.pop("format") != FORMAT:
                    return None
                plain["skipped"] = [(name, reason) for name, reason in plain["skipped"]]
                pixel_sums = arrays["pixel_sums"] if "pixel_sums" in arrays else None
                sums = {"channel_sums": arrays["channel_sums"], "pixel_sums": pixel_sums}
                return cls(counts=arrays["counts"], **sums, **plain)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None


class TallyFiles:
    """The last two tallies of an LMDB, one of which agrees with it whenever the writing was cut short."""

    def __init__(self, stem: Path) -> None:
        self._paths = [stem.with_name(f"{stem.name}.{slot}") for slot in (0, 1)]
        self._next = 0

    def load(self) -> List[Tally]:
        """Return the tallies that are there."""
        found = []
        for path in self._paths:
            tally = Tally.loads(path.read_bytes()) if path.exists() else None
            if tally is not None:
                found.append(tally)
        return found

    def continue_from(self, tally: Tally) -> None:
        """Overwrite from now on, first, the file that does not hold ``tally``."""
        held = Tally.loads(self._paths[0].read_bytes()) if self._paths[0].exists() else None
        self._next = 1 if held is not None and held.done == tally.done else 0

    def save(self, tally: Tally) -> None:
        """Write a tally over the older of the two."""
        path = self._paths[self._next]
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(tally.dumps())
        os.replace(fresh, path)
        self._next = 1 - self._next

    def forget(self) -> None:
        """Delete the tallies."""
        for path in self._paths:
            path.unlink(missing_ok=True)
