"""Where tiles lie: integer geometry only, no pixels, no engine.

A tile *reads* its kept region plus the halo on every side. A tile flush with a border of the picture keeps
that border, so the net's own padding acts as it does on the whole picture. The last tile of a row shifts
inward, so that all tiles of a plan share one shape, which is what graph replay and memory reuse want.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sr_deploy.errors import UsageError
from sr_deploy.spec import SizeRule


class Span(NamedTuple):
    """One tile along one axis, in input pixels: it reads from `start`, and [keep_from, keep_to) counts."""

    start: int
    keep_from: int
    keep_to: int


@dataclass(frozen=True)
class Plan:
    """All tiles of one picture. Read shape is the same for every tile."""

    read_height: int
    read_width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return len(self.rows) * len(self.columns)

    @property
    def whole(self) -> bool:
        """True where one tile takes the whole picture."""
        return self.count == 1

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        return ((row, column) for row in self.rows for column in self.columns)


def plan_whole(height: int, width: int, rule: SizeRule) -> Plan:
    """One tile over everything, padded at the bottom and right to what the size rule wants."""
    tall, wide = rule.padded(height, width)
    return Plan(tall, wide, (Span(0, 0, height),), (Span(0, 0, width),))


def plan_tiles(height: int, width: int, *, tile: int, halo: int, rule: SizeRule) -> Plan:
    """Tiles whose kept regions cover a picture of `height` x `width` exactly once.

    `tile` is the largest side of an inner tile's kept region; `halo` the ring read around it, so a tile
    reads at most `tile + 2 * halo` pixels a side (more only where the size rule wants a larger multiple).
    Tiles start at multiples of `rule.multiple_of`. Raises UsageError for a tile or halo that makes no
    sense, or a fixed size that leaves nothing to keep.
    """
    if min(height, width) < 1:
        raise UsageError(f"a picture needs pixels, got {width}x{height}")
    if tile < 1 or halo < 0:
        raise UsageError(f"tile must be at least 1 and overlap at least 0, got tile {tile}, overlap {halo}")
    fixed = rule.fixed or (None, None)
    read_height, rows = _plan_axis(height, tile, halo, rule, fixed[0])
    read_width, columns = _plan_axis(width, tile, halo, rule, fixed[1])
    return Plan(read_height, read_width, rows, columns)


def _plan_axis(
    length: int, tile: int, halo: int, rule: SizeRule, fixed: int | None
) -> tuple[int, tuple[Span, ...]]:
    step = rule.multiple_of
    if fixed is not None:
        padded, largest = fixed + -(-max(length - fixed, 0) // step) * step, fixed
        if length > fixed and fixed - 2 * halo < step:
            raise UsageError(
                f"the model takes {fixed} pixels only, and an overlap of {halo} on both sides leaves too little of "
                "them; give a smaller overlap"
            )
    else:
        padded = rule.padded(length, length)[0]
        largest = rule.padded(max(tile, step) + 2 * halo, 1)[0]
    if largest >= padded:
        return padded, (Span(0, 0, length),)
    read = largest if fixed is not None else _balanced_read(padded, largest, halo, rule)
    return read, _spans(length, padded, read, halo, step)


def _balanced_read(padded: int, largest: int, halo: int, rule: SizeRule) -> int:
    """The smallest read size that needs no more tiles than `largest` does: less is read twice."""
    step = rule.multiple_of
    count = len(_spans(padded, padded, largest, halo, step))
    fair = -(-(padded + 2 * halo * (count - 1)) // count)
    read = max(rule.padded(fair, 1)[0], rule.padded(2 * halo + step, 1)[0])
    while read < largest and len(_spans(padded, padded, read, halo, step)) > count:
        read += step
    return min(read, largest)


def _spans(length: int, padded: int, read: int, halo: int, step: int) -> tuple[Span, ...]:
    spans, kept = [], 0
    while kept < length:
        start = max(kept - halo, 0) // step * step
        last = start + read >= padded
        if last:
            start = (padded - read) // step * step
        end = length if last else min(start + read - halo, length)
        spans.append(Span(start, kept, end))
        kept = end
    return tuple(spans)
