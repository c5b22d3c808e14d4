"""Cut the pictures that a verification runs on: crops of real photographs with their small versions.

The crops are square, odd, long and tiny, and some are large enough to be tiled. The small version is made
with the bit-exact bicubic of `sr_deploy.quality.bicubic`, so the original crop is the ground truth. Pixels
are [H, W, C] of 8 bits; C is 3 for RGB and 1 for grey. No model is run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sr_deploy.errors import InputError
from sr_deploy.images.image import read_image
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.pairs import list_pictures
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import AnyArray, Uint8Array

SIZES = ((64, 64), (37, 53), (96, 17), (53, 96), (17, 40), (5, 7), (1, 3), (80, 61))
"""(height, width) of the small versions, taken in turn: square, odd, long, and smaller than the halo of most
models, where every pixel is near a border."""
TILE = 24
"""Side, in input pixels, of the part of a tile that is kept in the tiled runs: small enough that crops of
small photographs have several tiles, and therefore seams."""
_PICTURES = 8
"""Maximum number of photographs that are used."""
_SIZE_BEYOND_HALOS = (61, 45)
"""(height, width) by which the picture for the tiled run exceeds two halos, in input pixels. Both are larger
than `TILE`, so there are at least two tiles each way."""


@dataclass(frozen=True, kw_only=True)
class VerifyCrop:
    """A crop of a photograph and its small version."""

    picture: str
    """File name of the photograph."""
    top: int
    """Row of the crop's upper edge in the photograph, in pixels."""
    left: int
    """Column of the crop's left edge in the photograph, in pixels."""
    small: Uint8Array
    """Input of a model, [h, w, C], 8 bits."""
    truth: Uint8Array
    """Picture that the model should give back, [h * scale, w * scale, C], 8 bits."""

    def __str__(self) -> str:
        height, width = self.small.shape[:2]
        return f"{self.picture}, crop {width}x{height} at ({self.left}, {self.top})"


def cut_crops(folder: Path, spec: ModelSpec) -> list[VerifyCrop]:
    """Cut crops for the model that `spec` describes, from up to eight pictures spread over `folder`.

    Each picture gives at least two crops, and each of the first two gives one large crop for the tiled runs
    as well. A picture smaller than a crop gives a smaller crop; for the large crop it is mirrored instead.
    The random positions have a fixed seed, so the same folder gives the same crops.

    Raises InputError for a folder without pictures or without one that is large enough, and ImageError for a
    picture that cannot be read.
    """
    paths = list_pictures(folder)
    chosen = paths[:: -(-len(paths) // _PICTURES)]
    random = np.random.default_rng(0)
    crops: list[VerifyCrop] = []
    for number, path in enumerate(chosen):
        pixels = _read_8bit(path, spec.channels)
        if min(pixels.shape[:2]) < spec.scale:  # not even one input pixel
            continue
        crops += [
            _cut_crop(path.name, pixels, size, spec, random) for size in _crop_sizes(number, len(chosen))
        ]
        # models of a fixed size are not checked in tiles
        if number < 2 and not spec.size_rule.fixed:
            crops.append(_cut_for_tiling(path.name, pixels, spec, random))
    if not crops:
        raise InputError(
            f"{folder}: expected a picture of at least {spec.scale}x{spec.scale} pixels, found none; give photographs"
        )
    return crops


def _crop_sizes(number: int, pictures: int) -> list[tuple[int, int]]:
    """Choose the crop sizes of picture `number`, counted from 0, out of `pictures` in all.

    Few pictures get more crops each, so that all of `SIZES` are used whatever their number.
    """
    each = max(2, -(-len(SIZES) // pictures))
    return [SIZES[(each * number + i) % len(SIZES)] for i in range(each)]


def _read_8bit(path: Path, channels: int) -> Uint8Array:
    """Read 8-bit pixels [H, W, channels].

    A grey model gets the mean of the three colours, a colour model gets grey three times. 16-bit pictures
    lose their lower 8 bits.
    """
    pixels: AnyArray = read_image(path).pixels
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[2] > channels:
        pixels = np.rint(pixels.mean(axis=2, keepdims=True)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], channels)))


def _cut_crop(
    name: str,
    pixels: Uint8Array,
    size: Sequence[int],
    spec: ModelSpec,
    random: np.random.Generator,
) -> VerifyCrop:
    """Cut one crop of `size` (height, width, input pixels) from `pixels` [H, W, C], at a random position.

    A small picture gives a smaller crop. A model of a fixed size gets crops no larger than that size; the
    engine pads them. At scale 1 the model restores rather than enlarges, so its input is the crop itself.
    """
    scale, largest = spec.scale, spec.size_rule.fixed or size
    height, width = (
        min(n, most, m // scale) for n, most, m in zip(size, largest, pixels.shape[:2], strict=False)
    )
    top, left = (
        int(random.integers(m - n * scale + 1))
        for n, m in zip((height, width), pixels.shape[:2], strict=True)
    )
    truth = np.ascontiguousarray(pixels[top : top + height * scale, left : left + width * scale])
    small = truth.copy() if scale == 1 else imresize(truth, size=(height, width))
    return VerifyCrop(picture=name, top=top, left=left, small=small, truth=truth)


def _cut_for_tiling(
    name: str, pixels: Uint8Array, spec: ModelSpec, random: np.random.Generator
) -> VerifyCrop:
    """Cut a crop that holds several tiles; a picture that is too small is mirrored at its border."""
    halo = spec.halo or 0
    size = [2 * halo + more for more in _SIZE_BEYOND_HALOS]
    missing = [max(n * spec.scale - m, 0) for n, m in zip(size, pixels.shape[:2], strict=True)]
    wide = np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    return _cut_crop(name, wide, size, spec, random)
