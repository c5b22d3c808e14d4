"""JPEG: followed to its end before decoding, because libjpeg skips what it does not know inside of a scan; metadata is
added to the data that OpenCV writes.

A file is a series of segments (ITU T.81, annex B): a marker (0xFF and a code), a length (2 bytes,
big-endian, which counts itself) and a body. Entropy-coded data follows a start of scan (SOS, 0xDA).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

from sr_deploy.images.codecs.headers import (
    DamagedError,
    PictureHeader,
    SizeCheck,
    UnsupportedError,
    require_bytes,
)
from sr_deploy.images.metadata.blobs import Metadata
from sr_deploy.images.metadata.density import aspect_from_jfif, from_jfif, to_jfif
from sr_deploy.images.metadata.ifd import IfdError, byte_order, first_offset, read_ifd
from sr_deploy.images.metadata.iptc import JPEG_PREFIX, unwrapped, wrapped

NO_END = "has no end marker, although all its rows are there"
"""Note on a JPEG that is whole but for its last bytes."""
_MAX_SCANS = 500
"""Largest number of scans. Each costs a pass over all pixels; encoders write about ten."""
# A marker inside entropy-coded data: 0xFF00 is a data byte 0xFF, and 0xFFD0 to 0xFFD7 are restart markers.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
# Start of frame, SOF0 to SOF15. The codes C4 (DHT), C8 (reserved) and CC (DAC) have other meanings.
_JPEG_LS = 0xF7  # start of frame of JPEG-LS (ITU T.87)
_FRAME_MARKERS = (frozenset(range(0xC0, 0xD0)) | {_JPEG_LS}) - {0xC4, 0xC8, 0xCC}
_XMP = b"http://ns.adobe.com/xap/1.0/\0"  # prefix in APP1 (XMP specification, part 3)
_ICC = b"ICC_PROFILE\0"  # prefix in APP2 (ICC.1, annex B)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the body of every segment, up to and including EOI.

    For SOS, `end` is the end of the entropy-coded data behind the segment. Raises DamagedError if the
    file ends before EOI, except right behind entropy-coded data.
    """
    at, scanned = 2, False
    while True:
        found = _MARKER.search(data, at)
        if not found:
            # `parse_jpeg` decides whether the end marker is all that is missing; a part of it tells of a cut
            if data[-1:] != b"\xff" and at == len(data) and scanned:
                return
            raise DamagedError("ends before its pixel data does")
        marker, start = data[found.end() - 1], found.end()
        if marker == 0xD9:
            yield marker, start, start
            return
        if marker in (0x01, 0xD8):  # TEM and SOI have no length and no body
            at = start
            continue
        require_bytes(data, start + 2)
        end = start + int.from_bytes(data[start : start + 2], "big")
        require_bytes(data, end)
        if marker == 0xDA:
            scanned = True
            following = _MARKER.search(data, end)
            end = following.start() if following else len(data)
        yield marker, start + 2, end
        at = end


def _join_icc(parts: dict[int, bytes], count: int) -> bytes | None:
    """The ICC profile joined from its `count` numbered parts; None if a part is missing or there is none."""
    whole = [parts.get(i) for i in range(1, count + 1)]
    return b"".join(p for p in whole if p) if whole and all(whole) else None


def parse_jpeg(data: bytes, check: SizeCheck) -> PictureHeader:
    """Follow a JPEG (ITU T.81) to its end marker. Bytes after it are ignored.

    Raises DamagedError, UnsupportedError, or the error of `check`.
    """
    frame: tuple[int, int, int, int] | None = None
    found = _JpegMetadata()
    scanned = scans = stop = 0
    for marker, start, end in _segments(data):
        if marker in _FRAME_MARKERS:
            if frame or end - start < 6:
                raise DamagedError("has an invalid JPEG frame header")
            precision, height, width, parts = struct.unpack_from(">BHHB", data, start)
            check(width, height)
            if marker == _JPEG_LS:
                raise UnsupportedError("is JPEG-LS, which is not supported")
            if precision != 8 or parts not in (1, 3, 4):
                raise UnsupportedError(
                    f"is a JPEG of {precision} bits and {parts} components, which is not supported"
                )
            frame = (marker, width, height, parts)
        elif marker == 0xDA:
            scanned += end - start
            scans += 1
        else:
            found.take(marker, data[start:end])
        stop = end
    if not frame or not scanned:
        raise DamagedError("has no pixel data")
    if scans > _MAX_SCANS:
        raise DamagedError(f"has {scans} scans, which would take very long to decode")
    kind, width, height, parts = frame
    # Huffman coding takes at least one bit for each MCU, which covers at most 32x32 pixels (ITU T.81, A.2: the
    # sampling factors go up to 4). Arithmetic coding (SOF9 and higher) may take less.
    if kind < 0xC9 and scanned * 8 < (width // 32) * (height // 32):
        raise DamagedError(f"holds {scanned} bytes of pixel data, too few for {width}x{height} pixels")
    payload, notes = data[:stop], list(found.notes)
    if not data.startswith(b"\xff\xd9", stop - 2):
        if kind not in (0xC0, 0xC1) or scans != 1:  # more scans might be missing
            raise DamagedError("ends before its end marker")
        payload += b"\xff\xd9"
        notes.append(NO_END)
    return PictureHeader(
        format="jpeg",
        payload=payload,
        ink=parts == 4,
        quality=found.quality,
        metadata=found.metadata(),
        notes=tuple(notes),
    )


class _JpegMetadata:
    """The metadata segments of a JPEG, collected one by one."""

    def __init__(self) -> None:
        self._parts: dict[str, Any] = {}
        self._icc: dict[
            int, bytes
        ] = {}  # number of a part, from 1 -> its bytes; the parts' number follows it
        self._icc_count = 0
        self.quality: int | None = None
        """Quality (1 to 100) by the table of the luminance."""
        self.notes: list[str] = []
        """Notes on what of the file is not used."""

    def take(self, marker: int, body: bytes) -> None:
        """Store the body of a segment if it is metadata. The first segment of a kind counts."""
        parts = self._parts
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            self._parts = {"dpi": from_jfif(body), "aspect": aspect_from_jfif(body), **parts}
        elif marker == 0xE1 and body.startswith(b"Exif\0"):
            parts.setdefault("exif", body[6:])
        elif marker == 0xE1 and body.startswith(_XMP):
            parts.setdefault("xmp", body[len(_XMP) :])
        elif marker == 0xE2 and body.startswith(_ICC) and len(body) > 14:
            self._icc.setdefault(body[12], body[14:])
            self._icc_count = body[13]
        elif marker == 0xE2 and body.startswith(b"MPF\0") and (count := _count_pictures(body[4:])) > 1:
            self.notes.append(f"holds {count} pictures: only the first is used")
        elif marker == 0xED and body.startswith(JPEG_PREFIX):
            parts.setdefault("iptc", unwrapped(body[len(JPEG_PREFIX) :]))
        elif marker == 0xFE:
            parts.setdefault("comment", body)
        elif marker == 0xDB and self.quality is None:
            self.quality = _quality_of(body)

    def metadata(self) -> Metadata:
        """The parts as one value."""
        return Metadata(**self._parts, icc=_join_icc(self._icc, self._icc_count))


def _quality_of(tables: bytes) -> int | None:
    """The quality on libjpeg's scale that gives the first of these quantisation tables (ITU T.81, B.2.4.1).

    libjpeg scales an example table, whose steps add up to 3688, by 200 - 2 q percent, or by 5000 / q below 50.
    None for another table than that of the luminance, or one of 16 bits.
    """
    if len(tables) < 65 or tables[0]:
        return None
    steps = sum(tables[1:65])
    percent = 100 * steps / 3688
    if steps == 64:
        return 100
    return max(1, round((200 - percent) / 2 if percent <= 100 else 5000 / percent))


def _count_pictures(index: bytes) -> int:
    """The number of pictures that a multi-picture index lists (CIPA DC-007, tag 0xB001); 1 if it is broken."""
    try:
        order, big = byte_order(index)
        tags = read_ifd(index, first_offset(index, order, big), order, big)
        return tags[0xB001].numbers()[0]
    except (IfdError, KeyError, IndexError):
        return 1


_MAX_SEGMENT = 65533
"""Largest size in bytes of a segment's body: 65535 less the two bytes of the length."""


def _segment(marker: int, *parts: bytes) -> bytes:
    """A segment with its marker and length."""
    body = b"".join(parts)
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _icc_segments(icc: bytes) -> Iterator[bytes]:
    """APP2 segments that hold an ICC profile in numbered parts (ICC.1, annex B). The 14 bytes before each
    part are the prefix, the number of the part and the number of parts."""
    step = _MAX_SEGMENT - 14
    pieces = [icc[i : i + step] for i in range(0, len(icc), step)]
    for i, piece in enumerate(pieces, 1):
        yield _segment(0xE2, _ICC, bytes([i, len(pieces)]), piece)


def _metadata_segments(metadata: Metadata) -> tuple[bytes, tuple[str, ...]]:
    """The segments to insert after the JFIF header, and the names of blobs that are too large for JPEG.

    EXIF and XMP must fit into one segment with their prefixes of 6 and 29 bytes. A profile may use 255.
    """
    iptc = wrapped(metadata.iptc) if metadata.iptc else None
    dropped, blocks = [], b""
    for name, marker, prefix, body in (
        ("EXIF", 0xE1, b"Exif\0\0", metadata.exif),
        ("XMP", 0xE1, _XMP, metadata.xmp),
        ("ICC", 0xE2, _ICC, metadata.icc),
        ("IPTC", 0xED, JPEG_PREFIX, iptc),
        ("comment", 0xFE, b"", metadata.comment),
    ):
        if body and name == "ICC" and len(body) <= 255 * (_MAX_SEGMENT - 14):
            blocks += b"".join(_icc_segments(body))
        elif body and len(prefix) + len(body) <= _MAX_SEGMENT:
            blocks += _segment(marker, prefix, body)
        elif body:
            dropped.append(name)
    return blocks, tuple(dropped)


def with_metadata(encoded: bytes, metadata: Metadata) -> tuple[list[bytes], tuple[str, ...]]:
    """The parts of a file: `encoded` with a JFIF header and metadata at its start.

    Also returns the names of parts that are too large for JPEG.
    """
    blocks, dropped = _metadata_segments(metadata)
    head = encoded[:2] + _segment(0xE0, to_jfif(metadata.dpi, metadata.aspect)) + blocks  # SOI comes first
    return [head, encoded[2:]], dropped
