"""A video file to upscale: what is known of it, and its frames with their timestamps, every one, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from sr_deploy.errors import InputError
from sr_deploy.video.pyav import Container, Frame, Stream, ffmpeg_message, opened, pyav

_USUAL_RATE = Fraction(25)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What is known of the video stream of a file."""

    path: Path
    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    """Frames a second, as far as one can speak of it; timestamps are what counts."""
    frames: int | None
    """What the file claims, or its duration suggests; None: unknown."""
    stream: int
    """Its index in the file."""
    space: int
    """Matrix, range, primaries and transfer as ITU-T H.273 numbers them; 2 is unspecified, of range 0."""
    range: int
    primaries: int
    transfer: int
    aspect: Fraction | None
    """Width to height of a pixel; None: unknown."""
    interlaced: bool
    rotation: tuple[int, ...] | None
    """The display matrix of a turned or mirrored video, nine fixed-point numbers."""
    light: dict[str, bytes]
    """HDR metadata of the first frame, by the names of its kinds."""


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame."""

    index: int
    pts: int
    """In `VideoInfo.time_base`; strictly increasing."""
    duration: int
    """How long it is to be shown, in the same unit, where no frame follows."""
    frame: Frame


def probe(path: Path) -> VideoInfo:
    """Open `path` and decode its first frame. Raises InputError where it holds no video that can be decoded."""
    with opened(path) as container:
        stream = main_stream(container, path)
        first = next(_decoded(container, stream), None)
        if first is None:
            raise InputError(f"{path}: not one frame of its video can be decoded; check the file")
        context = stream.codec_context
        rate = stream.guessed_rate or stream.average_rate or _USUAL_RATE
        assert stream.time_base is not None
        return VideoInfo(
            path=path,
            width=first.width,
            height=first.height,
            pixel_format=first.format.name,
            time_base=Fraction(stream.time_base),
            rate=Fraction(rate),
            frames=_expected_frames(container, stream, Fraction(rate)),
            stream=stream.index,
            space=_first_known(2, first.colorspace, context.colorspace),
            range=_first_known(0, first.color_range, context.color_range),
            primaries=_first_known(2, first.color_primaries, context.color_primaries),
            transfer=_first_known(2, first.color_trc, context.color_trc),
            aspect=context.sample_aspect_ratio or None,
            interlaced=bool(first.interlaced_frame),
            rotation=_display_matrix(first),
            light=_hdr_metadata(first),
        )


def frames(facts: VideoInfo, damaged: Callable[[], None] | None = None) -> Iterator[TimedFrame]:
    """Every frame of the video, from its beginning, in the order it is shown.

    Packets that cannot be decoded are left out, as every player does, and `damaged` is called for each. A frame without a timestamp follows the
    one before by the usual time; one that does not come after it is moved just behind. Raises InputError where
    the size changes.
    """
    step = max(1, round(1 / facts.rate / facts.time_base))
    before: int | None = None
    with opened(facts.path) as container:
        stream: Stream = container.streams[facts.stream]
        stream.thread_type = "AUTO"
        for index, frame in enumerate(_decoded(container, stream, damaged)):
            if (frame.width, frame.height) != (facts.width, facts.height):
                raise InputError(
                    f"{facts.path}: frame {index + 1} is {frame.width}x{frame.height} and those before "
                    f"{facts.width}x{facts.height}; cut the file where the size changes"
                )
            pts = frame.pts if frame.pts is not None else (0 if before is None else before + step)
            if before is not None and pts <= before:
                pts = before + 1
            before = pts
            yield TimedFrame(index, pts, frame.duration or step, frame)


def main_stream(container: Container, path: Path) -> Stream:
    """The first video that is no cover picture. Raises InputError where there is none."""
    cover = pyav().stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            return stream
    raise InputError(f"{path}: it holds no video; for pictures there is `sr-deploy upscale`")


def _decoded(
    container: Container, stream: Stream, damaged: Callable[[], None] | None = None
) -> Iterator[Frame]:
    av = pyav()
    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                if damaged is not None:
                    damaged()
    except av.FFmpegError as error:
        raise InputError(
            f"{container.name}: reading it failed ({ffmpeg_message(error)}); check the file"
        ) from error


def _expected_frames(container: Container, stream: Stream, rate: Fraction) -> int | None:
    if stream.frames:
        return int(stream.frames)
    if stream.duration and stream.time_base:
        return int(stream.duration * stream.time_base * rate)
    return int(container.duration / 1_000_000 * rate) if container.duration else None


def _first_known(unknown: int, *values: Any) -> int:
    return next((int(value) for value in values if value is not None and int(value) != unknown), unknown)


def _display_matrix(frame: Frame) -> tuple[int, ...] | None:
    data = _side_data(frame).get("DISPLAYMATRIX")
    if data is None or len(data) < 36:
        return None
    return tuple(int.from_bytes(data[i : i + 4], "little", signed=True) for i in range(0, 36, 4))


def _hdr_metadata(frame: Frame) -> dict[str, bytes]:
    kinds = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
    return {kind: data for kind, data in _side_data(frame).items() if kind in kinds}


def _side_data(frame: Frame) -> dict[str, bytes]:
    return {one.type.name: bytes(one) for one in frame.side_data}
