"""Resize like MATLAB's `imresize(..., 'bicubic')`, to the bit: published figures depend on this down-scaling.

- The two axes are resized one after the other, the one that shrinks most first; rows first if both are equal.
  Integer pictures are rounded in between, as in MATLAB.
- The kernel is Keys' cubic with a = -0.5. When shrinking it is widened by the factor (antialiasing).
- Borders are replicated. The pictures of the usual data sets were made that way; later releases of MATLAB
  mirror the border, which changes the outermost pixels.
- Every sum runs in the order of the taps, in double precision and without BLAS, so that ties round the same
  way on every machine.

No file is read here, and colours are not interpreted: all channels are treated alike.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import UsageError
from sr_deploy.system.arrays import AnyArray, DoubleArray, check_array

_A = -0.5
"""Parameter a of Keys (1981), "Cubic convolution interpolation for digital image processing", eq. 15."""
_STRIP = 1 << 19
"""Number of source values processed at once: 4 MiB of doubles, about the cache of one core."""

Taps = tuple[npt.NDArray[np.int64], DoubleArray]
"""Source indices and weights, each [taps, output length]."""


def imresize(
    pixels: AnyArray,
    scale: float | None = None,
    *,
    size: tuple[int, int] | None = None,
    round_once: bool = False,
) -> AnyArray:
    """Resize `pixels` [H, W] or [H, W, C], as MATLAB's `imresize(pixels, scale or size, 'bicubic')`.

    Give either `scale`, for ceil(H * scale) rows and ceil(W * scale) columns, or `size`, the wanted (rows,
    columns).

    uint8 and uint16 come back in their own type, rounded half up after each pass. With `round_once` they are
    rounded after the second pass only, as if MATLAB had been given doubles and the result had been stored.
    Floating point comes back as float64, neither rounded nor clipped. Beyond the result, memory for one
    picture resized along one axis is used. Safe to call from several threads.

    Raises UsageError for a scale or size that is not positive, for an empty picture and for another pixel
    type.
    """
    _check(pixels)
    sizes, scales = _target(pixels.shape[:2], scale, size)
    final = pixels.dtype if pixels.dtype.kind == "u" else np.dtype(np.float64)
    between = np.dtype(np.float64) if round_once else final
    first, second = sorted((0, 1), key=lambda axis: scales[axis])
    half = _resize_axis(pixels, first, sizes[first], scales[first], between)
    return _resize_axis(half, second, sizes[second], scales[second], final)


def _check(pixels: AnyArray) -> None:
    check_array("pixels", pixels)
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise UsageError(f"expected pixels of shape [H, W] or [H, W, C], got {pixels.shape}")
    if pixels.dtype not in (np.uint8, np.uint16) and pixels.dtype.kind != "f":
        raise UsageError(
            f"expected uint8, uint16 or floating point pixels, got {pixels.dtype}; convert them first"
        )


def _target(
    shape: tuple[int, ...], scale: float | None, size: tuple[int, int] | None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return (rows, columns) of the result, and the scale along each axis."""
    if (scale is None) == (size is None):
        raise UsageError(f"give either a scale or a size, got scale={scale!r} and size={size!r}")
    if size is not None:
        if (
            not isinstance(size, (tuple, list))
            or len(size) != 2
            or not all(isinstance(n, (int, np.integer)) and n > 0 for n in size)
        ):
            raise UsageError(f"size must be two positive whole numbers (rows, columns), got {size!r}")
        return tuple(size), tuple(wanted / n for wanted, n in zip(size, shape, strict=True))
    if isinstance(scale, (str, bool)) or scale is None or not (np.isfinite(scale) and scale > 0):
        raise UsageError(f"scale must be a positive number, got {scale!r}")
    return tuple(int(np.ceil(n * scale)) for n in shape), (float(scale), float(scale))


def _keys_cubic(x: DoubleArray) -> DoubleArray:
    """Evaluate Keys' cubic kernel at the distances `x`, in samples; it is 0 beyond 2."""
    d = np.abs(x)
    near = (_A + 2) * d**3 - (_A + 3) * d**2 + 1
    far = _A * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d <= 2, far, 0.0))


@lru_cache(maxsize=64)
def _taps(in_length: int, out_length: int, scale: float) -> Taps:
    """Compute source indices and weights, both [taps, out_length], of one axis. Borders are replicated.

    Output sample i lies at (i + 0.5) / scale - 0.5 in the source, so that the borders of both pictures
    coincide. The weights of each output sample sum to 1. The arrays are cached and therefore read-only.
    """
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


def _resize_axis(pixels: AnyArray, axis: int, length: int, scale: float, dtype: np.dtype[Any]) -> AnyArray:
    """Resize `pixels` to `length` samples along `axis`, as `dtype`, in strips across the other axis."""
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


def _weighted_sum(block: DoubleArray, taps: Taps) -> DoubleArray:
    """Resize axis 0 of `block`, one tap after the other: never reordered, and never fused into one operation."""
    index, weights = taps
    shape = (index.shape[1], *block.shape[1:])
    total, term = np.zeros(shape), np.empty(shape)
    column = (slice(None),) + (None,) * (block.ndim - 1)
    for source, weight in zip(index, weights, strict=True):
        np.take(block, source, axis=0, out=term, mode="clip")  # mode "clip" writes to `out` without a copy
        term *= weight[column]
        total += term
    return total


def _round_half_up(values: DoubleArray, dtype: np.dtype[Any]) -> DoubleArray:
    """Round `values`, in place, and clip them to the range of `dtype`; they stay doubles."""
    values += 0.5
    np.floor(values, out=values)
    return np.clip(values, 0.0, float(np.iinfo(dtype).max), out=values)
