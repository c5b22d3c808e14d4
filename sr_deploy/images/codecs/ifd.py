"""Tag directories of TIFF and EXIF, read and packed. This module does not know what the tags mean."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

EXIF_IFD, GPS_IFD, INTEROP_IFD = 34665, 34853, 40965
SUB_IFDS = frozenset({EXIF_IFD, GPS_IFD, INTEROP_IFD})
SHORT, LONG = 3, 4
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_WORDS = _SIZES | {5: 4, 10: 4}  # what changes its bytes' order: both halves of a rational do
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}


class IfdError(Exception):
    """Bytes that are no directory; the message completes "this picture ..."."""


@dataclass(frozen=True)
class Tag:
    """One entry: its type as in the TIFF 6.0 specification, and its value as little-endian bytes."""

    kind: int
    value: bytes
    at: int = 0
    """Where the value lay in the data it was read from."""

    @property
    def count(self) -> int:
        """How many values."""
        return len(self.value) // _SIZES[self.kind]

    def numbers(self) -> tuple[int, ...]:
        """The value as whole numbers. Raises IfdError where it is of another type."""
        if self.kind not in _CODES:
            raise IfdError(f"has text or fractions where whole numbers belong (type {self.kind})")
        return struct.unpack(f"<{self.count}{_CODES[self.kind]}", self.value)


Tags = Mapping[int, Union[Tag, "Tags"]]


def shorts(*values: int) -> Tag:
    """A tag of 16-bit numbers."""
    return Tag(SHORT, struct.pack(f"<{len(values)}H", *values))


def longs(*values: int, wide: bool = False) -> Tag:
    """Unsigned numbers of 32 bits, or of 64 where `wide` (BigTIFF)."""
    return Tag(16 if wide else LONG, struct.pack(f"<{len(values)}{'Q' if wide else 'I'}", *values))


def swapped(value: bytes, word: int) -> bytes:
    """`value` with the bytes of every `word` of it reversed."""
    if word == 1:
        return value
    result = bytearray(len(value))
    for i in range(word):
        result[i::word] = value[word - 1 - i :: word]
    return bytes(result)


def byte_order(data: bytes) -> tuple[str, bool]:
    """The struct prefix of a TIFF or EXIF block, and whether it is a BigTIFF. Raises IfdError."""
    known = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
    if data[:4] not in known:
        raise IfdError("does not begin with a TIFF header")
    return known[data[:4]]


def first_offset(data: bytes, order: str, big: bool) -> int:
    """Where the first directory lies."""
    form, at = ("Q", 8) if big else ("I", 4)
    if len(data) < at + struct.calcsize(form):
        raise IfdError("ends in the middle of its header")
    return int(struct.unpack_from(order + form, data, at)[0])


def _layout(data: bytes, offset: int, order: str, big: bool) -> tuple[range, str]:
    """Where the entries of the directory at `offset` begin, and how each is laid out but for its value."""
    count_form, entry_form, slot = _forms(big)
    start = offset + struct.calcsize("<" + count_form)
    step = struct.calcsize("<" + entry_form) + slot
    if start > len(data):
        raise IfdError("ends before its tag directory does")
    count = struct.unpack_from(order + count_form, data, offset)[0]
    if count > 65535 or start + count * step > len(data):
        raise IfdError("ends before its tag directory does")
    return range(start, start + count * step, step), order + entry_form


def _forms(big: bool) -> tuple[str, str, int]:
    """How the number of entries and an entry are laid out, and the bytes an entry has for its value."""
    return ("Q", "HHQ", 8) if big else ("H", "HHI", 4)


def next_ifd(data: bytes, offset: int, order: str, big: bool = False) -> int:
    """The offset of the directory after the one at `offset`, 0 where it is the last. Raises IfdError."""
    entries, _ = _layout(data, offset, order, big)
    slot = _forms(big)[2]
    return int.from_bytes(data[entries.stop : entries.stop + slot], "little" if order == "<" else "big")


def read_ifd(data: bytes, offset: int, order: str, big: bool = False) -> dict[int, Tag]:
    """The tags of the directory at `offset`; those of unknown type are left out.

    Raises IfdError where the directory or a value lies outside `data`, or values lie on top of each other.
    """
    entries, form = _layout(data, offset, order, big)
    slot = _forms(big)[2]
    tags: dict[int, Tag] = {}
    held = 0
    for at in entries:
        number, kind, items = struct.unpack_from(form, data, at)
        if kind not in _SIZES or number in tags:
            continue
        held += items * _SIZES[kind]
        if held > len(data):
            raise IfdError("ends before the values of its tags")
        tags[number] = _value(data, at + entries.step - slot, slot, order, kind, items)
    return tags


def _value(data: bytes, at: int, slot: int, order: str, kind: int, items: int) -> Tag:
    size = items * _SIZES[kind]
    if size > slot:
        at = int.from_bytes(data[at : at + slot], "little" if order == "<" else "big")
    if at + size > len(data):
        raise IfdError("ends before the values of its tags")
    value = data[at : at + size]
    return Tag(kind, value if order == "<" else swapped(value, _WORDS[kind]), at)


def pack_ifd(tags: Tags, at: int, *, order: str = "<", big: bool = False) -> bytes:
    """A directory, its values and its sub-directories, as bytes that begin at offset `at` of their file."""
    count_form, entry_form, slot = _forms(big)
    head = struct.pack(order + count_form, len(tags))
    body_at = at + len(head) + len(tags) * (4 + 2 * slot) + slot
    body = b""
    for number in sorted(tags):
        tag = tags[number]
        if not isinstance(tag, Tag):
            block = pack_ifd(tag, body_at + len(body), order=order, big=big)
            tag = longs(body_at + len(body), wide=big)
            body += block + b"\0" * (-len(block) % 8)
        value = tag.value if order == "<" else swapped(tag.value, _WORDS[tag.kind])
        if len(value) > slot:
            value, block = struct.pack(order + "IQ"[big], body_at + len(body)), value
            body += block + b"\0" * (-len(block) % 8)
        head += struct.pack(order + entry_form, number, tag.kind, tag.count) + value.ljust(slot, b"\0")
    return head + b"\0" * slot + body
