"""Compute PSNR, SSIM and the luma they are usually measured on, as MATLAB does.

Pixels are [H, W] or [H, W, C]. All functions that compare take two arrays of one type: uint8 (white is 255),
uint16 (65535) or floating point (1.0). No file is read here, and no border is chosen: `evaluate` does that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.system.arrays import AnyArray, DoubleArray, check_array, check_float_range

LUMA = np.array([65.481, 128.553, 24.966])
"""Weights of red, green and blue (0..1) in Y of ITU-R BT.601, as in MATLAB's rgb2ycbcr: they sum to 219, so
that with the offset of 16 Y runs from 16 to 235."""
FULL_RANGE_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in BT.601's Y of full range, 0 to 255, as JPEG has it."""
_WINDOW, _SIGMA = 11, 1.5
"""Side of the Gaussian window in pixels, and its sigma: Wang et al. (2004), section III.B."""
_K1, _K2 = 0.01, 0.03
"""Constants that keep the quotients finite in flat areas: Wang et al. (2004), section III.B."""
_STRIP = 1 << 18
"""Number of values processed at once: 2 MiB of doubles."""


def full_scale(dtype: np.dtype[Any]) -> float:
    """Return the value of white in pixels of `dtype`: 255, 65535 or 1.0. Raises UsageError for another type."""
    if dtype in (np.uint8, np.uint16):
        return float(np.iinfo(dtype).max)
    if dtype.kind == "f":
        return 1.0
    raise UsageError(f"expected uint8, uint16 or floating point pixels, got {dtype}; convert them first")


def luma(rgb: AnyArray) -> AnyArray:
    """Compute Y of ITU-R BT.601 from `rgb` [H, W, 3], as MATLAB's `rgb2ycbcr` does: [H, W].

    Black is 16/255 and white is 235/255 of full scale. Integer pictures give integers of their own type,
    rounded to nearest. Floating-point ones (0..1) give float64, not rounded.

    Published figures use the rounded Y of 8-bit pictures. If that Y alone is shrunk and enlarged by bicubic
    in floating point, Set5 gives 33.66 / 30.39 / 28.42 dB and .9299 / .8682 / .8104, as papers print it.
    Tools that leave Y unrounded show higher figures: by 0.01 dB at 28 dB, and by 0.07 dB at 37 dB. Raises
    UsageError for another shape or type.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise UsageError(
            f"expected RGB pixels [H, W, 3], got shape {rgb.shape}; a grey picture is its own luma"
        )
    white = full_scale(rgb.dtype)
    integral = rgb.dtype.kind == "u"
    y = np.empty(rgb.shape[:2], rgb.dtype if integral else np.float64)
    for part in _strips(rgb):
        values = _luma_of_strip(rgb[part], white)
        y[part] = np.floor(values + 0.5) if integral else values
    return y


def _luma_of_strip(rgb: AnyArray, white: float) -> DoubleArray:
    """Compute Y of `rgb` [h, W, 3] in double precision, not rounded."""
    y = np.zeros(rgb.shape[:2])
    for channel, weight in enumerate(LUMA / 255):  # a matrix product would round differently per machine
        y += np.multiply(rgb[..., channel], weight, dtype=np.float64)
    y += 16 * white / 255
    return y


def _strips(pixels: AnyArray, overlap: int = 0) -> Iterator[slice]:
    """Yield slices of rows that cover `pixels`, each `overlap` rows into the next. Working strip by strip
    keeps memory small for large pictures."""
    rows, height = max(1, _STRIP // max(1, pixels[:1].size)), pixels.shape[0]
    for start in range(0, height - overlap, rows):
        yield slice(start, min(start + rows + overlap, height))


def shave(pixels: AnyArray, border: int) -> AnyArray:
    """Return a view of `pixels` [H, W, ...] without `border` pixels on each side.

    Raises UsageError if nothing would be left.
    """
    height, width = pixels.shape[:2]
    if border < 0:
        raise UsageError(f"the border must be at least 0 pixels, got {border}")
    if min(height, width) <= 2 * border:
        raise UsageError(
            f"nothing is left of {width}x{height} pixels without a border of {border}; use a smaller border"
        )
    return pixels[border : height - border, border : width - border]


def psnr(first: AnyArray, second: AnyArray) -> float:
    """Compute the peak signal-to-noise ratio in dB over all values of two arrays of one shape and type. 10
    log10(white**2 / mean squared error); `math.inf` if the arrays are equal. Raises UsageError if shape or
    type differ."""
    white = _common_scale(first, second)
    error = sum(float(np.square(first[s].astype(np.float64) - second[s]).sum()) for s in _strips(first))
    return math.inf if error == 0 else 10 * math.log10(white**2 * first.size / error)


def ssim(first: AnyArray, second: AnyArray) -> float:
    """Compute the mean structural similarity, at most 1, of two arrays of one shape and type.

    The arrays are [H, W] or [H, W, C]. Wang, Bovik, Sheikh and Simoncelli (2004), "Image quality assessment:
    from error visibility to structural similarity", eq. 13 and 17, with the authors' constants: an 11x11
    Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03. Only windows that lie wholly inside count, as in the
    authors' `ssim_index.m` without its automatic down-scaling. Channels are averaged. Raises UsageError if
    shape or type differ, or if a side is shorter than the window.
    """
    white = _common_scale(first, second)
    if first.ndim not in (2, 3) or min(first.shape[:2]) < _WINDOW:
        raise UsageError(
            f"SSIM needs pixels [H, W] or [H, W, C] of at least {_WINDOW}x{_WINDOW}, got {first.shape}"
        )
    channels = (
        [(first, second)] if first.ndim == 2 else list(zip(_channels(first), _channels(second), strict=True))
    )
    return float(np.mean([_ssim_of_channel(a, b, white) for a, b in channels]))


def _channels(pixels: AnyArray) -> list[AnyArray]:
    """Split [H, W, C] into C arrays [H, W]."""
    return [pixels[..., channel] for channel in range(pixels.shape[2])]


def _common_scale(first: AnyArray, second: AnyArray) -> float:
    """Return the value of white that two arrays share.

    Raises UsageError if shape or type differ, or if the arrays are empty.
    """
    for name, pixels in (("first", first), ("second", second)):
        check_array(name, pixels)
    if first.shape != second.shape or first.dtype != second.dtype:
        raise UsageError(
            f"expected two pictures of one shape and type, got {first.dtype} {first.shape} and "
            f"{second.dtype} {second.shape}; convert or crop one of them"
        )
    if first.size == 0:
        raise UsageError(f"expected pictures with pixels in them, got shape {first.shape}")
    check_float_range(first)
    check_float_range(second)
    return full_scale(first.dtype)


def _ssim_of_channel(first: AnyArray, second: AnyArray, white: float) -> float:
    """Return the mean of the SSIM map of two arrays [H, W]."""
    overlap = _WINDOW - 1
    parts = ((first[s].astype(np.float64), second[s].astype(np.float64)) for s in _strips(first, overlap))
    total = sum(float(_ssim_map(a, b, white).sum()) for a, b in parts)
    return total / float((first.shape[0] - overlap) * (first.shape[1] - overlap))


def _ssim_map(a: DoubleArray, b: DoubleArray, white: float) -> DoubleArray:
    """Compute the SSIM of every window inside `a` and `b` [H, W]: [H - 10, W - 10]."""
    c1, c2 = (_K1 * white) ** 2, (_K2 * white) ** 2
    mean_a, mean_b = _smooth(a), _smooth(b)
    mean_ab, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    variances = _smooth(a * a) + _smooth(b * b) - squares
    covariance = _smooth(a * b) - mean_ab
    alike: DoubleArray = (2 * mean_ab + c1) * (2 * covariance + c2)
    alike /= (squares + c1) * (variances + c2)
    return alike


def _smooth(values: DoubleArray) -> DoubleArray:
    """Compute the Gaussian-weighted mean of every whole window: [H, W] -> [H - 10, W - 10]."""
    half = _WINDOW // 2
    kernel = np.exp(-np.square(np.arange(-half, half + 1)) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    smooth = np.asarray(cv2.sepFilter2D(values, cv2.CV_64F, kernel, kernel), np.float64)
    return smooth[half:-half, half:-half]
