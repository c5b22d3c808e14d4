"""PNG: checked before decoding; written by all cores.

OpenCV (libpng) decodes it. OpenCV's own writer uses one core, takes as long as a small net needs to
upscale, and stores grey pictures with alpha as RGB. The writer here deflates strips in parallel and
holds only a few of them at a time.

Chunks (PNG specification, third edition, section 5.3): length (4 bytes, big-endian), type (4), body,
CRC-32 of type and body (4).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import numpy as np

from sr_deploy.images.codecs.density import from_phys, to_phys
from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck, require_bytes
from sr_deploy.images.codecs.metadata import Metadata
from sr_deploy.images.codecs.strips import Strips, deflated, packed_in_order
from sr_deploy.system.arrays import AnyArray, Uint8Array

_MAX_BLOB = 64 << 20
"""Largest size in bytes of an uncompressed metadata blob. Larger blobs are left out: a few compressed
bytes could otherwise fill the memory.
"""

# Allowed bit depths and number of channels per colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha,
# 6 RGB with alpha (PNG specification, section 11.2.1).
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEFLATE_RATIO = 1040  # deflate shrinks data by a factor of at most 1032


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of every chunk up to IEND, where `start` and `end` delimit its body. A wrong
    checksum raises DamagedError in a chunk that the pixels need. Another chunk with a wrong checksum is
    skipped, as libpng does."""
    at = 8
    while True:
        require_bytes(data, at + 12)
        length, kind = struct.unpack_from(">I4s", data, at)
        start, end = at + 8, at + 8 + length
        require_bytes(data, end + 4)
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            # a capital first letter marks a critical chunk (PNG specification, section 5.4)
            if not kind[0] & 0x20 or kind == b"tRNS":
                raise DamagedError(f"has a wrong checksum in its {kind.decode('latin-1')!r} chunk")
        else:
            yield kind, start, end
        if kind == b"IEND":
            return
        at = end + 4


def _inflate(data: bytes) -> bytes | None:
    """The uncompressed bytes of a zlib stream; None if it is broken or larger than `_MAX_BLOB`."""
    unpacker = zlib.decompressobj()
    try:
        result = unpacker.decompress(data, _MAX_BLOB)
    except zlib.error:
        return None
    return result if unpacker.eof else None


def _xmp(body: bytes) -> bytes | None:
    """The XMP packet of an iTXt chunk (PNG specification, section 11.3.3.4); None if it holds another
    text.
    """
    keyword, _, rest = body.partition(b"\0")
    if keyword != b"XML:com.adobe.xmp" or len(rest) < 2:
        return None
    text = rest[2:].split(b"\0", 2)  # language tag, translated keyword, text
    if len(text) != 3:
        return None
    return _inflate(text[2]) if rest[0] else text[2]


def _transparent_colour(colour: int, depth: int, body: bytes) -> tuple[int, ...] | None:
    """The transparent colour of a tRNS chunk, scaled to 8 bits; None without one (PNG, 11.3.1.1)."""
    count = {0: 1, 2: 3}.get(colour)
    if count is None or len(body) < 2 * count:
        return None
    scale = 255 // ((1 << depth) - 1) if depth < 8 else 1
    return tuple((v & ((1 << depth) - 1)) * scale for v in struct.unpack_from(f">{count}H", body))


def parse_png(data: bytes, check: SizeCheck) -> PictureHeader:
    """Follow a PNG to its end, checksums included (PNG specification, third edition).

    Raises DamagedError or the error of `check`.
    """
    require_bytes(data, 33)
    length, kind, width, height, depth, colour, _, _, interlace = struct.unpack_from(">I4sIIBBBBB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise DamagedError("does not begin with a PNG header")
    check(width, height)
    if depth not in _DEPTHS.get(colour, ()) or interlace > 1:
        raise DamagedError(f"has an invalid PNG header (colour type {colour}, {depth} bits)")
    blobs: dict[str, bytes | None] = {}
    frames, packed, key, dpi = 1, 0, None, None
    # The decoder gets only the chunks that the pixels need: libpng prints warnings about others on stderr, and
    # for an animation OpenCV would return a frame instead of the still picture.
    keep = [data[:8]]
    for kind, start, end in _chunks(data):
        if kind == b"tRNS" and colour in (0, 2):  # applied in `image`, not by OpenCV
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
    """A PNG chunk with its length and checksum."""
    body = b"".join(parts)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _metadata_chunks(metadata: Metadata) -> bytes:
    """The metadata chunks that follow IHDR."""
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


def _filter_average(rows: Uint8Array, above: Uint8Array, step: int) -> Uint8Array:
    """Apply PNG filter 3, Average (PNG specification, section 9.2), and put the filter type before each row.

    Every byte becomes its difference from the mean of the bytes to the left (`step` bytes back) and
    above. `rows` is [rows, bytes], `above` the row before them; the result is [rows, 1 + bytes].

    Of the five filters this one leaves deflate the least work on photographs, and numpy computes it so
    fast that its cost does not matter.
    """
    up = np.concatenate((above[None], rows[:-1]))
    left = np.zeros_like(rows)
    left[:, step:] = rows[:, :-step]
    result = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    result[:, 0] = 3
    # (a & b) + ((a ^ b) >> 1) is the mean of two bytes, rounded down, and cannot overflow a byte
    np.subtract(rows, (left & up) + ((left ^ up) >> 1), out=result[:, 1:])
    return result


def _adler_combined(first: int, second: int, length: int) -> int:
    """Adler-32 (RFC 1950, section 8.2) of two adjacent blocks, from the checksum of each. `length` is the
    number of bytes in the second block. 65521 is the largest prime below 2**16."""
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % 65521
    high = ((first >> 16) + (second >> 16) + length * ((first & 0xFFFF) - 1)) % 65521
    return high << 16 | low


def _packed_strip(strips: Strips, i: int) -> tuple[bytes, int, int]:
    """The IDAT chunk of strip `i`, and the Adler-32 and length of its uncompressed bytes."""
    first, last = strips.span(i)
    rows = strips.read(max(first - 1, 0), last, ">")  # one row more: the filter looks at the row above
    above, rows = (rows[0], rows[1:]) if first else (np.zeros_like(rows[0]), rows)
    filtered = _filter_average(rows, above, strips.samples * strips.pixels.itemsize).tobytes()
    header = b"" if i else b"\x78\x01"  # all strips form one zlib stream, which needs one header
    return _chunk(b"IDAT", header, deflated(filtered, raw=True)), zlib.adler32(filtered), len(filtered)


def write_png(file: BinaryIO, pixels: AnyArray, alpha: AnyArray | None, metadata: Metadata) -> None:
    """Write pixels [H, W, 1 or 3] of 8 or 16 bits, and alpha [H, W] if not None.

    Each strip becomes one IDAT chunk. Raises OSError from `file`.
    """
    height, width, colours = pixels.shape
    strips = Strips(pixels, alpha)
    colour_type = {1: 0, 3: 2}[colours] + 4 * (alpha is not None)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour_type, 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _metadata_chunks(metadata))
    adler = 1
    for chunk, part, length in packed_in_order(partial(_packed_strip, strips), len(strips)):
        file.write(chunk)
        adler = _adler_combined(adler, part, length)
    # strips end on a byte boundary but are not final: an empty final block and the checksum end the stream
    file.write(_chunk(b"IDAT", b"\x03\0", struct.pack(">I", adler)))
    file.write(_chunk(b"IEND"))
