"""Decide which other streams of a source go into the result, and in what form."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import UsageError
from sr_deploy.video.encoder import SUFFIXES, container_format
from sr_deploy.video.pyav import Packet, Stream, opened, pyav
from sr_deploy.video.trial import copy_refusal, holders, sample_packets, try_result

if TYPE_CHECKING:
    from sr_deploy.video.encoder import Encoding
    from sr_deploy.video.source import VideoInfo

_OPTIONS = {"audio": "--no-audio", "subtitle": "--no-subtitles"}
"""Option that leaves out a kind of stream, for messages."""
_COPIED = ("audio", "subtitle", "video")
"""Kinds of streams whose packets are copied."""
_PICTURES = {"png": "image/png", "mjpeg": "image/jpeg"}
"""MIME type for each codec of a cover. Matroska stores covers as attachments."""


@dataclass(frozen=True, kw_only=True)
class StreamChoice:
    """Kinds of streams that the user wants."""

    audio: bool = True
    """Copy all audio streams."""
    subtitles: bool = True
    """Copy all subtitle streams."""
    drop_unsupported: bool = False
    """Leave out, with a note, the streams that the container cannot hold, instead of refusing them."""


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


def plan_streams(facts: VideoInfo, target: Path, choice: StreamChoice, encoding: Encoding) -> StreamPlan:
    """Decide which streams are carried over into `target`, whose suffix names the container.

    Every stream is tried in the real muxer, and the header of the whole result is written in memory with the real
    encoder. Raises UsageError for audio or subtitles that the container cannot hold, and for an encoder that
    cannot start or whose video it cannot hold. Other streams that it cannot hold are left out with a note, and
    with `choice.drop_unsupported` audio and subtitles too.
    """
    plan = StreamPlan()
    container_format(target)
    with opened(facts.path) as container:
        others = [s for s in container.streams if s.index != facts.stream and _is_wanted(s, choice)]
        samples = sample_packets(container, [s for s in others if s.type in _COPIED])
        for stream in others:
            if stream.type in _COPIED:
                _plan_copy(stream, target, samples[stream.index], choice, plan)
            elif stream.type == "attachment":
                _plan_attachment(stream, target, plan)
            elif not _is_chapter_track(stream):
                plan.notes.append(
                    f"stream {stream.index} ({stream.name or stream.type}) is data and is left out"
                )
        copies = [stream for stream in others if stream.index in plan.kept]
        try_result(encoding, target.suffix.lower(), copies)
    plan.kept.append(facts.stream)
    plan.kept.sort()
    return plan


def _is_wanted(stream: Stream, choice: StreamChoice) -> bool:
    """Return whether the user wants a stream, by its kind."""
    return {"audio": choice.audio, "subtitle": choice.subtitles}.get(stream.type, True)


def _plan_copy(
    stream: Stream, target: Path, packets: list[Packet], choice: StreamChoice, plan: StreamPlan
) -> None:
    """Plan a stream whose packets are copied. A cover becomes an attachment in Matroska."""
    name = _codec_name(stream)
    is_cover = bool(stream.disposition & pyav().stream.Disposition.attached_pic)
    if is_cover and target.suffix.lower() == ".mkv" and name in _PICTURES and packets:
        suffix = _PICTURES[name].partition("/")[2]
        plan.attachments.append(Attachment(f"cover.{suffix}", _PICTURES[name], bytes(packets[0])))
        return
    refusal = copy_refusal(stream, SUFFIXES[target.suffix.lower()], packets)
    if refusal is None:
        plan.kept.append(stream.index)
    elif not packets and _is_empty(stream):
        plan.notes.append(f"stream {stream.index} ({name or stream.type}) has no packets and is left out")
    elif stream.type == "video":
        plan.notes.append(
            f"stream {stream.index}, a {name} picture, is left out: {target.suffix} files cannot hold it"
        )
    else:
        _refuse(stream, target, packets, choice, plan)


def _refuse(
    stream: Stream, target: Path, packets: list[Packet], choice: StreamChoice, plan: StreamPlan
) -> None:
    """Raise UsageError for audio or subtitles that the container cannot hold, or note that they are left out."""
    what = f"{_codec_name(stream) or 'unknown'} {stream.type}"
    if choice.drop_unsupported:
        plan.notes.append(
            f"stream {stream.index} ({what}) is left out: {target.suffix} files cannot hold it here"
        )
        return
    fit = [suffix for suffix in holders(stream, packets) if suffix != ".m4v"]
    hint = f"name the output {' or '.join(fit)}" if fit else "convert it first, for example with ffmpeg"
    raise UsageError(
        f"the source has {what}, which {target.suffix} files cannot hold; {hint}, or leave it out with "
        f"{_OPTIONS[stream.type]} or --drop-unsupported"
    )


def _is_empty(stream: Stream) -> bool:
    """Return whether nothing is known of a stream's content: no rate of its sound, no size of its pictures."""
    context = stream.codec_context
    names = {"audio": "sample_rate", "video": "width"}
    return context is not None and not getattr(context, names.get(stream.type, "name"), None)


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
    """Return FFmpeg's name of a stream's codec; None if this PyAV has no decoder for it."""
    context = stream.codec_context
    return None if context is None else str(context.codec.canonical_name)
