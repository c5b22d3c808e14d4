"""Draw the growth of time and memory as one SVG: a panel per law with points, line and exponent.

Called by tables.py. The same results give the same bytes, so that a check can tell whether the picture in the
docs is up to date.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from sr_deploy.bench.scaling import Scaling

_WIDTH, _HEIGHT, _COLUMNS = 400, 270, 2
_LEFT, _RIGHT, _BOTTOM, _ROW = 62, 14, 40, 13
_COLOURS = ("#1f6fb4", "#c2571a", "#2a8a4a", "#8a4ab0", "#a03040", "#606060")
_UNITS = {"time": (1e3, "ms"), "memory": (1e-6, "MB")}
_WORDS = {"pixels": "pixels", "batch": "pictures a call", "threads": "threads", "tile": "side of a tile"}


def scaling_svg(laws: Sequence[Scaling]) -> str:
    """Draw a panel for each pair of cost and cause, with all subjects in it."""
    panels: dict[tuple[str, str], list[Scaling]] = {}
    for law in laws:
        panels.setdefault((law.against, law.cost), []).append(law)
    rows = -(-len(panels) // _COLUMNS)
    width, height = _WIDTH * min(_COLUMNS, len(panels)), _HEIGHT * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#ffffff"/>'
    ]
    for number, (key, own) in enumerate(panels.items()):
        x, y = number % _COLUMNS * _WIDTH, number // _COLUMNS * _HEIGHT
        parts.append(f'<g transform="translate({x},{y})">{_panel(*key, own)}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(against: str, cost: str, laws: Sequence[Scaling]) -> str:
    factor, unit = _UNITS[cost]
    top = 28 + _ROW * len(laws)
    xs = [x for law in laws for x, _ in law.fit.points]
    ys = [y * factor for law in laws for _, y in law.fit.points]
    across, up = _Axis(xs, _LEFT, _WIDTH - _RIGHT), _Axis(ys, _HEIGHT - _BOTTOM, top)
    parts = [_text(_LEFT, 16, f"{cost} ({unit}) by {_WORDS[against]}", weight="bold")]
    parts += [_upright(across.at(v), top, _short(v)) for v in across.ticks]
    parts += [_level(up.at(v), _short(v)) for v in up.ticks]
    for number, law in enumerate(laws):
        colour = _COLOURS[number % len(_COLOURS)]
        name = f"{_subject(law)}: {against}^{law.fit.exponent:.2f}"
        parts.append(_text(_LEFT + 6, 31 + _ROW * number, name, colour=colour))
        parts.append(_line(law, across, up, factor, colour))
        parts += [
            f'<circle cx="{across.at(x):.1f}" cy="{up.at(y * factor):.1f}" r="3" fill="{colour}"/>'
            for x, y in law.fit.points
        ]
    return "".join(parts)


class _Axis:
    """A logarithmic axis from one edge to the other, with a margin at both ends."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.06 * (high - low), 0.02)
        self._low, self._span = low - room, high - low + 2 * room
        self._begin, self._end = begin, end
        self.ticks = _ticks(10**self._low, 10 ** (self._low + self._span))

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._low) / self._span
        return self._begin + share * (self._end - self._begin)


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between the ends; only the powers if these suffice."""
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**ten for ten in tens for m in (1, 2, 5) if low <= m * 10.0**ten <= high]
    coarse = [v for v in fine if math.log10(v) % 1 < 1e-9]
    return coarse if len(coarse) >= 3 else fine


def _line(law: Scaling, across: _Axis, up: _Axis, factor: float, colour: str) -> str:
    ends = [law.fit.points[0][0], law.fit.points[-1][0]]
    points = " ".join(f"{across.at(x):.1f},{up.at(law.fit.at(x) * factor):.1f}" for x in ends)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _upright(x: float, top: float, label: str) -> str:
    bottom = _HEIGHT - _BOTTOM
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="#dddddd"/>'
    return line + _text(x, bottom + 14, label, anchor="middle")


def _level(y: float, label: str) -> str:
    right = _WIDTH - _RIGHT
    line = f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
    return line + _text(_LEFT - 6, y + 4, label, anchor="end")


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#222222", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def _subject(law: Scaling) -> str:
    """Return backend and precision from the name of a law; all laws have the same model."""
    return " ".join(law.name.split()[1:3])


def _short(value: float) -> str:
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
