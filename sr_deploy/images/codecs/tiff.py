"""TIFF: what a file says of itself, and its samples as they are stored.

OpenCV's TIFF reader multiplies colours by their opacity, drops the opacity of grey pictures and shows CMYK as
RGB with an alpha channel. So it is used as a decompressor only: it is shown a directory of our own, in
which the samples are those of one wide grey picture, and what they mean is decided here.
This module does not read the pixels of exotic kinds (floating point, Lab, more than 5 channels).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.images.codecs.density import from_tags
from sr_deploy.images.codecs.headers import DamagedError, SizeCheck, UnsupportedError
from sr_deploy.images.codecs.ifd import (
    EXIF_IFD,
    GPS_IFD,
    INTEROP_IFD,
    SUB_IFDS,
    IfdError,
    Tag,
    Tags,
    byte_order,
    first_offset,
    longs,
    next_ifd,
    pack_ifd,
    read_ifd,
    shorts,
)

Array = npt.NDArray[Any]
Decode = Callable[[bytes], Array]

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
PLANAR, PREDICTOR, COLOUR_MAP, EXTRA_SAMPLES, SAMPLE_FORMAT = 284, 317, 320, 338, 339
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
XMP, ICC = 700, 34675
_DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 316, 33432)
"""Tags that say where a picture comes from, not how it is stored: they move between TIFF and EXIF."""

_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate"}
_MAX_RATIO = {1: 1, 5: 4096, 8: 1040, 32946: 1040, 32773: 64, 7: 4096}
_TAGS_FOR_OPENCV = (WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP,
                   STRIP_BYTES, PLANAR, PREDICTOR, COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES,
                   266, 292, 347, 529, 530, 531, 532)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TiffPicture:
    """The first picture of a TIFF file, checked to lie whole inside it."""

    data: bytes
    order: str
    big: bool
    tags: dict[int, Tag]
    width: int
    height: int
    samples: int
    bits: int
    frames: int
    orientation: int
    exif: bytes | None
    icc: bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None

    def number(self, tag: int, default: int) -> int:
        """The first value of `tag`, or `default` where it is not there."""
        return _number(self.tags, tag, default)


def _number(tags: dict[int, Tag], tag: int, default: int) -> int:
    values = tags[tag].numbers() if tag in tags else ()
    return values[0] if values else default


def parse_tiff(data: bytes, check: SizeCheck) -> TiffPicture:
    """Raises DamagedError or UnsupportedError."""
    try:
        return _parse(data, check)
    except IfdError as error:
        raise DamagedError(str(error)) from error


def _parse(data: bytes, check: SizeCheck) -> TiffPicture:
    order, big = byte_order(data)
    first = first_offset(data, order, big)
    tags = read_ifd(data, first, order, big)
    width, height = _number(tags, WIDTH, 0), _number(tags, HEIGHT, 0)
    check(width, height)
    bits = set(tags[BITS].numbers()) if BITS in tags else {1}
    if len(bits) != 1:
        raise UnsupportedError("is a TIFF whose channels differ in depth, which is not read here")
    picture = TiffPicture(
        data=data,
        order=order,
        big=big,
        tags=tags,
        width=width,
        height=height,
        samples=_number(tags, SAMPLES, 1),
        bits=bits.pop(),
        frames=_count_pages(data, first, order, big),
        orientation=_number(tags, ORIENTATION, 1),
        exif=_exif_block(data, tags, order, big),
        icc=tags[ICC].value if ICC in tags else None,
        xmp=tags[XMP].value if XMP in tags else None,
        dpi=from_tags(tags),
    )
    _check_kind(picture)
    _check_whole(picture)
    return picture


def _count_pages(data: bytes, first: int, order: str, big: bool) -> int:
    at, seen = first, set[int]()
    while at and at not in seen and len(seen) < 10_000:
        try:
            following = next_ifd(data, at, order, big)
        except IfdError:
            break  # a broken later page is nothing to the first
        seen.add(at)
        at = following
    return len(seen)


def _read_sub_ifd(data: bytes, tags: dict[int, Tag], number: int, order: str, big: bool) -> dict[int, Tag]:
    """The tags of a sub-directory; nothing where it is missing or broken."""
    try:
        return read_ifd(data, _number(tags, number, len(data)), order, big)
    except IfdError:
        return {}


def camera_tags(data: bytes, tags: dict[int, Tag], order: str, big: bool) -> dict[int, Tag | Tags]:
    """The descriptive tags of a directory, with its EXIF and GPS sub-directories."""
    found: dict[int, Tag | Tags] = {n: tags[n] for n in _DESCRIPTIVE if n in tags}
    for number in (EXIF_IFD, GPS_IFD):
        inner = _read_sub_ifd(data, tags, number, order, big)
        kept: dict[int, Tag | Tags] = {n: t for n, t in inner.items() if n not in SUB_IFDS}
        if interop := _read_sub_ifd(data, inner, INTEROP_IFD, order, big):
            kept[INTEROP_IFD] = interop
        if kept:
            found[number] = kept
    return found


def _exif_block(data: bytes, tags: dict[int, Tag], order: str, big: bool) -> bytes | None:
    """The camera's tags of a TIFF as an EXIF block, or None where there are none."""
    found = camera_tags(data, tags, order, big)
    return b"II*\0\x08\0\0\0" + pack_ifd(found, 8) if found else None


def _check_kind(picture: TiffPicture) -> None:
    packing, colour = picture.number(COMPRESSION, 1), picture.number(PHOTOMETRIC, -1)
    if set(picture.tags[SAMPLE_FORMAT].numbers() if SAMPLE_FORMAT in picture.tags else ()) - {1, 4}:
        raise UnsupportedError("is a TIFF of signed or floating-point pixels, which is not read here")
    least = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}.get(colour)
    if least is None or packing not in (*_COMPRESSIONS, 7):
        raise UnsupportedError(
            f"is a TIFF of colour kind {colour} and compression {packing}, which is not read here"
        )
    if not least <= picture.samples <= 5 or picture.number(PLANAR, 1) not in (1, 2):
        raise UnsupportedError(f"is a TIFF of {picture.samples} channels, which is not read here")
    wide = picture.width * picture.samples
    if (
        wide > 1 << 20 or wide * picture.height > 1 << 30
    ):  # OpenCV's limits, of a picture as wide as all samples
        raise UnsupportedError(
            f"is a TIFF of {picture.width}x{picture.height} pixels, which is too large to read here"
        )
    if not (_has_plain_samples(picture) or _opencv_reads_it(picture)):
        raise UnsupportedError(
            f"is a TIFF of colour kind {colour}, {picture.samples} channels of {picture.bits} bits and "
            f"compression {packing}, which is not read here"
        )


def _has_plain_samples(picture: TiffPicture) -> bool:
    """Whether its samples can be read as one wide grey picture."""
    plain = picture.bits in (8, 16) and picture.number(COMPRESSION, 1) in _COMPRESSIONS
    return (
        plain and picture.number(PREDICTOR, 1) in (1, 2) and picture.number(PHOTOMETRIC, -1) in (0, 1, 2, 5)
    )


def _opencv_reads_it(picture: TiffPicture) -> bool:
    """Whether OpenCV reads it right on its own: no alpha, no CMYK; palettes, few bits, JPEG inside."""
    colour, samples = picture.number(PHOTOMETRIC, -1), picture.samples
    shallow = picture.bits == 8 or (picture.bits in (1, 2, 4) and samples == 1)
    return shallow and (colour, samples) in ((0, 1), (1, 1), (2, 3), (3, 1), (6, 3))


def _check_whole(picture: TiffPicture) -> None:
    """Every strip or tile must lie inside the file, and together hold enough for the pixels."""
    tiled = TILE_OFFSETS in picture.tags
    try:
        offsets = picture.tags[TILE_OFFSETS if tiled else STRIP_OFFSETS].numbers()
        sizes = picture.tags[TILE_BYTES if tiled else STRIP_BYTES].numbers()
    except KeyError:
        raise DamagedError("does not say where its pixel data is") from None
    wide, tall = _block_size(picture)
    across = -(-picture.width // wide) * -(-picture.height // tall)
    planes = picture.samples if picture.number(PLANAR, 1) == 2 else 1
    if wide * tall > 4 * max(picture.width, 64) * max(picture.height, 64):
        raise DamagedError(f"has tiles of {wide}x{tall} pixels, larger than the picture")
    if len(offsets) != across * planes or len(sizes) != len(offsets):
        raise DamagedError(
            f"has {len(offsets)} parts and {len(sizes)} sizes where {across * planes} are needed"
        )
    end = max(offset + size for offset, size in zip(offsets, sizes, strict=True))
    if end > len(picture.data):
        raise DamagedError(f"ends after {len(picture.data)} bytes, in the middle of its pixel data")
    needed = picture.width * picture.samples * picture.bits // 8 * picture.height
    if (
        picture.number(PHOTOMETRIC, -1) != 6
        and sum(sizes) * _MAX_RATIO[picture.number(COMPRESSION, 1)] < needed
    ):
        raise DamagedError(
            f"holds {sum(sizes)} bytes of pixel data, too few for {picture.width}x{picture.height} pixels"
        )


def _block_size(picture: TiffPicture) -> tuple[int, int]:
    """Width and height of a strip or tile."""
    if TILE_OFFSETS in picture.tags:
        wide, tall = picture.number(TILE_WIDTH, 0), picture.number(TILE_HEIGHT, 0)
    else:
        wide, tall = picture.width, min(picture.number(ROWS_PER_STRIP, picture.height), picture.height)
    if not (0 < wide <= 1 << 20 and 0 < tall <= 1 << 20):
        raise DamagedError(f"has tiles of {wide}x{tall} pixels")
    return wide, tall


def decode_tiff(picture: TiffPicture, decode: Decode) -> tuple[Array, Array | None]:
    """Pixels [H, W, 1 or 3] in RGB order and alpha [H, W] or None, not turned yet.

    `decode` is OpenCV's, and gives [H, W] or [H, W, 3] in BGR order.
    """
    if not _has_plain_samples(picture):
        kept = {n: t for n, t in picture.tags.items() if n in _TAGS_FOR_OPENCV}
        pixels = decode(_with_directory(picture, kept))
        if pixels.ndim == 2:
            return pixels[..., None], None
        return np.ascontiguousarray(pixels[..., 2::-1]), None
    samples = _read_samples(picture, decode)
    colour = picture.number(PHOTOMETRIC, 1)
    kinds = {0: 1, 1: 1, 2: 3, 5: 4}
    pixels, extra = samples[..., : kinds[colour]], samples[..., kinds[colour] :]
    top = np.iinfo(samples.dtype).max
    if colour == 0:
        pixels = top - pixels
    if colour == 5:
        pixels = _cmyk_to_rgb(pixels)
    alpha, associated = _find_alpha(picture, extra)
    if alpha is not None and associated:
        pixels = _unpremultiplied(pixels, alpha)
    return np.ascontiguousarray(pixels), alpha


def _find_alpha(picture: TiffPicture, extra: Array) -> tuple[Array | None, bool]:
    """The opacity among the extra samples, and whether the colours were multiplied by it.

    A fourth channel that nothing is said of is opacity, as every reader takes it; one said to be of another
    kind (ExtraSamples 0) is too where it is the only one: editors write alpha so.
    """
    if not extra.shape[2]:
        return None, False
    kinds = picture.tags[EXTRA_SAMPLES].numbers() if EXTRA_SAMPLES in picture.tags else ()
    for i, kind in enumerate(kinds[: extra.shape[2]]):
        if kind in (1, 2):
            return np.ascontiguousarray(extra[..., i]), kind == 1
    return np.ascontiguousarray(extra[..., 0]), False


def _with_directory(picture: TiffPicture, tags: Tags) -> bytes:
    """The file with `tags` as its only directory."""
    data = picture.data + b"\0" * (-len(picture.data) % 8)
    block = pack_ifd(tags, len(data), order=picture.order, big=picture.big)
    form, at = ("Q", 8) if picture.big else ("I", 4)
    if not picture.big and len(data) + len(block) >= 1 << 32:
        raise UnsupportedError("is a TIFF of 4 GB, which is not read here")
    return (
        data[:at] + struct.pack(picture.order + form, len(data)) + data[at + struct.calcsize(form) :] + block
    )


def _read_samples(picture: TiffPicture, decode: Decode) -> Array:
    """[H, W, samples], as stored."""
    planes = picture.samples if picture.number(PLANAR, 1) == 2 else 1
    together = picture.samples // planes
    tiled = TILE_OFFSETS in picture.tags
    offsets_tag, bytes_tag = (TILE_OFFSETS, TILE_BYTES) if tiled else (STRIP_OFFSETS, STRIP_BYTES)
    offsets, sizes = picture.tags[offsets_tag].numbers(), picture.tags[bytes_tag].numbers()
    each = len(offsets) // planes
    wide, tall = _block_size(picture)
    result = np.empty(
        (picture.height, picture.width, picture.samples), np.uint8 if picture.bits == 8 else np.uint16
    )
    for plane in range(planes):
        part = slice(plane * each, (plane + 1) * each)
        tags = {
            WIDTH: longs(picture.width * together),
            HEIGHT: longs(picture.height),
            BITS: shorts(picture.bits),
            COMPRESSION: shorts(picture.number(COMPRESSION, 1)),
            PHOTOMETRIC: shorts(1),
            SAMPLES: shorts(1),
            offsets_tag: longs(*offsets[part], wide=picture.big),
            bytes_tag: longs(*sizes[part], wide=picture.big),
        }
        tags |= (
            {TILE_WIDTH: longs(wide * together), TILE_HEIGHT: longs(tall)}
            if tiled
            else {ROWS_PER_STRIP: longs(tall)}
        )
        stored = decode(_with_directory(picture, tags))
        if stored.ndim != 2 or stored.dtype != result.dtype or stored.shape[1] != picture.width * together:
            raise DamagedError("holds other pixels than its header says")
        result[..., plane * together : (plane + 1) * together] = stored.reshape(
            picture.height, picture.width, together
        )
    if picture.number(PREDICTOR, 1) == 2:  # every sample is stored as its difference to the one at its left
        for left in range(0, picture.width, wide):
            block = result[:, left : left + wide]
            np.cumsum(block, axis=1, dtype=result.dtype, out=block)
    return result


def _cmyk_to_rgb(ink: Array) -> Array:
    """Without a colour profile: what paper lets through of each colour, times what black does."""
    top = int(np.iinfo(ink.dtype).max)
    through = (top - ink).astype(np.uint32)
    colours: Array = (through[..., :3] * through[..., 3:] + top // 2) // top
    return colours.astype(ink.dtype)


def _unpremultiplied(pixels: Array, alpha: Array) -> Array:
    """Colours that were multiplied by their opacity, as they were before."""
    top = int(np.iinfo(pixels.dtype).max)
    opacity = np.maximum(alpha, 1).astype(np.uint32)[..., None]
    colours: Array = np.minimum((pixels.astype(np.uint32) * top + opacity // 2) // opacity, top)
    return colours.astype(pixels.dtype)
