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
from typing import Any, BinaryIO

import numpy as np

from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck, require_bytes
from sr_deploy.images.codecs.strips import Strips, deflated, packed_in_order
from sr_deploy.images.metadata.blobs import COLOUR_CHUNKS, Metadata
from sr_deploy.images.metadata.density import aspect_from_phys, aspect_to_phys, from_phys, to_phys
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
    """(type, start, end) of every chunk up to IEND, where `start` and `end` delimit its body.

    A wrong checksum raises DamagedError in a chunk that the pixels need (section 5.4: a capital first letter).
    Another chunk with a wrong checksum is skipped, as libpng does.
    """
    at = 8
    while True:
        require_bytes(data, at + 12)
        length, kind = struct.unpack_from(">I4s", data, at)
        start, end = at + 8, at + 8 + length
        require_bytes(data, end + 4)
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
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


def _text(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Keyword and uncompressed text of a tEXt, zTXt or iTXt chunk (PNG specification, section 11.3.3).

    The text is empty if it is broken or too large.
    """
    keyword, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return keyword, rest
    if kind == b"zTXt":  # the first byte is the compression method
        return keyword, _inflate(rest[1:]) or b""
    parts = rest[2:].split(b"\0", 2)  # language tag, translated keyword, text
    if len(parts) != 3:
        return keyword, b""
    return keyword, (_inflate(parts[2]) or b"") if rest[:1] == b"\1" else parts[2]


def _raw_profile(text: bytes) -> bytes:
    """The bytes in a text of the kind "Raw profile type ...", as ImageMagick and exiv2 write it; empty if broken.

    Lines: an empty one, the type, the number of bytes, hexadecimal digits.
    """
    lines = text.strip().split(b"\n", 2)
    try:
        return bytes.fromhex(lines[2].decode("ascii")) if len(lines) == 3 else b""
    except ValueError:
        return b""


def _as_raw_profile(kind: str, data: bytes) -> bytes:
    """The body of a zTXt chunk that holds `data` as a raw profile."""
    digits = data.hex().encode()
    lines = b"\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = b"\n%s\n%8d\n%s\n" % (kind.encode(), len(data), lines)
    return b"Raw profile type %s\0\0" % kind.encode() + zlib.compress(text)


class _PngMetadata:
    """The metadata chunks of a PNG, collected one by one."""

    def __init__(self) -> None:
        self._parts: dict[str, Any] = {}
        self._late: dict[str, Any] = {}  # raw profiles count only if there is no chunk made for the purpose
        self._kept: list[tuple[bytes, bytes]] = []

    def take(self, kind: bytes, body: bytes) -> None:
        """Store the body of a chunk if it is metadata. The first chunk of a kind counts."""
        parts = self._parts
        if kind == b"pHYs":
            parts.setdefault("dpi", from_phys(body))
            parts.setdefault("aspect", aspect_from_phys(body))
        elif kind == b"eXIf":
            parts.setdefault("exif", body)
        elif kind == b"iCCP" and "icc" not in parts:
            parts["icc"] = _inflate(body.partition(b"\0")[2][1:])
        elif kind in COLOUR_CHUNKS:
            self._kept.append((kind, body))
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            self._take_text(kind, body)

    def _take_text(self, kind: bytes, body: bytes) -> None:
        keyword, text = _text(kind, body)
        if keyword == b"XML:com.adobe.xmp":
            if text:
                self._parts.setdefault("xmp", text)
        elif keyword.startswith(b"Raw profile type ") and (data := _raw_profile(text)):
            name = keyword[17:].lower()
            if name in (b"exif", b"app1") and data.startswith(b"Exif\0\0"):
                self._late.setdefault("exif", data)
            elif name == b"xmp":
                self._late.setdefault("xmp", data)
            elif name == b"iptc":
                from sr_deploy.images.metadata.iptc import unwrapped

                self._late.setdefault("iptc", unwrapped(data))
            else:
                self._kept.append((kind, body))
        else:
            self._kept.append((kind, body))

    def metadata(self) -> Metadata:
        """The parts as one value."""
        return Metadata(**(self._late | self._parts), chunks=tuple(self._kept))


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
    found = _PngMetadata()
    frames, packed = 1, 0
    # The decoder gets only the chunks that the pixels need: others could make it fail or wait.
    keep = [data[:8]]
    for kind, start, end in _chunks(data):
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            keep.append(data[start - 8 : end + 4])
            packed += (end - start) * (kind == b"IDAT")
        elif kind == b"acTL" and end - start >= 4:
            frames = max(1, struct.unpack_from(">I", data, start)[0])
        else:
            found.take(kind, data[start:end])
    needed = height * (width * _CHANNELS[colour] * depth // 8)
    if packed * _DEFLATE_RATIO < needed:
        raise DamagedError(f"holds {packed} bytes of pixel data, too few for {width}x{height} pixels")
    return PictureHeader(
        format="png",
        payload=b"".join(keep),
        frames=frames,
        metadata=found.metadata(),
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
    chunks += b"".join(_chunk(kind, body) for kind, body in metadata.chunks)
    if metadata.dpi or metadata.aspect:
        shape = metadata.aspect or (1, 1)
        chunks += _chunk(b"pHYs", to_phys(metadata.dpi) if metadata.dpi else aspect_to_phys(shape))
    if metadata.iptc:
        from sr_deploy.images.metadata.iptc import wrapped

        chunks += _chunk(b"zTXt", _as_raw_profile("iptc", wrapped(metadata.iptc)))
    if metadata.comment:
        chunks += _chunk(b"tEXt", b"Comment\0", metadata.comment)
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
    """Adler-32 (RFC 1950, section 8.2) of two adjacent blocks, from the checksum of each.

    `length` is the number of bytes in the second block. 65521 is the largest prime below 2**16.
    """
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
