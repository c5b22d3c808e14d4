"""Resampling a picture to any width and height: the last step to a size that no model produces.

The kernel is Lanczos with three lobes. When shrinking it is widened by the factor, so that every input
pixel counts and nothing aliases. Colours are weighted by their opacity, so transparent edges keep their
colour. The work is done in strips. This module neither reproduces MATLAB's results (see
`quality.bicubic`) nor upscales with a net.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sr_deploy.errors import UsageError, check_whole
from sr_deploy.images.image import Image
from sr_deploy.system.arrays import AnyArray, FloatArray

_LOBES = 3  # radius of the kernel in pixels of the smaller grid
_ROWS_PER_BLOCK, _COLUMNS_PER_BLOCK = 8, 16
"""Results per matrix product: enough for BLAS to be fast, and few enough that most weights are not zero."""
_ALONE = 1 << 18
"""Multiplications up to which OpenBLAS computes a product in one thread (4 * 65536, interface/gemm.c of 0.3). Its threads wait
in busy loops: beside the threads of a runtime, a resize took six times the processor's time with them (measured)."""
_STRIP = 16 << 20
"""Bytes of float32 per strip, counted before or after the vertical pass, whichever is more."""


def fit(
    width: int,
    height: int,
    *,
    target_width: int | None = None,
    target_height: int | None = None,
    box: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """The size (width, height) with the proportions of `width` x `height` and the given side.

    `target_width` or `target_height` alone sets that side; both together set both, whatever the
    proportions. `box` is the (width, height) into which the result just fits. With none of them the
    size stays the same. Sides are in pixels, rounded to nearest, and at least 1.

    Raises UsageError for sizes that are not positive, or for `box` together with a target.
    """
    asked = [n for n in (width, height, target_width, target_height, *(box or ())) if n is not None]
    if min(asked) < 1:
        raise UsageError(f"sizes must be positive numbers of pixels, got {min(asked)}; give at least 1")
    if box:
        if target_width or target_height:
            raise UsageError("a box cannot be combined with a width or height; give one of them")
        if box[0] * height <= box[1] * width:  # the width is the tighter limit
            target_width = box[0]
        else:
            target_height = box[1]
    if target_width and not target_height:
        target_height = max(1, round(height * target_width / width))
    elif target_height and not target_width:
        target_width = max(1, round(width * target_height / height))
    return target_width or width, target_height or height


def resize(image: Image, width: int, height: int, *, straight: bool = False) -> Image:
    """Resample `image` to `width` x `height` pixels. Metadata and notes are kept.

    Colours are weighted by their opacity, unless `straight`: then opacity is a channel of its own.

    Needs a few strips of 16 MB besides the result, and more when shrinking over ten times. Returns
    `image` itself if the size is the same. Raises UsageError for sizes that are not positive whole numbers.
    """
    if not isinstance(image, Image):
        raise UsageError(
            f"resize takes an Image, got {type(image).__name__}; pass Image(pixels=...), or use imresize for arrays"
        )
    check_whole("width", width)
    check_whole("height", height)
    if (width, height) == (image.width, image.height):
        return image
    if straight and image.alpha is not None:
        mask = resize(Image(pixels=image.alpha[..., None]), width, height)
        colours = resize(replace(image, alpha=None), width, height)
        return replace(colours, alpha=mask.pixels.reshape(height, width))
    pixels = np.empty((height, width, image.pixels.shape[2]), image.pixels.dtype)
    alpha = np.empty((height, width), image.pixels.dtype) if image.alpha is not None else None
    across = _blocks(image.width, width, _COLUMNS_PER_BLOCK)
    down = _blocks(image.height, height, _ROWS_PER_BLOCK)
    at_once = max(
        1, _STRIP // (4 * _ROWS_PER_BLOCK * max(width, image.width) * (pixels.shape[2] + (alpha is not None)))
    )
    for at in range(0, len(down), at_once):
        strip = down[at : at + at_once]
        rows = np.concatenate([_resampled_rows(image, block) for block in strip])
        planes = np.ascontiguousarray(rows.transpose(2, 0, 1))
        planes = np.concatenate([_across(planes, block) for block in across], axis=2)
        span = slice(strip[0].result.start, strip[-1].result.stop)
        _store(planes, pixels[span], alpha[span] if alpha is not None else None)
    return replace(image, pixels=pixels, alpha=alpha)


@dataclass(frozen=True)
class _Block:
    """A run of neighbouring results along one axis."""

    result: slice
    """Range of the results."""
    source: slice
    """Range of the input pixels they depend on."""
    weights: FloatArray
    """Matrix [results, sources]; each row adds up to 1."""


def _blocks(source: int, result: int, step: int) -> list[_Block]:
    """The blocks of an axis that is resampled from `source` to `result` pixels, `step` results each.

    Pixel i lies at i + 0.5, so the borders of both grids coincide.
    """
    blocks = []
    factor = source / result
    widen = max(1.0, factor)
    for first in range(0, result, step):
        last = min(first + step, result)
        centres = (np.arange(first, last) + 0.5) * factor
        low = max(0, int(centres[0] - _LOBES * widen))
        high = min(source, int(np.ceil(centres[-1] + _LOBES * widen)))
        distance = (np.arange(low, high) + 0.5 - centres[:, None]) / widen
        weights = np.where(np.abs(distance) < _LOBES, np.sinc(distance) * np.sinc(distance / _LOBES), 0.0)
        # sampled and cut at the borders, the kernel does not add up to 1 by itself
        weights /= weights.sum(axis=1, keepdims=True)
        blocks.append(_Block(slice(first, last), slice(low, high), weights.astype(np.float32)))
    return blocks


def _resampled_rows(image: Image, block: _Block) -> FloatArray:
    """The result rows of a block, still at the old width: float32 [rows, W, C].

    With alpha, C is one more: the colours times their opacity (0..1), then the opacity.
    """
    rows = image.pixels[block.source].astype(np.float32)
    if image.alpha is not None:
        opacity = image.alpha[block.source, :, None].astype(np.float32)
        rows = np.concatenate((rows * (opacity / np.iinfo(image.alpha.dtype).max), opacity), axis=2)
    flat = rows.reshape(rows.shape[0], -1)
    step = max(1, _ALONE // block.weights.size)
    parts = [block.weights @ flat[:, at : at + step] for at in range(0, flat.shape[1], step)]
    result: FloatArray = np.concatenate(parts, axis=1)
    return result.reshape(-1, *rows.shape[1:])


def _across(planes: FloatArray, block: _Block) -> FloatArray:
    """The result columns of a block: [C, rows, W] -> [C, rows, results]."""
    step = max(1, _ALONE // block.weights.size)
    rows = range(0, planes.shape[1], step)
    parts = [planes[:, at : at + step, block.source] @ block.weights.T for at in rows]
    result: FloatArray = np.concatenate(parts, axis=1)
    return result


def _store(planes: FloatArray, pixels: AnyArray, alpha: AnyArray | None) -> None:
    """Undo the weighting of `_resampled_rows`, round, and store into `pixels` [rows, W, C] and `alpha`
    [rows, W].

    `planes` is [C, rows, W], with opacity last.
    """
    top = np.iinfo(pixels.dtype).max
    if alpha is not None:
        opacity = np.clip(planes[-1], 0, top)
        alpha[...] = np.rint(opacity)
        # An opacity below 0.5 is rounded to 0. Its colour is invisible, so the quotient may be wrong there.
        planes = planes[:-1] * (top / np.maximum(opacity, 0.5))
    pixels[...] = np.rint(np.clip(planes, 0, top)).transpose(1, 2, 0)
