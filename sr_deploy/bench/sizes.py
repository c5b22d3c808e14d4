"""Sizes of input pictures, given by name or by numbers. Works on integers; reads no pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from sr_deploy.errors import UsageError

LARGEST_SIDE = 32_768
"""Largest side, in pixels, of a picture that is measured as one."""

_HEIGHTS = (72, 90, 120, 144, 180, 240, 270, 360, 480, 540, 576, 720, 900, 1080, 1440, 2160, 4320)
# A name such as 720p means an aspect ratio of 16:9, with an even width.
_NAMES = {f"{height}p": (-(-height * 16 // 9) // 2 * 2, height) for height in _HEIGHTS}
_NAMES |= {
    "480p": (854, 480),
    "576p": (1024, 576),
    "2k": (2560, 1440),
    "4k": (3840, 2160),
    "8k": (7680, 4320),
}
_NUMBERS = re.compile(r"(\d+)(?:\s*x\s*(\d+))?", re.IGNORECASE)
"""Text of a size in numbers: WIDTHxHEIGHT, or the side of a square."""


@dataclass(frozen=True)
class Size:
    """The size of an input picture in pixels, with the label under which it was asked for."""

    label: str
    """Name of the size, such as "540p" or "637x481"."""
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height


def parse_size(text: str) -> Size:
    """Parse one size: a name such as 540p or 4k, WIDTHxHEIGHT, or the side of a square. Raises UsageError."""
    name = text.strip().lower()
    if name in _NAMES:
        return Size(name, *_NAMES[name])
    match = _NUMBERS.fullmatch(name)
    if match is None:
        near = get_close_matches(name, _NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give WIDTHxHEIGHT or one of {', '.join(_NAMES)}"
        raise UsageError(f"{text!r} is not a size; {hint}")
    width, height = int(match[1]), int(match[2] or match[1])
    return check_size(Size(f"{width}x{height}", width, height))


def check_size(size: Size) -> Size:
    """Return `size` if a picture can have it. Raises UsageError for a side below 1 or above LARGEST_SIDE."""
    if min(size.width, size.height) < 1:
        raise UsageError(f"the size {size.label} has no pixels; give at least 1x1")
    if max(size.width, size.height) > LARGEST_SIDE:
        raise UsageError(
            f"the size {size.width}x{size.height} is larger than the limit of {LARGEST_SIDE:,} pixels a side; "
            "give a smaller one"
        )
    return size


def parse_aspect(text: str) -> float:
    """Parse an aspect ratio such as "16:9", "4:3" or "1.85" into width over height.

    Raises UsageError outside 1:64 to 64:1.
    """
    first, colon, second = text.partition(":")
    try:
        ratio = float(first) / float(second) if colon else float(first)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not (math.isfinite(ratio) and 1 / 64 <= ratio <= 64):
        raise UsageError(
            f"{text!r} is not an aspect ratio; give one between 1:64 and 64:1, such as 16:9 or 1.85"
        )
    return ratio


def size_of_height(height: int, aspect: float) -> Size:
    """The size with `height` rows and the aspect ratio `aspect`, to the nearest pixel."""
    width = max(1, round(height * aspect))
    return Size(
        next((n for n, wh in _NAMES.items() if wh == (width, height)), f"{width}x{height}"), width, height
    )


DEFAULT_SIZES: Sequence[Size] = tuple(
    parse_size(name) for name in ("90p", "180p", "270p", "360p", "637x481", "540p", "720p", "1080p", "2160p")
)
"""Sizes measured by default, in ascending order, with an odd one and a very large one."""
