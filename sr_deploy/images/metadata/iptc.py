"""IPTC captions and keywords: a record that JPEG and PNG wrap into Photoshop's resources.

A resource is `8BIM`, a number (2 bytes), a name (a length byte and as many bytes, padded to an even
size), a length (4 bytes, big-endian) and data, padded to an even size (Adobe Photoshop File Formats,
"Image Resource Blocks").
"""

from __future__ import annotations

import struct

_IPTC = 0x0404  # number of the resource that holds the record
JPEG_PREFIX = b"Photoshop 3.0\0"
"""Prefix of the resources in an APP13 segment of a JPEG."""


def unwrapped(resources: bytes) -> bytes | None:
    """The IPTC record among Photoshop's resources; None if there is none. A bare record is returned as it is."""
    if resources.startswith(b"\x1c"):  # every data set of a record begins with this byte
        return resources
    at = 0
    while resources[at : at + 4] == b"8BIM" and at + 7 <= len(resources):
        number, name = struct.unpack_from(">HB", resources, at + 4)
        start = at + 6 + (name + 2 & ~1)
        size = int.from_bytes(resources[start : start + 4], "big")
        if number == _IPTC:
            return resources[start + 4 : start + 4 + size] or None
        at = start + 4 + (size + 1 & ~1)
    return None


def wrapped(record: bytes) -> bytes:
    """The record as the only one of Photoshop's resources."""
    return struct.pack(">4sHHI", b"8BIM", _IPTC, 0, len(record)) + record + b"\0" * (len(record) & 1)
