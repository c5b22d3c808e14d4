"""TIFF reader: which page of a file is the picture, its tags, and its samples as RGB or grey.

libvips decodes the samples. What it leaves to the caller is decided here: which extra sample is the
opacity, colours that were multiplied by it, CMYK, and files whose first page is a thumbnail.

Not supported: Lab, more than 5 channels, camera raw.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from sr_deploy.images.codecs.headers import DamagedError, SizeCheck, UnsupportedError
from sr_deploy.images.codecs.pixels import divided_by_alpha, from_floats
from sr_deploy.images.codecs.vips import decode, light_of_ink
from sr_deploy.images.metadata.blobs import Metadata
from sr_deploy.images.metadata.density import aspect_from_tags, from_tags
from sr_deploy.images.metadata.geo import GEO_TAGS
from sr_deploy.images.metadata.ifd import (
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
from sr_deploy.images.metadata.iptc import unwrapped
from sr_deploy.system.arrays import AnyArray

# Numbers of tags: TIFF 6.0, sections 8, 14 (PREDICTOR), 15 (tiles) and 19 (SAMPLE_FORMAT); 700 and 34675 from
# the XMP and ICC specifications.
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
PLANAR, PREDICTOR, COLOUR_MAP, EXTRA_SAMPLES, SAMPLE_FORMAT = 284, 317, 320, 338, 339
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
XMP, ICC, IPTC, PHOTOSHOP = 700, 34675, 33723, 34377
_DESCRIPTIVE = (269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
"""Tags that describe the origin of a picture, not its storage. They are copied between TIFF and EXIF.

18246, 18249 and 40091 to 40095 are those of Windows: stars, title, comment, author, keywords, subject.
"""

_COEFFICIENTS, _SUBSAMPLING, _BLACK_WHITE = 529, 530, 532
"""Tags of YCbCr: weights of red, green and blue in Y; subsampling of Cb and Cr; codes of black and white."""
_INK_SET = 332  # TIFF 6.0, section 16: 1 for CMYK
_RATIONAL = 5  # TIFF type: two 32-bit numbers
_JPEG = 7  # compression
NEW_SUBFILE, OLD_SUBFILE, SUB_PICTURES, DNG_VERSION = 254, 255, 330, 50706
"""Kind of a page (TIFF 6.0, section 8), offsets of further pictures, and the version of a DNG."""

# Compressions that libvips reads. 32946 is the older number of Deflate.
_COMPRESSIONS = {
    1: "none",
    2: "CCITT fax (RLE)",
    3: "CCITT fax (G3)",
    4: "CCITT fax (G4)",
    5: "LZW",
    7: "JPEG",
    8: "Deflate",
    32773: "PackBits",
    32946: "Deflate",
    50001: "WebP",
}
_NOT_READ = {
    6: "old JPEG",
    50000: "zstd",
    34661: "JBIG",
    34676: "SGILog",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    52546: "JPEG XL",
}
"""Names of compressions that are refused; libvips' wheels come without zstd and LZMA (seen in 8.18.7)."""
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
"""Kind of colour -> fewest channels: 0 grey with 0 as white, 1 grey, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr."""
_COLOURS_NOT_READ = {4: "mask", 8: "Lab", 9: "Lab", 10: "Lab", 32844: "LogL", 32845: "LogLuv"}
"""Names of kinds of colour that are refused."""
_STORAGE = frozenset(
    {
        WIDTH,
        HEIGHT,
        COMPRESSION,
        266,
        292,
        293,
        347,
        PREDICTOR,
        ROWS_PER_STRIP,
        TILE_WIDTH,
        TILE_HEIGHT,
        SAMPLE_FORMAT,
    }
)
"""Tags that a single channel needs to be decoded: 266 is the fill order, 292 and 293 are the options of fax
compression, 347 has the tables of JPEG."""
_RAW_COLOURS = frozenset({32803, 34892})
"""Kinds of colour of camera raw: what the sensor saw through its colour filters (CFA), or linear raw."""


@dataclass(frozen=True, kw_only=True)
class TiffPicture:
    """The picture of a TIFF file; its parts are checked to lie inside the file."""

    data: bytes
    """Content of the file."""
    order: str
    """Byte order as a struct prefix, `<` or `>`."""
    big: bool
    """True for a BigTIFF."""
    tags: dict[int, Tag]
    """Tags of the picture's directory."""
    page: int
    """Number of the picture's page, from 0."""
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
    metadata: Metadata
    """The tags about the camera, colour, density and place, as metadata."""

    @property
    def floats(self) -> bool:
        """True if the samples are floating-point numbers, which become 16-bit ones."""
        return self.number(SAMPLE_FORMAT, 1) == 3

    def number(self, tag: int, default: int) -> int:
        """The first value of `tag`, or `default` if the tag is missing.

        Raises IfdError if it is not a number.
        """
        return _number(self.tags, tag, default)


def kinds_read() -> list[str]:
    """Names of the compressions of TIFF files that are read."""
    return list(dict.fromkeys(_COMPRESSIONS.values()))


def kinds_not_read() -> list[str]:
    """Names of the compressions and kinds of colour of TIFF files that are refused."""
    return [
        *dict.fromkeys(_NOT_READ.values()),
        *dict.fromkeys(_COLOURS_NOT_READ.values()),
        "subsampled YCbCr without JPEG",
        "floating point of 64 bits",
        "camera raw",
    ]


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
    pages = _pages(data, order, big)
    first = read_ifd(data, pages[0], order, big)
    page, tags = _choose_page(data, pages, first, order, big)
    _refuse_raw(data, first, tags, order, big)
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
        page=page,
        width=width,
        height=height,
        samples=_number(tags, SAMPLES, 1),
        bits=bits.pop(),
        frames=len(pages),
        orientation=_number(tags, ORIENTATION, 1),
        metadata=_metadata(data, first | tags, tags, order, big),
    )
    _check_kind(picture)
    _check_whole(picture)
    return picture


def _metadata(
    data: bytes, described: dict[int, Tag], tags: dict[int, Tag], order: str, big: bool
) -> Metadata:
    """The metadata among `described`; what depends on the page is taken from its own `tags`."""
    blobs = {number: tag.value for number, tag in described.items() if number in (XMP, IPTC, PHOTOSHOP)}
    iptc = blobs.get(IPTC) or unwrapped(blobs.get(PHOTOSHOP, b""))
    return Metadata(
        exif=_exif_block(data, described, order, big),
        icc=tags[ICC].value if ICC in tags else None,
        xmp=blobs.get(XMP),
        dpi=from_tags(tags),
        aspect=aspect_from_tags(tags),
        iptc=iptc,
        geo={number: tags[number] for number in GEO_TAGS if number in tags},
    )


def _pages(data: bytes, order: str, big: bool) -> list[int]:
    """Offsets of the directories in the chain, at most 10000.

    A chain that runs in a circle ends after one round.
    """
    at = first_offset(data, order, big)
    found = {at: next_ifd(data, at, order, big)}
    with suppress(IfdError):  # a broken later page does not affect the first
        while (at := found[at]) and at not in found and len(found) < 10_000:
            found[at] = next_ifd(data, at, order, big)
    return list(found)


def _is_reduced(tags: dict[int, Tag]) -> bool:
    """True for a page that is a smaller copy of another one, or a mask (TIFF 6.0, NewSubfileType)."""
    return bool(_number(tags, NEW_SUBFILE, 0) & 0b101) or _number(tags, OLD_SUBFILE, 1) == 2


def _choose_page(
    data: bytes, pages: list[int], first: dict[int, Tag], order: str, big: bool
) -> tuple[int, dict[int, Tag]]:
    """Number and tags of the first page that is not a reduced copy of another; else of the first page."""
    if _is_reduced(first):
        for number, at in enumerate(pages[1:], 1):
            with suppress(IfdError):
                if not _is_reduced(tags := read_ifd(data, at, order, big)):
                    return number, tags
    return 0, first


def _refuse_raw(data: bytes, first: dict[int, Tag], tags: dict[int, Tag], order: str, big: bool) -> None:
    """Raise UnsupportedError for camera raw, whose pages are only previews of the sensor's data.

    DNG, NEF and ARW keep the sensor's data in sub-directories, CR2 in a later page.
    """
    raw = DNG_VERSION in first or data[8:10] == b"CR" or _number(tags, PHOTOMETRIC, -1) in _RAW_COLOURS
    offsets = first[SUB_PICTURES].numbers() if SUB_PICTURES in first else ()
    for at in offsets[:64]:
        with suppress(IfdError):
            raw = raw or _number(read_ifd(data, at, order, big), PHOTOMETRIC, -1) in _RAW_COLOURS
    if raw:
        raise UnsupportedError("is camera raw (DNG or another raw format), which is not supported")
    if offsets and _is_reduced(tags):
        raise UnsupportedError("is a TIFF whose full picture lies in a sub-directory, which is not supported")


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
    formats = set(picture.tags[SAMPLE_FORMAT].numbers() if SAMPLE_FORMAT in picture.tags else ())
    floats = formats == {3} and picture.bits in (16, 32) and colour in (1, 2)
    if formats - {1, 4} and not floats:
        raise UnsupportedError("is a TIFF of signed or 64-bit pixels, which is not supported")
    least = _COLOURS.get(colour)
    if packing not in _COMPRESSIONS:
        name = _NOT_READ.get(packing, f"number {packing}")
        raise UnsupportedError(f"is a TIFF with the compression {name}, which is not supported")
    if least is None:
        name = _COLOURS_NOT_READ.get(colour, f"of kind {colour}")
        raise UnsupportedError(f"is a TIFF with {name} colours, which is not supported")
    if not least <= picture.samples <= 5 or picture.number(PLANAR, 1) not in (1, 2):
        raise UnsupportedError(f"is a TIFF of {picture.samples} channels, which is not supported")
    if colour == 5 and picture.number(_INK_SET, 1) != 1:
        raise UnsupportedError("is a TIFF with inks other than CMYK, which is not supported")
    if colour == 6 and packing != _JPEG and _numbers(picture, _SUBSAMPLING, (2, 2)) != (1, 1):
        raise UnsupportedError("is a TIFF of subsampled YCbCr without JPEG, which is not supported")
    shallow = picture.bits in (1, 2, 4) and picture.samples == 1
    if not (floats or picture.bits == 8 or shallow or (picture.bits == 16 and colour not in (3, 6))):
        raise UnsupportedError(
            f"is a TIFF of colour kind {colour} and {picture.samples} channels of {picture.bits} bits, "
            "which is not supported"
        )


def _check_whole(picture: TiffPicture) -> None:
    """Raise DamagedError if a strip or tile lies outside the file, which libvips does not notice in PackBits."""
    tags = (TILE_OFFSETS, TILE_BYTES) if TILE_OFFSETS in picture.tags else (STRIP_OFFSETS, STRIP_BYTES)
    offsets, sizes = (picture.tags[tag].numbers() if tag in picture.tags else () for tag in tags)
    if not offsets:
        raise DamagedError("lacks the offsets of its pixel data")
    # old writers leave out the sizes
    ends = (offset + size for offset, size in zip_longest(offsets, sizes[: len(offsets)], fillvalue=0))
    if max(ends) > len(picture.data):
        raise DamagedError(f"ends after {len(picture.data)} bytes, in the middle of its pixel data")


def decode_tiff(
    picture: TiffPicture, check: SizeCheck, *, damaged: bool = False
) -> tuple[AnyArray, AnyArray | None]:
    """Pixels [H, W, 1 or 3] in RGB order and alpha [H, W] or None; the orientation is not applied.

    With `damaged`, what cannot be decoded is left as the decoder leaves it. Raises DamagedError or
    UnsupportedError.
    """
    colour = picture.number(PHOTOMETRIC, 1)
    if picture.samples > 1 and picture.number(PLANAR, 1) == 2:
        samples = _decode_planes(picture, check, damaged)
    else:
        warn = picture.number(COMPRESSION, 1) == _JPEG
        data = _not_divided(picture)
        samples = decode("tiff", data, check, page=picture.page, warn=warn, damaged=damaged)
    count = {0: 1, 1: 1, 5: 4}.get(colour, 3)  # colour channels; the rest are extra samples
    if colour == 3 and samples.shape[2] < 3:
        count = 1  # libvips returns one channel for a palette of greys
    if picture.floats:
        samples = from_floats(samples)
    pixels, extra = samples[..., :count], samples[..., count:]
    if colour == 5:
        pixels = light_of_ink(pixels, picture.metadata.icc)
    if colour == 6 and picture.number(COMPRESSION, 1) != _JPEG:
        pixels = _ycc_to_rgb(picture, pixels)
    # libvips adds an opacity of its own to the kinds that it reads through libtiff's RGBA interface
    alpha, associated = _find_alpha(picture, extra) if picture.samples > _COLOURS[colour] else (None, False)
    if alpha is not None and associated:
        pixels = divided_by_alpha(pixels, alpha)
    return np.ascontiguousarray(pixels), alpha


def is_plain(picture: TiffPicture) -> bool:
    """True if libvips returns the pixels row by row as they are meant: grey or RGB, not in planes, no JPEG data."""
    plain = picture.number(PHOTOMETRIC, 1) in (0, 1, 2) and picture.samples in (1, 3) and picture.bits >= 8
    single = picture.samples == 1 or picture.number(PLANAR, 1) == 1
    return plain and single and not picture.floats and picture.number(COMPRESSION, 1) != _JPEG


def _numbers(picture: TiffPicture, tag: int, default: tuple[float, ...]) -> tuple[float, ...]:
    """The values of a tag of numbers or fractions, or `default` if it is missing or of another length."""
    found = picture.tags.get(tag)
    if found is None or found.count != len(default):
        return default
    if found.kind != _RATIONAL:
        return found.numbers()
    parts = struct.unpack(f"<{2 * found.count}I", found.value)
    return tuple(above / (below or 1) for above, below in zip(parts[::2], parts[1::2], strict=True))


def _ycc_to_rgb(picture: TiffPicture, samples: AnyArray) -> AnyArray:
    """RGB from YCbCr [H, W, 3] of uint8 (TIFF 6.0, sections 20 and 21). libvips converts only what is in JPEG."""
    red, green, blue = _numbers(picture, _COEFFICIENTS, (0.299, 0.587, 0.114))
    reference = _numbers(picture, _BLACK_WHITE, (0, 255, 128, 255, 128, 255))
    result = np.empty_like(samples)
    for at in range(0, len(samples), 64):  # rows at a time, because the intermediate values take eight bytes
        values = samples[at : at + 64].astype(np.float64)
        y, cb, cr = (
            (values[..., i] - reference[2 * i]) * (top / ((reference[2 * i + 1] - reference[2 * i]) or 1))
            for i, top in enumerate((255, 127, 127))
        )
        r, b = y + cr * (2 - 2 * red), y + cb * (2 - 2 * blue)
        rgb = np.stack((r, (y - blue * b - red * r) / (green or 1), b), 2)
        result[at : at + 64] = np.rint(np.clip(rgb, 0, 255))
    return result


def _not_divided(picture: TiffPicture) -> bytes:
    """The file with associated alpha marked as unassociated.

    libvips 8.18 divides colours by their opacity, older versions do not. Here it never does, and
    `decode_tiff` divides.
    """
    tag = picture.tags.get(EXTRA_SAMPLES)
    if tag is None or 1 not in tag.numbers():
        return picture.data
    kinds = struct.pack(f"{picture.order}{tag.count}H", *(2 if kind == 1 else kind for kind in tag.numbers()))
    return picture.data[: tag.at] + kinds + picture.data[tag.at + len(kinds) :]


def _decode_planes(picture: TiffPicture, check: SizeCheck, damaged: bool) -> AnyArray:
    """The samples [H, W, samples] of a picture whose channels are stored one after another.

    Each channel is decoded as a grey picture of its own: libvips 8.18 refuses such pictures in tiles, and
    mixes up the rows of grey ones with opacity.
    """
    tiled = TILE_OFFSETS in picture.tags
    where = (TILE_OFFSETS, TILE_BYTES) if tiled else (STRIP_OFFSETS, STRIP_BYTES)
    each = len(picture.tags[where[0]].numbers()) // picture.samples
    planes = []
    for plane in range(picture.samples):
        parts = {n: picture.tags[n].numbers()[plane * each : (plane + 1) * each] for n in where}
        tags: dict[int, Tag | Tags] = {n: t for n, t in picture.tags.items() if n in _STORAGE}
        tags |= {BITS: shorts(picture.bits), PHOTOMETRIC: shorts(1), SAMPLES: shorts(1), PLANAR: shorts(1)}
        tags |= {number: longs(*part, wide=picture.big) for number, part in parts.items()}
        planes.append(decode("tiff", _with_directory(picture, tags), check, damaged=damaged)[..., 0])
    samples = np.stack(planes, 2)
    if picture.number(PHOTOMETRIC, 1) == 0:  # WhiteIsZero
        samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
    return samples


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
