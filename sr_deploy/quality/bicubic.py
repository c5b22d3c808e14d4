"""MATLAB `imresize(..., 'bicubic')`, to the bit: the down-scaling every published figure stands on.

One axis after the other, the one that shrinks most first (rows where both are equal); integer pictures are
rounded between the passes, as MATLAB does. Kernel: Keys' cubic with a = -0.5, widened by the factor when
shrinking (antialiasing), borders replicated: that is what the pictures in circulation were made with (later
MATLAB releases mirror the border, which changes its outermost pixels). Every sum runs in tap order, in
double precision and without BLAS, so that ties round the same way on every machine. This module does not
read files and does not know about colour.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import UsageError

_A = -0.5  # Keys (1981), "Cubic convolution interpolation", eq. 15
_STRIP = 1 << 19  # source values worked on at once: 4 MiB of doubles, about a core's cache

Taps = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def imresize(
    pixels: npt.NDArray[Any],
    scale: float | None = None,
    *,
    size: tuple[int, int] | None = None,
    round_once: bool = False,
) -> npt.NDArray[Any]:
    """Resize `pixels` [H, W] or [H, W, C], as MATLAB's `imresize(pixels, scale or size, 'bicubic')`.

    Give either `scale`, for `ceil(H * scale)` rows and `ceil(W * scale)` columns, or `size`, the rows and
    columns wanted. uint8 and uint16 come back in their own type, rounded half up after each pass, or with
    `round_once` after the second only, as if MATLAB had been given doubles and the result stored. Floating
    point comes back as float64, neither rounded nor clipped. Working memory beyond the result is one picture
    resized along one axis. Raises UsageError for a scale or size that is not positive, an empty picture, or
    another type of pixel.
    """
    _check(pixels)
    sizes, scales = _target(pixels.shape[:2], scale, size)
    final = pixels.dtype if pixels.dtype.kind == "u" else np.dtype(np.float64)
    between = np.dtype(np.float64) if round_once else final
    first, second = sorted((0, 1), key=lambda axis: scales[axis])
    half = _resize_axis(pixels, first, sizes[first], scales[first], between)
    return _resize_axis(half, second, sizes[second], scales[second], final)


def _check(pixels: npt.NDArray[Any]) -> None:
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise UsageError(f"expected pixels of shape [H, W] or [H, W, C], got {pixels.shape}")
    if pixels.dtype not in (np.uint8, np.uint16) and pixels.dtype.kind != "f":
        raise UsageError(
            f"expected uint8, uint16 or floating point pixels, got {pixels.dtype}; convert them first"
        )


def _target(
    shape: tuple[int, ...], scale: float | None, size: tuple[int, int] | None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(rows, columns) of the result, and the scale of either axis."""
    if (scale is None) == (size is None):
        raise UsageError(f"give either a scale or a size, got scale={scale!r} and size={size!r}")
    if size is not None:
        if len(size) != 2 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in size):
            raise UsageError(f"size must be two positive whole numbers (rows, columns), got {size!r}")
        return tuple(size), tuple(wanted / n for wanted, n in zip(size, shape, strict=True))
    if scale is None or not (np.isfinite(scale) and scale > 0):
        raise UsageError(f"scale must be a positive number, got {scale!r}")
    return tuple(int(np.ceil(n * scale)) for n in shape), (float(scale), float(scale))


def _keys_cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic kernel at distances `x` (in samples)."""
    d = np.abs(x)
    near = (_A + 2) * d**3 - (_A + 3) * d**2 + 1
    far = _A * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d <= 2, far, 0.0))


@lru_cache(maxsize=64)
def _taps(in_length: int, out_length: int, scale: float) -> Taps:
    """Source indices and weights, both [taps, out_length], of one axis (borders replicated)."""
    widen = min(scale, 1.0)
    support = 4.0 / widen
    centre = (np.arange(out_length, dtype=np.float64) + 0.5) / scale - 0.5
    first = np.floor(centre - support / 2)
    offsets = np.arange(int(np.ceil(support)) + 2, dtype=np.float64)
    position = first[:, None] + offsets[None, :]
    weights = widen * _keys_cubic(widen * (centre[:, None] - position))
    weights /= weights.sum(axis=1, keepdims=True)
    used = np.any(weights != 0, axis=0)
    index = np.clip(position[:, used].astype(np.int64), 0, in_length - 1)
    taps = np.ascontiguousarray(index.T), np.ascontiguousarray(weights[:, used].T)
    for array in taps:
        array.setflags(write=False)  # shared by every later call
    return taps


def _resize_axis(
    pixels: npt.NDArray[Any], axis: int, length: int, scale: float, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """`pixels` with `length` samples along `axis`, as `dtype`, worked on in strips across the other axis."""
    shape = [*pixels.shape]
    shape[axis] = length
    result = np.empty(shape, dtype)
    taps = _taps(pixels.shape[axis], length, scale)
    source, target = np.swapaxes(pixels, 0, axis), np.swapaxes(result, 0, axis)
    width = max(1, _STRIP // max(source[:, :1].size, target[:, :1].size))
    for start in range(0, source.shape[1], width):
        strip = slice(start, start + width)
        values = _weighted_sum(source[:, strip].astype(np.float64, order="C"), taps)
        target[:, strip] = _round_half_up(values, dtype) if dtype.kind == "u" else values
    return result


def _weighted_sum(block: npt.NDArray[np.float64], taps: Taps) -> npt.NDArray[np.float64]:
    """The resized axis 0 of `block`; one tap after the other, never reordered, never fused."""
    index, weights = taps
    shape = (index.shape[1], *block.shape[1:])
    total, term = np.zeros(shape), np.empty(shape)
    column = (slice(None),) + (None,) * (block.ndim - 1)
    for source, weight in zip(index, weights, strict=True):
        np.take(block, source, axis=0, out=term, mode="clip")  # "clip" writes to `out` without a copy
        term *= weight[column]
        total += term
    return total


def _round_half_up(values: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[np.float64]:
    """`values` (overwritten) rounded and clipped to what `dtype` holds, still as doubles."""
    values += 0.5
    np.floor(values, out=values)
    return np.clip(values, 0.0, float(np.iinfo(dtype).max), out=values)
