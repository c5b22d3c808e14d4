"""TIFF reader: the header of a file, and its samples as they are stored.

OpenCV's TIFF reader multiplies colours by their opacity, drops the opacity of grey pictures, and
returns CMYK as RGB with an alpha channel. Therefore it only decompresses here: it gets a directory
written by this module in which the samples are those of one wide grey picture. What the samples mean is
decided here.

Not supported: floating point, Lab, more than 5 channels.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
from sr_deploy.system.arrays import AnyArray

Decode = Callable[[bytes], AnyArray]
"""OpenCV's decoder: bytes of a file -> [H, W], or [H, W, 3] in BGR order."""

# Numbers of tags: TIFF 6.0, sections 8, 14 (PREDICTOR), 15 (tiles) and 19 (SAMPLE_FORMAT); 700 and 34675 from
# the XMP and ICC specifications.
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
PLANAR, PREDICTOR, COLOUR_MAP, EXTRA_SAMPLES, SAMPLE_FORMAT = 284, 317, 320, 338, 339
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
XMP, ICC = 700, 34675
_DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 316, 33432)
"""Tags that describe the origin of a picture, not its storage. They are copied between TIFF and EXIF."""

# Lossless compressions. 32946 is the older number of Deflate.
_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate"}
# Upper bounds of the factor by which each compression shrinks data (7 is JPEG). A file with less data than
# they allow is refused before pixels are allocated.
_MAX_RATIO = {1: 1, 5: 4096, 8: 1040, 32946: 1040, 32773: 64, 7: 4096}
# Tags that stay when OpenCV decodes a picture on its own. Among the numbers without a name are the fill
# order (266), JPEG's tables (347) and the parameters of YCbCr (529 to 532).
_TAGS_FOR_OPENCV = (WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP,
                   STRIP_BYTES, PLANAR, PREDICTOR, COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES,
                   266, 292, 347, 529, 530, 531, 532)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TiffPicture:
    """The first picture of a TIFF file; its parts are checked to lie inside the file."""

    data: bytes
    """Content of the file."""
    order: str
    """Byte order as a struct prefix, `<` or `>`."""
    big: bool
    """True for a BigTIFF."""
    tags: dict[int, Tag]
    """Tags of the first directory."""
    width: int
    """Width in pixels as stored."""
    height: int
    """Height in pixels as stored."""
    samples: int
    """Channels per pixel."""
    bits: int
    """Bits per sample."""
    frames: int
    """Number of pages."""
    orientation: int
    """Orientation as in EXIF, 1 to 8 in valid files."""
    exif: bytes | None
    """The camera's tags, as an EXIF block."""
    icc: bytes | None
    """ICC colour profile."""
    xmp: bytes | None
    """XMP packet."""
    dpi: tuple[float, float] | None
    """Pixels per inch, horizontally and vertically."""

    def number(self, tag: int, default: int) -> int:
        """The first value of `tag`, or `default` if the tag is missing.

        Raises IfdError if it is not a number.
        """
        return _number(self.tags, tag, default)


def _number(tags: dict[int, Tag], tag: int, default: int) -> int:
    """The first value of `tag`, or `default` if the tag is missing."""
    values = tags[tag].numbers() if tag in tags else ()
    return values[0] if values else default


def parse_tiff(data: bytes, check: SizeCheck) -> TiffPicture:
    """Read the header of a TIFF and check it.

    Raises DamagedError, UnsupportedError, or the error of `check`.
    """
    try:
        return _parse(data, check)
    except IfdError as error:
        raise DamagedError(str(error)) from error


def _parse(data: bytes, check: SizeCheck) -> TiffPicture:
    """Like `parse_tiff`, but raises IfdError for broken directories."""
    order, big = byte_order(data)
    first = first_offset(data, order, big)
    tags = read_ifd(data, first, order, big)
    width, height = _number(tags, WIDTH, 0), _number(tags, HEIGHT, 0)
    check(width, height)
    bits = set(tags[BITS].numbers()) if BITS in tags else {1}
    if len(bits) != 1:
        raise UnsupportedError("is a TIFF whose channels differ in depth, which is not supported")
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
    """The number of directories in the chain, at most 10000.

    A chain that runs in a circle ends after one round.
    """
    at, seen = first, set[int]()
    while at and at not in seen and len(seen) < 10_000:
        try:
            following = next_ifd(data, at, order, big)
        except IfdError:
            break  # a broken later page does not affect the first
        seen.add(at)
        at = following
    return len(seen)


def _read_sub_ifd(data: bytes, tags: dict[int, Tag], number: int, order: str, big: bool) -> dict[int, Tag]:
    """The tags of a sub-directory; empty if it is missing or broken."""
    try:
        return read_ifd(data, _number(tags, number, len(data)), order, big)
    except IfdError:
        return {}


def camera_tags(data: bytes, tags: dict[int, Tag], order: str, big: bool) -> dict[int, Tag | Tags]:
    """The descriptive tags of a directory, with its EXIF and GPS sub-directories.

    Offsets inside the sub-directories are resolved, so the result can be packed anywhere.
    """
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
    """The camera's tags of a TIFF as an EXIF block, or None if there are none."""
    found = camera_tags(data, tags, order, big)
    return b"II*\0\x08\0\0\0" + pack_ifd(found, 8) if found else None


def _check_kind(picture: TiffPicture) -> None:
    """Raise UnsupportedError if the kind of pixels cannot be read."""
    packing, colour = picture.number(COMPRESSION, 1), picture.number(PHOTOMETRIC, -1)
    if set(picture.tags[SAMPLE_FORMAT].numbers() if SAMPLE_FORMAT in picture.tags else ()) - {1, 4}:
        raise UnsupportedError("is a TIFF of signed or floating-point pixels, which is not supported")
    # fewest channels per kind: 0 grey with 0 as white, 1 grey, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr
    least = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}.get(colour)
    if least is None or packing not in (*_COMPRESSIONS, 7):
        raise UnsupportedError(
            f"is a TIFF of colour kind {colour} and compression {packing}, which is not supported"
        )
    if not least <= picture.samples <= 5 or picture.number(PLANAR, 1) not in (1, 2):
        raise UnsupportedError(f"is a TIFF of {picture.samples} channels, which is not supported")
    wide = picture.width * picture.samples
    # OpenCV's limits, applied to the wide grey picture that it is shown
    if wide > 1 << 20 or wide * picture.height > 1 << 30:
        raise UnsupportedError(f"is a TIFF of {picture.width}x{picture.height} pixels, which is too large")
    if not (_has_plain_samples(picture) or _opencv_reads_it(picture)):
        raise UnsupportedError(
            f"is a TIFF of colour kind {colour}, {picture.samples} channels of {picture.bits} bits and "
            f"compression {packing}, which is not supported"
        )


def _has_plain_samples(picture: TiffPicture) -> bool:
    """True if its samples can be read as one wide grey picture."""
    plain = picture.bits in (8, 16) and picture.number(COMPRESSION, 1) in _COMPRESSIONS
    return (
        plain and picture.number(PREDICTOR, 1) in (1, 2) and picture.number(PHOTOMETRIC, -1) in (0, 1, 2, 5)
    )


def _opencv_reads_it(picture: TiffPicture) -> bool:
    """True if OpenCV reads it correctly on its own. This holds without alpha and CMYK: palettes, fewer than 8
    bits, and JPEG inside a TIFF."""
    colour, samples = picture.number(PHOTOMETRIC, -1), picture.samples
    shallow = picture.bits == 8 or (picture.bits in (1, 2, 4) and samples == 1)
    return shallow and (colour, samples) in ((0, 1), (1, 1), (2, 3), (3, 1), (6, 3))


def _check_whole(picture: TiffPicture) -> None:
    """Raise DamagedError unless every strip or tile lies inside the file and all together can hold the
    pixels.
    """
    tiled = TILE_OFFSETS in picture.tags
    try:
        offsets = picture.tags[TILE_OFFSETS if tiled else STRIP_OFFSETS].numbers()
        sizes = picture.tags[TILE_BYTES if tiled else STRIP_BYTES].numbers()
    except KeyError:
        raise DamagedError("lacks the offsets or sizes of its pixel data") from None
    wide, tall = _block_size(picture)
    across = -(-picture.width // wide) * -(-picture.height // tall)
    planes = picture.samples if picture.number(PLANAR, 1) == 2 else 1
    # the decoder allocates whole tiles; those of small pictures may be larger than the picture
    if wide * tall > 4 * max(picture.width, 64) * max(picture.height, 64):
        raise DamagedError(f"has tiles of {wide}x{tall} pixels, larger than the picture")
    if len(offsets) != across * planes or len(sizes) != len(offsets):
        raise DamagedError(
            f"has {len(offsets)} strips or tiles and {len(sizes)} sizes of them, but needs {across * planes}"
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
    """Width and height of a strip or tile in pixels. Raises DamagedError if they are out of range."""
    if TILE_OFFSETS in picture.tags:
        wide, tall = picture.number(TILE_WIDTH, 0), picture.number(TILE_HEIGHT, 0)
    else:
        wide, tall = picture.width, min(picture.number(ROWS_PER_STRIP, picture.height), picture.height)
    if not (0 < wide <= 1 << 20 and 0 < tall <= 1 << 20):
        raise DamagedError(f"has tiles of {wide}x{tall} pixels")
    return wide, tall


def decode_tiff(picture: TiffPicture, decode: Decode) -> tuple[AnyArray, AnyArray | None]:
    """Pixels [H, W, 1 or 3] in RGB order and alpha [H, W] or None; the orientation is not applied.

    `decode` is OpenCV's decoder. Raises DamagedError or UnsupportedError.
    """
    if not _has_plain_samples(picture):
        kept = {n: t for n, t in picture.tags.items() if n in _TAGS_FOR_OPENCV}
        pixels = decode(_with_directory(picture, kept))
        if pixels.ndim == 2:
            return pixels[..., None], None
        return np.ascontiguousarray(pixels[..., 2::-1]), None
    samples = _read_samples(picture, decode)
    colour = picture.number(PHOTOMETRIC, 1)
    kinds = {0: 1, 1: 1, 2: 3, 5: 4}  # colour channels; the rest are extra samples
    pixels, extra = samples[..., : kinds[colour]], samples[..., kinds[colour] :]
    top = np.iinfo(samples.dtype).max
    if colour == 0:  # WhiteIsZero
        pixels = top - pixels
    if colour == 5:
        pixels = _cmyk_to_rgb(pixels)
    alpha, associated = _find_alpha(picture, extra)
    if alpha is not None and associated:
        pixels = _unpremultiplied(pixels, alpha)
    return np.ascontiguousarray(pixels), alpha


def _find_alpha(picture: TiffPicture, extra: AnyArray) -> tuple[AnyArray | None, bool]:
    """The opacity among the extra samples, and True if the colours were multiplied by it.

    TIFF 6.0, section 18, ExtraSamples: 1 is associated alpha (multiplied), 2 unassociated, 0
    unspecified. If no sample is marked as alpha, the first one is taken as unassociated alpha, because
    editors write alpha in this way and readers expect it.
    """
    if not extra.shape[2]:
        return None, False
    kinds = picture.tags[EXTRA_SAMPLES].numbers() if EXTRA_SAMPLES in picture.tags else ()
    for i, kind in enumerate(kinds[: extra.shape[2]]):
        if kind in (1, 2):
            return np.ascontiguousarray(extra[..., i]), kind == 1
    return np.ascontiguousarray(extra[..., 0]), False


def _with_directory(picture: TiffPicture, tags: Tags) -> bytes:
    """The file with `tags` as its only directory.

    The new directory is appended, and the header is changed to point to it; the strips stay where they
    are.
    """
    data = picture.data + b"\0" * (-len(picture.data) % 8)
    block = pack_ifd(tags, len(data), order=picture.order, big=picture.big)
    form, at = ("Q", 8) if picture.big else ("I", 4)
    if not picture.big and len(data) + len(block) >= 1 << 32:
        raise UnsupportedError("is a TIFF of 4 GB, which is too large")
    return (
        data[:at] + struct.pack(picture.order + form, len(data)) + data[at + struct.calcsize(form) :] + block
    )


def _read_samples(picture: TiffPicture, decode: Decode) -> AnyArray:
    """The samples [H, W, samples] as stored, of uint8 or uint16. Raises DamagedError.

    If the channels are stored in separate planes, each plane is decoded as a picture of its own.
    """
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
            PHOTOMETRIC: shorts(1),  # grey, so that OpenCV converts nothing
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
            raise DamagedError("has other pixels than its header declares")
        result[..., plane * together : (plane + 1) * together] = stored.reshape(
            picture.height, picture.width, together
        )
    # Horizontal differencing (TIFF 6.0, section 14) restarts in each tile. It cannot be left to OpenCV, which
    # would take the next channel of the wide grey picture for the pixel to the left.
    if picture.number(PREDICTOR, 1) == 2:
        for left in range(0, picture.width, wide):
            block = result[:, left : left + wide]
            np.cumsum(block, axis=1, dtype=result.dtype, out=block)
    return result


def _cmyk_to_rgb(ink: AnyArray) -> AnyArray:
    """RGB from CMYK without a colour profile: the light each ink lets through, times that of black."""
    top = int(np.iinfo(ink.dtype).max)
    through = (top - ink).astype(np.uint32)
    colours: AnyArray = (through[..., :3] * through[..., 3:] + top // 2) // top
    return colours.astype(ink.dtype)


def _unpremultiplied(pixels: AnyArray, alpha: AnyArray) -> AnyArray:
    """The colours before they were multiplied by their opacity `alpha` [H, W], rounded to nearest."""
    top = int(np.iinfo(pixels.dtype).max)
    # premultiplied colours are 0 where the opacity is 0; dividing by 1 keeps them 0
    opacity = np.maximum(alpha, 1).astype(np.uint32)[..., None]
    colours: AnyArray = np.minimum((pixels.astype(np.uint32) * top + opacity // 2) // opacity, top)
    return colours.astype(pixels.dtype)
