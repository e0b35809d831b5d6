"""Writes LMDBs in the order of their keys, and finds out where the writing of one was cut short."""

from __future__ import annotations

import os
import shutil
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.train.data_tally import Tally, TallyFiles
from prototxt_gen.train.lmdb_file import DamagedLmdb, walk_lmdb

EXTRA_HINT = "pip install 'prototxt-gen[data]'"
# Doubled when full. Without MDB_WRITEMAP the map is address space only: the file on disk grows with what is written.
FIRST_MAP_BYTES = 64 << 20
# What a kill may cost: records not committed yet.
BATCH_RECORDS = 256
BATCH_BYTES = 64 << 20
LITTLE_SPACE_BYTES = 1 << 20
# LMDB's own limit (MDB_MAXKEYSIZE).
KEY_BYTES = 511


class LmdbWriter:
    """Appends records to the LMDB ``folder``, which is made when ``number``, of the first record, is 0.

    ``checksum`` is the CRC-32 of all keys and values in their order. What was put is in the LMDB after ``commit`` and
    outlasts a power cut after ``sync``. Raises lmdb.Error and OSError, which ``told_errors`` turns into Error.
    """

    def __init__(self, folder: Path, number: int = 0, checksum: int = 0) -> None:
        self._lmdb = _import_lmdb()
        if not number:
            folder.mkdir()
        self._environment = self._lmdb.open(str(folder), map_size=FIRST_MAP_BYTES, sync=False, mode=0o644)
        self._waiting: List[Tuple[bytes, bytes]] = []
        self._waiting_bytes = 0
        self.number = number
        self.checksum = checksum

    def put(self, name: str, value: bytes) -> None:
        """Take the next record. Its key is its number and its name."""
        key = (f"{self.number:08d}_".encode() + os.fsencode(name))[:KEY_BYTES]
        self.checksum = zlib.crc32(value, zlib.crc32(key, self.checksum))
        self._waiting.append((key, value))
        self._waiting_bytes += len(value)
        self.number += 1

    def is_full(self) -> bool:
        """Tell whether enough waits for a commit."""
        return len(self._waiting) >= BATCH_RECORDS or self._waiting_bytes >= BATCH_BYTES

    def commit(self) -> None:
        """Write what waits in one transaction, doubling the map until it holds it."""
        while self._waiting:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._waiting:
                        # Keys come in order: appending fills the pages instead of splitting them in half.
                        transaction.put(key, value, append=True)
                self._waiting, self._waiting_bytes = [], 0
            except self._lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])

    def sync(self) -> None:
        """Wait until the disk has what was committed."""
        self._environment.sync(True)

    def close(self) -> None:
        """Close the LMDB."""
        self._environment.close()


@contextmanager
def told_errors(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while the LMDB ``folder`` is written into an Error, which tells a full disk as such."""
    lmdb = _import_lmdb()
    try:
        yield
    except (lmdb.Error, OSError) as error:
        # LMDB reports a write cut short by a full disk as an input/output error.
        free = shutil.disk_usage(folder.parent).free
        what = f"the disk is full: {free} bytes are free" if free < LITTLE_SPACE_BYTES else str(error)
        raise Error(f"cannot write the LMDB: {what}", where=str(folder)) from error


def verified_start(folder: Path, files: TallyFiles, total: int, note: Callable[[str], None]) -> Optional[Tally]:
    """Return the tally of an unfinished LMDB after reading all of it, or None, and the LMDB is gone, where none fits.

    Reading it all finds what a power cut took: the writer leaves it to the system when pages reach the disk.
    """
    tallies = [tally for tally in files.load() if tally.records]
    if tallies and (folder / "data.mdb").exists():
        held = _checksum(folder)
        for tally in sorted(tallies, key=lambda one: -one.done):
            if (tally.records, tally.checksum) == held:
                files.continue_from(tally)
                note(f"{folder.name}: {tally.done} of {total} images are done already, by an earlier run")
                return tally
        if held != (0, 0):
            note(f"{folder.name}: what an earlier run has written is damaged; begun anew")
    files.forget()
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _checksum(folder: Path) -> Optional[Tuple[int, int]]:
    """Return the number of records in an LMDB and their checksum, or None when it is damaged."""
    number = checksum = 0
    try:
        for key, value in walk_lmdb(str(folder)):
            checksum = zlib.crc32(value, zlib.crc32(key, checksum))
            number += 1
    except (DamagedLmdb, Error):
        return None
    return number, checksum


def _import_lmdb() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise Error("writing an LMDB needs the Python package 'lmdb'", hint=EXTRA_HINT) from error
    return lmdb
