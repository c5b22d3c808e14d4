"""EXIF, ICC and XMP as blobs: which ones may be kept, and what must be edited in them.

OpenCV keeps different blobs depending on format and version; here every format keeps all three. This
module touches neither pixels nor files: the format modules find the blobs and store them.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace

from sr_deploy.images.codecs.density import from_tags
from sr_deploy.images.codecs.ifd import (
    EXIF_IFD,
    LONG,
    SHORT,
    IfdError,
    Tag,
    byte_order,
    first_offset,
    read_ifd,
)

_ORIENTATION = 0x112  # TIFF 6.0, section 8; EXIF 2.32, section 4.6.5.1
_PIXEL_SIZE = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension of the EXIF sub-directory


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The raw metadata blobs of a picture; None for those that it does not have."""

    exif: bytes | None = None
    """EXIF block. It begins with the TIFF header, `II*` or `MM`. Its orientation is always 1."""
    icc: bytes | None = None
    """ICC colour profile (ICC.1) for RGB or grey, matching the pixels."""
    xmp: bytes | None = None
    """XMP packet, in XML."""
    dpi: tuple[float, float] | None = None
    """Print density in pixels per inch, horizontally and vertically."""


def _main_tags(exif: bytes) -> tuple[dict[int, Tag], str]:
    """The main directory of an EXIF block and its byte order. Raises IfdError."""
    order, big = byte_order(exif)
    if big:
        raise IfdError("is a BigTIFF")
    return read_ifd(exif, first_offset(exif, order, big), order), order


def _edited(data: bytes, tag: Tag | None, number: int, order: str) -> bytes:
    """`data` with the value of `tag` replaced in place, so that offsets stay valid; else unchanged."""
    form = {SHORT: "H", LONG: "I"}.get(tag.kind) if tag else None
    if not (tag and form and tag.count == 1) or number >= 1 << 8 * struct.calcsize(form):
        return data
    value = struct.pack(order + form, number)
    return data[: tag.at] + value + data[tag.at + len(value) :]


def upright(metadata: Metadata) -> tuple[Metadata, int]:
    """The blobs with every orientation set to 1, and the orientation (1 to 8) that the EXIF block asked for.

    If the file itself gives no density, that of the EXIF block is used. An EXIF block that cannot be
    read is dropped: no other program could read it either, and its orientation would be unknown.
    """
    # XMP repeats the orientation, as an XML attribute or element; a viewer might apply it a second time
    xmp = metadata.xmp and re.sub(rb'(tiff:Orientation\s*(?:=\s*["\']|>)\s*)[2-8]', rb"\g<1>1", metadata.xmp)
    metadata = replace(metadata, xmp=xmp)
    if not metadata.exif:
        return replace(metadata, exif=None), 1
    try:
        tags, order = _main_tags(metadata.exif)
        tag = tags.get(_ORIENTATION)
        asked = tag.numbers()[0] if tag and tag.count else 1
    except IfdError:
        return replace(metadata, exif=None), 1
    exif, dpi = _edited(metadata.exif, tag, 1, order), metadata.dpi or from_tags(tags)
    return replace(metadata, exif=exif, dpi=dpi), asked if 1 <= asked <= 8 else 1


def with_size(exif: bytes, width: int, height: int) -> bytes:
    """`exif` with the picture's size in pixels updated, if it contains one."""
    try:
        tags, order = _main_tags(exif)
        if EXIF_IFD not in tags:
            return exif
        inner = read_ifd(exif, tags[EXIF_IFD].numbers()[0], order)
    except (IfdError, IndexError):
        return exif
    for number, size in zip(_PIXEL_SIZE, (width, height), strict=True):
        exif = _edited(exif, inner.get(number), size, order)
    return exif


def profile_fits(icc: bytes, channels: int) -> bool:
    """True if `icc` is a complete colour profile for pictures of 1 (grey) or 3 (RGB) channels.

    ICC.1, section 7.2: the size is in bytes 0 to 3, the colour space in 16 to 19, the signature `acsp`
    in 36 to 39. The header (128 bytes) and the tag count (4 bytes) are the minimum.
    """
    whole = len(icc) >= 132 and icc[36:40] == b"acsp" and int.from_bytes(icc[:4], "big") <= len(icc)
    return whole and icc[16:20] == {1: b"GRAY", 3: b"RGB "}[channels]
