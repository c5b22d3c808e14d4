"""EXIF, ICC and XMP as blobs: what may be kept, and what must be edited.

OpenCV keeps different blobs in different formats and versions; here every format keeps all three. This module
does not touch pixels and does not know of files: the format modules find the blobs and place them.
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

_ORIENTATION = 0x112
_PIXEL_SIZE = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The raw blobs a picture carries; None: it carries none of that kind."""

    exif: bytes | None = None
    """Begins with the TIFF header, `II*` or `MM`; its orientation is always 1."""
    icc: bytes | None = None
    """A colour profile (ICC.1), of RGB or grey pictures as the pixels are."""
    xmp: bytes | None = None
    """A packet of XML."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch in print, across and down."""


def _main_tags(exif: bytes) -> tuple[dict[int, Tag], str]:
    order, big = byte_order(exif)
    if big:
        raise IfdError("is a BigTIFF")
    return read_ifd(exif, first_offset(exif, order, big), order), order


def _edited(data: bytes, tag: Tag | None, number: int, order: str) -> bytes:
    """`data` with the one number of `tag` replaced in place, where it is one and the new one fits."""
    form = {SHORT: "H", LONG: "I"}.get(tag.kind) if tag else None
    if not (tag and form and tag.count == 1) or number >= 1 << 8 * struct.calcsize(form):
        return data
    value = struct.pack(order + form, number)
    return data[: tag.at] + value + data[tag.at + len(value) :]


def upright(metadata: Metadata) -> tuple[Metadata, int]:
    """The blobs with every orientation set to 1, and the orientation (1 to 8) that EXIF asked for.

    Where the file itself does not say what it is printed at, EXIF may.
    An EXIF block that cannot be read is dropped: nobody else could read it, and it may lie.
    """
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
    """`exif` saying that the picture has this size, where it says so at all."""
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
    """Whether `icc` is a whole colour profile of pictures of 1 (grey) or 3 (RGB) channels."""
    whole = len(icc) >= 132 and icc[36:40] == b"acsp" and int.from_bytes(icc[:4], "big") <= len(icc)
    return whole and icc[16:20] == {1: b"GRAY", 3: b"RGB "}[channels]
