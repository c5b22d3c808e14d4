"""The pictures a verification runs on: crops of real photographs, small version and original.

Sizes are square, odd, long and tiny, and one a picture is large enough to be tiled. The small version is made
by the bit-exact bicubic, so that the original is the ground truth. Nothing is run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import InputError
from sr_deploy.images.image import read_image
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.pairs import list_pictures
from sr_deploy.spec import ModelSpec

Bytes = npt.NDArray[np.uint8]

SIZES = ((64, 64), (37, 53), (96, 17), (53, 96), (17, 40), (5, 7), (1, 3), (80, 61))
"""Heights and widths of the small pictures, taken in turn: square, odd, long, smaller than a receptive field."""
TILE = 24
"""The side of the kept part of a tile in the tiled runs, in input pixels."""
_PICTURES = 8
_SIZE_BEYOND_HALOS = (61, 45)
"""How much larger than two halos the picture is that will be tiled: two tiles and more, both ways."""


@dataclass(frozen=True, kw_only=True)
class VerifyCrop:
    """A piece of a photograph."""

    picture: str
    top: int
    left: int
    """Where it lies in the photograph, in pixels of that."""
    small: Bytes
    """What goes into a model: [h, w, C]."""
    truth: Bytes
    """What should come out: [h * scale, w * scale, C]."""

    def __str__(self) -> str:
        height, width = self.small.shape[:2]
        return f"{self.picture}, crop {width}x{height} at ({self.left}, {self.top})"


def cut_crops(folder: Path, spec: ModelSpec) -> list[VerifyCrop]:
    """Crops of up to eight pictures of `folder`, spread over it, for a model such as `spec` says.

    Two of every picture, and a large one of the first two. A picture too small for its crop gives what it has,
    and is mirrored for the large one. Raises InputError for a folder without pictures or with none that is
    large enough, ImageError for one that cannot be read.
    """
    paths = list_pictures(folder)
    chosen = paths[:: -(-len(paths) // _PICTURES)]
    random = np.random.default_rng(0)
    crops: list[VerifyCrop] = []
    for number, path in enumerate(chosen):
        pixels = _read_8bit(path, spec.channels)
        if min(pixels.shape[:2]) < spec.scale:
            continue
        crops += [
            _cut_crop(path.name, pixels, size, spec, random) for size in _crop_sizes(number, len(chosen))
        ]
        if number < 2 and not spec.size_rule.fixed:
            crops.append(_cut_for_tiling(path.name, pixels, spec, random))
    if not crops:
        raise InputError(
            f"{folder}: none of its pictures is {spec.scale} pixels wide and high; give photographs"
        )
    return crops


def _crop_sizes(number: int, pictures: int) -> list[tuple[int, int]]:
    """Of the crops of picture `number`: all sizes come up, whatever the number of pictures."""
    each = max(2, -(-len(SIZES) // pictures))
    return [SIZES[(each * number + i) % len(SIZES)] for i in range(each)]


def _read_8bit(path: Path, channels: int) -> Bytes:
    """8-bit pixels [H, W, channels]; a grey model gets the mean of the colours, a colour model three times grey."""
    pixels: npt.NDArray[Any] = read_image(path).pixels
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[2] > channels:
        pixels = np.rint(pixels.mean(axis=2, keepdims=True)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], channels)))


def _cut_crop(
    name: str,
    pixels: Bytes,
    size: Sequence[int],
    spec: ModelSpec,
    random: np.random.Generator,
) -> VerifyCrop:
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


def _cut_for_tiling(name: str, pixels: Bytes, spec: ModelSpec, random: np.random.Generator) -> VerifyCrop:
    """A crop that several tiles fit on; the picture is mirrored at its border where it is too small."""
    halo = spec.halo or 0
    size = [2 * halo + more for more in _SIZE_BEYOND_HALOS]
    missing = [max(n * spec.scale - m, 0) for n, m in zip(size, pixels.shape[:2], strict=True)]
    wide = np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    return _cut_crop(name, wide, size, spec, random)
