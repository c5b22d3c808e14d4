"""Upscaling one video: from a file to a larger one that plays as the first did, resumable at every moment.

Frames are decoded, upscaled and encoded at once, with bounded queues between; the result is encoded in parts
(`parts`), which are joined at the end with all else the source holds (`join`) and checked (`check`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sr_deploy.errors import OutputError, UsageError
from sr_deploy.frames.convert import FramePixels
from sr_deploy.frames.flow import run_flow
from sr_deploy.frames.pipe import upscale_picture
from sr_deploy.system.claims import stamp_of
from sr_deploy.system.files import digest_of
from sr_deploy.upscale import Upscaler
from sr_deploy.video.check import check_result
from sr_deploy.video.encoder import EncodeOptions, Encoding, container_format, plan_encoding
from sr_deploy.video.join import join
from sr_deploy.video.parts import Parts
from sr_deploy.video.pixels import colours_of, layout_for, to_picture
from sr_deploy.video.pyav import pyav
from sr_deploy.video.segment import SegmentWriter
from sr_deploy.video.source import TimedFrame, VideoInfo, frames, probe
from sr_deploy.video.streams import StreamChoice, plan_streams

_SCHEMA = 1
PART_FRAMES = 120
"""Frames of a part: what is lost at most when the work is cut off, and the distance of key frames."""


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How a video is upscaled and written."""

    encode: EncodeOptions = field(default_factory=EncodeOptions)
    choice: StreamChoice = field(default_factory=StreamChoice)
    overwrite: bool = False
    resume: bool = True
    """Go on with parts of a run that was cut off; else begin anew."""
    part_frames: int = PART_FRAMES
    streams: int = 2
    """Frames computed at once."""

    def __post_init__(self) -> None:
        if self.part_frames < 1:
            raise UsageError(f"a part has at least 1 frame, got {self.part_frames}")


class VideoListener(Protocol):
    """Whoever wants to know how it goes on. Called from more than one thread."""

    def say(self, message: str) -> None:
        """One line the user should know."""
        ...

    def begin(self, total: int | None, first: int = 0) -> None:
        """Of `total` frames, `first` are there from an earlier run."""
        ...

    def frame(self, count: int) -> None:
        """`count` frames are encoded."""
        ...


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """What was made."""

    target: Path
    frames: int
    width: int
    height: int
    encoder: str
    pixel_format: str


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

    `model` is the file behind `upscaler`, by whose content parts of an earlier run are known to fit. Interrupted
    or killed, it leaves the finished parts in a hidden folder beside `target`, and the next call goes on there.
    Raises InputError for a source that cannot be read, UsageError for options that do not fit it, OutputError
    for a place that cannot be written, CheckFailedError where the result is not what it should be.
    """
    options = options or VideoOptions()
    _check_target(source, target, options)
    facts = probe(source)
    encoding = plan_encoding(facts, upscaler.spec.scale, target, options.encode)
    streams = plan_streams(facts, target, options.choice)
    say = watcher.say if watcher else (lambda message: None)
    for note in (*_notes(facts, encoding), *streams.notes):
        say(note)
    parts = Parts(target)
    try:
        # again, for another process may have made it meanwhile
        _check_target(source, target, options)
        _resume(parts, _key(facts, encoding, upscaler, model, options), options, say)
        if watcher:
            watcher.begin(facts.frames, parts.frames)
        _make_parts(facts, encoding, upscaler, parts, options, watcher)
        output = parts.folder / f"joined{target.suffix}"
        joined = join(facts, parts, encoding, streams, target, output)
        check_result(output, joined, encoding.time_base)
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
    container_format(target)
    if not target.exists():
        return
    if not options.overwrite:
        raise OutputError(
            f"cannot write {target}: it exists already; choose another name, or add --overwrite"
        )
    if source.exists() and target.samefile(source):
        raise OutputError(f"{source} would overwrite itself; give another name with -o")


def _resume(parts: Parts, key: Mapping[str, Any], options: VideoOptions, say: Callable[[str], None]) -> None:
    if not options.resume:
        parts.forget()
    changed = parts.resume(key)
    if changed:
        say(f"parts of an earlier run do not fit, for {', '.join(changed)} changed; beginning anew")
    elif parts.done:
        say(f"going on after {parts.frames} frames of an earlier run")


def _make_parts(
    facts: VideoInfo,
    encoding: Encoding,
    upscaler: Upscaler,
    parts: Parts,
    options: VideoOptions,
    watcher: VideoListener | None,
) -> None:
    """Encode what is missing. On an interruption the part that is not full is dropped."""
    begin = done = parts.frames
    damaged: list[None] = []
    layout, colours = layout_for(facts.pixel_format), colours_of(facts)
    writer = SegmentWriter(parts, encoding, options.part_frames)

    def pictures() -> Iterator[tuple[TimedFrame, FramePixels]]:
        for timed in frames(facts, lambda: damaged.append(None)):
            if timed.index >= begin:
                yield timed, to_picture(timed.frame, layout, colours)

    def compute(small: tuple[TimedFrame, FramePixels]) -> tuple[TimedFrame, FramePixels]:
        return small[0], upscale_picture(upscaler, small[1])

    def write(large: tuple[TimedFrame, FramePixels]) -> None:
        nonlocal done
        writer.add(large[1], large[0].pts, large[0].duration)
        done += 1
        if watcher:
            watcher.frame(done)

    try:
        run_flow(pictures(), compute, write, workers=options.streams)
        writer.finish()
    finally:
        writer.abandon()
    if watcher and damaged:
        watcher.say(f"{len(damaged)} damaged packets of the source could not be decoded and are left out")


def _key(
    facts: VideoInfo, encoding: Encoding, upscaler: Upscaler, model: Path, options: VideoOptions
) -> dict[str, Any]:
    """All that decides what is in a part; JSON values only."""
    made: dict[str, Any] = asdict(encoding)
    made |= {"layout": encoding.layout.name, "rate": str(encoding.rate), "time_base": str(encoding.time_base)}
    made["aspect"] = None if encoding.aspect is None else str(encoding.aspect)
    versions = {name: list(version) for name, version in pyav().library_versions.items()}
    return {
        "schema": _SCHEMA,
        "the source": [os.fspath(facts.path.resolve()), *stamp_of(facts.path)],
        "the model": digest_of(model),
        "the backend": upscaler.engine.backend,
        "the tiles": [upscaler.tile, upscaler.overlap],
        "the encoding": made,
        "the frames of a part": options.part_frames,
        "PyAV": versions,
    }


def _notes(facts: VideoInfo, encoding: Encoding) -> Iterator[str]:
    if facts.interlaced:
        yield "the video is interlaced, which a net blurs; deinterlace it before, such as with ffmpeg's bwdif"
    if facts.pixel_format.startswith("yuva") or facts.pixel_format in (
        "rgba",
        "bgra",
        "argb",
        "gbrap",
        "ya8",
    ):
        yield "its transparency is left out"
    if layout_for(facts.pixel_format).depth > 8 >= encoding.layout.depth:
        yield f"{encoding.encoder} takes 8 bits here, and the source has more"
