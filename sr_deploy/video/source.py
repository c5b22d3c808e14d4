"""Read a source video: its properties, and all its frames with their timestamps in display order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from sr_deploy.errors import InputError
from sr_deploy.frames.colour import Siting
from sr_deploy.video.clock import DecodingOrder, FrameClock, first_packets, in_coding_order
from sr_deploy.video.header import header_of
from sr_deploy.video.pyav import Container, Frame, Packet, Stream, ffmpeg_message, opened, pyav

_USUAL_RATE = Fraction(25)
"""Frames per second assumed if the file gives none."""
_MISSING = Fraction(1, 20)
"""Part of the claimed duration that may be missing without a note: headers are rounded, and some frames have no end."""
_SITINGS: dict[tuple[int, int], Siting] = {(1, 2): "left", (2, 2): "center", (1, 1): "topleft"}
"""Position of chroma samples for each pair of Matroska's ChromaSitingHorz and ChromaSitingVert."""
_CROPS = (0x54BB, 0x54AA, 0x54CC, 0x54DD)
"""EBML identifiers of Matroska's PixelCrop: top, bottom, left, right."""
_DOLBY_RECORD = 0x41ED
"""EBML identifier of a Dolby Vision configuration record in a track."""
_FULL_GREY = {"ffv1", "png", "rawvideo", "mjpeg", "huffyuv", "utvideo", "tiff", "bmp"}
"""Codecs whose grey frames are full range if the file does not say. Those of films are limited, as players assume."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Properties of the main video stream of a file."""

    path: Path
    """Path of the file."""
    width: int
    """Width of a frame in pixels, as decoded and then cropped; it may differ from the container's claim."""
    height: int
    """Height of a frame in pixels, as decoded and then cropped."""
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
    kinds: frozenset[str] = frozenset()
    """Kinds of side data of the first frame, as FFmpeg names them."""
    siting: Siting | None = None
    """Position of chroma samples; None: unknown."""
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels that the container cuts off a decoded frame: top, bottom, left, right."""
    coding_order: bool = False
    """True if display times are made up in the order of decoding; only decoding times are right."""
    first_time: int | None = None
    """Decoding time of the packet that released the first frame; None: unknown. It is later than the first packet's
    by as many packets as the codec reorders, and is the first frame's display time if `coding_order`."""
    claimed: int | None = None
    """Number of frames that the file's header claims; None: it claims none."""
    claimed_seconds: Fraction | None = None
    """Duration of the video that the file's header claims; None: it claims none."""
    alpha: bool = False
    """True if the frames have opacity, in their pixels or beside them."""
    stereo_tag: bool = False
    """True if a tag of the stream says how its frames are stereoscopic."""
    decoder: str | None = None
    """Decoder that also reads the opacity beside the frames; None: the stream's usual decoder."""


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


@dataclass
class Reading:
    """Facts about a source that only reading it to its end shows."""

    clock: FrameClock
    """Clock of the video, with the shifts of its times."""
    damaged: int = 0
    """Number of packets that could not be decoded."""
    frames: int = 0
    """Number of frames."""
    seconds: Fraction = Fraction(0)
    """Time from the first frame to the end of the last one."""
    kinds: set[str] = field(default_factory=set)
    """Kinds of side data of all frames, as FFmpeg names them."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user, one sentence each."""

    @classmethod
    def of(cls, facts: VideoInfo, max_gap: Fraction | None = None) -> Reading:
        """Return the facts before reading. `max_gap` is the longest gap in seconds that stays; None: all."""
        return cls(FrameClock(facts.time_base, _nominal_step(facts), max_gap))

    def has_source_times(self, facts: VideoInfo) -> bool:
        """Return whether every frame is shown at the time that the source's file gives it."""
        return not (self.clock.shifts or self.damaged or facts.coding_order)

    def finish(self, facts: VideoInfo) -> None:
        """Make the notes, after the last frame."""
        if self.damaged:
            self.notes.append(
                f"{self.damaged} damaged packets of the source could not be decoded and are left out"
            )
        if facts.claimed is not None and self.clock.packets < facts.claimed:
            self.notes.append(
                f"the source ends early: {self.frames} of its {facts.claimed} frames could be read"
            )
        claimed = facts.claimed_seconds
        if claimed is not None and claimed - self.seconds > max(claimed * _MISSING, 3 / facts.rate):
            self.notes.append(
                f"the video ends early: after {float(self.seconds):.1f} of the {float(claimed):.1f} s that the file claims"
            )
        self.notes.extend(self.clock.notes())


def probe(path: Path) -> VideoInfo:
    """Open `path` and decode its first frame. Raises InputError if it holds no video that can be decoded.

    Colour tags of the frame take precedence over those of the stream.
    """
    with opened(path) as container:
        stream = main_stream(container, path)
        decoder = _alpha_decoder(stream)
        first = next(_decoded(container, stream, decoder=decoder), None)
        if first is None:
            raise InputError(f"{path}: no frame of its video can be decoded; check the file")
        context = stream.codec_context
        rate = stream.guessed_rate or stream.average_rate or _USUAL_RATE
        assert stream.time_base is not None
        header = header_of(stream)
        _check_dolby_vision(path, header)
        top, bottom, left, right = crop = _crop(header, first)
        side_data = _side_data(first)
        return VideoInfo(
            path=path,
            width=first.width - left - right,
            height=first.height - top - bottom,
            pixel_format=first.format.name,
            time_base=Fraction(stream.time_base),
            rate=Fraction(rate),
            frames=_expected_frames(container, stream, Fraction(rate)),
            stream=stream.index,
            space=_first_known(2, first.colorspace, context.colorspace),
            range=_first_known(0, first.color_range, context.color_range, _grey_range(first, context)),
            primaries=_first_known(2, first.color_primaries, context.color_primaries),
            transfer=_first_known(2, first.color_trc, context.color_trc),
            aspect=stream.sample_aspect_ratio or context.sample_aspect_ratio or None,
            interlaced=bool(first.interlaced_frame),
            rotation=_display_matrix(first),
            light=_hdr_metadata(first),
            kinds=frozenset(side_data) | ({"DOVI_METADATA"} if _DOLBY_RECORD in header else frozenset()),
            siting=_SITINGS.get((header.get(0x55B7, 0), header.get(0x55B8, 0))),
            crop=crop,
            coding_order=bool(context.has_b_frames)
            and (container.format.name == "avi" or _in_coding_order(path, stream.index)),
            first_time=first.dts,
            # The header of AVI counts ticks, of which a frame may take several: see `_claimed_seconds`.
            claimed=None if container.format.name == "avi" else int(stream.frames) or None,
            claimed_seconds=_claimed_seconds(container, stream),
            alpha=_has_alpha(first, stream),
            stereo_tag="stereo_mode" in stream.metadata,
            decoder=decoder,
        )


def frames(facts: VideoInfo, reading: Reading | None = None) -> Iterator[TimedFrame]:
    """Yield every frame of the video from its beginning, in display order, at the time at which it is shown.

    Packets that cannot be decoded are left out, as players do, and counted in `reading`. A frame
    without a timestamp follows the previous one by the nominal duration. A frame whose time is not later
    than that of the previous one is moved to one tick after it. Raises InputError if the frame size
    changes.
    """
    step = _nominal_step(facts)
    reading = reading or Reading.of(facts)
    order = DecodingOrder(facts.first_time) if facts.coding_order else None
    first: int | None = None
    before: int | None = None
    with opened(facts.path) as container:
        stream: Stream = container.streams[facts.stream]
        stream.thread_type = "AUTO"
        for index, frame in enumerate(_decoded(container, stream, reading, order, facts.decoder)):
            _check_size(facts, frame, index)
            pts = frame.pts if order is None else order.next(frame.pts)
            if pts is None:
                pts = 0 if before is None else before + step
            if before is not None and pts <= before:
                pts = before + 1
            before = pts
            first = pts if first is None else first
            reading.seconds = (pts - first + (frame.duration or step)) * facts.time_base
            reading.frames += 1
            reading.kinds.update(one.type.name for one in frame.side_data)
            yield TimedFrame(index, pts, frame.duration or step, frame)
    reading.finish(facts)


def _check_size(facts: VideoInfo, frame: Frame, index: int) -> None:
    """Raise InputError if a frame does not have the size of the first one."""
    top, bottom, left, right = facts.crop
    width, height = facts.width + left + right, facts.height + top + bottom
    if (frame.width, frame.height) != (width, height):
        raise InputError(
            f"{facts.path}: frame {index + 1} is {frame.width}x{frame.height}, the frames before it are "
            f"{width}x{height}; no result is written; split the file where the size changes"
        )


def _nominal_step(facts: VideoInfo) -> int:
    """Return the nominal duration of a frame in ticks."""
    return max(1, round(1 / facts.rate / facts.time_base))


def _in_coding_order(path: Path, index: int) -> bool:
    """Return whether the display times of a stream that reorders frames were made up in the order of decoding."""
    with opened(path) as container:
        return in_coding_order(first_packets(container.demux(container.streams[index])))


def _crop(header: Mapping[int, int], frame: Frame) -> tuple[int, int, int, int]:
    """Return the container's cropping: top, bottom, left, right. Zeros if it leaves no pixel."""
    top, bottom, left, right = (header.get(kind, 0) for kind in _CROPS)
    fits = top + bottom < frame.height and left + right < frame.width
    return (top, bottom, left, right) if fits else (0, 0, 0, 0)


def _check_dolby_vision(path: Path, header: Mapping[int, int]) -> None:
    """Raise InputError for Dolby Vision without a base layer that other players show rightly, as in profile 5.

    The upper half of byte 4 of the record's 24 says what the base layer is compatible with; 0: nothing (Dolby Vision
    Streams Within the ISO Base Media File Format).
    """
    record = header.get(_DOLBY_RECORD, 0).to_bytes(24, "big")
    if any(record) and not record[4] >> 4:
        raise InputError(
            f"{path}: its colours are those of Dolby Vision profile {record[2] >> 1}, which only a Dolby Vision decoder shows "
            "rightly; convert it to HDR10 or SDR first"
        )


def _grey_range(frame: Frame, context: Any) -> int:
    """Return the range of grey frames whose file names none, as FFmpeg numbers it; 0 for other frames."""
    if not frame.format.name.startswith("gray"):
        return 0
    return 2 if context.codec.canonical_name in _FULL_GREY else 1


def _has_alpha(frame: Frame, stream: Stream) -> bool:
    """Return whether a video has opacity. VP8 and VP9 store it beside the frames, where only a tag tells of it."""
    name: str = frame.format.name
    planes = name.startswith(("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ya", "pal8", "ayuv", "vuya"))
    return (planes and name != "pal8") or _has_alpha_tag(stream)


def _has_alpha_tag(stream: Stream) -> bool:
    """Return whether a tag of WebM says that opacity is stored beside the frames."""
    return {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") == "1"


def _alpha_decoder(stream: Stream) -> str | None:
    """Return the decoder that reads the opacity beside the frames of a stream; None if there is none, or no need of it.

    FFmpeg's own decoders of VP8 and VP9 do not read it; those of libvpx do.
    """
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.codec.canonical_name)
    return name if name in pyav().codecs_available and _has_alpha_tag(stream) else None


def main_stream(container: Container, path: Path) -> Stream:
    """Return the first video stream that is not a cover picture. Raises InputError if there is none."""
    cover = pyav().stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            return stream
    raise InputError(f"{path} holds no video; use `sr-deploy upscale` for pictures")


def _decoded(
    container: Container,
    stream: Stream,
    reading: Reading | None = None,
    order: DecodingOrder | None = None,
    decoder: str | None = None,
) -> Iterator[Frame]:
    """Yield the decoded frames of a stream. `reading` corrects the times of packets and counts those that cannot
    be decoded; `order` gets the decoding times; `decoder` replaces the stream's own decoder."""
    av = pyav()
    other = None if decoder is None else av.CodecContext.create(decoder, "r")
    try:
        for packet in container.demux(stream):
            if reading is not None and packet.size:
                reading.clock.move(packet)
            if order is not None:
                order.fed(packet)
            try:
                # A packet without data ends the stream; another decoder knows that from None.
                yield from packet.decode() if other is None else other.decode(packet if packet.size else None)
            except av.error.InvalidDataError:
                _lose(packet, reading, order)
    except av.FFmpegError as error:
        raise InputError(
            f"{container.name.removeprefix('file:')}: reading it failed ({ffmpeg_message(error)}); check the file"
        ) from error


def _lose(packet: Packet, reading: Reading | None, order: DecodingOrder | None) -> None:
    """Note a packet that cannot be decoded."""
    if reading is not None:
        reading.damaged += 1
    if order is not None:
        order.lost(packet)


def _expected_frames(container: Container, stream: Stream, rate: Fraction) -> int | None:
    """Estimate the number of frames from the header, or from the duration and `rate`. Used for progress
    only."""
    if stream.frames:
        return int(stream.frames)
    if stream.duration and stream.time_base:
        return int(stream.duration * stream.time_base * rate)
    # A container's duration is in microseconds (AV_TIME_BASE).
    return int(container.duration / 1_000_000 * rate) if container.duration else None


def _claimed_seconds(container: Container, stream: Stream) -> Fraction | None:
    """Return the duration that the header claims for the video, for containers whose header does so alone."""
    if container.format.name == "avi" and stream.frames and stream.time_base:
        return Fraction(stream.frames * stream.time_base)  # the header counts ticks
    # The duration of Matroska is that of its longest stream. Sound and subtitles may be longer than the video.
    only = len([other for other in container.streams if other.type in ("video", "audio", "subtitle")]) == 1
    if "matroska" in container.format.name and container.duration and only:
        return Fraction(container.duration, 1_000_000)
    return None


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
