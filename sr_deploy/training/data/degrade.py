"""Degrade a crop as cameras and the web do, and shrink it.

The order is blur, bicubic shrinking, noise, JPEG, and then optionally all but the shrinking again. Order and
second pass follow Wang et al. 2021 (Real-ESRGAN, sections 3.1 and 3.2) in a plain form. Every strength is
drawn uniformly from its range. The code uses NumPy and OpenCV only, so that it can run in loader threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import cv2
import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.quality.bicubic import imresize
from sr_deploy.system.arrays import AnyArray, FloatArray, Uint8Array

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """Ranges that the strengths are drawn from. None leaves a step out.

    Raises UsageError for a range outside its limits.
    """

    blur: Span | None = None
    """Standard deviation of the anisotropic Gaussian kernel along each of its axes, in large pixels: 0 to 8.

    The kernel is rotated by a random angle.
    """
    noise: Span | None = None
    """Standard deviation of the Gaussian noise added to the small crop, in 8-bit steps: 0 to 64.

    Half of the crops get grey noise, half coloured noise.
    """
    jpeg: Span | None = None
    """JPEG quality of the small crop: 5 to 100."""
    second: float = 0.0
    """Probability of a second, weaker pass (half the blur and noise) on the small crop: 0 to 1."""

    def __post_init__(self) -> None:
        limits = {"blur": (0.0, 8.0), "noise": (0.0, 64.0), "jpeg": (5.0, 100.0)}
        for key, (low, high) in limits.items():
            value = getattr(self, key)
            if value is not None and not low <= value[0] <= value[1] <= high:
                raise UsageError(
                    f"degrade: {key} = {list(value)}, expected [low, high] between {low:g} and {high:g}"
                )
        if not 0 <= self.second <= 1:
            raise UsageError(f"degrade: second = {self.second}, expected a probability from 0 to 1")

    @classmethod
    def from_lists(cls, table: Mapping[str, Any]) -> Degradation:
        """Build from a TOML table, in which a range is a list of two numbers.

        Raises UsageError that names the key of a value that does not fit.
        """
        values: dict[str, Any] = dict(table)
        for key in ("blur", "noise", "jpeg"):
            if key not in values:
                continue
            pair = values[key]
            if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int | float) for n in pair):
                raise UsageError(f"degrade: {key} = {pair!r}, expected two numbers [low, high]")
            values[key] = (float(pair[0]), float(pair[1]))
        return cls(**values)

    @property
    def margin(self) -> int:
        """Number of small pixels to cut around a crop, so that no step sees the border of the cut."""
        return 4


@lru_cache(maxsize=32)
def _shrink_matrix(length: int, scale: int) -> FloatArray:
    """Return the matrix [length / scale, length] that shrinks a line by antialiased bicubic. Crops have few
    different sizes, so the matrices are cached."""
    # One impulse per row, constant along the width: resizing the rows gives the weights themselves.
    impulses = np.repeat(np.eye(length)[:, None, :], scale, axis=1)
    return np.ascontiguousarray(imresize(impulses, 1 / scale)[:, 0, :], dtype=np.float32)


def shrink(pixels: AnyArray, scale: int) -> FloatArray:
    """Shrink `pixels` [H, W, C] in 0..255 by 1/scale with antialiased bicubic, as two matrix products.

    Returns float32 that is not rounded. The kernel is that of `quality.bicubic.imresize`, and the result is
    clipped between the passes like there, but not rounded: after rounding, the two differ by at most one
    8-bit step. Height and width must be multiples of `scale`.
    """
    height, width, channels = pixels.shape
    rows: FloatArray = _shrink_matrix(height, scale) @ pixels.astype(np.float32).reshape(
        height, width * channels
    )
    transposed = np.clip(rows, 0, 255).reshape(-1, width, channels).transpose(1, 0, 2)
    both: FloatArray = _shrink_matrix(width, scale) @ transposed.reshape(width, -1)
    small: FloatArray = both.reshape(width // scale, height // scale, channels).transpose(1, 0, 2)
    return small


def to_uint8(pixels: AnyArray) -> Uint8Array:
    """Round half up and clip to 0..255."""
    rounded: Uint8Array = np.floor(np.clip(pixels, 0, 255) + 0.5).astype(np.uint8)
    return rounded


def gaussian_kernel(sigma_x: float, sigma_y: float, angle: float) -> FloatArray:
    """Return an anisotropic Gaussian kernel [k, k] that sums to one.

    `angle` is its rotation in radians. k covers three standard deviations to either side, beyond which a
    Gaussian has less than 0.3 % of its weight.
    """
    radius = max(1, round(3 * max(sigma_x, sigma_y)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    along = (x * np.cos(angle) + y * np.sin(angle)) / max(sigma_x, 1e-3)
    across = (y * np.cos(angle) - x * np.sin(angle)) / max(sigma_y, 1e-3)
    kernel = np.exp(-0.5 * (along**2 + across**2))
    return cast(FloatArray, (kernel / kernel.sum()).astype(np.float32))


def _blurred(pixels: FloatArray, span: Span, strength: float, random: np.random.Generator) -> FloatArray:
    """Blur [H, W, 3] with a random kernel; `strength` scales the standard deviations."""
    sigma_x, sigma_y = random.uniform(*span, size=2) * strength
    kernel = gaussian_kernel(sigma_x, sigma_y, random.uniform(0, np.pi))
    return cast(FloatArray, cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _noisy(pixels: FloatArray, span: Span, strength: float, random: np.random.Generator) -> FloatArray:
    """Add Gaussian noise to [H, W, 3]: with equal chance grey noise or different noise in each channel."""
    channels = 1 if random.random() < 0.5 else 3
    noise = random.standard_normal((*pixels.shape[:2], channels), dtype=np.float32)
    noisy: FloatArray = pixels + noise * np.float32(random.uniform(*span) * strength)
    return noisy


def _compressed(pixels: FloatArray, span: Span, random: np.random.Generator) -> FloatArray:
    """Compress [H, W, 3] in 0..255 as JPEG and decode it again."""
    quality = round(random.uniform(*span))
    bgr = to_uint8(pixels)[..., ::-1]
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if encoded else None
    if decoded is None:
        raise RuntimeError(f"OpenCV could not encode an array of shape {pixels.shape} as JPEG")
    return cast(FloatArray, decoded[..., ::-1].astype(np.float32))


def _add_noise_and_jpeg(
    small: FloatArray, how: Degradation, strength: float, random: np.random.Generator
) -> FloatArray:
    """Apply the steps that follow the shrinking."""
    if how.noise:
        small = _noisy(small, how.noise, strength, random)
    return _compressed(small, how.jpeg, random) if how.jpeg else small


def degraded(large: Uint8Array, scale: int, how: Degradation, random: np.random.Generator) -> Uint8Array:
    """Return the small, degraded version of `large` [H, W, 3]: uint8 [H / scale, W / scale, 3].

    All random numbers come from `random`, so equal generators give equal pixels.
    """
    pixels = large.astype(np.float32)
    if how.blur:
        pixels = _blurred(pixels, how.blur, 1.0, random)
    small = _add_noise_and_jpeg(shrink(pixels, scale), how, 1.0, random)
    if random.random() < how.second:
        if how.blur:
            small = _blurred(small, how.blur, 0.5 / scale, random)
        small = _add_noise_and_jpeg(small, how, 0.5, random)
    return to_uint8(small)
