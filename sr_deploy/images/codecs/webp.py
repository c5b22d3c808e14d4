"""WebP: followed to its end before decoding; metadata is added to the files that OpenCV writes.

The container is RIFF with chunks (RFC 9649, section 2): type (4 bytes), length (4 bytes,
little-endian), body, and a padding byte if the length is odd.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck, require_bytes
from sr_deploy.images.metadata.blobs import Metadata


def _chunks(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the bodies of the RIFF chunks in data[at:stop]."""
    while at + 8 <= stop:
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > stop:
            raise DamagedError("ends in the middle of its data")
        yield kind, at + 8, at + 8 + length
        at += 8 + length + (length & 1)  # bodies are padded to an even length


def _size(kind: bytes, data: bytes, start: int, end: int) -> tuple[int, int]:
    """Width and height in pixels that a VP8, VP8L or VP8X chunk declares.

    VP8X: RFC 9649, section 2.7; VP8L: the same, section 3.4; VP8: RFC 6386, section 9.1. Raises
    DamagedError for an invalid header.
    """
    if end - start < 10 and not (kind == b"VP8L" and end - start >= 5):
        raise DamagedError("ends in the middle of its header")
    if kind == b"VP8X":  # the canvas size minus one, in 24 bits each
        width, height = (int.from_bytes(data[start + i : start + i + 3], "little") for i in (4, 7))
        return 1 + width, 1 + height
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, start)
        if signature != 0x2F:
            raise DamagedError("has an invalid lossless header")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)  # size minus one, in 14 bits each
    if data[start + 3 : start + 6] != b"\x9d\x01\x2a":
        raise DamagedError("has an invalid lossy header")
    width, height = struct.unpack_from("<HH", data, start + 6)
    return width & 0x3FFF, height & 0x3FFF  # the upper two bits are a scaling hint


def parse_webp(data: bytes, check: SizeCheck) -> PictureHeader:
    """Follow a still or animated WebP (RFC 9649) to its end. Raises DamagedError or the error of `check`."""
    require_bytes(data, 20)
    stop = 8 + int.from_bytes(data[4:8], "little")
    require_bytes(data, stop)
    size: tuple[int, int] | None = None
    stills = frames = 0
    lossless = False
    blobs: dict[bytes, bytes] = {}
    for kind, start, end in _chunks(data, 12, stop):
        if kind in (b"VP8X", b"VP8 ", b"VP8L"):
            found = _size(kind, data, start, end)
            check(*found)
            # an extended file declares its size twice; both must agree
            if size and found != size:
                raise DamagedError(f"declares both {size[0]}x{size[1]} and {found[0]}x{found[1]} pixels")
            size = found
            stills += kind != b"VP8X"
            lossless = lossless or kind == b"VP8L"
        elif kind == b"ANMF":
            frames += 1
        elif kind in (b"EXIF", b"ICCP", b"XMP "):
            blobs.setdefault(kind, data[start:end])
    if not size or not (stills or frames):
        raise DamagedError("has no pixel data")
    metadata = Metadata(exif=blobs.get(b"EXIF"), icc=blobs.get(b"ICCP"), xmp=blobs.get(b"XMP "))
    return PictureHeader(
        format="webp",
        width=size[0],
        height=size[1],
        payload=data[:stop],
        frames=max(1, frames),
        metadata=metadata,
        lossless=lossless,
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    """A RIFF chunk with its padding."""
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)


def _flags(metadata: Metadata, alpha: bool) -> int:
    """The flags of a VP8X chunk (RFC 9649, section 2.7): ICC profile, alpha, EXIF, XMP."""
    return 0x20 * bool(metadata.icc) | 0x10 * alpha | 0x08 * bool(metadata.exif) | 0x04 * bool(metadata.xmp)


def with_metadata(encoded: bytes, metadata: Metadata, width: int, height: int) -> bytes:
    """A still WebP file with the metadata blobs added.

    `encoded` is a still WebP of `width` x `height` pixels. The order of chunks is that of RFC 9649,
    section 2.7: VP8X, ICCP, picture, EXIF, XMP.
    """
    chunks = [(kind, encoded[start:end]) for kind, start, end in _chunks(encoded, 12, len(encoded))]
    kept = [(kind, body) for kind, body in chunks if kind in (b"ALPH", b"VP8 ", b"VP8L")]
    # the flag for alpha must agree with the picture: an ALPH chunk, or the alpha bit of a lossless header
    alpha = any(kind == b"ALPH" or (kind == b"VP8L" and body[4] & 0x10) for kind, body in kept)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = [_chunk(b"VP8X", bytes([_flags(metadata, alpha), 0, 0, 0]) + size)]
    if metadata.icc:
        parts.append(_chunk(b"ICCP", metadata.icc))
    kept += [(kind, body) for kind, body in ((b"EXIF", metadata.exif), (b"XMP ", metadata.xmp)) if body]
    parts += [_chunk(kind, body) for kind, body in kept]
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
