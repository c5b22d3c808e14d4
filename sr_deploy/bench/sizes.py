"""Sizes of input pictures, by name and by number. Integers only, no pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from sr_deploy.errors import UsageError

LARGEST_SIDE = 32_768
"""Pixels; nothing that is measured as one picture is larger."""

_HEIGHTS = (72, 90, 120, 144, 180, 240, 270, 360, 480, 540, 576, 720, 900, 1080, 1440, 2160, 4320)
_NAMES = {f"{height}p": (-(-height * 16 // 9) // 2 * 2, height) for height in _HEIGHTS}
_NAMES |= {
    "480p": (854, 480),
    "576p": (1024, 576),
    "2k": (2560, 1440),
    "4k": (3840, 2160),
    "8k": (7680, 4320),
}
_NUMBERS = re.compile(r"(\d+)(?:\s*x\s*(\d+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Size:
    """Of an input picture, in pixels, under the name it was asked for by."""

    label: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """How many."""
        return self.width * self.height


def parse_size(text: str) -> Size:
    """One size: a name such as 540p or 4k, WIDTHxHEIGHT, or the side of a square. Raises UsageError."""
    name = text.strip().lower()
    if name in _NAMES:
        return Size(name, *_NAMES[name])
    match = _NUMBERS.fullmatch(name)
    if match is None:
        near = get_close_matches(name, _NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give WIDTHxHEIGHT or one of {', '.join(_NAMES)}"
        raise UsageError(f"{text!r} is no size; {hint}")
    width, height = int(match[1]), int(match[2] or match[1])
    return check_size(Size(f"{width}x{height}", width, height))


def check_size(size: Size) -> Size:
    """`size`, where a picture can have it. Raises UsageError."""
    if min(size.width, size.height) < 1:
        raise UsageError(f"the size {size.label} has no pixels; give at least 1x1")
    if max(size.width, size.height) > LARGEST_SIDE:
        raise UsageError(
            f"the size {size.width}x{size.height} is beyond what is measured, {LARGEST_SIDE:,} pixels a side; "
            "give a smaller one"
        )
    return size


def parse_aspect(text: str) -> float:
    """Width over height of "16:9", "4:3", "1.85". Raises UsageError."""
    first, colon, second = text.partition(":")
    try:
        ratio = float(first) / float(second) if colon else float(first)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not (math.isfinite(ratio) and 1 / 64 <= ratio <= 64):
        raise UsageError(f"{text!r} is no aspect ratio; give one such as 16:9 or 1.85, of 1:64 to 64:1")
    return ratio


def of_height(height: int, aspect: float) -> Size:
    """The size of `height` rows and the aspect ratio `aspect`, to the nearest pixel."""
    width = max(1, round(height * aspect))
    return Size(
        next((n for n, wh in _NAMES.items() if wh == (width, height)), f"{width}x{height}"), width, height
    )


DEFAULT_SIZES: Sequence[Size] = tuple(
    parse_size(name) for name in ("90p", "180p", "270p", "360p", "637x481", "540p", "720p", "1080p", "2160p")
)
"""Ascending; with an odd one, and one that is huge."""
