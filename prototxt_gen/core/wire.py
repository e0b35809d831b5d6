"""Protobuf's wire format, walked without a schema: where each field of a message begins and ends, nothing copied.

A field is a tag, number << 3 | kind as a varint, and a value: a varint, eight bytes, a length and so many bytes, or
four bytes. (Groups, kinds 3 and 4, are in no schema of Caffe's.) A varint has seven bits to a byte, low ones first, and
the eighth bit where more follow.
"""

from __future__ import annotations

from typing import Any, Iterator, List, Tuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIDTHS = {FIXED64: 8, FIXED32: 4}
_MASK = 2**64 - 1

Span = Tuple[int, int]  # from the first byte up to, not including, the second


class Malformed(Exception):
    """The bytes are no message: what is wrong, and at which byte."""


def fields(data: Any, start: int, end: int) -> Iterator[Tuple[int, int, int, int, int]]:
    """Yield (number, kind, first byte of the field, first byte of its value, end) for each field of a message."""
    at = start
    while at < end:
        begin = at
        tag, at = varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise Malformed(f"a field has the number {number} at byte {begin}")
        if kind == BYTES:
            length, at = varint(data, at, end)
            if length > end - at:
                raise Malformed(f"a field of {length} bytes at byte {begin}, where {end - at} are left")
            stop = at + length
        elif kind == VARINT:
            stop = varint(data, at, end)[1]
        elif kind in _WIDTHS:
            stop = at + _WIDTHS[kind]
            if stop > end:
                raise Malformed(f"the end comes in the middle of a field, at byte {end}")
        else:
            raise Malformed(f"a field of kind {kind} at byte {begin}, which Caffe's files have none of")
        yield number, kind, begin, at, stop
        at = stop


def varint(data: Any, at: int, end: int) -> Tuple[int, int]:
    """Return the unsigned 64-bit number at a byte, and where the next thing stands."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & _MASK, at
        shift += 7
        if shift > 63:
            raise Malformed(f"a number of more than ten bytes ends at byte {at}")
    raise Malformed(f"the end comes in the middle of a number, at byte {end}")


def signed(value: int) -> int:
    """Return an unsigned 64-bit number as the signed one that its bits stand for."""
    return value - 2**64 if value >= 2**63 else value


def run_length(data: Any, start: int, end: int, width: int) -> int:
    """Return how many fields of ``width`` bytes, one-byte tag included, stand in a row with the tag of the first."""
    import numpy as np

    tag, most, length, look = data[start], (end - start) // width, 1, 64
    while length < most:
        # Ever longer looks: many short runs cost no more than one long one.
        look = min(look * 2, most - length)
        tags = np.frombuffer(data, np.uint8, look * width, start + length * width)[::width]
        other = np.flatnonzero(tags != tag)
        if other.size:
            return length + int(other[0])
        length += look
    return length


def encode_varint(value: int) -> bytes:
    """Return an unsigned number, or a signed 64-bit one, as a varint."""
    value &= _MASK
    out: List[int] = []
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def encode_tag(number: int, kind: int) -> bytes:
    """Return the tag of a field."""
    return encode_varint(number << 3 | kind)


def encode_head(number: int, length: int) -> bytes:
    """Return what stands before the ``length`` bytes of a field of kind BYTES."""
    return encode_tag(number, BYTES) + encode_varint(length)
