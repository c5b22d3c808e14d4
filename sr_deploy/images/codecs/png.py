"""PNG: walked and checked before it is decoded; written by all cores.

OpenCV (libpng) decodes it. It writes it on one core, at the speed a small net upscales at, and makes grey pictures
with alpha RGB; the writer here deflates strips in parallel and holds a few of them at a time.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sr_deploy.images.codecs.density import from_phys, to_phys
from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck, require_bytes
from sr_deploy.images.codecs.metadata import Metadata
from sr_deploy.images.codecs.strips import Bytes, Strips, deflated, packed_in_order

Array = npt.NDArray[Any]

_MAX_BLOB = 64 << 20
"""Bytes a compressed metadata blob may unpack to; a larger one is left out."""

_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEFLATE_RATIO = 1040  # deflate cannot shrink by more than 1032


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of every chunk up to IEND; `start` and `end` are of its body.

    A wrong checksum is an error in a chunk that the pixels need; another chunk is passed over, as libpng does.
    """
    at = 8
    while True:
        require_bytes(data, at + 12)
        length, kind = struct.unpack_from(">I4s", data, at)
        start, end = at + 8, at + 8 + length
        require_bytes(data, end + 4)
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            if not kind[0] & 0x20 or kind == b"tRNS":
                raise DamagedError(f"has a wrong checksum in its {kind.decode('latin-1')!r} part")
        else:
            yield kind, start, end
        if kind == b"IEND":
            return
        at = end + 4


def _inflate(data: bytes) -> bytes | None:
    unpacker = zlib.decompressobj()
    try:
        result = unpacker.decompress(data, _MAX_BLOB)
    except zlib.error:
        return None
    return result if unpacker.eof else None


def _xmp(body: bytes) -> bytes | None:
    """The XMP packet of an iTXt chunk, or None where it holds another text."""
    keyword, _, rest = body.partition(b"\0")
    if keyword != b"XML:com.adobe.xmp" or len(rest) < 2:
        return None
    text = rest[2:].split(b"\0", 2)
    if len(text) != 3:
        return None
    return _inflate(text[2]) if rest[0] else text[2]


def _transparent_colour(colour: int, depth: int, body: bytes) -> tuple[int, ...] | None:
    """The transparent colour of a tRNS chunk, scaled up as decoders scale pixels of fewer than 8 bits."""
    count = {0: 1, 2: 3}.get(colour)
    if count is None or len(body) < 2 * count:
        return None
    scale = 255 // ((1 << depth) - 1) if depth < 8 else 1
    return tuple((v & ((1 << depth) - 1)) * scale for v in struct.unpack_from(f">{count}H", body))


def parse_png(data: bytes, check: SizeCheck) -> PictureHeader:
    """Walk a PNG (PNG specification, third edition), checksums and all."""
    require_bytes(data, 33)
    length, kind, width, height, depth, colour, _, _, interlace = struct.unpack_from(">I4sIIBBBBB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise DamagedError("does not begin with a PNG header")
    check(width, height)
    if depth not in _DEPTHS.get(colour, ()) or interlace > 1:
        raise DamagedError(f"has a PNG header that makes no sense (colour type {colour}, {depth} bits)")
    blobs: dict[str, bytes | None] = {}
    frames, packed, key, dpi = 1, 0, None, None
    # Only what the pixels need goes to the decoder: libpng prints its opinion of the rest on stderr, and an
    # animation would come back as another frame than the still picture.
    keep = [data[:8]]
    for kind, start, end in _chunks(data):
        if kind == b"tRNS" and colour in (0, 2):
            key = _transparent_colour(colour, depth, data[start:end])
        elif kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            keep.append(data[start - 8 : end + 4])
            packed += (end - start) * (kind == b"IDAT")
        elif kind == b"acTL" and end - start >= 4:
            frames = max(1, struct.unpack_from(">I", data, start)[0])
        elif kind == b"pHYs":
            dpi = from_phys(data[start:end])
        elif kind == b"eXIf":
            blobs.setdefault("exif", data[start:end])
        elif kind == b"iCCP" and "icc" not in blobs:
            blobs["icc"] = _inflate(data[start:end].partition(b"\0")[2][1:])
        elif kind == b"iTXt" and "xmp" not in blobs and (xmp := _xmp(data[start:end])):
            blobs["xmp"] = xmp
    needed = height * (width * _CHANNELS[colour] * depth // 8)
    if packed * _DEFLATE_RATIO < needed:
        raise DamagedError(f"holds {packed} bytes of pixel data, too few for {width}x{height} pixels")
    return PictureHeader(
        format="png",
        width=width,
        height=height,
        payload=b"".join(keep),
        frames=frames,
        grey=colour in (0, 4),
        key=key,
        dpi=dpi,
        **blobs,
    )


def _chunk(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _metadata_chunks(metadata: Metadata) -> bytes:
    """What follows IHDR."""
    chunks = b""
    if metadata.icc:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0", zlib.compress(metadata.icc))
    if metadata.dpi:
        chunks += _chunk(b"pHYs", to_phys(metadata.dpi))
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        chunks += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0", metadata.xmp)
    return chunks


def _filter_average(rows: Bytes, above: Bytes, step: int) -> Bytes:
    """PNG filter 3 (PNG specification 9.2): every byte less the mean of those at its left and above it.

    Of the five it leaves deflate the least to do on photographs, at a cost that numpy's byte arithmetic hides.
    """
    up = np.concatenate((above[None], rows[:-1]))
    left = np.zeros_like(rows)
    left[:, step:] = rows[:, :-step]
    result = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    result[:, 0] = 3
    # (a & b) + ((a ^ b) >> 1) is the mean of two bytes, rounded down, without leaving bytes
    np.subtract(rows, (left & up) + ((left ^ up) >> 1), out=result[:, 1:])
    return result


def _adler_combined(first: int, second: int, length: int) -> int:
    """Adler-32 (RFC 1950) of two blocks in a row, from that of each and the second one's length."""
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % 65521
    high = ((first >> 16) + (second >> 16) + length * ((first & 0xFFFF) - 1)) % 65521
    return high << 16 | low


def _packed_strip(strips: Strips, i: int) -> tuple[bytes, int, int]:
    """The IDAT chunk of strip `i`, and the Adler-32 and length of what is deflated in it."""
    first, last = strips.span(i)
    rows = strips.read(max(first - 1, 0), last, ">")
    above, rows = (rows[0], rows[1:]) if first else (np.zeros_like(rows[0]), rows)
    filtered = _filter_average(rows, above, strips.samples * strips.pixels.itemsize).tobytes()
    header = b"" if i else b"\x78\x01"  # of the zlib stream that all strips make up
    return _chunk(b"IDAT", header, deflated(filtered, raw=True)), zlib.adler32(filtered), len(filtered)


def write_png(file: BinaryIO, pixels: Array, alpha: Array | None, metadata: Metadata) -> None:
    """Write pixels [H, W, 1 or 3] of 8 or 16 bits, and alpha [H, W] where there is one."""
    height, width, colours = pixels.shape
    strips = Strips(pixels, alpha)
    colour_type = {1: 0, 3: 2}[colours] + 4 * (alpha is not None)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour_type, 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _metadata_chunks(metadata))
    adler = 1
    for chunk, part, length in packed_in_order(partial(_packed_strip, strips), len(strips)):
        file.write(chunk)
        adler = _adler_combined(adler, part, length)
    file.write(_chunk(b"IDAT", b"\x03\0", struct.pack(">I", adler)))  # an empty last block, and the sum
    file.write(_chunk(b"IEND"))
