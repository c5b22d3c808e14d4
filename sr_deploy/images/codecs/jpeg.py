"""JPEG: metadata is read here, and added to the data that OpenCV writes.

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
    """(marker, start, end) of the body of every segment, up to and including the first start of scan.

    Raises DamagedError if the file ends before that.
    """
    at = 2
    while found := _MARKER.search(data, at):
        marker, start = data[found.end() - 1], found.end()
        if marker == 0xD9:
            break
        if marker in (0x01, 0xD8):  # TEM and SOI have no length and no body
            at = start
            continue
        require_bytes(data, start + 2)
        at = start + int.from_bytes(data[start : start + 2], "big")
        require_bytes(data, at)
        yield marker, start + 2, at
        if marker == 0xDA:
            return
    raise DamagedError("has no pixel data")


def _join_icc(parts: dict[int, bytes], count: int) -> bytes | None:
    """The ICC profile joined from its `count` numbered parts; None if a part is missing or there is none."""
    whole = [parts.get(i) for i in range(1, count + 1)]
    return b"".join(p for p in whole if p) if whole and all(whole) else None


def parse_jpeg(data: bytes, check: SizeCheck) -> PictureHeader:
    """Read the segments of a JPEG (ITU T.81) up to its pixels. Whether those are whole is left to the decoder.

    Raises DamagedError, UnsupportedError, or the error of `check`.
    """
    kind = inks = stop = 0
    found = _JpegMetadata()
    for marker, start, stop in _segments(data):
        if marker in _FRAME_MARKERS:
            if kind or stop - start < 6:
                raise DamagedError("has an invalid JPEG frame header")
            kind, (precision, height, width, inks) = marker, struct.unpack_from(">BHHB", data, start)
            check(width, height)
            if marker == _JPEG_LS:
                raise UnsupportedError("is JPEG-LS, which is not supported")
            if precision != 8 or inks not in (1, 3, 4):
                raise UnsupportedError(
                    f"is a JPEG of {precision} bits and {inks} components, which is not supported"
                )
        else:
            found.take(marker, data[start:stop])
    scans = data.count(b"\xff\xda", stop, data.find(b"\xff\xd9", stop))
    if scans > _MAX_SCANS:
        raise DamagedError(f"has {scans} scans, which would take very long to decode")
    notes = list(found.notes)
    # With a single scan, no marker but the end marker can follow. A part of it tells of a cut.
    if kind in (0xC0, 0xC1) and data[-1] != 0xFF and not _MARKER.search(data, stop):
        data += b"\xff\xd9"
        notes.append("has no end marker, although all its rows are there")
    return PictureHeader(
        format="jpeg",
        payload=data,
        ink=inks == 4,
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
