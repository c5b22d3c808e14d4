"""Join the encoded parts with the other streams of the source. Packets are copied; nothing is decoded or
encoded."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.system.scheduling import ordinary_scheduling
from sr_deploy.video.clock import CopyClock
from sr_deploy.video.encoder import Encoding, container_format
from sr_deploy.video.parts import Parts
from sr_deploy.video.pyav import Container, Packet, Stream, add_copy, opened, pyav, url_of, writing
from sr_deploy.video.streams import StreamPlan

if TYPE_CHECKING:
    from sr_deploy.video.source import VideoInfo

_FILE_METADATA = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "number_of_bytes", "alpha_mode",
         "number_of_frames", "bps", "_statistics_tags", "_statistics_writing_app",
         "_statistics_writing_date_utc"}  # fmt: skip
"""Metadata that describes the source's file, not its content. It would be wrong in the result. `alpha_mode` announces
opacity, which an opaque result does not have."""


_EARLIEST = Fraction(-1 << 40)
"""Time in seconds at which a packet without a timestamp is written: before all others."""


@dataclass
class CopiedStream:
    """Packet counts and times of a copied stream, compared by `check`."""

    kind: str
    """FFmpeg's kind of stream: "audio", "subtitle" or "video"."""
    packets: int = 0
    first: Fraction | None = None
    """Time of the earliest packet in seconds; None if no packet has a time."""
    last: Fraction | None = None
    """Time of the latest packet in seconds; None if no packet has a time."""
    bytes: int = 0
    """Size of all packets."""

    def add(self, time: Fraction | None, size: int = 0) -> None:
        """Count a packet of `size` bytes. `time` is in seconds, or None."""
        self.packets += 1
        self.bytes += size
        if time is None:
            return
        self.first = time if self.first is None else min(self.first, time)
        self.last = time if self.last is None else max(self.last, time)


@dataclass(frozen=True)
class Joined:
    """Description of what was written, for `check` to compare with the file."""

    pts: list[int]
    """Display time of every frame, in the video's time base, in ascending order."""
    others: list[CopiedStream] = field(default_factory=list)
    """The other copied streams, in the order of the result."""
    notes: list[str] = field(default_factory=list)
    """Notes about packets that are left out, one sentence each."""


def join(
    facts: VideoInfo,
    parts: Parts,
    encoding: Encoding,
    plan: StreamPlan,
    target: Path,
    output: Path,
    shifts: list[tuple[int, Fraction]] | None = None,
) -> Joined:
    """Write the whole result into `output`, which later gets the name `target`.

    Packets of all streams are merged by decoding time, so that a player can read the file from start to
    end. `shifts` are those of the video's clock. Raises InputError if reading the source fails, OutputError if
    writing fails.
    """
    joined = Joined([pts for part in parts.done for pts in part.pts])
    routes: dict[int, _Route] = {}
    with opened(facts.path) as source, writing(target):
        container = pyav().open(url_of(output), "w", format=container_format(target))
        with container:
            for index in plan.kept:
                made = _stream(source.streams[index], container, facts, encoding)
                if index == facts.stream:
                    video = _video_packets(parts, joined.pts, encoding.time_base, made)
                else:
                    joined.others.append(CopiedStream(made.type))
                    clock = CopyClock(source.streams[index], shifts or [])
                    routes[index] = _Route(made, joined.others[-1], clock)
            _describe(source, container, plan)
            with ordinary_scheduling():
                container.start_encoding()  # opens the encoder, whose parameters the header needs
            copied = _copied_packets(source, routes)
            for _, packet in heapq.merge(video, copied, key=lambda timed: timed[0]):
                _write(container, packet, routes)
    joined.notes.extend(_copy_notes(routes))
    return joined


@dataclass
class _Route:
    """Destination of the packets of one source stream."""

    made: Stream
    """The stream in the result."""
    copied: CopiedStream
    clock: CopyClock
    damaged: int = 0
    """Number of packets that the container refused."""


def _write(container: Container, packet: Packet, routes: dict[int, _Route]) -> None:
    """Write a packet. A damaged one of a copied stream is counted and left out."""
    route = next((route for route in routes.values() if route.made is packet.stream), None)
    if route is None:
        container.mux_one(packet)
        return
    time, size = time_of(packet.pts, packet.time_base), packet.size  # read before muxing, which rescales
    try:
        container.mux_one(packet)
    except pyav().error.InvalidDataError:
        route.damaged += 1
    else:
        route.copied.add(time, size)


def _copy_notes(routes: dict[int, _Route]) -> Iterator[str]:
    """Yield notes about packets that are left out, and about streams that have none."""
    for index, route in routes.items():
        kind = route.copied.kind
        if route.damaged:
            yield f"{route.damaged} damaged packets of stream {index} ({kind}) are left out"
        elif not route.copied.packets:
            yield f"stream {index} ({kind}) has no packets"


def _stream(stream: Stream, container: Container, facts: VideoInfo, encoding: Encoding) -> Stream:
    """Add a stream to the result for one of the source: a newly encoded one for the video, else a copy of
    the parameters."""
    if stream.index == facts.stream:
        made = encoding.add_to(container)
        if facts.rotation is not None and hasattr(made, "set_display_matrix"):  # since PyAV 18
            made.set_display_matrix(facts.rotation)
    else:
        made = add_copy(container, stream)
    made.metadata.update(_content_metadata(stream.metadata))
    made.disposition = stream.disposition
    return made


def _describe(source: Container, container: Container, plan: StreamPlan) -> None:
    """Copy attachments, the file's metadata and the chapters."""
    for one in plan.attachments:
        container.add_attachment(one.name, one.kind, one.data)
    container.metadata.update(_content_metadata(source.metadata))
    container.set_chapters(source.chapters())


def _content_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Return the metadata without the entries of `_FILE_METADATA`. Matroska appends a language, such as
    BPS-eng."""
    return {
        name: value for name, value in metadata.items() if name.lower().split("-")[0] not in _FILE_METADATA
    }


def _video_packets(
    parts: Parts, shown: list[int], time_base: Fraction, stream: Stream
) -> Iterator[tuple[Fraction, Packet]]:
    """Yield the packets of all parts with their true times, each with its decoding time in seconds.

    With B-frames, the decoding time of a packet is the display time of the frame `delay` places earlier,
    where `delay` is the number of places by which the encoder reorders. This is the usual scheme and keeps
    decoding times ascending and not later than display times.
    """
    delay = max((i - place for part in parts.done for i, place in enumerate(part.order)), default=0)
    ends = [*shown[1:], shown[-1] + parts.done[-1].tail] if shown else []
    first = 0
    for number, part in enumerate(parts.done):
        for i, packet in enumerate(_packets_of(parts.path(number))):
            place = first + part.order[i]
            packet.pts = shown[place]
            before = first + i - delay
            # Before the first frame there are no display times; count down from it in single ticks.
            packet.dts = shown[before] if before >= 0 else shown[0] + before
            packet.duration = ends[place] - shown[place]
            packet.time_base = time_base
            packet.stream = stream
            yield packet.dts * time_base, packet
        first += len(part.pts)


def _packets_of(path: Path) -> Iterator[Packet]:
    """Yield the packets of a part's file, without the empty one that ends the stream."""
    with opened(path) as container:
        yield from (packet for packet in container.demux(container.streams.video[0]) if packet.size)


def _copied_packets(source: Container, routes: dict[int, _Route]) -> Iterator[tuple[Fraction, Packet]]:
    """Yield the packets of all other streams, each with its decoding time in seconds."""
    if not routes:
        return
    for packet in source.demux([source.streams[index] for index in routes]):
        if packet.size and not is_filler(
            packet
        ):  # else the end of a stream, or padding of the container's own
            route = routes[packet.stream_index]
            yield from _timed(route.clock.take(packet), route)
    for route in routes.values():
        yield from _timed(route.clock.rest(), route)


def _timed(packets: list[Packet], route: _Route) -> Iterator[tuple[Fraction, Packet]]:
    """Send packets to their stream in the result, each with its decoding time in seconds."""
    for packet in packets:
        packet.stream = route.made
        time = time_of(packet.dts, packet.time_base)
        yield _EARLIEST if time is None else time, packet


def is_filler(packet: Packet) -> bool:
    """Return whether the packet is the empty text that MP4 stores between two subtitles."""
    return packet.stream.type == "subtitle" and packet.size == 2 and bytes(packet) == b"\0\0"


def time_of(stamp: int | None, time_base: Fraction) -> Fraction | None:
    """Convert a timestamp to seconds. Returns None for the packet of a cover, which has no timestamp."""
    return None if stamp is None else stamp * Fraction(time_base)
