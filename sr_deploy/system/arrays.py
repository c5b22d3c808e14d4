"""The types of the arrays that the package passes around, one name each, and checks of arrays that callers pass.

Shapes are stated where they matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import UsageError

AnyArray = npt.NDArray[Any]
"""An array of any type, or of a type that a function checks itself."""
Uint8Array = npt.NDArray[np.uint8]
"""Pixels of 8 bits, or bytes."""
PixelArray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""Pixels as files have them: 8 or 16 bits."""
FloatArray = npt.NDArray[np.float32]
"""Values in single precision, as models compute them: pixels, weights, biases or scales."""
DoubleArray = npt.NDArray[np.float64]
"""Values in double precision, as measurements use them."""
IntArray = npt.NDArray[np.integer[Any]]
"""Whole numbers of any width, such as indices."""
BatchArray = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""Pixels [N, H, W, C] as engines take and give them: uint8 in 0..255, or float32 in 0..1."""

_OVERSHOOT = 0.5
"""Distance by which float pixels may lie outside 0..1. Resampling overshoots by less, and pixels of 0..255 or -1..1 by more."""


def check_array(name: str, value: object) -> None:
    """Raise UsageError unless the argument `name` is a NumPy array."""
    if isinstance(value, np.ndarray):
        return
    kind = type(value).__name__
    hint = "pass its .pixels" if kind == "Image" else "numpy.asarray makes one"
    raise UsageError(f"{name} must be a NumPy array of pixels, got {kind}; {hint}")


def check_float_range(pixels: AnyArray) -> None:
    """Raise UsageError for float pixels that are not meant as 0 (black) to 1 (white). Other types pass.

    Engines clip to 0..1, so that pixels of 0..255 would become white without a word. A small overshoot is allowed.
    """
    if pixels.dtype.kind != "f" or not pixels.size:
        return
    low, high = float(pixels.min()), float(pixels.max())
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:  # false for NaN, too
        return
    if np.isnan(high):
        raise UsageError(
            "float pixels must be 0 (black) to 1 (white), got NaN; replace it, for example by numpy.nan_to_num"
        )
    if low < -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        hint = "for pixels of -1 to 1, pass (pixels + 1) / 2"
    else:
        hint = "divide by 255, or pass uint8"
    raise UsageError(f"float pixels must be 0 (black) to 1 (white), got {low:.4g} to {high:.4g}; {hint}")
