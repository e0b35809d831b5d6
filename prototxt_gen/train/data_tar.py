"""The images in a tar file and where in it they lie, also in tar files inside it."""

from __future__ import annotations

import io
import os
import tarfile
from typing import BinaryIO, Iterator, List, NamedTuple

from prototxt_gen.core.errors import Error
from prototxt_gen.train.data_images import IMAGE_SUFFIXES

UNPACK_HINT = "images inside it can only be reached when it is not compressed: unpack it with gunzip, bunzip2 or unxz"
# The first bytes of gzip, bzip2 and xz files.
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")


class Member(NamedTuple):
    """A file in a tar file, by its path in it: the bytes it has there. Inside an inner tar file its name goes first."""

    name: str
    offset: int
    length: int


class _Window(io.RawIOBase):
    """A part of a file as a file, for a tar file inside a tar file."""

    def __init__(self, file: BinaryIO, offset: int, length: int) -> None:
        super().__init__()
        self._file, self._offset, self._length, self._at = file, offset, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(self._length - self._at, 0)
        self._file.seek(self._offset + self._at)
        data = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def members(path: str) -> List[Member]:
    """Return the image files in a tar file, without './' before their names; hidden ones are passed over.

    Raises Error when it is no tar file, compressed, or truncated.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                found = list(_images(file, 0, size, ""))
            except tarfile.TarError as error:
                raise _refusal(path, error) from None
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror or error}", path) from None
    cut = [one for one in found if one.offset + one.length > size]
    if cut:
        raise Error(f"is truncated inside '{cut[0].name}'", path, "fetch it anew")
    if not found:
        raise Error("holds no images", path, f"an image's name ends in one of {' '.join(IMAGE_SUFFIXES)}")
    return found


def _images(file: BinaryIO, offset: int, length: int, above: str) -> Iterator[Member]:
    window = _Window(file, offset, length)
    with tarfile.open(fileobj=window, mode="r:") as archive:
        while True:
            member = archive.next()
            if member is None:
                # tarfile takes a cut or damaged header for the end. A whole tar file ends in blocks of zeros.
                window.seek(archive.offset)
                if window.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError(f"its end is missing after {archive.offset} bytes")
                return
            # tarfile keeps each header it has read: 1.3 million of them take more than the images' places do.
            archive.members.clear()
            name = above + os.path.normpath(member.name).lstrip("/")
            hidden = any(part.startswith(".") for part in name.split("/"))
            # A sparse file does not lie in one piece.
            if not member.isreg() or member.issparse() or hidden:
                continue
            place = offset + member.offset_data
            if name.lower().endswith(".tar"):
                yield from _images(file, place, member.size, name[: -len(".tar")] + "/")
            elif name.lower().endswith(IMAGE_SUFFIXES):
                yield Member(name, place, member.size)


def _refusal(path: str, error: Exception) -> Error:
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith(COMPRESSED):
        return Error("is a compressed tar file", path, UNPACK_HINT)
    return Error(f"is no tar file, or is damaged: {error}", path)
