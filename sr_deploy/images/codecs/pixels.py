"""What is done to pixels on their way in and out: order of channels, depth, transparency, turning.

Works in strips where a copy of the whole would be felt. Does not scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.images.opencv import cv2

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_STRIP = 64  # rows
_SEARCH_ROWS = 128
"""Rows: further from everything visible, a hidden colour reaches no visible pixel through any net."""


def orient_pixels(pixels: Array, orientation: int) -> Array:
    """`pixels` as they should be seen (EXIF 2.32, 4.6.5.1, Orientation)."""
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    result = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if orientation in (5, 6, 7, 8):
        result = cv2.transpose(result)
    if across or down:
        result = cv2.flip(result, -1 if across and down else int(across))
    return result.reshape(*result.shape[:2], *pixels.shape[2:])


def to_8_bits(values: Array) -> Array:
    """Divided by 257, rounded to nearest."""
    result = np.empty(values.shape, np.uint8)
    for at in range(0, len(values), _STRIP):
        result[at : at + _STRIP] = (values[at : at + _STRIP].astype(np.uint32) + 128) // 257
    return result


def blend_on_white(pixels: Array, alpha: Array) -> Array:
    """What is seen on white paper, of 8-bit pixels."""
    result = np.empty_like(pixels)
    for at in range(0, len(pixels), _STRIP):
        part, opacity = (
            pixels[at : at + _STRIP].astype(np.uint32),
            alpha[at : at + _STRIP, :, None].astype(np.uint32),
        )
        result[at : at + _STRIP] = (part * opacity + 255 * (255 - opacity) + 127) // 255
    return result


def to_bgr(pixels: Array, alpha: Array | None, *, consume: bool) -> Array:
    """Pixels as OpenCV wants them: [H, W] or [H, W, 3 or 4] in BGR order.

    With `consume`, RGB pixels without alpha are turned around where they lie, and are lost to the caller.
    """
    if alpha is not None:
        rgb = pixels if pixels.shape[2] == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        result = np.empty((*alpha.shape, 4), pixels.dtype)
        cv2.mixChannels([rgb, alpha], [result], [0, 2, 1, 1, 2, 0, 3, 3])
        return result
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    result = pixels if consume and pixels.flags.writeable else np.empty_like(pixels)
    for at in range(0, pixels.shape[0], _STRIP):
        result[at : at + _STRIP] = cv2.cvtColor(pixels[at : at + _STRIP], cv2.COLOR_RGB2BGR)
    return result


def fill_hidden_colour(pixels: Pixels, alpha: Pixels) -> Pixels:
    """`pixels` [H, W, C] with every fully transparent one given the colour of the nearest visible one.

    Editors leave any colour under alpha 0; a net or a resize would mix it into the edges as a halo. Visible
    pixels are untouched; those further than about 128 rows from anything visible may keep their colour. Returns
    `pixels` itself where nothing is hidden. Linear in the number of pixels.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return pixels
    result: Pixels = pixels.copy()
    height, step = alpha.shape[0], 1024
    for at in range(0, height, step):
        first, last = max(0, at - _SEARCH_ROWS), min(height, at + step + _SEARCH_ROWS)
        seen = visible[first:last]
        if seen.all() or not seen.any():
            continue
        colours = _nearest_visible(pixels[first:last], seen)
        kept = slice(at - first, min(at + step, height) - first)
        hidden = ~seen[kept]
        result[at : at + step][hidden] = colours[kept][hidden]
    return result


def _nearest_visible(pixels: Array, seen: npt.NDArray[np.bool_]) -> Array:
    """The colour of the nearest visible pixel, for every pixel."""
    _, labels = cv2.distanceTransformWithLabels(
        (~seen).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    palette = np.zeros((int(labels.max()) + 1, pixels.shape[2]), pixels.dtype)
    palette[labels[seen]] = pixels[seen]
    colours: Array = palette[labels]
    return colours
