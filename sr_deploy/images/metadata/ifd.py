"""Tag directories (IFDs) of TIFF and EXIF, read and packed, without knowing what the tags mean.

Layout (TIFF 6.0, section 2): the number of entries, the entries, and the offset of the next directory.
An entry is a tag number, a type, the number of values, and a slot that holds the values, or their
offset if they do not fit. BigTIFF has the same parts with 64-bit counts and offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

# tags whose value is the offset of another directory (EXIF 2.32, section 4.6.3)
EXIF_IFD, GPS_IFD, INTEROP_IFD = 34665, 34853, 40965
SUB_IFDS = frozenset({EXIF_IFD, GPS_IFD, INTEROP_IFD})
SHORT, LONG = 3, 4
# Bytes per value of each type: TIFF 6.0, section 2; 13 (IFD) from Adobe's supplements, 16 to 18 from BigTIFF.
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
# Bytes that are reversed together: a rational (types 5 and 10) is two numbers of 4 bytes.
_WORDS = _SIZES | {5: 4, 10: 4}
# struct codes of the types that are whole numbers
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}


class IfdError(Exception):
    """The bytes are not a directory. The message completes the sentence "this picture ..."."""


@dataclass(frozen=True)
class Tag:
    """One entry of a directory."""

    kind: int
    """Type as in TIFF 6.0, section 2."""
    value: bytes
    """Value as little-endian bytes, whatever the byte order of the file."""
    at: int = 0
    """Offset of the value in the data it was read from."""

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.value) // _SIZES[self.kind]

    def numbers(self) -> tuple[int, ...]:
        """The values as whole numbers. Raises IfdError if they are of another type."""
        if self.kind not in _CODES:
            raise IfdError(f"has text or fractions in a tag that needs whole numbers (type {self.kind})")
        return struct.unpack(f"<{self.count}{_CODES[self.kind]}", self.value)


Tags = Mapping[int, Union[Tag, "Tags"]]
"""Tag number -> tag, or a sub-directory that the tag points to."""


def shorts(*values: int) -> Tag:
    """A tag of unsigned 16-bit numbers."""
    return Tag(SHORT, struct.pack(f"<{len(values)}H", *values))


def longs(*values: int, wide: bool = False) -> Tag:
    """A tag of unsigned 32-bit numbers, or 64-bit ones with `wide` (BigTIFF)."""
    return Tag(16 if wide else LONG, struct.pack(f"<{len(values)}{'Q' if wide else 'I'}", *values))


def swapped(value: bytes, word: int) -> bytes:
    """`value` with the bytes of each group of `word` bytes reversed."""
    if word == 1:
        return value
    result = bytearray(len(value))
    for i in range(word):
        result[i::word] = value[word - 1 - i :: word]
    return bytes(result)


def byte_order(data: bytes) -> tuple[str, bool]:
    """The struct prefix for the byte order of a TIFF file or EXIF block, and True for a BigTIFF.

    Raises IfdError.
    """
    known = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
    if data[:4] not in known:
        raise IfdError("does not begin with a TIFF header")
    return known[data[:4]]


def first_offset(data: bytes, order: str, big: bool) -> int:
    """Offset of the first directory. Raises IfdError if the header is cut short."""
    form, at = ("Q", 8) if big else ("I", 4)
    if len(data) < at + struct.calcsize(form):
        raise IfdError("ends in the middle of its header")
    return int(struct.unpack_from(order + form, data, at)[0])


def _entry_positions(data: bytes, offset: int, order: str, big: bool) -> tuple[range, str]:
    """Offsets of the entries of the directory at `offset`, and the struct format of an entry without
    its value.

    Raises IfdError if the directory does not lie inside `data`.
    """
    count_form, entry_form, slot = _struct_forms(big)
    start = offset + struct.calcsize("<" + count_form)
    step = struct.calcsize("<" + entry_form) + slot
    if start > len(data):
        raise IfdError("ends before its tag directory does")
    count = struct.unpack_from(order + count_form, data, offset)[0]
    # classic TIFF counts entries in 16 bits; no BigTIFF needs more, although it could have them
    if count > 65535 or start + count * step > len(data):
        raise IfdError("ends before its tag directory does")
    return range(start, start + count * step, step), order + entry_form


def _struct_forms(big: bool) -> tuple[str, str, int]:
    """Formats of the number of entries and of an entry for `struct`, and the bytes of an entry's value
    slot.
    """
    return ("Q", "HHQ", 8) if big else ("H", "HHI", 4)


def next_ifd(data: bytes, offset: int, order: str, big: bool = False) -> int:
    """Offset of the directory after the one at `offset`, or 0 if it is the last. Raises IfdError."""
    entries, _ = _entry_positions(data, offset, order, big)
    slot = _struct_forms(big)[2]
    return int.from_bytes(data[entries.stop : entries.stop + slot], "little" if order == "<" else "big")


def without_next(data: bytes, offset: int, order: str) -> bytes:
    """`data` with the directory at `offset` made the last one, edited in place. Classic TIFF only. Raises IfdError."""
    entries, _ = _entry_positions(data, offset, order, False)
    return (
        data[: entries.stop] + b"\0" * len(data[entries.stop : entries.stop + 4]) + data[entries.stop + 4 :]
    )


def read_ifd(data: bytes, offset: int, order: str, big: bool = False) -> dict[int, Tag]:
    """The tags of the directory at `offset`. Tags of unknown type are left out.

    Raises IfdError if the directory or a value lies outside `data`, or if the values are together
    larger than `data`, which happens only if they overlap.
    """
    entries, form = _entry_positions(data, offset, order, big)
    slot = _struct_forms(big)[2]
    tags: dict[int, Tag] = {}
    held = 0
    for at in entries:
        number, kind, items = struct.unpack_from(form, data, at)
        if kind not in _SIZES or number in tags:
            continue
        # without this sum, many tags that point to the same bytes could fill the memory
        held += items * _SIZES[kind]
        if held > len(data):
            raise IfdError("ends before the values of its tags")
        tags[number] = _read_value(data, at + entries.step - slot, slot, order, kind, items)
    return tags


def _read_value(data: bytes, at: int, slot: int, order: str, kind: int, items: int) -> Tag:
    """The tag whose value slot of `slot` bytes is at `at`.

    Raises IfdError if the value lies outside `data`.
    """
    size = items * _SIZES[kind]
    if size > slot:
        at = int.from_bytes(data[at : at + slot], "little" if order == "<" else "big")
    if at + size > len(data):
        raise IfdError("ends before the values of its tags")
    value = data[at : at + size]
    return Tag(kind, value if order == "<" else swapped(value, _WORDS[kind]), at)


def pack_ifd(tags: Tags, at: int, *, order: str = "<", big: bool = False) -> bytes:
    """A directory with its values and sub-directories, as bytes for offset `at` of a file.

    Tags are sorted by number, as TIFF 6.0 demands. Values that do not fit into an entry are padded to 8
    bytes.
    """
    count_form, entry_form, slot = _struct_forms(big)
    head = struct.pack(order + count_form, len(tags))
    # an entry has 2 + 2 + slot + slot bytes; the last slot is the offset of the next directory, 0 for none
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
