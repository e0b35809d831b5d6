"""Looks at an LMDB without opening it as one.

LMDB trusts its file: reading a truncated one ends the process with SIGBUS. So its data.mdb is read here as a file,
after the structures of LMDB's mdb.c (64-bit, little-endian, format 1):

    page   u64 number, u16 pad, u16 flags, u16 lower, u16 upper (16 bytes), then u16 offsets of its nodes up to lower;
           an overflow page has u32 pages in place of lower and upper, then the bytes of one value
    meta   after the header of pages 0 and 1: u32 magic, u32 version, u64 address, u64 map size, database of free pages,
           main database, u64 last page, u64 transaction; the one with the later transaction holds
    database  u32 pad (of the first one: the page size), u16 flags, u16 depth, u64 branch, leaf and overflow pages,
           u64 entries, u64 root page (48 bytes)
    node   u16 lo, u16 hi, u16 flags, u16 key size, key, value. In a branch page lo, hi and flags are the child's page;
           in a leaf lo and hi are the value's size, and flag 1 says that the value is on the overflow page named here
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator, List, NamedTuple, Tuple

from prototxt_gen.core.errors import Error

MAGIC = 0xBEEFC0DE
VERSION = 1
META = struct.Struct("<IIQQ I20xQQQ I4xQQQQQ QQ")
HEADER = struct.Struct("<QHHHH")
NODE = struct.Struct("<HHHH")
BRANCH_PAGE, LEAF_PAGE, OVERFLOW_PAGE = 1, 2, 4
BIG_VALUE = 1
DATA_HINT = "write it anew, or finish copying it"
LOCK_HINT = "readers of an LMDB need to write lock.mdb beside it: make it writable, or copy the LMDB"


@dataclass(frozen=True)
class LmdbInfo:
    """What an intact LMDB holds: the number of records and the value of the first one."""

    entries: int
    first_value: bytes


class _Meta(NamedTuple):
    page_bytes: int
    entries: int
    root: int
    last_page: int
    transaction: int


class DamagedLmdb(Exception):
    """A page is wanted that lies beyond the end of the file, or is not what it should be."""


class Place(NamedTuple):
    """Where a record's value lies in data.mdb, in bytes."""

    key: bytes
    offset: int
    length: int


def inspect_lmdb(folder: str) -> LmdbInfo:
    """Return what the LMDB at ``folder`` holds. Raises Error when it is missing, no LMDB, empty or truncated."""
    with _opened(folder) as (descriptor, path):
        return _inspect(descriptor, path)


@contextmanager
def _opened(folder: str) -> Iterator[Tuple[int, str]]:
    """Yield a descriptor of the LMDB's data.mdb, and its name. An OSError is raised as Error."""
    path = os.path.join(folder, "data.mdb")
    if not os.path.isdir(folder):
        what = "is a file, not the folder of an LMDB" if os.path.exists(folder) else "there is no such LMDB"
        raise Error(what, folder, "prototxt-gen data writes one from images")
    if not os.path.exists(path):
        raise Error("is not an LMDB: there is no data.mdb in it", folder)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", path) from None
    try:
        yield descriptor, path
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", path) from None
    finally:
        os.close(descriptor)


def count_entries(folder: str) -> int:
    """Return how many records the LMDB at ``folder`` says it holds. Raises Error when it is missing or no LMDB."""
    with _opened(folder) as (descriptor, path):
        return _read_meta(descriptor, path).entries


def places(folder: str) -> Iterator[Place]:
    """Yield the place of each record of the LMDB at ``folder`` in the order of keys.

    Raises Error when it is missing or no LMDB, and DamagedLmdb where its pages are not what they should be, as in a
    truncated file.
    """
    with _opened(folder) as (descriptor, path):
        meta, size = _read_meta(descriptor, path), os.fstat(descriptor).st_size
        try:
            yield from _places(descriptor, meta, size)
        except struct.error as error:
            raise DamagedLmdb from error


def walk_lmdb(folder: str) -> Iterator[Tuple[bytes, bytes]]:
    """Yield the key and the value of each record of the LMDB at ``folder``, as ``places`` does."""
    with _opened(folder) as (descriptor, _):
        for place in places(folder):
            value = os.pread(descriptor, place.length, place.offset)
            if len(value) != place.length:
                raise DamagedLmdb
            yield place.key, value


def check_lockable(folder: str) -> None:
    """Check that the lock file of the LMDB at ``folder`` can be written: who reads it writes there, too.

    On a file system mounted read-only LMDB does without.
    """
    lock = os.path.join(folder, "lock.mdb")
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return
    if os.path.exists(lock):
        if not os.access(lock, os.W_OK, effective_ids=True):
            raise Error(f"its lock file '{lock}' is not writable", folder, LOCK_HINT)
    elif not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise Error("LMDB cannot make its lock.mdb there: the folder is not writable", folder, LOCK_HINT)


def _inspect(descriptor: int, path: str) -> LmdbInfo:
    size = os.fstat(descriptor).st_size
    meta = _read_meta(descriptor, path)
    truncated = f"is truncated: {size} bytes of {(meta.last_page + 1) * meta.page_bytes}"
    if not meta.entries:
        raise Error("holds no records", path)
    try:
        # Pages given back in the last transaction may end the file early, so the last page alone proves nothing.
        if size < (meta.last_page + 1) * meta.page_bytes:
            for _ in _places(descriptor, meta, size):
                pass
        first = next(_places(descriptor, meta, size))
        return LmdbInfo(meta.entries, os.pread(descriptor, first.length, first.offset))
    except (DamagedLmdb, struct.error, StopIteration):
        whole = size >= (meta.last_page + 1) * meta.page_bytes
        raise Error("is damaged" if whole else truncated, path, DATA_HINT) from None


def _read_meta(descriptor: int, path: str) -> _Meta:
    first = _parse_meta(os.pread(descriptor, HEADER.size + META.size, 0), path)
    if first.page_bytes < 256 or first.page_bytes & (first.page_bytes - 1):
        raise Error("is not an LMDB of a 64-bit machine", path)
    second = _parse_meta(os.pread(descriptor, HEADER.size + META.size, first.page_bytes), path)
    return max(first, second, key=lambda meta: meta.transaction)


def _parse_meta(page: bytes, path: str) -> _Meta:
    if len(page) < HEADER.size + META.size:
        raise Error(f"is truncated: {len(page)} bytes where a page begins", path, DATA_HINT)
    fields = META.unpack_from(page, HEADER.size)
    if fields[:2] != (MAGIC, VERSION):
        raise Error("is not an LMDB: its first bytes are not LMDB's", path)
    return _Meta(fields[4], *fields[12:])


def _places(descriptor: int, meta: _Meta, size: int) -> Iterator[Place]:
    """Walk the tree in the order of keys and yield the place of each value, all of it inside the file."""
    if not meta.entries:
        return
    # Pages still to be read. A tree visits each page once: more visits than pages mean a loop.
    waiting: List[int] = [meta.root]
    visits = 0
    while waiting:
        number = waiting.pop()
        page = _page(descriptor, meta, number, size)
        visits += 1
        if visits > meta.last_page:
            raise DamagedLmdb
        _, _, flags, lower, _ = HEADER.unpack_from(page)
        offsets = struct.unpack_from(f"<{(lower - HEADER.size) // 2}H", page, HEADER.size)
        if flags & BRANCH_PAGE:
            for offset in reversed(offsets):
                low, high, top, _ = NODE.unpack_from(page, offset)
                waiting.append(low | high << 16 | top << 32)
        elif flags & LEAF_PAGE:
            for offset in offsets:
                low, high, node_flags, key_bytes = NODE.unpack_from(page, offset)
                length, start = low | high << 16, offset + NODE.size + key_bytes
                key = page[offset + NODE.size : start]
                if node_flags & BIG_VALUE:
                    (number_of_value,) = struct.unpack_from("<Q", page, start)
                    _check_overflow(descriptor, meta, number_of_value, length, size)
                    yield Place(key, number_of_value * meta.page_bytes + HEADER.size, length)
                elif start + length > meta.page_bytes:
                    raise DamagedLmdb
                else:
                    yield Place(key, number * meta.page_bytes + start, length)
        else:
            raise DamagedLmdb


def _page(descriptor: int, meta: _Meta, number: int, size: int) -> bytes:
    if number > meta.last_page or (number + 1) * meta.page_bytes > size:
        raise DamagedLmdb
    return os.pread(descriptor, meta.page_bytes, number * meta.page_bytes)


def _check_overflow(descriptor: int, meta: _Meta, number: int, length: int, size: int) -> None:
    _, _, flags, _, _ = HEADER.unpack_from(_page(descriptor, meta, number, size))
    if not flags & OVERFLOW_PAGE or number * meta.page_bytes + HEADER.size + length > size:
        raise DamagedLmdb
