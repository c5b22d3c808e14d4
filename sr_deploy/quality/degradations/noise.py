"""Noise of scans, cameras and palettes."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np

from sr_deploy.quality.degradations.filters import grey_of
from sr_deploy.system.arrays import FloatArray

_MIDDLE = 118.0
"""sRGB value of middle grey (18 % reflectance), at which the strength of camera noise is stated."""
_READ_SHARE = 0.3
"""Share of the camera's noise at middle grey that does not depend on the light (read noise)."""
_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32)
"""Order in which the pixels of a 4 x 4 cell become white (Bayer 1973)."""


def add_noise(
    pixels: FloatArray, sigma: float, random: np.random.Generator, *, grey: bool = False
) -> FloatArray:
    """Add Gaussian noise of standard deviation `sigma` in 8-bit steps; with `grey`, the same in all channels."""
    channels = 1 if grey else 3
    noise = random.standard_normal((*pixels.shape[:2], channels), dtype=np.float32)
    noisy: FloatArray = pixels + noise * np.float32(sigma)
    return noisy


def to_linear(pixels: FloatArray) -> FloatArray:
    """Convert sRGB in 0..255 to linear light in 0..1 (IEC 61966-2-1)."""
    values = np.clip(pixels, 0, 255) / np.float32(255)
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return cast(FloatArray, light.astype(np.float32))


def from_linear(light: FloatArray) -> FloatArray:
    """Convert linear light in 0..1 to sRGB in 0..255 (IEC 61966-2-1)."""
    light = np.clip(light, 0, 1)
    values = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return cast(FloatArray, (values * 255).astype(np.float32))


def add_camera_noise(
    pixels: FloatArray, sigma: float, random: np.random.Generator, *, demosaic: bool = False
) -> FloatArray:
    """Add the noise of a sensor: its variance grows with the light (photons), above a constant (read noise).

    `sigma` is the standard deviation at middle grey in 8-bit steps of sRGB. With `demosaic`, each pixel keeps one of
    its colours (RGGB) and the others are interpolated, so the noise gets the grain and the colours of a camera's.
    """
    light = to_linear(pixels)
    middle = float(to_linear(np.full((1,), _MIDDLE, np.float32))[0])
    slope = float(np.diff(from_linear(np.array([middle - 1e-3, middle + 1e-3], np.float32)))[0]) / 2e-3
    spread = sigma / slope  # in linear light, at middle grey
    variance = spread**2 * (_READ_SHARE**2 + (1 - _READ_SHARE**2) * light / middle)
    noisy = light + np.sqrt(variance) * random.standard_normal(light.shape, dtype=np.float32)
    return from_linear(_demosaiced(noisy) if demosaic else noisy)


def _demosaiced(light: FloatArray) -> FloatArray:
    """Keep one colour of each pixel of [H, W, 3] in 0..1, and interpolate the others."""
    height, width = light.shape[:2]
    padded = np.pad(light, ((2, 2 + height % 2), (2, 2 + width % 2), (0, 0)), mode="reflect")
    raw = padded[..., 1].copy()
    raw[::2, ::2] = padded[::2, ::2, 0]
    raw[1::2, 1::2] = padded[1::2, 1::2, 2]
    counts = (np.clip(raw, 0, 1) * 65535 + 0.5).astype(np.uint16)
    colours = cv2.cvtColor(counts, cv2.COLOR_BayerRGGB2RGB)
    cut = colours[2 : 2 + height, 2 : 2 + width]
    return cast(FloatArray, cut.astype(np.float32) / np.float32(65535))


def dither(pixels: FloatArray, levels: int, *, grey: bool = True) -> FloatArray:
    """Reduce to `levels` values a channel by ordered dithering; with `grey`, the colours are lost first.

    The mean of an area stays what it was.
    """
    if grey:
        pixels = np.repeat(grey_of(pixels), 3, axis=2)
    height, width = pixels.shape[:2]
    cell = (np.tile(_BAYER, (height // 4 + 1, width // 4 + 1))[:height, :width, None] + 0.5) / 16
    steps = np.floor(np.clip(pixels, 0, 255) / 255 * (levels - 1) + cell)
    return cast(FloatArray, (np.clip(steps, 0, levels - 1) * (255 / (levels - 1))).astype(np.float32))
