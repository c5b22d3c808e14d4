"""JPEG: followed to its end before decoding; metadata is added to the files that OpenCV writes.

A file is a series of segments (ITU T.81, annex B): a marker (0xFF and a code), a length (2 bytes,
big-endian, which counts itself) and a body. Entropy-coded data follows a start of scan (SOS, 0xDA).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from sr_deploy.images.codecs.density import from_jfif
from sr_deploy.images.codecs.headers import (
    DamagedError,
    PictureHeader,
    SizeCheck,
    UnsupportedError,
    require_bytes,
)
from sr_deploy.images.codecs.metadata import Metadata

_MAX_SCANS = 500
"""Largest number of scans. Each costs a pass over all pixels; encoders write about ten."""

# A marker inside entropy-coded data: 0xFF00 is a data byte 0xFF, and 0xFFD0 to 0xFFD7 are restart markers.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
# Start of frame, SOF0 to SOF15. The codes C4 (DHT), C8 (reserved) and CC (DAC) have other meanings.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_XMP = b"http://ns.adobe.com/xap/1.0/\0"  # prefix in APP1 (XMP specification, part 3)
_ICC = b"ICC_PROFILE\0"  # prefix in APP2 (ICC.1, annex B)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the body of every segment, up to and including EOI.

    For SOS, `end` is the end of the entropy-coded data behind the segment. Raises DamagedError if the
    file ends before EOI.
    """
    at = 2
    while True:
        found = _MARKER.search(data, at)
        if not found:
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
    exif = xmp = dpi = None
    icc_parts: dict[int, bytes] = {}
    icc_count = scanned = scans = stop = 0
    for marker, start, end in _segments(data):
        if marker in _FRAME_MARKERS:
            if frame or end - start < 6:
                raise DamagedError("has an invalid JPEG frame header")
            precision, height, width, parts = struct.unpack_from(">BHHB", data, start)
            check(width, height)
            if precision != 8 or parts not in (1, 3, 4):
                raise UnsupportedError(
                    f"is a JPEG of {precision} bits and {parts} components, which is not supported"
                )
            frame = (marker, width, height, parts)
        elif marker == 0xDA:
            scanned += end - start
            scans += 1
        elif marker == 0xE0 and data.startswith(b"JFIF\0", start):
            dpi = dpi or from_jfif(data[start:end])
        elif marker == 0xE1 and data.startswith(b"Exif\0", start):
            exif = exif or data[start + 6 : end]
        elif marker == 0xE1 and data.startswith(_XMP, start):
            xmp = xmp or data[start + len(_XMP) : end]
        elif marker == 0xE2 and data.startswith(_ICC, start) and end - start > 14:
            # after the prefix: number of this part, counted from 1, and number of parts
            icc_parts.setdefault(data[start + 12], data[start + 14 : end])
            icc_count = data[start + 13]
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
    return PictureHeader(
        format="jpeg",
        width=width,
        height=height,
        payload=data[:stop],
        grey=parts == 1,
        dpi=dpi,
        exif=exif,
        icc=_join_icc(icc_parts, icc_count),
        xmp=xmp,
    )


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
    blocks, dropped = [], []
    exif, xmp, icc = metadata.exif, metadata.xmp, metadata.icc
    if exif and len(exif) <= _MAX_SEGMENT - 6:
        blocks.append(_segment(0xE1, b"Exif\0\0", exif))
    elif exif:
        dropped.append("EXIF")
    if xmp and len(xmp) <= _MAX_SEGMENT - 29:
        blocks.append(_segment(0xE1, _XMP, xmp))
    elif xmp:
        dropped.append("XMP")
    if icc and len(icc) <= 255 * (_MAX_SEGMENT - 14):
        blocks.extend(_icc_segments(icc))
    elif icc:
        dropped.append("ICC")
    return b"".join(blocks), tuple(dropped)


def copy_with_metadata(path: Path, metadata: Metadata) -> tuple[str, ...]:
    """Insert the metadata blobs after the JFIF header of the file at `path`.

    Returns the names of blobs that are too large for JPEG. The file is copied piece by piece to a
    temporary file beside it, because the picture may be large.
    """
    import shutil

    blocks, dropped = _metadata_segments(metadata)
    second = path.with_name(path.name + ".2")
    try:
        with path.open("rb") as source, second.open("xb") as target:
            head = source.read(4)
            if head[2:] == b"\xff\xe0":  # JFIF demands that its APP0 segment comes first
                length = source.read(2)
                head += length + source.read(int.from_bytes(length, "big") - 2)
            else:
                source.seek(2)
                head = head[:2]
            target.write(head + blocks)
            shutil.copyfileobj(source, target, 1 << 20)
        second.replace(path)
    finally:
        second.unlink(missing_ok=True)
    return dropped
