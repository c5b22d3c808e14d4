"""Upscale one video into a larger one with the same timing and streams. The work can be resumed at any
moment.

Frames are decoded, upscaled and encoded at the same time, with bounded queues between. The result is
encoded in parts (`parts`). At the end they are joined with the other streams of the source (`join`), and
the file is checked (`check`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from sr_deploy.errors import OutputError, UsageError
from sr_deploy.frames.convert import FramePixels
from sr_deploy.frames.flow import run_flow
from sr_deploy.frames.pipe import upscale_picture
from sr_deploy.system.chains import chain_digest
from sr_deploy.system.claims import stamp_of
from sr_deploy.system.files import sync_file
from sr_deploy.upscale import Upscaler
from sr_deploy.video.check import check_result, check_times
from sr_deploy.video.deinterlace import deinterlaced
from sr_deploy.video.encoder import EncodeOptions, Encoding, container_format, plan_encoding
from sr_deploy.video.join import join
from sr_deploy.video.parts import Parts
from sr_deploy.video.pixels import colours_of, cropped, layout_for, to_picture
from sr_deploy.video.pyav import pyav
from sr_deploy.video.scan import check_one_size
from sr_deploy.video.segment import SegmentWriter
from sr_deploy.video.source import Reading, TimedFrame, VideoInfo, frames, probe
from sr_deploy.video.streams import StreamChoice, plan_streams

_SCHEMA = 2
"""Version of the parts. A change makes the parts of earlier runs unusable."""
_LOST = {
    "A53_CC": "closed captions",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DOVI_METADATA": "Dolby Vision metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "STEREO3D": "marks of stereoscopic frames",
    "SPHERICAL": "marks of a 360-degree video",
    "ICC_PROFILE": "ICC profiles",
    "S12M_TIMECODE": "time codes",
}
"""Names of the side data of frames that the result lacks, for notes. Static HDR10 metadata is kept by x265."""
_SHAPE_INSIDE = {"libx264", "libx264rgb", "libx265", "mpeg4", "mpeg1video", "mpeg2video"}
"""Encoders that write the shape of the pixels into the stream. PyAV 18.1 cannot give it to the Matroska muxer."""
PART_FRAMES = 120
"""Frames of a part. This is the most that an interruption costs, and the distance between key frames."""


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Options for upscaling and writing a video."""

    encode: EncodeOptions = field(default_factory=EncodeOptions)
    """Settings of the encoder."""
    choice: StreamChoice = field(default_factory=StreamChoice)
    """Kinds of streams to carry over."""
    overwrite: bool = False
    """Replace an existing target."""
    resume: bool = True
    """True: continue with the parts of an interrupted run. False: start again."""
    part_frames: int = PART_FRAMES
    """Number of frames in a part; at least 1."""
    streams: int = 2
    """Number of frames computed at once."""
    deinterlace: bool = False
    """Turn interlaced frames into progressive ones before they are upscaled."""
    max_gap: Fraction | None = None
    """Longest time in seconds between two frames that stays; a longer one is closed. None: all stay."""

    def __post_init__(self) -> None:
        if self.part_frames < 1:
            raise UsageError(f"a part must have at least 1 frame, got {self.part_frames}")


class VideoListener(Protocol):
    """Receiver of progress. Its methods are called from more than one thread."""

    def say(self, message: str) -> None:
        """Called with one line that the user should know."""
        ...

    def begin(self, total: int | None, first: int = 0) -> None:
        """Called once: the video has `total` frames (None: unknown), and `first` of them are done already."""
        ...

    def frame(self, count: int) -> None:
        """Called after each frame: `count` frames are encoded, including those of an earlier run."""
        ...


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """Facts about the finished video."""

    target: Path
    frames: int
    """Number of frames."""
    width: int
    """Width of a frame in pixels."""
    height: int
    """Height of a frame in pixels."""
    encoder: str
    """FFmpeg's name of the encoder."""
    pixel_format: str


def check_files(source: Path, target: Path, options: VideoOptions) -> VideoInfo:
    """Check what can be known of both files before a model is opened. Returns the facts about `source`.

    Raises InputError for an unreadable source, UsageError and OutputError for a target that cannot be written.
    """
    _check_target(source, target, options)
    facts = probe(source)
    check_one_size(facts)
    return facts


def upscale_video(
    source: Path,
    target: Path,
    upscaler: Upscaler,
    *,
    model: Path,
    options: VideoOptions | None = None,
    watcher: VideoListener | None = None,
) -> VideoResult:
    """Upscale `source` into `target`, whose suffix names the container.

    `model` is the model file of `upscaler`; its content decides whether parts of an earlier run fit. If
    interrupted or killed, finished parts stay in a hidden folder beside `target`, and the next call
    continues after them.

    Raises InputError for an unreadable source, UsageError for options that do not fit it, OutputError for a
    target that cannot be written or that another process is making, and CheckFailedError if the result
    differs from the source.
    """
    options = options or VideoOptions()
    facts = check_files(source, target, options)
    encoding = plan_encoding(facts, upscaler.spec.scale, target, options.encode)
    streams = plan_streams(facts, target, options.choice, encoding)
    say = watcher.say if watcher else (lambda message: None)
    for note in (*_notes(facts, encoding, target, options), *streams.notes):
        say(note)
    parts = Parts(target)
    try:
        # Checked again: another process may have finished the target before this one got the lock.
        _check_target(source, target, options)
        _resume(parts, _key(facts, encoding, upscaler, model, options), options, say)
        if watcher:
            watcher.begin(facts.frames, parts.frames)
        reading = _make_parts(facts, encoding, upscaler, parts, options, watcher)
        output = parts.folder / f"joined{target.suffix}"
        joined = join(facts, parts, encoding, streams, target, output, reading.clock.shifts)
        for note in (*reading.notes, *_lost(reading.kinds - facts.kinds, encoding), *joined.notes):
            say(note)
        check_result(output, joined, encoding.time_base)
        if reading.has_source_times(facts):
            check_times(output, facts, joined)
        sync_file(output)  # so that a power loss leaves the old file or the whole new one
        os.replace(output, target)
        parts.remove()
    finally:
        parts.release()
    return VideoResult(
        target=target,
        frames=len(joined.pts),
        width=encoding.width,
        height=encoding.height,
        encoder=encoding.encoder,
        pixel_format=encoding.pixel_format,
    )


def _check_target(source: Path, target: Path, options: VideoOptions) -> None:
    """Raise OutputError if `target` exists and may not be replaced, UsageError for an unknown suffix."""
    container_format(target)
    if not os.path.lexists(target):
        return
    if not options.overwrite:
        raise OutputError(
            f"cannot write {target}: it exists already; choose another name, or add --overwrite"
        )
    if source.exists() and target.exists() and target.samefile(source):
        raise OutputError(f"{source} would overwrite itself; give another name with -o")


def _resume(parts: Parts, key: Mapping[str, Any], options: VideoOptions, say: Callable[[str], None]) -> None:
    """Load the parts of an earlier run if they fit, and tell the user about it."""
    if not options.resume:
        parts.forget()
    changed = parts.resume(key)
    if changed:
        say(f"parts of an earlier run do not fit because {', '.join(changed)} changed; starting again")
    elif parts.done:
        say(f"continuing after {parts.frames} frames of an earlier run")


def _make_parts(
    facts: VideoInfo,
    encoding: Encoding,
    upscaler: Upscaler,
    parts: Parts,
    options: VideoOptions,
    watcher: VideoListener | None,
) -> Reading:
    """Encode the frames that are missing, and return what reading the source showed. On an interruption the
    incomplete part is dropped.

    The source is decoded from its beginning to find the first missing frame: seeking is not exact in every
    file.
    """
    begin = done = parts.frames
    reading = Reading.of(facts, options.max_gap)
    layout, colours = layout_for(facts.pixel_format), colours_of(facts)
    writer = SegmentWriter(parts, encoding, options.part_frames)

    def pictures() -> Iterator[tuple[TimedFrame, FramePixels]]:
        read = frames(facts, reading)
        for timed in deinterlaced(facts, read) if options.deinterlace else read:
            if timed.index >= begin:
                yield (
                    timed,
                    cropped(to_picture(timed.frame, layout, colours, alpha=encoding.alpha), facts.crop),
                )

    def compute(small: tuple[TimedFrame, FramePixels]) -> tuple[TimedFrame, FramePixels]:
        return small[0], upscale_picture(upscaler, small[1])

    def write(large: tuple[TimedFrame, FramePixels]) -> None:
        nonlocal done
        writer.add(large[1], large[0].pts, large[0].duration, large[0].frame)
        done += 1
        if watcher:
            watcher.frame(done)

    try:
        run_flow(pictures(), compute, write, workers=options.streams)
        writer.finish()
    finally:
        writer.abandon()
    return reading


def _key(
    facts: VideoInfo, encoding: Encoding, upscaler: Upscaler, model: Path, options: VideoOptions
) -> dict[str, Any]:
    """Return everything that determines the content of a part, as JSON values. The names appear in messages.
    The versions of PyAV's libraries are included, because another version of an encoder gives another
    stream."""
    made: dict[str, Any] = asdict(encoding)
    made |= {"layout": encoding.layout.name, "rate": str(encoding.rate), "time_base": str(encoding.time_base)}
    made["aspect"] = None if encoding.aspect is None else str(encoding.aspect)
    versions = {name: list(version) for name, version in pyav().library_versions.items()}
    return {
        "schema": _SCHEMA,
        "the source": [os.fspath(facts.path.resolve()), *stamp_of(facts.path)],
        "the model": chain_digest(model),
        "the backend": upscaler.engine.backend,
        "the tiles": [upscaler.tile, upscaler.overlap],
        "the encoding": made,
        "the frames of a part": options.part_frames,
        "deinterlacing": options.deinterlace,
        "the longest gap": None if options.max_gap is None else str(options.max_gap),
        "PyAV": versions,
    }


def _notes(facts: VideoInfo, encoding: Encoding, target: Path, options: VideoOptions) -> Iterator[str]:
    """Yield notes for the user about properties of the source that are lost or handled badly."""
    if facts.interlaced and not options.deinterlace:
        yield "the video is interlaced, and upscaling blurs it; add --deinterlace"
    if facts.alpha and not encoding.alpha:
        yield "its transparency is left out, if it has any"  # a GIF of opaque frames has bgra pixels too
    matroska = target.suffix.lower() in (".mkv", ".webm")
    # Matroska has a tag for it, which is copied with the others.
    yield from _lost(facts.kinds - ({"STEREO3D"} if matroska and facts.stereo_tag else set()), encoding)
    if (
        encoding.aspect is not None
        and encoding.aspect != 1
        and matroska
        and encoding.encoder not in _SHAPE_INSIDE
    ):
        yield (
            f"the shape of its pixels ({encoding.aspect.numerator}:{encoding.aspect.denominator}) is lost: {target.suffix} "
            "files have it here only from h264 and hevc; choose one of these, or name the output .mp4 or .mov"
        )
    if layout_for(facts.pixel_format).depth > 8 >= encoding.layout.depth:
        yield f"the result has 8 bits per channel, which is what {encoding.encoder} takes here; the source has more"


def _lost(kinds: Set[str], encoding: Encoding) -> Iterator[str]:
    """Yield notes about side data of frames that the result lacks."""
    for kind, what in _LOST.items():
        if kind in kinds and not (kind == "A53_CC" and encoding.keeps_captions):
            yield f"its {what} are left out: {encoding.encoder} does not write them here"
