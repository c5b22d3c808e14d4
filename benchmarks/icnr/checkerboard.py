"""Measure how much of a picture is a checkerboard with the period of the scale, and how blocky it is.

PixelShuffle computes each position of a `scale` x `scale` cell with a kernel of its own. If the kernels
disagree, a pattern of that period covers the whole picture (Odena et al. 2016, "Deconvolution and
checkerboard artifacts"). A photograph has no reason to have such a pattern.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import UsageError

_LOBE = 2
"""Half the width of the main lobe of a Hann window, in frequency bins."""
_LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the luma of ITU-R BT.601."""


def checkerboard_energy(upscaled: npt.NDArray[np.generic], scale: int) -> float:
    """Return the share, 0..1, of the energy of `upscaled` [H, W] or [H, W, 3] that repeats every `scale`
    pixels.

    The luma without its mean is taken under a Hann window. The result is the energy within one main lobe of
    the frequencies (i / scale, j / scale) cycles per pixel, i and j not 0, divided by all energy. It is near
    0 for a picture without a pattern, however sharp or blocky: nearest-neighbour upsampling has zeros exactly
    at these frequencies. A pattern of amplitude a over content of standard deviation s gives about a**2 /
    (a**2 + s**2). A pattern whose sign changes across the picture counts less, the faster it changes. The
    unit of the pixels does not matter.

    Raises UsageError for another shape, a scale below 2, or fewer than 8 cells along an axis.
    """
    pixels = _whole_cells(upscaled, scale).astype(np.float64)
    height, width = pixels.shape[:2]
    power = _windowed_power(pixels @ _LUMA if pixels.ndim == 3 else pixels)
    total = float(power.sum())
    pattern = power[np.ix_(_near_multiples(height, scale), _near_multiples(width, scale))]
    base = power[np.ix_(_near_multiples(height, 1), _near_multiples(width, 1))]
    return float(pattern.sum() - base.sum()) / total if total > 0 else 0.0


def blocking(upscaled: npt.NDArray[np.generic], scale: int) -> float:
    """Return how much larger the steps between cells of `scale` x `scale` pixels are than those inside cells,
    as a ratio.

    Steps are the mean absolute differences of neighbours in `upscaled` [H, W] or [H, W, 3], down and across.
    The ratio is near 1 for a photograph, infinite for nearest-neighbour upsampling and 1 for a flat picture.
    It sees blocks, which `checkerboard_energy` does not. The idea is that of Wang, Bovik and Evans 2000,
    "Blind measurement of blocking artifacts in images". Raises UsageError as `checkerboard_energy` does.
    """
    pixels = _whole_cells(upscaled, scale).astype(np.float64)
    border, inside = np.sum([_steps(p, scale) for p in (pixels, pixels.swapaxes(0, 1))], axis=0)
    if inside > 0:
        return float(border / inside)
    return float("inf") if border > 0 else 1.0


def _steps(pixels: npt.NDArray[np.float64], scale: int) -> tuple[float, float]:
    """Return the mean step along the second axis between cells, and inside cells."""
    steps = np.abs(np.diff(pixels, axis=1))
    at_border = np.arange(steps.shape[1]) % scale == scale - 1
    return float(steps[:, at_border].mean()), float(steps[:, ~at_border].mean())


def _whole_cells(upscaled: npt.NDArray[np.generic], scale: int) -> npt.NDArray[np.generic]:
    """Cut `upscaled` to whole cells. Raises UsageError if it cannot be measured."""
    if upscaled.ndim not in (2, 3) or (upscaled.ndim == 3 and upscaled.shape[2] != 3):
        raise UsageError(f"expected pixels [H, W] or [H, W, 3], got shape {upscaled.shape}")
    if scale < 2:
        raise UsageError(f"a checkerboard needs a scale of at least 2, got {scale}")
    height, width = (n // scale * scale for n in upscaled.shape[:2])
    if min(height, width) < 8 * scale:
        raise UsageError(
            f"expected at least {8 * scale} pixels a side at scale {scale}, got {width}x{height}"
        )
    return upscaled[:height, :width]


def _windowed_power(luma: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the power spectrum of `luma` without its windowed mean, under a periodic Hann window."""
    window = np.outer(*(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n) for n in luma.shape))
    mean = (luma * window).sum() / window.sum()
    return np.asarray(np.abs(np.fft.fft2((luma - mean) * window)) ** 2)


def _near_multiples(length: int, scale: int) -> npt.NDArray[np.intp]:
    """Return the bins of an axis that lie within one main lobe of a multiple of 1 / `scale`, 0 included."""
    spacing = length // scale
    offset = np.arange(length) % spacing
    return np.flatnonzero(np.minimum(offset, spacing - offset) < _LOBE)
