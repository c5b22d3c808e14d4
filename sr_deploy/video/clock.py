"""Decide when each frame and packet is shown.

The times in a file can be wrong in two ways. They can start again in the middle, as in TS files that were joined end
to end. And they can follow the order of decoding instead of the order of display; FFmpeg makes such times up for AVI,
and for Matroska files with a track from Video for Windows.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from sr_deploy.video.pyav import Packet, Stream

_BACKWARDS = Fraction(1, 10)
"""Seconds by which decoding times may go back without a new clock; ffmpeg allows the same."""
_LONG_GAP = Fraction(10)
"""Seconds from which the user is told about a gap; ffmpeg takes a jump of this length for a new clock."""
_CODING_ORDER_PACKETS = 48
"""Packets whose times are looked at to tell whether they follow the order of decoding."""
_STEP = Fraction(1, 8000)
"""Seconds between a packet that has to move and the one before it. A tick of 1/90000 s would vanish in the coarser
ticks of a sound track."""


@dataclass
class FrameClock:
    """Clock of the main video. Corrects the times of its packets in the order of the file."""

    time_base: Fraction
    step: int
    """Nominal duration of a frame in ticks of `time_base`."""
    max_gap: Fraction | None = None
    """Longest gap in seconds that stays; None: all."""
    shifts: list[tuple[int, Fraction]] = field(default_factory=list)
    """Places in the file, in bytes, from which all times are moved, with the seconds by which they are moved."""
    resets: int = 0
    """Number of times that the clock began anew."""
    gaps: list[Fraction] = field(default_factory=list)
    """Lengths in seconds of the long gaps that stay."""
    packets: int = 0
    """Number of packets."""
    _offset: int = 0
    _last: int | None = None
    _duration: int = 0

    def move(self, packet: Packet) -> None:
        """Correct the times of the next packet. One without a decoding time only gets the current shift."""
        self.packets += 1
        if packet.dts is not None:
            self._follow(packet.dts + self._offset, packet)
            self._last = packet.dts + self._offset
            self._duration = packet.duration or self.step
            packet.dts += self._offset
        if packet.pts is not None:
            packet.pts += self._offset

    def _follow(self, time: int, packet: Packet) -> None:
        """Compare a decoding time with the one before it, and move the clock if it began anew or a gap is too long.

        The duration of a packet does not tell of a gap: in MP4 it includes the gap.
        """
        if self._last is None:
            return
        jump = (time - self._last) * self.time_base
        closed = self.max_gap is not None and jump > self.max_gap
        if jump > _LONG_GAP and not closed:
            self.gaps.append(jump)
        if jump < -_BACKWARDS:
            self.resets += 1
            self._move_to(self._last + self._duration, time, packet)
        elif closed:
            assert self.max_gap is not None
            longest = max(1, int(self.max_gap / self.time_base))  # slides may have a longer nominal frame
            self._move_to(self._last + min(self.step, longest), time, packet)

    def _move_to(self, wanted: int, time: int, packet: Packet) -> None:
        """Move all times from `packet` on, so that its own becomes `wanted` instead of `time`."""
        self._offset += wanted - time
        self.shifts.append((packet.pos or 0, self._offset * self.time_base))

    def notes(self) -> Iterator[str]:
        """Yield notes about new clocks and long gaps."""
        if self.resets:
            yield f"the clock of the source begins anew {self.resets} times; each part follows the one before it"
        if self.gaps:
            longest = float(max(self.gaps))
            yield f"the video has {len(self.gaps)} gaps of up to {longest:.1f} s, which are kept; --max-gap closes them"


def in_coding_order(packets: Iterable[Packet]) -> bool:
    """Return whether display times ascend in the order of the packets although frames are reordered.

    The stream's decoder must be one that reorders. Right times of such a stream do not ascend.
    """
    times = [packet.pts for packet in packets if packet.size]
    known = [time for time in times if time is not None]
    return len(known) == len(times) and all(a < b for a, b in pairwise(known))


def first_packets(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Yield as many packets as `in_coding_order` needs."""
    for _, packet in zip(range(_CODING_ORDER_PACKETS), packets, strict=False):
        yield packet


class DecodingOrder:
    """Display times taken from decoding times: the frames that are shown get them in ascending order.

    All are moved by the same time, so that the first frame is shown at `first`. FFmpeg 8 itself makes up a display time
    that is one packet after the first decoding time, whatever the number of packets by which the codec reorders.
    """

    def __init__(self, first: int | None) -> None:
        self._times: list[int] = []
        self._first = first
        self._delay: int | None = None

    def fed(self, packet: Packet) -> None:
        """Note a packet that the decoder gets."""
        if packet.size and packet.dts is not None:
            heapq.heappush(self._times, packet.dts)

    def lost(self, packet: Packet) -> None:
        """Forget a packet that could not be decoded."""
        if packet.dts in self._times:
            self._times.remove(packet.dts)
            heapq.heapify(self._times)

    def next(self, shown: int | None) -> int | None:
        """Return the time of the next frame. `shown` is its display time as FFmpeg gives it, used for the first frame
        if `first` is not known."""
        if not self._times:
            return None
        time = heapq.heappop(self._times)
        if self._delay is None:
            first = shown if self._first is None else self._first
            self._delay = 0 if first is None else first - time
        return time + self._delay


class CopyClock:
    """Times of the packets of a stream that is copied."""

    def __init__(self, stream: Stream, shifts: list[tuple[int, Fraction]]) -> None:
        self._base = Fraction(stream.time_base or 1)
        self._strict = stream.type != "subtitle"
        self._shifts = deque(shifts)
        self._offset = 0
        self._last: int | None = None
        self._early: list[Packet] | None = []

    def take(self, packet: Packet) -> list[Packet]:
        """Return the packets that are ready once `packet` is read, with times that ascend.

        Packets before the first decoding time wait for it: Matroska files begin so with frames that are reordered.
        """
        self._shift(packet)
        if self._early is None:
            return [self._ascending(packet)]
        self._early.append(packet)
        if packet.dts is None and packet.pts is not None and len(self._early) < _CODING_ORDER_PACKETS:
            return []
        return self.rest()

    def rest(self) -> list[Packet]:
        """Return the packets that still wait, at the end of the stream."""
        early, self._early = self._early or [], None
        later: int | None = None
        for packet in reversed(early):
            if packet.dts is None:
                known = [
                    time for time in (packet.pts, None if later is None else later - 1) if time is not None
                ]
                packet.dts = min(known, default=None)
            later = packet.dts
        return [self._ascending(packet) for packet in early]

    def _shift(self, packet: Packet) -> None:
        """Move a packet as the video is moved from its place in the file on."""
        while self._shifts and packet.pos is not None and packet.pos >= self._shifts[0][0]:
            self._offset = round(self._shifts.popleft()[1] / self._base)
        if packet.pts is not None:
            packet.pts += self._offset
        if packet.dts is not None:
            packet.dts += self._offset

    def _ascending(self, packet: Packet) -> Packet:
        """Complete the times of a packet. A decoding time that goes back becomes one just after the last."""
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.dts is None:  # a cover
            return packet
        if self._last is not None and (
            packet.dts < self._last or (self._strict and packet.dts == self._last)
        ):
            packet.dts = self._last + max(1, round(_STEP / self._base)) * self._strict
        self._last = packet.dts
        if packet.pts is None or packet.pts < packet.dts:
            packet.pts = packet.dts
        return packet
