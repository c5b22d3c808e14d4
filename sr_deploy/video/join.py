"""Joining the parts with everything else the source holds: packets are copied, nothing is decoded or encoded."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.video.encoder import Encoding, container_format
from sr_deploy.video.parts import Parts
from sr_deploy.video.pyav import Container, Packet, Stream, opened, pyav, writing
from sr_deploy.video.streams import StreamPlan

if TYPE_CHECKING:
    from sr_deploy.video.source import VideoInfo

_FILE_METADATA = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "number_of_bytes",
         "number_of_frames", "bps", "_statistics_tags", "_statistics_writing_app",
         "_statistics_writing_date_utc"}  # fmt: skip
"""Metadata that tells of the source's file and not of its content."""


_EARLIEST = Fraction(-1 << 40)
"""When a packet without a time is written."""


@dataclass
class CopiedStream:
    """What became of one stream that was copied."""

    kind: str
    packets: int = 0
    first: Fraction | None = None
    """Time of its first packet, in seconds."""
    last: Fraction | None = None

    def add(self, time: Fraction | None) -> None:
        """Another packet, of this time."""
        self.packets += 1
        if time is None:
            return
        self.first = time if self.first is None else min(self.first, time)
        self.last = time if self.last is None else max(self.last, time)


@dataclass(frozen=True)
class Joined:
    """What was put into the result; `check` sees whether it is there."""

    pts: list[int]
    """Of every frame, in the video's time base."""
    others: list[CopiedStream] = field(default_factory=list)
    """The streams beside the video, in their order."""


def join(
    facts: VideoInfo, parts: Parts, encoding: Encoding, plan: StreamPlan, target: Path, output: Path
) -> Joined:
    """Write all that is to be in the result into `output`, which is to become `target`. Raises OutputError."""
    joined = Joined([pts for part in parts.done for pts in part.pts])
    routes: dict[int, _Route] = {}
    with opened(facts.path) as source, writing(target):
        container = pyav().open(os.fspath(output), "w", format=container_format(target))
        with container:
            for index in plan.kept:
                made = _stream(source.streams[index], container, facts, encoding)
                if index == facts.stream:
                    video = _video_packets(parts, joined.pts, encoding.time_base, made)
                else:
                    joined.others.append(CopiedStream(made.type))
                    routes[index] = _Route(made, joined.others[-1])
            _describe(source, container, plan)
            copied = _copied_packets(source, routes)
            for _, packet in heapq.merge(video, copied, key=lambda timed: timed[0]):
                container.mux_one(packet)
    return joined


@dataclass(frozen=True)
class _Route:
    """Where the packets of a source's stream go."""

    made: Stream
    copied: CopiedStream


def _stream(stream: Stream, container: Container, facts: VideoInfo, encoding: Encoding) -> Stream:
    """A stream in the result for one of the source: encoded anew for the video, else the same."""
    if stream.index == facts.stream:
        made = encoding.add_to(container)
        if facts.rotation is not None and hasattr(made, "set_display_matrix"):  # PyAV 18
            made.set_display_matrix(facts.rotation)
    else:
        made = container.add_stream_from_template(stream)
    made.metadata.update(_content_metadata(stream.metadata))
    made.disposition = stream.disposition
    return made


def _describe(source: Container, container: Container, plan: StreamPlan) -> None:
    for one in plan.attachments:
        container.add_attachment(one.name, one.kind, one.data)
    container.metadata.update(_content_metadata(source.metadata))
    container.set_chapters(source.chapters())


def _content_metadata(metadata: dict[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in metadata.items() if name.lower().split("-")[0] not in _FILE_METADATA
    }


def _video_packets(
    parts: Parts, shown: list[int], time_base: Fraction, stream: Stream
) -> Iterator[tuple[Fraction, Packet]]:
    """The packets of every part with their true times.

    Decoding times are the display times of as many frames before as the encoder reorders, the usual scheme.
    """
    delay = max((i - place for part in parts.done for i, place in enumerate(part.order)), default=0)
    ends = [*shown[1:], shown[-1] + parts.done[-1].tail] if shown else []
    first = 0
    for number, part in enumerate(parts.done):
        for i, packet in enumerate(_packets_of(parts.path(number))):
            place = first + part.order[i]
            packet.pts = shown[place]
            before = first + i - delay
            packet.dts = shown[before] if before >= 0 else shown[0] + before
            packet.duration = ends[place] - shown[place]
            packet.time_base = time_base
            packet.stream = stream
            yield packet.dts * time_base, packet
        first += len(part.pts)


def _packets_of(path: Path) -> Iterator[Packet]:
    with opened(path) as container:
        yield from (packet for packet in container.demux(container.streams.video[0]) if packet.size)


def _copied_packets(source: Container, routes: dict[int, _Route]) -> Iterator[tuple[Fraction, Packet]]:
    if not routes:
        return
    for packet in source.demux([source.streams[index] for index in routes]):
        if not packet.size or is_filler(packet):  # the end of a stream, or what the container makes itself
            continue
        route = routes[packet.stream_index]
        shown = packet.pts if packet.pts is not None else packet.dts
        decoded = packet.dts if packet.dts is not None else packet.pts
        route.copied.add(time_of(shown, packet.time_base))
        packet.stream, packet.pts, packet.dts = route.made, shown, decoded
        time = time_of(decoded, packet.time_base)
        yield _EARLIEST if time is None else time, packet


def is_filler(packet: Packet) -> bool:
    """Whether it is the empty text that MP4 has between two subtitles."""
    return packet.stream.type == "subtitle" and packet.size == 2 and bytes(packet) == b"\0\0"


def time_of(stamp: int | None, time_base: Fraction) -> Fraction | None:
    """A timestamp in seconds; None for the one packet of a cover, which has none."""
    return None if stamp is None else stamp * Fraction(time_base)
