"""Facts about a stream that PyAV does not show, read from a Matroska header that FFmpeg writes for it in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress

from sr_deploy.video.pyav import Stream, add_copy, pyav

_MASTERS = {0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x55B0, 0x41E4}
"""EBML identifiers of the elements that are entered: Segment, Tracks, TrackEntry, Video, Colour,
BlockAdditionMapping (RFC 9559)."""
_TAKEN = {0x54AA, 0x54BB, 0x54CC, 0x54DD, 0x55B7, 0x55B8, 0x41ED}
"""EBML identifiers of the numbers: PixelCrop of bottom, top, left and right, ChromaSiting, and BlockAddIDExtraData,
which holds the configuration of Dolby Vision (RFC 9559)."""


def header_of(stream: Stream) -> Mapping[int, int]:
    """Return the unsigned numbers in the Matroska header that FFmpeg writes for a stream, by their EBML identifier.

    PyAV 18.1 gives no access to cropping, the position of chroma samples and Dolby Vision. The header has them. Empty if
    Matroska cannot hold the stream.
    """
    file = io.BytesIO()
    with suppress(pyav().FFmpegError, ValueError), pyav().open(file, "w", format="matroska") as container:
        add_copy(container, stream)
        container.start_encoding()
    return _numbers_in(file.getvalue())


def _numbers_in(data: bytes) -> dict[int, int]:
    """Return the numbers of `_TAKEN` in EBML elements, by identifier (RFC 8794)."""
    found: dict[int, int] = {}
    place = 0
    while place + 2 <= len(data):
        kind, place = _ebml_number(data, place, keep_marker=True)
        if place >= len(data):
            break
        size, place = _ebml_number(data, place, keep_marker=False)
        if kind in _MASTERS:
            continue  # its elements follow
        if kind in _TAKEN:
            found[kind] = int.from_bytes(data[place : place + size], "big")
        place += size
    return found


def _ebml_number(data: bytes, place: int, *, keep_marker: bool) -> tuple[int, int]:
    """Return a number of variable length and the place after it. The leading zero bits of its first byte tell the
    length."""
    length = 9 - data[place].bit_length()
    value = int.from_bytes(data[place : place + length], "big")
    return (value if keep_marker else value & ((1 << 7 * length) - 1)), place + length
