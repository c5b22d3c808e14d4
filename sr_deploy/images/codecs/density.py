"""Print density in pixels per inch, as each format stores it. No pixels are changed.

A density below 1 or from 100000 on cannot be meant seriously and counts as absent.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from sr_deploy.images.codecs.ifd import Tag, shorts

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296  # TIFF 6.0, section 8; EXIF has the same
Dpi = tuple[float, float]
"""Pixels per inch, horizontally and vertically."""

_RATIONAL = 5  # TIFF type: two 32-bit numbers, numerator and denominator
_INCH, _CM = 2, 3  # values of RESOLUTION_UNIT in TIFF and EXIF
_INCHES_PER_METRE = 1 / 0.0254  # PNG and BMP count pixels per metre
_MAX_DPI = 1e5


def plausible(x: float, y: float) -> Dpi | None:
    """(x, y) if both are plausible numbers of pixels per inch, else None."""
    return (x, y) if 1 <= x < _MAX_DPI and 1 <= y < _MAX_DPI else None


def from_tags(tags: Mapping[int, Tag]) -> Dpi | None:
    """The density in the main directory of a TIFF file or EXIF block."""
    x, y = (_fraction(tags.get(number)) for number in (X_RESOLUTION, Y_RESOLUTION))
    unit = tags.get(RESOLUTION_UNIT)
    kind = int.from_bytes(unit.value[:2], "little") if unit else _INCH
    factor = {_INCH: 1.0, _CM: 2.54}.get(kind, 0.0)  # unit 1 gives only the shape of a pixel: no density
    return plausible(x * factor, y * factor)


def _fraction(tag: Tag | None) -> float:
    """The value of a RATIONAL tag; 0 if it is missing, of another type, or divides by zero."""
    if tag is None or tag.kind != _RATIONAL or len(tag.value) != 8:
        return 0.0
    above, below = struct.unpack("<II", tag.value)
    return float(above / below) if below else 0.0


def to_tags(dpi: Dpi) -> dict[int, Tag]:
    """The tags for a TIFF file, in thousandths of a pixel per inch."""
    x, y = (Tag(_RATIONAL, struct.pack("<II", round(value * 1000), 1000)) for value in dpi)
    return {X_RESOLUTION: x, Y_RESOLUTION: y, RESOLUTION_UNIT: shorts(_INCH)}


def from_phys(body: bytes) -> Dpi | None:
    """The density in the body of a PNG pHYs chunk (PNG specification, section 11.3.4.3)."""
    if len(body) != 9 or body[8] != 1:  # without the unit metre it gives only the shape of a pixel
        return None
    x, y = struct.unpack(">II", body[:8])
    return plausible(x / _INCHES_PER_METRE, y / _INCHES_PER_METRE)


def to_phys(dpi: Dpi) -> bytes:
    """The body of a PNG pHYs chunk, in pixels per metre."""
    return struct.pack(">IIB", *(round(value * _INCHES_PER_METRE) for value in dpi), 1)


def from_jfif(segment: bytes) -> Dpi | None:
    """The density in the APP0 segment of a JPEG, given from "JFIF" on (JFIF 1.02)."""
    if len(segment) < 12:
        return None
    unit, x, y = struct.unpack_from(">BHH", segment, 7)
    factor = {1: 1.0, 2: 2.54}.get(unit, 0.0)  # 1: per inch, 2: per centimetre, 0: shape of a pixel only
    return plausible(x * factor, y * factor)


def from_bmp(header: bytes) -> Dpi | None:
    """The density in the first 46 bytes of a BMP file whose header has 40 bytes or more (biXPelsPerMeter)."""
    x, y = struct.unpack_from("<ii", header, 38)
    return plausible(x / _INCHES_PER_METRE, y / _INCHES_PER_METRE)


def write_density(path: Path, kind: str, dpi: Dpi) -> None:
    """Write `dpi` into the header of the JPEG or BMP file at `path`, which OpenCV wrote.

    Nothing happens if the header is not at the expected offset.
    """
    with path.open("r+b") as file:
        head = file.read(14)
        if kind == "bmp" and head.startswith(b"BM"):
            file.seek(38)
            file.write(struct.pack("<ii", *(round(value * _INCHES_PER_METRE) for value in dpi)))
        elif head[2:4] == b"\xff\xe0" and head[6:11] == b"JFIF\0":
            file.seek(13)
            # unit inch; whole numbers of 16 bits are all that JFIF has
            file.write(struct.pack(">BHH", 1, *(min(round(value), 0xFFFF) for value in dpi)))
