"""All metadata of a picture: which parts may be kept, and what must be edited in them.

This module touches neither pixels nor files: the format modules find the parts and store them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sr_deploy.images.metadata.density import from_tags
from sr_deploy.images.metadata.ifd import (
    EXIF_IFD,
    LONG,
    SHORT,
    IfdError,
    Tag,
    byte_order,
    first_offset,
    read_ifd,
    without_next,
)

_ORIENTATION = 0x112  # TIFF 6.0, section 8; EXIF 2.32, section 4.6.5.1
_PIXEL_SIZE = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension of the EXIF sub-directory
_IMAGE_SIZE = (0x100, 0x101)  # ImageWidth, ImageLength of the main directory
COLOUR_CHUNKS = (b"cICP", b"mDCV", b"cLLI", b"sRGB", b"cHRM", b"gAMA")
"""Types of PNG chunks that say what the pixel values mean (PNG specification, section 11.3.2)."""
_SRGB_CHUNKS = {
    b"sRGB": None,
    b"gAMA": (45455).to_bytes(4, "big"),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}
"""Colour chunks of sRGB, with their body if only one body means sRGB: losing them changes nothing."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The metadata of a picture; None for the parts that it does not have."""

    exif: bytes | None = None
    """EXIF block. It begins with the TIFF header, `II*` or `MM`. Its orientation is always 1."""
    icc: bytes | None = None
    """ICC colour profile (ICC.1) for RGB or grey, matching the pixels."""
    xmp: bytes | None = None
    """XMP packet, in XML."""
    dpi: tuple[float, float] | None = None
    """Print density in pixels per inch, horizontally and vertically."""
    aspect: tuple[int, int] | None = None
    """Shape of a pixel: numbers of pixels, horizontally and vertically, that cover the same length. None for
    square pixels."""
    iptc: bytes | None = None
    """IPTC record of captions and keywords."""
    comment: bytes | None = None
    """Comment of a JPEG file."""
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    """(type, body) of PNG chunks about colour and of texts, in the order of the file."""
    geo: Mapping[int, Tag] = field(default_factory=dict)
    """Tags of a GeoTIFF: the picture's place on a map."""
    size: tuple[int, int] | None = None
    """Width and height in pixels of the picture for which positions in `geo` and `xmp` are valid."""


def _main_tags(exif: bytes) -> tuple[dict[int, Tag], str]:
    """The main directory of an EXIF block and its byte order. Raises IfdError."""
    order, big = byte_order(exif)
    if big:
        raise IfdError("is a BigTIFF")
    return read_ifd(exif, first_offset(exif, order, big), order), order


def _edited(data: bytes, tag: Tag | None, number: int, order: str) -> bytes:
    """`data` with the value of `tag` replaced in place by `number`.

    Returns `data` unchanged if the tag is missing, does not hold exactly one number, or the number does
    not fit. Editing in place keeps all offsets, so unknown parts such as maker notes stay valid.
    """
    form = {SHORT: "H", LONG: "I"}.get(tag.kind) if tag else None
    if not (tag and form and tag.count == 1) or number >= 1 << 8 * struct.calcsize(form):
        return data
    value = struct.pack(order + form, number)
    return data[: tag.at] + value + data[tag.at + len(value) :]


def upright(metadata: Metadata, stored: int | None = None) -> tuple[Metadata, int, tuple[str, ...]]:
    """The metadata of the upright picture, the orientation (1 to 8) that was asked for, and notes.

    The orientation is `stored`, or that of the EXIF block; all are set to 1. If the file itself gives no
    density, that of the EXIF block is used. An EXIF block that cannot be read is dropped: no other program
    could read it either, and its orientation would be unknown.
    """
    exif, asked, dpi, notes = _upright_exif(metadata.exif)
    orientation = asked if stored is None else stored
    orientation = orientation if 1 <= orientation <= 8 else 1
    xmp = metadata.xmp
    if xmp:
        from sr_deploy.images.metadata import xmp as packets  # late: most pictures have no XMP

        xmp, lost = packets.without_lost_data(packets.with_upright_orientation(xmp))
        notes += lost
    if exif and orientation != 1:
        shorter = _without_thumbnail(exif)
        if shorter != exif:
            exif = shorter
            notes.append("its thumbnail lay on its side and was left out")
    geo = metadata.geo
    if geo and orientation != 1:
        geo = {}
        notes.append("its georeference is that of the turned picture and was left out")
    result = replace(metadata, exif=exif, xmp=xmp, dpi=metadata.dpi or dpi, geo=geo)
    if orientation >= 5:  # 5 to 8 swap rows and columns
        result = replace(
            result,
            dpi=result.dpi and result.dpi[::-1],
            aspect=result.aspect and result.aspect[::-1],
        )
    return result, orientation, tuple(notes)


def _upright_exif(exif: bytes | None) -> tuple[bytes | None, int, tuple[float, float] | None, list[str]]:
    """The EXIF block with orientation 1, the orientation it had, its density, and notes."""
    if not exif:
        return None, 1, None, []
    exif = exif.removeprefix(b"Exif\0\0")  # belongs to JPEG; some writers put it into PNG and WebP too
    try:
        tags, order = _main_tags(exif)
        tag = tags.get(_ORIENTATION)
        asked = tag.numbers()[0] if tag and tag.count else 1
    except IfdError:
        return None, 1, None, ["its EXIF data cannot be read and was left out"]
    return _edited(exif, tag, 1, order), asked, from_tags(tags), []


def _without_thumbnail(exif: bytes) -> bytes:
    """`exif` without its second directory, which describes the thumbnail."""
    order, _ = byte_order(exif)
    return without_next(exif, first_offset(exif, order, False), order)


def for_size(metadata: Metadata, width: int, height: int) -> Metadata:
    """The metadata for the picture resampled to `width` x `height` pixels."""
    xmp, exif, geo = metadata.xmp, metadata.exif, metadata.geo
    new = (width, height)
    if xmp:
        from sr_deploy.images.metadata import xmp as packets

        xmp = packets.for_size(xmp, metadata.size, new)
    if geo and metadata.size:
        from sr_deploy.images.metadata.geo import geo_for_size

        geo = geo_for_size(geo, metadata.size, new)
    exif = with_size(exif, width, height) if exif else None
    return replace(metadata, exif=exif, xmp=xmp, geo=geo, size=new)


def without_colour(chunks: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
    """The PNG chunks that do not say what the pixel values mean."""
    return tuple(chunk for chunk in chunks if chunk[0] not in COLOUR_CHUNKS)


def without_texts(metadata: Metadata) -> Metadata:
    """Only what the pixels mean: colour, density and shape of a pixel."""
    chunks = tuple(chunk for chunk in metadata.chunks if chunk[0] in COLOUR_CHUNKS)
    return Metadata(icc=metadata.icc, dpi=metadata.dpi, aspect=metadata.aspect, chunks=chunks)


def names_of_chunks(metadata: Metadata) -> list[str]:
    """Names of the PNG chunks whose loss changes something, each once."""
    names = []
    for kind, body in metadata.chunks:
        if body.startswith(b"date:"):  # ImageMagick's times of the file, which the new file has as well
            continue
        if kind not in COLOUR_CHUNKS:
            names.append(f"the text {body.partition(bytes(1))[0].decode('latin-1')!r}"[:60])
        elif kind not in _SRGB_CHUNKS or _SRGB_CHUNKS[kind] not in (None, body):
            names.append(f"the colour chunk {kind.decode()}")
    return list(dict.fromkeys(names))


def with_size(exif: bytes, width: int, height: int) -> bytes:
    """`exif` with the picture's size in pixels updated, if it contains one."""
    try:
        tags, order = _main_tags(exif)
        for number, size in zip(_IMAGE_SIZE, (width, height), strict=True):
            exif = _edited(exif, tags.get(number), size, order)
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


def ink_profile_works(icc: bytes) -> bool:
    """True if `icc` is a complete CMYK profile that a picture can be converted by.

    Ink has no formula, so the profile needs a table from ink to colour: A2B0, A2B1 or A2B2 (ICC.1, section
    9.2). The table of tags begins at byte 128 with their number; an entry has 12 bytes. libvips would
    replace a profile without a table by one of its own and say nothing (seen in 8.18).
    """
    whole = len(icc) >= 132 and icc[36:40] == b"acsp" and int.from_bytes(icc[:4], "big") <= len(icc)
    count = int.from_bytes(icc[128:132], "big")
    tags = {icc[at : at + 4] for at in range(132, min(132 + 12 * count, len(icc)), 12)}
    return whole and icc[16:20] == b"CMYK" and bool(tags & {b"A2B0", b"A2B1", b"A2B2"})
