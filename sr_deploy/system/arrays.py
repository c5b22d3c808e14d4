"""The types of the arrays that the package passes around, one name each. Shapes are stated where they matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
