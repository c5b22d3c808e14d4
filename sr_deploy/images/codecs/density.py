"""Pixels per inch, as each format writes them down: what a picture is printed at. Changes no pixels.

A density nobody can mean (less than one, or a hundred thousand and more) counts as none.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from sr_deploy.images.codecs.ifd import Tag, shorts

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296  # TIFF 6.0, section 8; EXIF has the same
Dpi = tuple[float, float]

_RATIONAL = 5
_INCH, _CM = 2, 3  # of TIFF and EXIF
_INCHES_PER_METRE = 1 / 0.0254  # inches in one
_MAX_DPI = 1e5


def plausible(x: float, y: float) -> Dpi | None:
    """(x, y) where both can be meant as pixels per inch."""
    return (x, y) if 1 <= x < _MAX_DPI and 1 <= y < _MAX_DPI else None


def from_tags(tags: Mapping[int, Tag]) -> Dpi | None:
    """Of a TIFF's or an EXIF block's main directory."""
    x, y = (_fraction(tags.get(number)) for number in (X_RESOLUTION, Y_RESOLUTION))
    unit = tags.get(RESOLUTION_UNIT)
    kind = int.from_bytes(unit.value[:2], "little") if unit else _INCH
    factor = {_INCH: 1.0, _CM: 2.54}.get(kind, 0.0)
    return plausible(x * factor, y * factor)


def _fraction(tag: Tag | None) -> float:
    if tag is None or tag.kind != _RATIONAL or len(tag.value) != 8:
        return 0.0
    above, below = struct.unpack("<II", tag.value)
    return float(above / below) if below else 0.0


def to_tags(dpi: Dpi) -> dict[int, Tag]:
    """For a TIFF."""
    x, y = (Tag(_RATIONAL, struct.pack("<II", round(value * 1000), 1000)) for value in dpi)
    return {X_RESOLUTION: x, Y_RESOLUTION: y, RESOLUTION_UNIT: shorts(_INCH)}


def from_phys(body: bytes) -> Dpi | None:
    """Of the pHYs chunk of a PNG (PNG specification, 11.3.4.3)."""
    if len(body) != 9 or body[8] != 1:  # no metres: the shape of a pixel only
        return None
    x, y = struct.unpack(">II", body[:8])
    return plausible(x / _INCHES_PER_METRE, y / _INCHES_PER_METRE)


def to_phys(dpi: Dpi) -> bytes:
    """The body of a pHYs chunk."""
    return struct.pack(">IIB", *(round(value * _INCHES_PER_METRE) for value in dpi), 1)


def from_jfif(segment: bytes) -> Dpi | None:
    """Of the APP0 segment of a JPEG, from "JFIF" on (JFIF 1.02)."""
    if len(segment) < 12:
        return None
    unit, x, y = struct.unpack_from(">BHH", segment, 7)
    factor = {1: 1.0, 2: 2.54}.get(unit, 0.0)
    return plausible(x * factor, y * factor)


def from_bmp(header: bytes) -> Dpi | None:
    """Of the first 46 bytes of a BMP with a header of 40 bytes or more."""
    x, y = struct.unpack_from("<ii", header, 38)
    return plausible(x / _INCHES_PER_METRE, y / _INCHES_PER_METRE)


def write_density(path: Path, kind: str, dpi: Dpi) -> None:
    """Write `dpi` into the header of the JPEG or BMP file at `path`, as OpenCV wrote it."""
    with path.open("r+b") as file:
        head = file.read(14)
        if kind == "bmp" and head.startswith(b"BM"):
            file.seek(38)
            file.write(struct.pack("<ii", *(round(value * _INCHES_PER_METRE) for value in dpi)))
        elif head[2:4] == b"\xff\xe0" and head[6:11] == b"JFIF\0":
            file.seek(13)
            file.write(struct.pack(">BHH", 1, *(min(round(value), 0xFFFF) for value in dpi)))
