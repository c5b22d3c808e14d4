"""WebP: walked to its end before it is decoded; metadata put into what OpenCV wrote."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck, require_bytes
from sr_deploy.images.codecs.metadata import Metadata


def _chunks(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the bodies of the RIFF chunks in data[at:stop]."""
    while at + 8 <= stop:
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > stop:
            raise DamagedError("ends in the middle of its data")
        yield kind, at + 8, at + 8 + length
        at += 8 + length + (length & 1)


def _size(kind: bytes, data: bytes, start: int, end: int) -> tuple[int, int]:
    """Width and height that a VP8, VP8L or VP8X chunk declares."""
    if end - start < 10 and not (kind == b"VP8L" and end - start >= 5):
        raise DamagedError("ends in the middle of its header")
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[start + i : start + i + 3], "little") for i in (4, 7))
        return 1 + width, 1 + height
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, start)
        if signature != 0x2F:
            raise DamagedError("has a lossless header that makes no sense")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if data[start + 3 : start + 6] != b"\x9d\x01\x2a":
        raise DamagedError("has a lossy header that makes no sense")
    width, height = struct.unpack_from("<HH", data, start + 6)
    return width & 0x3FFF, height & 0x3FFF


def parse_webp(data: bytes, check: SizeCheck) -> PictureHeader:
    """Walk a still or animated WebP (RFC 9649)."""
    require_bytes(data, 20)
    stop = 8 + int.from_bytes(data[4:8], "little")
    require_bytes(data, stop)
    size: tuple[int, int] | None = None
    stills = frames = 0
    blobs: dict[bytes, bytes] = {}
    for kind, start, end in _chunks(data, 12, stop):
        if kind in (b"VP8X", b"VP8 ", b"VP8L"):
            found = _size(kind, data, start, end)
            check(*found)
            if size and found != size:
                raise DamagedError(f"declares both {size[0]}x{size[1]} and {found[0]}x{found[1]} pixels")
            size = found
            stills += kind != b"VP8X"
        elif kind == b"ANMF":
            frames += 1
        elif kind in (b"EXIF", b"ICCP", b"XMP "):
            blobs.setdefault(kind, data[start:end])
    if not size or not (stills or frames):
        raise DamagedError("has no pixel data")
    exif = blobs.get(b"EXIF")
    return PictureHeader(
        format="webp",
        width=size[0],
        height=size[1],
        payload=data[:stop],
        frames=max(1, frames),
        exif=exif[6:] if exif and exif.startswith(b"Exif\0\0") else exif,
        icc=blobs.get(b"ICCP"),
        xmp=blobs.get(b"XMP "),
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)


def _flags(metadata: Metadata, alpha: bool) -> int:
    """The flags of the VP8X chunk (WebP container specification)."""
    return 0x20 * bool(metadata.icc) | 0x10 * alpha | 0x08 * bool(metadata.exif) | 0x04 * bool(metadata.xmp)


def with_metadata(encoded: bytes, metadata: Metadata, width: int, height: int) -> bytes:
    """A still WebP with the blobs in it."""
    chunks = [(kind, encoded[start:end]) for kind, start, end in _chunks(encoded, 12, len(encoded))]
    kept = [(kind, body) for kind, body in chunks if kind in (b"ALPH", b"VP8 ", b"VP8L")]
    alpha = any(kind == b"ALPH" or (kind == b"VP8L" and body[4] & 0x10) for kind, body in kept)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = [_chunk(b"VP8X", bytes([_flags(metadata, alpha), 0, 0, 0]) + size)]
    if metadata.icc:
        parts.append(_chunk(b"ICCP", metadata.icc))
    parts += [_chunk(kind, body) for kind, body in kept]
    if metadata.exif:
        parts.append(_chunk(b"EXIF", metadata.exif))
    if metadata.xmp:
        parts.append(_chunk(b"XMP ", metadata.xmp))
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
