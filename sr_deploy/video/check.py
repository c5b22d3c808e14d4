"""Check a finished video: read it back and compare every timestamp with the source."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import CheckFailedError
from sr_deploy.video.join import CopiedStream, Joined, is_filler, time_of
from sr_deploy.video.pyav import opened
from sr_deploy.video.source import main_stream

if TYPE_CHECKING:
    from sr_deploy.video.source import VideoInfo

_COPIED_KINDS = ("audio", "subtitle", "video")
"""Kinds of streams that are compared packet by packet. Matroska lists covers as video streams."""
_SYNC_TOLERANCE = Fraction(1, 1000)
"""Seconds by which two streams may be apart. MP4 stores the start of a stream in thousandths of a second."""


def check_result(path: Path, joined: Joined, time_base: Fraction) -> None:
    """Check that `path` holds every frame at its time, and every other stream complete and in sync.

    `time_base` is the unit in seconds of `joined.pts`. A container may shift all streams by the same time
    and round times to its own ticks; both are allowed. Only packets are read, nothing is decoded. Raises
    CheckFailedError on any difference.
    """
    video: list[Fraction] = []
    with opened(path) as container:
        main = main_stream(container, path).index
        others = {
            s.index: CopiedStream(s.type)
            for s in container.streams
            if s.type in _COPIED_KINDS and s.index != main
        }
        for packet in container.demux():
            time = time_of(packet.pts, packet.time_base)
            if packet.stream_index == main and time is not None:
                video.append(time)
            elif packet.stream_index in others and packet.size and not is_filler(packet):
                others[packet.stream_index].add(time, packet.size)
        ticks = {stream.index: Fraction(stream.time_base or 0) for stream in container.streams}
    if len(video) != len(joined.pts):
        raise _failed(path, f"it has {len(video)} frames, the source has {len(joined.pts)}")
    if not video:
        return
    # Packets come in decoding order, which differs from display order if the encoder uses B-frames.
    video.sort()
    shift = video[0] - joined.pts[0] * time_base
    for number, (got, pts) in enumerate(zip(video, joined.pts, strict=True), start=1):
        if abs(got - shift - pts * time_base) > ticks[main]:
            raise _failed(
                path,
                f"frame {number} is at {float(got - shift):.4f} s and should be at {float(pts * time_base):.4f} s",
            )
    for kind in _COPIED_KINDS:
        # Some containers keep a stream without packets, and others drop it.
        wanted = [copied for copied in joined.others if copied.kind == kind and copied.packets]
        found = [
            (index, copied) for index, copied in others.items() if copied.kind == kind and copied.packets
        ]
        if len(found) < len(wanted):  # more are fine: Matroska lists attached pictures as videos
            raise _failed(path, f"it has {len(found)} more {kind} streams, the source has {len(wanted)}")
        for (index, copied), expected in zip(found, wanted, strict=False):
            _check_copied(path, copied, expected, shift, ticks[index] + ticks[main] + _SYNC_TOLERANCE)


def check_times(path: Path, facts: VideoInfo, joined: Joined) -> None:
    """Compare the frames' times with those of the source's packets, which are read once more without a decoder.

    Nothing is compared if the packets do not tell: if one has no time or two have the same, or if their number is
    not that of the frames (a picture may be stored as two fields). Raises CheckFailedError.
    """
    with opened(facts.path) as container:
        packets = (packet for packet in container.demux(container.streams[facts.stream]) if packet.size)
        times = [packet.pts for packet in packets]
    known = sorted({time for time in times if time is not None})
    if not len(known) == len(times) == len(joined.pts):
        return
    for number, (got, wanted) in enumerate(zip(joined.pts, known, strict=True), start=1):
        if got != wanted:
            raise _failed(
                path,
                f"frame {number} is at {float(got * facts.time_base):.4f} s and should be at "
                f"{float(wanted * facts.time_base):.4f} s",
            )


def _check_copied(
    path: Path, found: CopiedStream, expected: CopiedStream, shift: Fraction, tolerance: Fraction
) -> None:
    """Compare the number of packets and the first and last time of a copied stream with the source.

    `shift` is the time in seconds by which the container moved all streams. Raises CheckFailedError.
    """
    # Containers divide PCM into packets of their own choice: then only the sum of the bytes stays.
    divided = found.packets != expected.packets and found.bytes == expected.bytes
    if found.packets != expected.packets and not divided:
        raise _failed(
            path, f"its {expected.kind} has {found.packets} packets, the source's has {expected.packets}"
        )
    times = [(found.first, expected.first), (found.last, expected.last)]
    for got, wanted in times[:1] if divided else times:
        if got is not None and wanted is not None and abs(got - shift - wanted) > tolerance:
            raise _failed(
                path,
                f"its {expected.kind} is {float(got - shift - wanted):+.4f} s out of step with the video",
            )


def _failed(path: Path, what: str) -> CheckFailedError:
    """Return the error for a result that differs from its source."""
    return CheckFailedError(
        f"{path} differs from its source: {what}; try another container, such as .mkv, and report this"
    )
