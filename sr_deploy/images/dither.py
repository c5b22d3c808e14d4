"""Recognition of dithered pictures: few colours, whose dots stand for the shades between them.

A net that was trained on photographs takes the dots for texture and draws stripes instead of the subject.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_MAX_LEVELS = 4
"""Most values per channel. Dithering is used to get by with two colours, or two levels a channel."""
_SIDE = 512
"""Side in pixels of the middle part that is looked at."""
_LEAST_SIDE = 32
"""Least side in pixels: smaller pictures of few colours are mostly pixel art."""
_SINGLE_DOTS = 0.15
"""Least share of pixels that differ from both neighbours in their row, and of those in their column. Small black
text has 0.12 and 0.08; an ordered or diffused dither of a photograph has more than a quarter of both."""


def is_dithered(pixels: npt.NDArray[Any]) -> bool:
    """True if pixels [H, W, C] of uint8 look dithered. Takes well below a millisecond for other pictures."""
    height, width = pixels.shape[:2]
    if pixels.dtype != np.uint8 or min(height, width) < _LEAST_SIDE:
        return False
    top, left = max(0, (height - _SIDE) // 2), max(0, (width - _SIDE) // 2)
    middle = pixels[top : top + _SIDE, left : left + _SIDE]
    if any(
        np.count_nonzero(np.bincount(plane.ravel(), minlength=256)) > _MAX_LEVELS
        for plane in np.moveaxis(middle, 2, 0)
    ):
        return False
    across = (middle[:, 1:] != middle[:, :-1]).any(axis=2)
    down = (middle[1:] != middle[:-1]).any(axis=2)
    single = min((across[:, 1:] & across[:, :-1]).mean(), (down[1:] & down[:-1]).mean())
    return bool(single > _SINGLE_DOTS)
