"""Look into a video at a few places before the work, for frames of another size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from sr_deploy.errors import InputError
from sr_deploy.video.pyav import Container, Frame, opened, pyav
from sr_deploy.video.source import VideoInfo

_FIXED = ("mov", "mp4", "avi")
"""Containers whose header gives one size for all frames, by FFmpeg's names."""
_BY_BYTES = ("mpegts", "mpeg")
"""Containers in which places are found by bytes: their clock may begin anew."""
_PLACES = (15, 8, 4, 12, 2, 6, 10, 14, 1, 3, 5, 7, 9, 11, 13)
"""Places in sixteenths of the file. The first ones halve what is not yet known."""
_SECONDS = 0.1
"""Time after which no further place is looked at. It keeps the start short, whatever the disk."""
_PACKETS = 400
"""Packets that are read at a place to find a frame."""


def check_one_size(facts: VideoInfo) -> None:
    """Raise InputError if a frame at one of a few places in the file has another size than the first one.

    A change that lies between them is found when its frame is read.
    """
    top, bottom, left, right = facts.crop
    wanted = (facts.width + left + right, facts.height + top + bottom)
    with opened(facts.path) as container:
        if any(name in container.format.name for name in _FIXED):
            return
        end = time.monotonic() + _SECONDS
        for place in _PLACES:
            frame = _frame_at(container, facts, place)
            if frame is not None and (frame.width, frame.height) != wanted:
                raise InputError(
                    f"{facts.path}: its frames are {wanted[0]}x{wanted[1]} at the beginning and {frame.width}x{frame.height} "
                    f"after about {place * 100 // 16} % of the file; split the file where the size changes"
                )
            if time.monotonic() > end:
                return


def _frame_at(container: Container, facts: VideoInfo, place: int) -> Frame | None:
    """Return the first frame that can be decoded from a place on; None if there is none nearby."""
    by_bytes = container.format.name in _BY_BYTES
    length = container.size if by_bytes else container.duration
    if not length or length < 0:
        return None
    with suppress(pyav().FFmpegError):
        container.seek(length * place // 16, unsupported_byte_offset=by_bytes)
        return next(_frames(container, facts), None)
    return None


def _frames(container: Container, facts: VideoInfo) -> Iterator[Frame]:
    """Yield the frames from the next key frame on. Damaged packets are skipped."""
    stream = container.streams[facts.stream]
    begun = False
    for _, packet in zip(range(_PACKETS), container.demux(stream), strict=False):
        begun = begun or packet.is_keyframe
        if begun:
            with suppress(pyav().error.InvalidDataError):
                yield from packet.decode()
