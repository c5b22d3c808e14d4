"""Measures of what compression leaves in an upscaled picture: blocks and specks of colour.

Both compare the result with the original. 1 means that the result has as much of it as the original; PSNR and SSIM
hardly see either.
"""

from __future__ import annotations

import cv2
import numpy as np

from sr_deploy.quality.metrics import FULL_RANGE_LUMA, luma
from sr_deploy.system.arrays import AnyArray, DoubleArray

_BLOCK = 8
"""Side of the blocks of JPEG in small pixels."""
_COLOUR_FLOOR = 0.5
"""Fine colour in 8-bit steps that is added in `specks`. Photographs shrunk by 4 have 0.7 to 6.4."""


def _shrunk(plane: DoubleArray, scale: int) -> DoubleArray:
    """Average `scale` x `scale` pixels of [H, W], so that edges of blocks are as narrow as in the small picture."""
    height, width = (n // scale for n in plane.shape)
    cut = plane[: height * scale, : width * scale]
    return np.asarray(cut.reshape(height, scale, width, scale).mean(axis=(1, 3)))


def blockiness(pixels: AnyArray, scale: int) -> float:
    """Return how much stronger steps are at the edges of 8 x 8 blocks than elsewhere: 1 without blocks, above 0.

    `pixels` [H, W, C] were upscaled by `scale` from a picture whose blocks begin at its corner. A step is the part of a
    difference of neighbours that their own neighbours do not explain, on Y (Wang, Bovik and Evans 2000, in the plain form
    of a ratio of means).
    """
    plane = luma(pixels) if pixels.shape[2] == 3 else pixels[..., 0]
    small = _shrunk(np.asarray(plane, np.float64), scale)
    at_edges, elsewhere = [], []
    for rows in (small, small.T):
        across = np.diff(rows, axis=1)
        steps = np.abs(across[:, 1:-1] - (across[:, :-2] + across[:, 2:]) / 2).mean(axis=0)
        edge = (np.arange(1, across.shape[1] - 1) + 1) % _BLOCK == 0
        at_edges.append(steps[edge])
        elsewhere.append(steps[~edge])
    edges, others = np.concatenate(at_edges), np.concatenate(elsewhere)
    if not edges.size or not others.size or not edges.mean() or not others.mean():
        return 1.0  # steps in one of the two places only, as in a flat picture with a dot, tell nothing of blocks
    return float(edges.mean() / others.mean())


def specks(result: AnyArray, original: AnyArray, scale: int) -> float:
    """Return the strength of fine colour in `result` relative to `original`, both [H, W, 3] of one type.

    Both are shrunk by `scale` first, since finer colour cannot come from the small picture. Fine colour is what a median
    over 5 x 5 pixels removes from the colour differences B - Y and R - Y. 1 means that both have as much; above 1 the
    result has specks that the original has not. Half an 8-bit step is added to both, so that a grey picture, which
    has no fine colour at all, does not decide the mean over a set.
    """
    floor = _COLOUR_FLOOR * np.iinfo(original.dtype).max / 255
    return (_fine_colour(result, scale) + floor) / (_fine_colour(original, scale) + floor)


def _fine_colour(pixels: AnyArray, scale: int) -> float:
    """Return the mean absolute fine colour in steps of `pixels`."""
    planes = [_shrunk(np.asarray(pixels[..., c], np.float64), scale).astype(np.float32) for c in range(3)]
    red, green, blue = FULL_RANGE_LUMA
    grey = red * planes[0] + green * planes[1] + blue * planes[2]
    differences = [np.ascontiguousarray(planes[c] - grey) for c in (0, 2)]
    return sum(float(np.abs(one - cv2.medianBlur(one, 5)).mean()) for one in differences)
