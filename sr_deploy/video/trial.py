"""Try a container and its encoders in memory, before the first frame is upscaled.

The muxer itself decides what a container holds: it is opened with the streams' parameters, and it writes its
header. Lists of names cannot tell, since a codec has another name than its decoders and encoders.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fractions import Fraction

from sr_deploy.errors import UsageError
from sr_deploy.system.scheduling import ordinary_scheduling
from sr_deploy.video.encoder import CODECS, SUFFIXES, Encoding
from sr_deploy.video.pyav import Container, Packet, Stream, add_copy, ffmpeg_message, pyav

_SAMPLE_PACKETS = 400
"""Packets that are read to get a few of every stream. A stream without one of them is tried by its header only."""
_SAMPLE_BYTES = 16 << 20
"""Bytes of packets after which reading ends as well, so that large frames do not fill the memory."""
_SAMPLES = 3
"""Packets of each stream that are tried."""
_TRIAL_BASE = Fraction(1, 10)
"""Unit in seconds of the times of the packets of a trial; every container can tell two of them apart."""


def sample_packets(source: Container, streams: Iterable[Stream]) -> dict[int, list[Packet]]:
    """Return the first packets of each stream by its index, as far as they lie near the beginning of the file.

    Packets of all streams are read and counted: a film may have its first subtitle after many minutes.
    """
    found: dict[int, list[Packet]] = {stream.index: [] for stream in streams}
    size = 0
    if not found:
        return found
    with suppress(pyav().FFmpegError):
        for count, packet in enumerate(source.demux()):
            size += packet.size
            packets = found.get(packet.stream_index)
            if packet.size and packets is not None and len(packets) < _SAMPLES:
                packets.append(packet)
            if count > _SAMPLE_PACKETS or size > _SAMPLE_BYTES or all(map(len, found.values())):
                break
    return found


def copy_refusal(stream: Stream, format: str, packets: Sequence[Packet]) -> str | None:
    """Return why the container `format` does not take the packets of `stream`; None if it does.

    A header is written, then `packets`, and the file is read back: some muxers drop a stream without an error,
    such as MOV a cover (FFmpeg 8.1).
    """
    file = io.BytesIO()
    try:
        with pyav().open(file, "w", format=format) as container:
            made = add_copy(container, stream)
            made.disposition = stream.disposition
            container.start_encoding()
            refusals = [_packet_refusal(container, made, *numbered) for numbered in enumerate(packets)]
        if not packets:
            return None
        if all(refusals):  # a single one may be damaged
            return refusals[0]
        file.seek(0)
        with pyav().open(file) as container:
            kept = any(other.type == stream.type for other in container.streams)
    except (pyav().FFmpegError, ValueError) as error:
        return ffmpeg_message(error)
    return None if kept else "the container drops it"


def _packet_refusal(container: Container, made: Stream, number: int, packet: Packet) -> str | None:
    """Write a copy of a packet. Returns why the container does not take it; None if it does.

    The times of the copy only ascend: the real ones are decided when all packets are written.
    """
    copy = pyav().Packet(bytes(packet))
    copy.stream, copy.time_base, copy.is_keyframe = made, _TRIAL_BASE, packet.is_keyframe
    copy.pts = copy.dts = number
    copy.duration = 1
    try:
        container.mux_one(copy)
    except pyav().FFmpegError as error:
        return ffmpeg_message(error)
    return None


def holders(stream: Stream, packets: Sequence[Packet]) -> list[str]:
    """Return the suffixes of the containers that take a stream's packets."""
    return [suffix for suffix, format in SUFFIXES.items() if copy_refusal(stream, format, packets) is None]


_MPEG4_TICKS = 65535
"""Most ticks of a second in MPEG-4 Part 2, whose header has 16 bits for them; FFmpeg says "Invalid argument" only."""


def try_result(encoding: Encoding, suffix: str, copies: Sequence[Stream]) -> None:
    """Open the encoder and write the header of the whole result in memory.

    Raises UsageError if the encoder cannot start here, or if the container does not take its stream.
    """
    format = SUFFIXES[suffix]
    refusal = _result_refusal(encoding, format, copies)
    if refusal is None:
        return
    if copies and _result_refusal(encoding, format, ()) is None:
        raise UsageError(
            f"{suffix} files cannot hold the streams of the source together ({refusal}); name the output .mkv, or leave "
            "some out with --no-audio, --no-subtitles or --drop-unsupported"
        )
    others = [other for other in (".mkv", ".mp4", ".mov", ".webm") if other != suffix]
    fit = [other for other in others if _result_refusal(encoding, SUFFIXES[other], ()) is None]
    hint = f"name the output {' or '.join(fit)}, or choose" if fit else "choose"
    raise UsageError(
        f"{suffix} files cannot hold video of the encoder {encoding.encoder} ({refusal}); {hint} another --codec"
    )


def _result_refusal(encoding: Encoding, format: str, copies: Sequence[Stream]) -> str | None:
    """Return why the muxer does not write the header of the result; None if it does. Raises UsageError if the
    encoder cannot start."""
    container = pyav().open(io.BytesIO(), "w", format=format)
    try:
        try:
            made = encoding.add_to(container)
        except ValueError:
            return "the container has no place for this codec"
        start_encoder(encoding, made)
        for stream in copies:
            add_copy(container, stream).disposition = stream.disposition
        container.start_encoding()
    except pyav().FFmpegError as error:
        return ffmpeg_message(error)
    finally:
        # The trailer of a file without packets may fail; nothing depends on it.
        with suppress(pyav().FFmpegError, ValueError):
            container.close()
    return None


def start_encoder(encoding: Encoding, stream: Stream) -> None:
    """Open the encoder of `stream`, and let it encode a frame if it is a rare one.

    Raises UsageError if it cannot start, as a hardware encoder without its device, or if it fails, as one that
    takes only certain sizes.
    """
    av = pyav()
    if encoding.encoder == "mpeg4" and encoding.time_base.denominator > _MPEG4_TICKS:
        raise UsageError(
            f"the encoder mpeg4 counts time in 1/{_MPEG4_TICKS} s at the finest, and the source in "
            f"{encoding.time_base} s; choose another --codec"
        )
    try:
        with ordinary_scheduling():
            stream.codec_context.open()
        if encoding.encoder not in CODECS.values():  # those take every size, and a frame takes them longer
            frame = av.VideoFrame(encoding.width, encoding.height, encoding.pixel_format)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = 0, encoding.time_base
            stream.encode(frame)
            stream.encode(None)
    except (av.FFmpegError, ValueError) as error:
        raise UsageError(
            f"the encoder {encoding.encoder} cannot start on this machine with frames of "
            f"{encoding.width}x{encoding.height} {encoding.pixel_format} ({ffmpeg_message(error)}); choose another "
            "--codec or --pixel-format, or other encoder options"
        ) from error
