"""Axes of a plot: the place of a value, the ticks, and numbers as text. It draws nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
"""Smallest value of each metric prefix."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A mapping of values low..high to places start..end, linear or logarithmic.

    `start` may be greater than `end`, as on a vertical axis of SVG, whose origin is at the top.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of `value`; a value outside the axis is put at its nearer end."""
        inside = min(max(value, self.low), self.high)
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, inside))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Return whether `value` lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, count: int = 6) -> list[float]:
        """Return round values between the ends, about `count` of them."""
        return (_log_ticks if self.log else _linear_ticks)(self.low, self.high, count)


def axis_of(
    values: Iterable[float], *, start: float, end: float, log: bool = False, margin: float = 0.06
) -> Axis:
    """Make an axis that contains all `values`, with a margin on both sides as a share of the span.

    A logarithmic axis ignores values that are not positive. Without any value the axis goes from 1 to 10.
    """
    kept = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0, 10.0]
    low, high = min(kept), max(kept)
    if log:
        # At least 15 % at each end, so that a single value has an axis, too.
        edge = math.exp(max(margin * math.log(high / low), math.log(1.15)))
        return Axis(low=low / edge, high=high * edge, start=start, end=end, log=True)
    edge = margin * (high - low) or max(abs(high) * 0.05, 1e-9)
    return Axis(low=low - edge, high=high + edge, start=start, end=end)


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between the ends."""
    rough = (high - low) / max(count, 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    # The tolerance keeps rounding from choosing the next larger step.
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """The values 1, 2 and 5 of each decade; fewer if these are too many.

    If only one of them is on the axis, the ticks are linear.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if len(found) <= count + 2:
            break
    found = found[:: math.ceil(len(found) / (count + 2)) or 1]
    return found if len(found) > 1 else _linear_ticks(low, high, count)


def compact(value: float) -> str:
    """Format a number in few characters: 0.25, 3.1, 640, 2.07M."""
    for size, letter in _PREFIXES:
        if abs(value) >= size * 0.9995:
            return f"{three_digits(value / size)}{letter}"
    return three_digits(value)


def three_digits(value: float) -> str:
    """Format three significant digits, or all digits of a whole number, without exponent and trailing zeros."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, 2 - math.floor(math.log10(abs(value)) + 1e-9))
    text = f"{value:.{min(decimals, 9)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """Format a time in seconds in a fitting unit: 85 µs, 16.7 ms, 1.23 s."""
    if seconds >= 0.9995:
        return f"{three_digits(seconds)} s"
    if seconds >= 1e-4 or seconds == 0:
        return f"{three_digits(seconds * 1e3)} ms"
    return f"{three_digits(seconds * 1e6)} µs"


def size(count: float) -> str:
    """Format a number of bytes in a fitting binary unit: 12 KiB, 1.5 GiB."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(count) >= unit:
            return f"{three_digits(count / unit)} {name}"
    return f"{three_digits(count)} bytes"
