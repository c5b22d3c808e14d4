"""Decide which other streams of a source go into the result, and in what form."""

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
"""Option that leaves out a kind of stream, for messages."""
_PICTURES = {"png": "image/png", "mjpeg": "image/jpeg"}
"""MIME type for each codec of a cover. Matroska stores covers as attachments."""


@dataclass(frozen=True, kw_only=True)
class StreamChoice:
    """Kinds of streams that the user wants."""

    audio: bool = True
    """Copy all audio streams."""
    subtitles: bool = True
    """Copy all subtitle streams."""


@dataclass(frozen=True)
class Attachment:
    """A file stored in a media file, such as a font or a cover."""

    name: str
    """File name, which fonts are found by."""
    kind: str
    """MIME type of the file."""
    data: bytes
    """Content of the file."""


@dataclass(frozen=True)
class StreamPlan:
    """The streams of the result."""

    kept: list[int] = field(default_factory=list)
    """Indices in the source of the streams to keep, in ascending order, including the main video."""
    attachments: list[Attachment] = field(default_factory=list)
    """Attachments to write, including covers that become one."""
    notes: list[str] = field(default_factory=list)
    """Notes about streams that are left out, one sentence each."""


def plan_streams(facts: VideoInfo, target: Path, choice: StreamChoice) -> StreamPlan:
    """Decide which streams are carried over into `target`, whose suffix names the container.

    Raises UsageError for audio or subtitles that the container cannot hold. Other streams that it cannot
    hold are left out with a note.
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
    """Raise UsageError if the container of `target` cannot hold the codec of `stream`."""
    name = _codec_name(stream)
    if name is not None and name not in holds:
        better = ".mp4" if name == "mov_text" else ".mkv"
        raise UsageError(
            f"the source has {name} {stream.type}, which {target.suffix} files cannot hold; name the output {better}, "
            f"or leave it out with {_OPTIONS[stream.type]}"
        )


def _plan_picture(
    container: Container, stream: Stream, target: Path, holds: set[str], plan: StreamPlan
) -> None:
    """Plan a cover or a second video, which is copied as it is. A cover becomes an attachment in Matroska."""
    name = _codec_name(stream)
    is_cover = bool(stream.disposition & pyav().stream.Disposition.attached_pic)
    if is_cover and target.suffix.lower() == ".mkv" and name in _PICTURES:
        packet = next(packet for packet in container.demux(stream) if packet.size)
        suffix = _PICTURES[name].partition("/")[2]
        plan.attachments.append(Attachment(f"cover.{suffix}", _PICTURES[name], bytes(packet)))
    elif name in holds:
        plan.kept.append(stream.index)
    else:
        plan.notes.append(
            f"stream {stream.index}, a {name} picture, is left out: {target.suffix} files cannot hold it"
        )


def _plan_attachment(stream: Stream, target: Path, plan: StreamPlan) -> None:
    """Plan an attachment, such as a font. Only Matroska can hold one."""
    if target.suffix.lower() != ".mkv":
        plan.notes.append(
            f"attachments are left out: {target.suffix} files cannot hold them; name the output .mkv to keep them"
        )
        return
    name = stream.metadata.get("filename", f"attachment-{stream.index}")
    plan.attachments.append(Attachment(name, stream.mimetype or "application/octet-stream", stream.data))


def _is_chapter_track(stream: Stream) -> bool:
    """Return whether a stream is the text track in which MP4 stores chapters. It is written again with the
    chapters."""
    return stream.name == "bin_data" and bool(stream.container.chapters())


def _codec_name(stream: Stream) -> str | None:
    """Return FFmpeg's name of a stream's codec; None if it is unknown."""
    context = stream.codec_context
    return None if context is None else str(context.codec.canonical_name)
