"""Compare the pictures of one path of a verification with those of the reference, crop by crop.

All figures are summed over the crops, so that one `Comparison` gives the figures of a path. Pixels are
float32 [H, W, C]; 0 is black, 1 is white. No model is run here.
"""

from __future__ import annotations

import math

import numpy as np

from sr_deploy.system.arrays import AnyArray, FloatArray, Uint8Array
from sr_deploy.verify.crops import VerifyCrop
from sr_deploy.verify.results import PathDifferences


def to_bytes(values: FloatArray) -> Uint8Array:
    """Convert `values` in 0..1 to 8-bit pixels, rounded to nearest, ties to even. Values outside are clipped.
    NaN becomes 0, as it does in the runtimes."""
    with np.errstate(invalid="ignore"):
        steps = np.rint(np.nan_to_num(np.clip(values, 0, 1), nan=0.0) * np.float32(255))
        return np.asarray(steps, np.uint8)


class Comparison:
    """Sums up the differences between one path and the reference.

    Not thread-safe: a path is checked by one thread.
    """

    def __init__(self, channels: int) -> None:
        self._worst, self._worst_at = -1, ""
        self._seam, self._seam_at = -1, ""
        self._difference_error = self._path_error = self._reference_error = 0.0
        self._values = 0
        self._drift, self._inside = np.zeros(channels), np.zeros(channels)
        self.not_finite: int | None = None

    def add(self, crop: VerifyCrop, reference: FloatArray, result: Uint8Array) -> None:
        """Add one crop: `reference` [H, W, C] in 0..1 and the path's `result` [H, W, C] in 8 bits."""
        wanted = to_bytes(reference)
        steps = np.abs(wanted.astype(np.int16) - result)  # int16: a difference of bytes is signed
        if int(steps.max()) > self._worst:
            self._worst, self._worst_at = int(steps.max()), _describe_worst(steps, crop)
        self._difference_error += _squares(wanted, result)
        self._path_error += _squares(crop.truth, result)
        self._reference_error += _squares(crop.truth, wanted)
        self._values += result.size
        inside = (wanted > 0) & (wanted < 255)  # clipped values can only drift inwards
        self._drift += np.where(inside, result - wanted.astype(np.float64), 0.0).sum(axis=(0, 1))
        self._inside += inside.sum(axis=(0, 1))

    def add_seam(self, crop: VerifyCrop, whole: Uint8Array, tiled: Uint8Array) -> None:
        """Add the results [H, W, C] of one backend for one crop, computed `whole` and `tiled`."""
        steps = np.abs(whole.astype(np.int16) - tiled)
        if int(steps.max()) > self._seam:
            self._seam, self._seam_at = int(steps.max()), _describe_worst(steps, crop)

    def measured(self) -> PathDifferences:
        """Return the differences over everything that was added."""
        return PathDifferences(
            steps=max(self._worst, 0),
            where=self._worst_at,
            psnr=_psnr(self._difference_error, self._values),
            psnr_change=_psnr_change(self._path_error, self._reference_error),
            not_finite=self.not_finite,
            drift=tuple(float(value) for value in self._drift / np.maximum(self._inside, 1)),
            seam=None if self._seam < 0 else self._seam,
            seam_where=self._seam_at,
        )


def _squares(first: Uint8Array, second: Uint8Array) -> float:
    """Return the sum of squared differences, in squared 8-bit steps."""
    return float(np.square(first.astype(np.int32) - second).sum())


def _psnr(squares: float, values: int) -> float:
    """Return the PSNR in dB of 8-bit pixels from a sum of squares over so many values; infinity for 0."""
    return 10 * math.log10(255.0**2 * values / squares) if squares else math.inf


def _psnr_change(path_error: float, reference_error: float) -> float:
    """Change of PSNR in dB from the reference to the path, from sums of squares; 0 if both are exact."""
    if path_error == reference_error:
        return 0.0
    if not path_error or not reference_error:
        return math.inf if reference_error else -math.inf
    return 10 * math.log10(reference_error / path_error)


def _describe_worst(steps: AnyArray, crop: VerifyCrop) -> str:
    """Name the crop, pixel and channel where `steps` [H, W, C] is largest."""
    row, column, channel = (int(i) for i in np.unravel_index(int(steps.argmax()), steps.shape))
    name = "RGB"[channel] if steps.shape[2] == 3 else "Y"
    return f"{crop}, output pixel ({column}, {row}), channel {name}"
