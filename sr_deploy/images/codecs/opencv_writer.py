"""JPEG and WebP, encoded by OpenCV. Metadata is added to the file afterwards (`jpeg.py`, `webp.py`)."""

from __future__ import annotations

import errno

import numpy as np

from sr_deploy.images.codecs.formats import JPEG_QUALITY
from sr_deploy.images.opencv import cv2
from sr_deploy.system.arrays import AnyArray

_STRIP = 512
"""Rows whose channels are swapped at once, so that they stay in the processor's cache."""


def encode(kind: str, pixels: AnyArray, alpha: AnyArray | None, quality: int | None, consume: bool) -> bytes:
    """8-bit pixels [H, W, 1 or 3] as a JPEG, or with alpha [H, W] as a WebP, without metadata.

    JPEG: quality 95 by default, and full colour resolution (4:4:4) from 90 on. WebP: 90 by default,
    lossless above 100. With `consume`, the pixels may be changed, which saves a copy. Raises OSError or MemoryError.
    """
    try:
        done, encoded = cv2.imencode(f".{kind}", _to_bgr(pixels, alpha, consume), _options(kind, quality))
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise OSError(errno.EIO, "the encoder failed") from error
    if not done:
        raise OSError(errno.EIO, "the encoder failed")
    return bytes(encoded.data)


def _options(kind: str, quality: int | None) -> list[int]:
    """Options for OpenCV's encoder."""
    if kind == "webp":
        return [cv2.IMWRITE_WEBP_QUALITY, 90 if quality is None else quality]
    quality = JPEG_QUALITY if quality is None else quality
    fine = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444] if quality >= 90 else []
    return [cv2.IMWRITE_JPEG_QUALITY, quality, *fine]


def _to_bgr(pixels: AnyArray, alpha: AnyArray | None, consume: bool) -> AnyArray:
    """The pixels as OpenCV wants them: [H, W], or [H, W, 3 or 4] in BGR order."""
    if alpha is not None:
        rgb = pixels if pixels.shape[2] == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        result = np.empty((*alpha.shape, 4), pixels.dtype)
        cv2.mixChannels([rgb, alpha], [result], [0, 2, 1, 1, 2, 0, 3, 3])  # pairs of (from, to)
        return result
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    result = pixels if consume and pixels.flags.writeable else np.empty_like(pixels)
    for at in range(0, pixels.shape[0], _STRIP):
        result[at : at + _STRIP] = cv2.cvtColor(pixels[at : at + _STRIP], cv2.COLOR_RGB2BGR)
    return result
