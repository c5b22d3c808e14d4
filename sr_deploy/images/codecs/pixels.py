"""Conversions of pixels for reading and writing: depth, ink, opacity, orientation.

OpenCV is imported where it is used, because most pictures need none of it. Large pictures are processed in
strips where a whole copy would cost noticeable memory. Nothing is scaled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sr_deploy.images.codecs.headers import DamagedError, UnsupportedError
from sr_deploy.system.arrays import AnyArray, PixelArray

_MOST_WHITE = 1.5  # of floats: a lamp may be brighter than white, but not half of a picture
_STRIP = 64  # rows that are converted at a time
_SEARCH_ROWS = 128
"""Rows above and below in which a visible pixel is searched. A hidden colour farther away from every
visible pixel cannot influence one through the halo of a net.
"""


def decode_by_opencv(payload: bytes) -> AnyArray:
    """Decode a GIF, a BMP of run lengths, or a file without libvips: [H, W, 1, 3 or 4] in the order red, green, blue, opacity.

    The samples are uint8, or uint16 for a PNG of 16 bits. Raises DamagedError or MemoryError.
    """
    from sr_deploy.images.opencv import cv2

    try:
        decoded = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise DamagedError("cannot be decoded") from error
    if decoded is None or decoded.dtype not in (np.uint8, np.uint16):
        raise DamagedError("cannot be decoded")
    if decoded.ndim == 2:
        return np.asarray(decoded[..., None])
    return np.asarray(decoded[..., (2, 1, 0, 3)[: decoded.shape[2]]])


def orient_pixels(pixels: AnyArray, orientation: int) -> AnyArray:
    """Turn and mirror `pixels` [H, W] or [H, W, C] as the EXIF orientation (1 to 8) demands.

    See EXIF 2.32, section 4.6.5.1, Orientation. Returns `pixels` itself if nothing is to be done.
    """
    if not 2 <= orientation <= 8:
        return pixels
    from sr_deploy.images.opencv import cv2

    # transposing first, then mirroring, yields all eight orientations
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    result = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if orientation in (5, 6, 7, 8):
        result = cv2.transpose(result)
    if across or down:
        result = cv2.flip(result, -1 if across and down else int(across))
    return result.reshape(*result.shape[:2], *pixels.shape[2:])


def ink_to_light(ink: AnyArray) -> AnyArray:
    """RGB from CMYK [H, W, 4] without a colour profile: the light each ink lets through, times that of black."""
    top = int(np.iinfo(ink.dtype).max)
    result = np.empty((*ink.shape[:2], 3), ink.dtype)
    for at in range(0, len(ink), _STRIP):
        through = (top - ink[at : at + _STRIP]).astype(np.uint32)
        result[at : at + _STRIP] = (through[..., :3] * through[..., 3:] + top // 2) // top
    return result


def divided_by_alpha(pixels: AnyArray, alpha: AnyArray) -> AnyArray:
    """The colours before they were multiplied by their opacity `alpha` [H, W], rounded to nearest."""
    top = int(np.iinfo(pixels.dtype).max)
    # premultiplied colours are 0 where the opacity is 0; dividing by 1 keeps them 0
    opacity = np.maximum(alpha, 1).astype(np.uint32)[..., None]
    colours: AnyArray = np.minimum((pixels.astype(np.uint32) * top + opacity // 2) // opacity, top)
    return colours.astype(pixels.dtype)


def from_floats(values: AnyArray) -> AnyArray:
    """Floats as 16-bit values: 0 becomes 0 and 1 becomes 65535. What lies outside is cut off; NaN becomes 0.

    Raises UnsupportedError if most values are far above 1: they are meant as 0 to 255 or the like, and would become white.
    """
    if np.count_nonzero(values > _MOST_WHITE) > values.size / 2:
        raise UnsupportedError(
            f"has floats up to {np.nanmax(values):.6g}, expected 0 (black) to 1 (white); divide them by the value of white first"
        )
    result = np.empty(values.shape, np.uint16)
    for at in range(0, len(values), _STRIP):
        result[at : at + _STRIP] = np.rint(np.clip(np.nan_to_num(values[at : at + _STRIP]), 0, 1) * 65535)
    return result


def to_8_bits(values: AnyArray) -> AnyArray:
    """16-bit values as 8-bit ones: divided by 257 and rounded to nearest, so 65535 becomes 255."""
    result = np.empty(values.shape, np.uint8)
    for at in range(0, len(values), _STRIP):
        result[at : at + _STRIP] = (values[at : at + _STRIP].astype(np.uint32) + 128) // 257
    return result


def blend_on_white(pixels: AnyArray, alpha: AnyArray) -> AnyArray:
    """8-bit pixels [H, W, C] with opacity `alpha` [H, W], as they look on a white background."""
    result = np.empty_like(pixels)
    for at in range(0, len(pixels), _STRIP):
        part, opacity = (
            pixels[at : at + _STRIP].astype(np.uint32),
            alpha[at : at + _STRIP, :, None].astype(np.uint32),
        )
        result[at : at + _STRIP] = (part * opacity + 255 * (255 - opacity) + 127) // 255  # 127: to nearest
    return result


def fill_hidden_colour(pixels: PixelArray, alpha: PixelArray) -> PixelArray:
    """`pixels` [H, W, C] with the colour of every fully transparent pixel replaced by the nearest
    visible one.

    Editors leave any colour under alpha 0. A net or a resampling would mix it into the edges as a
    fringe. Visible pixels are unchanged. Hidden ones more than about 128 rows from anything visible may
    keep their colour. Returns `pixels` itself if nothing is hidden. The time grows linearly with the
    number of pixels.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return pixels
    result: PixelArray = pixels.copy()
    height, step = alpha.shape[0], 1024  # rows at a time, because the labels take four bytes a pixel
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


def _nearest_visible(pixels: AnyArray, seen: npt.NDArray[np.bool_]) -> AnyArray:
    """The colour [H, W, C] of the nearest visible pixel for every pixel; `seen` [H, W] marks visible ones."""
    from sr_deploy.images.opencv import cv2

    # OpenCV numbers every zero of its input, here a visible pixel, and labels each pixel with the nearest one
    _, labels = cv2.distanceTransformWithLabels(
        (~seen).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    palette = np.zeros((int(labels.max()) + 1, pixels.shape[2]), pixels.dtype)
    palette[labels[seen]] = pixels[seen]
    colours: AnyArray = palette[labels]
    return colours
