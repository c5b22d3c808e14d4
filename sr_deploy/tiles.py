"""The geometry of tiles, in whole pixels: no picture, no engine.

A tile *reads* the region it keeps plus the halo on every side. A tile at a border of the picture has no
halo there and keeps the border itself, so the net's own padding acts as on the whole picture. The last
tile of a row is shifted inward instead of being cut. Thus all tiles of a plan have one shape, which
lets engines replay recorded graphs and reuse memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sr_deploy.errors import UsageError
from sr_deploy.spec import SizeRule


class Span(NamedTuple):
    """One tile along one axis, in input pixels.

    The tile reads from `start`; the plan gives the length. Its result counts for [keep_from, keep_to)
    only.
    """

    start: int
    """First pixel that is read."""
    keep_from: int
    """First pixel whose result is kept."""
    keep_to: int
    """End (exclusive) of the pixels whose results are kept."""


@dataclass(frozen=True)
class Plan:
    """All tiles of one picture. Every tile reads the same shape."""

    read_height: int
    """Height in input pixels that a tile reads; may exceed the picture's, see `SizeRule`."""
    read_width: int
    """Width in input pixels that a tile reads; may exceed the picture's, see `SizeRule`."""
    rows: tuple[Span, ...]
    """Vertical spans, from top to bottom."""
    columns: tuple[Span, ...]
    """Horizontal spans, from left to right."""

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows) * len(self.columns)

    @property
    def whole(self) -> bool:
        """True if a single tile covers the whole picture."""
        return self.count == 1

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        """The (row, column) spans of all tiles, row by row."""
        return ((row, column) for row in self.rows for column in self.columns)


def plan_whole(height: int, width: int, rule: SizeRule) -> Plan:
    """One tile over the whole picture, padded at the bottom and right as the size rule requires.

    `height` and `width` are in pixels. Raises UsageError if the size rule is fixed and smaller.
    """
    tall, wide = rule.padded(height, width)
    return Plan(tall, wide, (Span(0, 0, height),), (Span(0, 0, width),))


def plan_tiles(height: int, width: int, *, tile: int, halo: int, rule: SizeRule) -> Plan:
    """Tiles whose kept regions cover a picture of `height` x `width` pixels exactly once.

    `tile` is the largest side of the region that an inner tile keeps. `halo` is the number of pixels
    read around it. A tile therefore reads at most `tile + 2 * halo` pixels a side, or slightly more if
    the size rule demands a multiple. Tiles start at multiples of `rule.step`.

    Raises UsageError for an invalid tile or halo, or if the halo fills a fixed size completely.
    """
    if min(height, width) < 1:
        raise UsageError(f"a picture needs at least 1x1 pixels, got {width}x{height}")
    if tile < 1 or halo < 0:
        raise UsageError(f"tile must be at least 1 and overlap at least 0, got tile {tile}, overlap {halo}")
    fixed = rule.fixed or (None, None)
    read_height, rows = _plan_axis(height, tile, halo, rule, fixed[0])
    read_width, columns = _plan_axis(width, tile, halo, rule, fixed[1])
    return Plan(read_height, read_width, rows, columns)


def _plan_axis(
    length: int, tile: int, halo: int, rule: SizeRule, fixed: int | None
) -> tuple[int, tuple[Span, ...]]:
    """The length that tiles read along one axis, and their spans.

    `length` is the side of the picture in pixels, `fixed` the side of a model with fixed axes, or None.
    """
    step = rule.step
    # -(-a // b) rounds a / b up without floating point
    if fixed is not None:
        padded, largest = fixed + -(-max(length - fixed, 0) // step) * step, fixed
        if length > fixed and fixed - 2 * halo < step:
            raise UsageError(
                f"the model takes {fixed} pixels only, and an overlap of {halo} pixels on both sides leaves fewer "
                f"than {step} of them; give a smaller overlap"
            )
    else:
        padded = rule.padded(length, length)[0]
        largest = _rounded_read(max(tile, step) + 2 * halo, padded, rule)
    if largest >= padded:
        return padded, (Span(0, 0, length),)
    read = largest if fixed is not None else _balanced_read(padded, largest, halo, rule)
    return read, _spans(length, padded, read, halo, step)


def _balanced_read(padded: int, largest: int, halo: int, rule: SizeRule) -> int:
    """The smallest length to read that needs no more tiles than `largest` does.

    Equal tiles overlap less than full tiles followed by one that is shifted far inward, so fewer pixels
    are computed twice.
    """
    step = rule.step
    count = len(_spans(padded, padded, largest, halo, step))
    # at each of the count - 1 seams both neighbours read one halo beyond it
    fair = -(-(padded + 2 * halo * (count - 1)) // count)
    read = max(_rounded_read(fair, padded, rule), _rounded_read(2 * halo + step, padded, rule))
    # starts are rounded down to multiples of `step`, so the fair share may be a few pixels too small
    while read < largest and len(_spans(padded, padded, read, halo, step)) > count:
        read += step
    return min(read, largest)


def _rounded_read(least: int, padded: int, rule: SizeRule) -> int:
    """The smallest length of at least `least` that the rule allows and that ends with the picture.

    The last tile starts at a multiple of the step and ends where the picture of `padded` pixels ends, so that the
    net's own padding acts there as on the whole picture. So a tile is as long as the picture, modulo the step.
    """
    return max(least, rule.minimum) + (padded - max(least, rule.minimum)) % rule.step


def _spans(length: int, padded: int, read: int, halo: int, step: int) -> tuple[Span, ...]:
    """The spans of an axis of `length` pixels, padded to `padded`, whose tiles read `read` pixels each."""
    spans, kept = [], 0
    while kept < length:
        start = max(kept - halo, 0) // step * step
        last = start + read >= padded
        if last:  # shift inward, so that this tile has the shape of the others
            start = (padded - read) // step * step
        end = length if last else min(start + read - halo, length)
        spans.append(Span(start, kept, end))
        kept = end
    return tuple(spans)
