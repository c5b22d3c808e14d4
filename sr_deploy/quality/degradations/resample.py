"""Shrink pictures by a whole factor with the kernels that cameras, browsers and image programs use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType

import numpy as np

from sr_deploy.quality.bicubic import imresize
from sr_deploy.system.arrays import AnyArray, DoubleArray, FloatArray

_Kernel = Callable[[DoubleArray], DoubleArray]


def _box(x: DoubleArray) -> DoubleArray:
    """Mean of the pixels under a result."""
    return ((x >= -0.5) & (x < 0.5)).astype(np.float64)


def _triangle(x: DoubleArray) -> DoubleArray:
    """Bilinear kernel."""
    return np.asarray(np.maximum(1 - np.abs(x), 0), np.float64)


def _cubic(x: DoubleArray, a: float) -> DoubleArray:
    """Cubic convolution (Keys 1981) with the slope `a` at distance 1."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: DoubleArray) -> DoubleArray:
    """Lanczos kernel with three lobes."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


_KERNELS: Mapping[str, tuple[_Kernel, float, bool]] = MappingProxyType(
    {
        "area": (_box, 0.5, True),
        "bilinear": (_triangle, 1, True),
        "cubic-soft": (partial(_cubic, a=-0.3), 2, True),
        "cubic-sharp": (partial(_cubic, a=-0.75), 2, True),
        "lanczos": (_lanczos, 3, True),
        "bilinear-aliased": (_triangle, 1, False),
        "cubic-aliased": (partial(_cubic, a=-0.75), 2, False),
    }
)
"""Name -> kernel, its radius in input pixels before it is widened, and whether it is widened against aliasing."""
KERNELS = ("bicubic", *_KERNELS)
"""Names of all kernels. "bicubic" is MATLAB's: a = -0.5, widened. The aliased ones are those of OpenCV."""


@lru_cache(maxsize=128)
def shrink_matrix(length: int, scale: int, kernel: str) -> FloatArray:
    """Return the matrix [length / scale, length] that shrinks a line. Crops have few sizes, so matrices are kept."""
    if kernel == "bicubic":
        # One impulse per row, constant along the width: resizing the rows gives the weights themselves.
        impulses = np.repeat(np.eye(length)[:, None, :], scale, axis=1)
        return np.ascontiguousarray(imresize(impulses, 1 / scale)[:, 0, :], dtype=np.float32)
    function, radius, widened = _KERNELS[kernel]
    stretch = scale if widened else 1
    centres = (np.arange(length // scale) + 0.5) * scale - 0.5
    taps = np.floor(centres)[:, None] + np.arange(-int(radius * stretch) - 1, int(radius * stretch) + 2)
    weights = function((taps - centres[:, None]) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((length // scale, length))
    rows = np.broadcast_to(np.arange(length // scale)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, length - 1).astype(int)), weights)  # the border repeats
    return matrix.astype(np.float32)


def shrink(pixels: AnyArray, scale: int, kernel: str = "bicubic") -> FloatArray:
    """Shrink `pixels` [H, W, C] in 0..255 by 1/scale, as two matrix products.

    Returns float32 that is not rounded. "bicubic" is the kernel of `quality.bicubic.imresize`: clipped between
    the passes like there, but not rounded, so the two differ by at most one 8-bit step after rounding. Height
    and width must be multiples of `scale`.
    """
    height, width, channels = pixels.shape
    rows: FloatArray = shrink_matrix(height, scale, kernel) @ pixels.astype(np.float32).reshape(
        height, width * channels
    )
    transposed = np.clip(rows, 0, 255).reshape(-1, width, channels).transpose(1, 0, 2)
    both: FloatArray = shrink_matrix(width, scale, kernel) @ transposed.reshape(width, -1)
    small: FloatArray = both.reshape(width // scale, height // scale, channels).transpose(1, 0, 2)
    return small
