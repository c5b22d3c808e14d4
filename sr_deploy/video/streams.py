"""Which streams of a source, besides its video, go into a result, and in what form."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import UsageError
from sr_deploy.video.encoder import container_format
from sr_deploy.video.pyav import Container, Stream, opened, pyav

if TYPE_CHECKING:
    from sr_deploy.video.source import VideoInfo

_OPTIONS = {"audio": "--no-audio", "subtitle": "--no-subtitles"}
_PICTURES = {"png": "image/png", "mjpeg": "image/jpeg"}


@dataclass(frozen=True, kw_only=True)
class StreamChoice:
    """Which kinds are wanted."""

    audio: bool = True
    subtitles: bool = True


@dataclass(frozen=True)
class Attachment:
    """A file within a file: a font, a cover."""

    name: str
    kind: str
    """Its MIME type."""
    data: bytes


@dataclass(frozen=True)
class StreamPlan:
    """What a result is made of."""

    kept: list[int] = field(default_factory=list)
    """Indices in the source, in order; the video's own among them."""
    attachments: list[Attachment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is left out, one sentence each."""


def plan_streams(facts: VideoInfo, target: Path, choice: StreamChoice) -> StreamPlan:
    """Decide what is carried over into `target`, whose suffix names the container.

    Raises UsageError for audio or subtitles that it cannot hold; what else it cannot is left out with a note.
    """
    plan = StreamPlan()
    format = container_format(target)
    with pyav().open(io.BytesIO(), "w", format=format) as empty:
        holds: set[str] = empty.supported_codecs
    with opened(facts.path) as container:
        for stream in container.streams:
            if stream.index == facts.stream:
                plan.kept.append(stream.index)
            elif (stream.type == "audio" and choice.audio) or (
                stream.type == "subtitle" and choice.subtitles
            ):
                _check_held(stream, target, holds)
                plan.kept.append(stream.index)
            elif stream.type == "video":
                _plan_picture(container, stream, target, holds, plan)
            elif stream.type == "attachment":
                _plan_attachment(stream, target, plan)
            elif stream.type not in ("audio", "subtitle") and not _is_chapter_track(stream):
                plan.notes.append(
                    f"stream {stream.index} ({stream.name or stream.type}) is data and is left out"
                )
    return plan


def _check_held(stream: Stream, target: Path, holds: set[str]) -> None:
    name = _codec_name(stream)
    if name is not None and name not in holds:
        better = ".mp4" if name == "mov_text" else ".mkv"
        raise UsageError(
            f"{target.suffix} files hold no {name} {stream.type}, which the source has; name the output {better}, or "
            f"leave it out with {_OPTIONS[stream.type]}"
        )


def _plan_picture(
    container: Container, stream: Stream, target: Path, holds: set[str], plan: StreamPlan
) -> None:
    """A cover, or a second video, which is copied as it is."""
    name = _codec_name(stream)
    is_cover = bool(stream.disposition & pyav().stream.Disposition.attached_pic)
    if is_cover and target.suffix.lower() == ".mkv" and name in _PICTURES:
        packet = next(packet for packet in container.demux(stream) if packet.size)
        suffix = _PICTURES[name].partition("/")[2]
        plan.attachments.append(Attachment(f"cover.{suffix}", _PICTURES[name], bytes(packet)))
    elif name in holds:
        plan.kept.append(stream.index)
    else:
        plan.notes.append(f"stream {stream.index}, a {name} picture, is left out: {target.suffix} holds none")


def _plan_attachment(stream: Stream, target: Path, plan: StreamPlan) -> None:
    if target.suffix.lower() != ".mkv":
        plan.notes.append(f"{target.suffix} holds no attachments; name the output .mkv to keep them")
        return
    name = stream.metadata.get("filename", f"attachment-{stream.index}")
    plan.attachments.append(Attachment(name, stream.mimetype or "application/octet-stream", stream.data))


def _is_chapter_track(stream: Stream) -> bool:
    """Whether it is the text track that MP4 keeps chapters in, which is written anew with them."""
    return stream.name == "bin_data" and bool(stream.container.chapters())


def _codec_name(stream: Stream) -> str | None:
    """FFmpeg's name of what the stream is coded in; None where it cannot be told."""
    context = stream.codec_context
    return None if context is None else str(context.codec.canonical_name)
