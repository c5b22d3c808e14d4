"""Print density in pixels per inch, as each format stores it. No pixels are changed.

A density below 1 or from 100000 on cannot be meant seriously and counts as absent.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from sr_deploy.images.metadata.ifd import Tag, shorts

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296  # TIFF 6.0, section 8; EXIF has the same
Dpi = tuple[float, float]
"""Pixels per inch, horizontally and vertically."""
Aspect = tuple[int, int]
"""Numbers of pixels, horizontally and vertically, that cover the same length."""

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


def aspect_from_tags(tags: Mapping[int, Tag]) -> Aspect | None:
    """The shape of a pixel in the main directory of a TIFF file without a unit of length."""
    unit = tags.get(RESOLUTION_UNIT)
    if unit is None or unit.value[:2] != b"\1\0":
        return None
    x, y = (_fraction(tags.get(number)) for number in (X_RESOLUTION, Y_RESOLUTION))
    return _aspect(round(x * 1000), round(y * 1000))


def aspect_to_tags(aspect: Aspect) -> dict[int, Tag]:
    """The tags of a TIFF file without a unit of length."""
    x, y = (Tag(_RATIONAL, struct.pack("<II", value, 1)) for value in aspect)
    return {X_RESOLUTION: x, Y_RESOLUTION: y, RESOLUTION_UNIT: shorts(1)}


def _aspect(x: int, y: int) -> Aspect | None:
    """(x, y) in lowest terms, or None for square pixels and invalid numbers."""
    divisor = math.gcd(x, y)
    return (x // divisor, y // divisor) if x > 0 and y > 0 and x != y else None


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


def aspect_from_phys(body: bytes) -> Aspect | None:
    """The shape of a pixel in the body of a PNG pHYs chunk without a unit."""
    if len(body) != 9 or body[8] != 0:
        return None
    x, y = struct.unpack(">II", body[:8])
    return _aspect(x, y)


def aspect_to_phys(aspect: Aspect) -> bytes:
    """The body of a PNG pHYs chunk without a unit."""
    return struct.pack(">IIB", *aspect, 0)


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


def aspect_from_jfif(segment: bytes) -> Aspect | None:
    """The shape of a pixel in the APP0 segment of a JPEG without a unit, given from "JFIF" on."""
    if len(segment) < 12 or segment[7] != 0:
        return None
    x, y = struct.unpack_from(">HH", segment, 8)
    return _aspect(x, y)


def from_bmp(header: bytes) -> Dpi | None:
    """The density in the first 46 bytes of a BMP file whose header has 40 bytes or more (biXPelsPerMeter)."""
    x, y = struct.unpack_from("<ii", header, 38)
    return plausible(x / _INCHES_PER_METRE, y / _INCHES_PER_METRE)


def to_jfif(dpi: Dpi | None, aspect: Aspect | None) -> bytes:
    """The body of the APP0 segment of a JPEG (JFIF 1.02) with the density, or else the shape of a pixel."""
    # unit 1 is the inch, 0 gives only the shape; whole numbers of 16 bits are all that JFIF has
    unit, values = (1, dpi) if dpi else (0, aspect or (1, 1))
    x, y = (min(round(value), 0xFFFF) for value in values)
    return struct.pack(">5sBBBHHBB", b"JFIF\0", 1, 1, unit, x, y, 0, 0)


def to_bmp(dpi: Dpi | None) -> tuple[int, int]:
    """Pixels per metre for the header of a BMP file; 0 if unknown."""
    x, y = dpi or (0.0, 0.0)
    return round(x * _INCHES_PER_METRE), round(y * _INCHES_PER_METRE)
