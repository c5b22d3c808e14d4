"""Compression as pictures on the web have it: JPEG of several encoders, WebP and AVIF."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import cv2
import numpy as np

from sr_deploy.system.arrays import AnyArray, FloatArray, Uint8Array

TABLES: Mapping[str, int] = MappingProxyType(
    {"standard": 0, "flat": 1, "ssim": 2, "imagemagick": 3, "hvs": 4}
)
"""Names of JPEG quantisation tables -> their number in libvips.

"standard" is Annex K of the JPEG standard, which libjpeg-turbo uses; "imagemagick" is what mozjpeg uses by default.
"flat" quantises all frequencies alike, as the tables of photo editors nearly do at high quality.
"""


def to_uint8(pixels: AnyArray) -> Uint8Array:
    """Round half up and clip to 0..255."""
    rounded: Uint8Array = np.floor(np.clip(pixels, 0, 255) + 0.5).astype(np.uint8)
    return rounded


def _by_opencv(pixels: FloatArray, suffix: str, options: list[int]) -> FloatArray:
    """Encode [H, W, 3] in 0..255 with OpenCV and decode it again."""
    encoded, data = cv2.imencode(suffix, to_uint8(pixels)[..., ::-1], options)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if encoded else None
    if decoded is None:
        raise RuntimeError(f"OpenCV could not encode an array of shape {pixels.shape} as {suffix}")
    return cast(FloatArray, decoded[..., ::-1].astype(np.float32))


def _by_libvips(pixels: FloatArray, suffix: str, options: Mapping[str, Any]) -> FloatArray:
    """Encode [H, W, 3] in 0..255 with libvips and decode it again."""
    import pyvips  # type: ignore[import-untyped, unused-ignore]

    image = pyvips.Image.new_from_array(to_uint8(pixels), interpretation="srgb")
    decoded = pyvips.Image.new_from_buffer(image.write_to_buffer(suffix, **options), "")
    return cast(FloatArray, decoded.numpy()[..., :3].astype(np.float32))


def jpeg(pixels: FloatArray, quality: int, *, chroma: str = "420", tables: str = "standard") -> FloatArray:
    """Compress [H, W, 3] in 0..255 as JPEG of `quality` 1..100 and decode it again.

    `chroma` is "420" or "444"; `tables` a name of `TABLES`. The standard tables are written by libjpeg-turbo through
    OpenCV, the others by libvips, which needs a build with mozjpeg for them and uses the standard tables without.
    """
    if tables == "standard":
        sampling = (
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if chroma == "444" else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
        )
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        return _by_opencv(pixels, ".jpg", options)
    subsample = "off" if chroma == "444" else "on"
    return _by_libvips(
        pixels, ".jpg", {"Q": quality, "subsample_mode": subsample, "quant_table": TABLES[tables]}
    )


def webp(pixels: FloatArray, quality: int) -> FloatArray:
    """Compress [H, W, 3] in 0..255 as lossy WebP of `quality` 1..100 and decode it again."""
    return _by_opencv(pixels, ".webp", [cv2.IMWRITE_WEBP_QUALITY, quality])


def avif(pixels: FloatArray, quality: int) -> FloatArray:
    """Compress [H, W, 3] in 0..255 as AVIF of `quality` 1..100 and decode it again. Needs libvips with AV1."""
    return _by_libvips(pixels, ".avif", {"Q": quality, "effort": 0})


FORMATS = MappingProxyType({"jpeg": jpeg, "webp": webp, "avif": avif})
"""Name -> function that compresses with a quality."""


def on_shifted_grid(pixels: FloatArray, down: int, right: int) -> FloatArray:
    """Return `pixels` with reflected rows and columns in front, which moves the blocks of the next JPEG."""
    return cast(FloatArray, np.pad(pixels, ((down, 0), (right, 0), (0, 0)), mode="reflect"))
