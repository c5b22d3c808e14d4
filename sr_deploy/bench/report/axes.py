"""Axes of a plot: from a value to a place, where ticks go and what they say. It draws nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps low..high to start..end, linearly or by the logarithm; start may be greater than end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of `value`; what is outside is put on the border."""
        inside = min(max(value, self.low), self.high)
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, inside))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether `value` lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, count: int = 6) -> list[float]:
        """Round values between the ends, about `count` of them."""
        return (_log_ticks if self.log else _linear_ticks)(self.low, self.high, count)


def axis_of(
    values: Iterable[float], *, start: float, end: float, log: bool = False, margin: float = 0.06
) -> Axis:
    """An axis that holds all `values`, with a margin on both sides as a share of the span.

    A logarithmic axis leaves out values that are not positive. Without any value it goes from 1 to 10.
    """
    kept = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0, 10.0]
    low, high = min(kept), max(kept)
    if log:
        edge = math.exp(max(margin * math.log(high / low), math.log(1.15)))
        return Axis(low=low / edge, high=high * edge, start=start, end=end, log=True)
    edge = margin * (high - low) or max(abs(high) * 0.05, 1e-9)
    return Axis(low=low - edge, high=high + edge, start=start, end=end)


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / max(count, 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """1, 2 and 5 of each decade; fewer where that is too many; linear ones where it is less than two."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if len(found) <= count + 2:
            break
    found = found[:: math.ceil(len(found) / (count + 2)) or 1]
    return found if len(found) > 1 else _linear_ticks(low, high, count)


def compact(value: float) -> str:
    """A number in few characters: 0.25, 3.1, 640, 2.07M."""
    for size, letter in _PREFIXES:
        if abs(value) >= size * 0.9995:
            return f"{three_digits(value / size)}{letter}"
    return three_digits(value)


def three_digits(value: float) -> str:
    """Three significant digits, or all of a whole number, without exponent and trailing zeros."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, 2 - math.floor(math.log10(abs(value)) + 1e-9))
    text = f"{value:.{min(decimals, 9)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """A time in the unit that reads best: 85 µs, 16.7 ms, 1.23 s."""
    if seconds >= 0.9995:
        return f"{three_digits(seconds)} s"
    return (
        f"{three_digits(seconds * 1e3)} ms"
        if seconds >= 1e-4 or seconds == 0
        else f"{three_digits(seconds * 1e6)} µs"
    )


def size(count: float) -> str:
    """Bytes, in the binary unit that reads best."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(count) >= unit:
            return f"{three_digits(count / unit)} {name}"
    return f"{three_digits(count)} bytes"
