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


def parse_webp(data: bytes, check: SizeCheck) -> PictureHeader:
    """Follow a still or animated WebP (RFC 9649) to its end. Raises DamagedError or the error of `check`."""
    require_bytes(data, 20)
    stop = 8 + int.from_bytes(data[4:8], "little")
    require_bytes(data, stop)
    chunks = [(kind, data[start:end]) for kind, start, end in _chunks(data, 12, stop)]
    found = dict(reversed(chunks))  # the first chunk of a kind counts
    if b"VP8X" in found:  # section 2.7: the size minus one, in 24 bits each; others have at most 14 bits
        check(*(1 + int.from_bytes(found[b"VP8X"][at : at + 3], "little") for at in (4, 7)))
    return PictureHeader(
        format="webp",
        payload=data[:stop],
        frames=max(1, sum(kind == b"ANMF" for kind, _ in chunks)),
        metadata=Metadata(exif=found.get(b"EXIF"), icc=found.get(b"ICCP"), xmp=found.get(b"XMP ")),
        lossless=b"VP8L" in found,
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
