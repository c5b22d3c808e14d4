"""Read a source video: its properties, and all its frames with their timestamps in display order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from sr_deploy.errors import InputError
from sr_deploy.video.pyav import Container, Frame, Stream, ffmpeg_message, opened, pyav

_USUAL_RATE = Fraction(25)
"""Frames per second assumed if the file gives none."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Properties of the main video stream of a file."""

    path: Path
    """Path of the file."""
    width: int
    """Width of a decoded frame in pixels, which may differ from the container's claim."""
    height: int
    """Height of a decoded frame in pixels."""
    pixel_format: str
    """FFmpeg's name of the pixel format of decoded frames."""
    time_base: Fraction
    """Unit of timestamps in seconds."""
    rate: Fraction
    """Nominal frames per second. Rates may vary; only timestamps are exact."""
    frames: int | None
    """Number of frames that the file claims or its duration suggests; None: unknown."""
    stream: int
    """Index of the stream in the file."""
    space: int
    """Colour matrix as ITU-T H.273 numbers it; 2 means unspecified. `primaries` and `transfer` likewise."""
    range: int
    """Range as FFmpeg numbers it: 0 unspecified, 1 limited, 2 full."""
    primaries: int
    transfer: int
    aspect: Fraction | None
    """Ratio of width to height of a pixel; None: unknown."""
    interlaced: bool
    """True if the first frame is interlaced."""
    rotation: tuple[int, ...] | None
    """Display matrix of a rotated or mirrored video: nine fixed-point numbers; None: not rotated."""
    light: dict[str, bytes]
    """HDR metadata of the first frame, as FFmpeg's raw structs by kind."""


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame with its time."""

    index: int
    """Number of the frame, counted from 0."""
    pts: int
    """Display time in `VideoInfo.time_base`; strictly ascending."""
    duration: int
    """Display duration in the same unit, used if no frame follows."""
    frame: Frame
    """The decoded `av.VideoFrame`."""


def probe(path: Path) -> VideoInfo:
    """Open `path` and decode its first frame. Raises InputError if it holds no video that can be decoded.

    Colour tags of the frame take precedence over those of the stream.
    """
    with opened(path) as container:
        stream = main_stream(container, path)
        first = next(_decoded(container, stream), None)
        if first is None:
            raise InputError(f"{path}: no frame of its video can be decoded; check the file")
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
    """Yield every frame of the video from its beginning, in display order.

    Packets that cannot be decoded are left out, as players do, and `damaged` is called for each. A frame
    without a timestamp follows the previous one by the nominal duration. A frame whose time is not later
    than that of the previous one is moved to one tick after it. Raises InputError if the frame size
    changes.
    """
    step = max(1, round(1 / facts.rate / facts.time_base))
    before: int | None = None
    with opened(facts.path) as container:
        stream: Stream = container.streams[facts.stream]
        stream.thread_type = "AUTO"
        for index, frame in enumerate(_decoded(container, stream, damaged)):
            if (frame.width, frame.height) != (facts.width, facts.height):
                raise InputError(
                    f"{facts.path}: frame {index + 1} is {frame.width}x{frame.height}, the frames before it are "
                    f"{facts.width}x{facts.height}; split the file where the size changes"
                )
            pts = frame.pts if frame.pts is not None else (0 if before is None else before + step)
            if before is not None and pts <= before:
                pts = before + 1
            before = pts
            yield TimedFrame(index, pts, frame.duration or step, frame)


def main_stream(container: Container, path: Path) -> Stream:
    """Return the first video stream that is not a cover picture. Raises InputError if there is none."""
    cover = pyav().stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            return stream
    raise InputError(f"{path} holds no video; use `sr-deploy upscale` for pictures")


def _decoded(
    container: Container, stream: Stream, damaged: Callable[[], None] | None = None
) -> Iterator[Frame]:
    """Yield the decoded frames of a stream. Calls `damaged` for each packet that cannot be decoded."""
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
    """Estimate the number of frames from the header, or from the duration and `rate`. Used for progress
    only."""
    if stream.frames:
        return int(stream.frames)
    if stream.duration and stream.time_base:
        return int(stream.duration * stream.time_base * rate)
    # A container's duration is in microseconds (AV_TIME_BASE).
    return int(container.duration / 1_000_000 * rate) if container.duration else None


def _first_known(unknown: int, *values: Any) -> int:
    """Return the first value that is not `unknown`."""
    return next((int(value) for value in values if value is not None and int(value) != unknown), unknown)


def _display_matrix(frame: Frame) -> tuple[int, ...] | None:
    """Return the display matrix of a frame: nine int32 (little-endian) in FFmpeg's fixed-point format, or
    None."""
    data = _side_data(frame).get("DISPLAYMATRIX")
    if data is None or len(data) < 36:
        return None
    return tuple(int.from_bytes(data[i : i + 4], "little", signed=True) for i in range(0, 36, 4))


def _hdr_metadata(frame: Frame) -> dict[str, bytes]:
    """Return the HDR10 metadata of a frame: mastering display and content light level."""
    kinds = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
    return {kind: data for kind, data in _side_data(frame).items() if kind in kinds}


def _side_data(frame: Frame) -> dict[str, bytes]:
    """Return the side data of a frame by kind."""
    return {one.type.name: bytes(one) for one in frame.side_data}
