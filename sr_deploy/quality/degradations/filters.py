"""Blur, sharpening and colour shifts."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np

from sr_deploy.quality.metrics import FULL_RANGE_LUMA
from sr_deploy.system.arrays import FloatArray


def grey_of(pixels: FloatArray) -> FloatArray:
    """Return the luma [H, W, 1] of RGB [H, W, 3] (BT.601, full range)."""
    return (pixels @ np.array(FULL_RANGE_LUMA, np.float32))[..., None]


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


def blur(pixels: FloatArray, sigma_x: float, sigma_y: float, angle: float = 0.0) -> FloatArray:
    """Blur with an anisotropic Gaussian: standard deviations in pixels, rotation in radians."""
    kernel = gaussian_kernel(sigma_x, sigma_y, angle)
    return cast(FloatArray, cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def sharpen(pixels: FloatArray, amount: float, radius: float) -> FloatArray:
    """Sharpen with an unsharp mask, which leaves halos along edges.

    `amount` is the share of the detail that is added, `radius` the standard deviation of the mask in pixels.
    """
    soft = cv2.GaussianBlur(pixels, (0, 0), radius, borderType=cv2.BORDER_REFLECT_101)
    return cast(FloatArray, np.clip(pixels + np.float32(amount) * (pixels - soft), 0, 255))


def shift_chroma(pixels: FloatArray, down: float, right: float) -> FloatArray:
    """Move the colours of [H, W, 3] against the luma by fractions of a pixel, as wrongly sited chroma does."""
    grey = grey_of(pixels)
    colour = np.ascontiguousarray(pixels - grey)
    move = np.array([[1, 0, right], [0, 1, down]], np.float32)
    moved = cv2.warpAffine(
        colour,
        move,
        (pixels.shape[1], pixels.shape[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return cast(FloatArray, np.clip(grey + moved, 0, 255))
