"""Photographs as a conversion uses them: crops at the scale of the model, each with its small version.

Half of what precision does to a net is in the numbers it meets, so those have to be the real ones: pictures made
small as the net's task has it, whole steps of 8 bits. Reads files; runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import ImageError, InputError, UsageError
from sr_deploy.images.image import read_image
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.quality.pairs import list_pictures
from sr_deploy.spec import ModelSpec

_CROP_SIDE = 96  # of a small crop
_MOST_PHOTOGRAPHS = 36  # photographs looked at
_MEASURE_EVERY = 3  # every third is measured on, the others are calibrated on

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class CalibrationCrop:
    """A photograph's part, and what the net makes it from: both in the model's layout and value range."""

    small: Floats
    """[1, C, h, w] or [1, h, w, C]."""
    large: Floats
    """[1, H, W, C] in 0..1, whatever the model: what a result is compared with."""


@dataclass(frozen=True)
class CalibrationSet:
    """The crops to calibrate on, and others to measure on."""

    calibrate: tuple[CalibrationCrop, ...]
    measure: tuple[CalibrationCrop, ...]


def photograph_crops(folder: Path, spec: ModelSpec) -> CalibrationSet:
    """Crops of up to 36 photographs in `folder`, spread over it; those that cannot be used are left out.

    Raises InputError where fewer than two photographs can be used.
    """
    files = list_pictures(folder)
    found: list[CalibrationCrop] = []
    for path in files[:: -(-len(files) // _MOST_PHOTOGRAPHS)]:
        try:
            found.append(_crop(_rgb(path), spec, seed=len(found)))
        except (ImageError, UsageError):
            continue
    if len(found) < 2:
        raise InputError(
            f"{folder}: {len(found)} of {len(files)} pictures can be used, expected at least 2 of "
            f"{spec.scale * 16}x{spec.scale * 16} pixels or more; point --data at a folder of photographs"
        )
    return _split(found)


def drawn_crops(spec: ModelSpec, count: int = 4) -> CalibrationSet:
    """Crops of drawn pictures: enough to see how large values get, not to calibrate on."""
    side = _CROP_SIDE * spec.scale
    return _split([_crop(dead_leaves(side, side, seed=seed), spec, seed=seed) for seed in range(count)])


def _split(found: list[CalibrationCrop]) -> CalibrationSet:
    measured = {i for i in range(len(found)) if i % _MEASURE_EVERY == _MEASURE_EVERY - 1} or {len(found) - 1}
    calibrated = set(range(len(found))) - measured
    return CalibrationSet(
        tuple(found[i] for i in sorted(calibrated)), tuple(found[i] for i in sorted(measured))
    )


def _rgb(path: Path) -> Bytes:
    """Pixels [H, W, 3] of 8 bits."""
    pixels = read_image(path).pixels
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def _crop(pixels: Bytes, spec: ModelSpec, seed: int) -> CalibrationCrop:
    """A part of `pixels` somewhere. Raises UsageError where the photograph is too small."""
    height, width = _size(pixels, spec)
    random = np.random.default_rng(seed)
    top, left = (
        int(random.integers(n - m * spec.scale + 1))
        for n, m in zip(pixels.shape[:2], (height, width), strict=True)
    )
    large = pixels[top : top + height * spec.scale, left : left + width * spec.scale]
    if spec.channels == 1:
        large = large[..., 1:2]  # green stands in for grey
    small = imresize(np.ascontiguousarray(large), size=(height, width))
    return CalibrationCrop(_to_model_input(small, spec), (large[None] / np.float32(255)).astype(np.float32))


def _size(pixels: Bytes, spec: ModelSpec) -> tuple[int, int]:
    """Height and width of the small crop."""
    rule = spec.size_rule
    if rule.fixed:
        height, width = rule.fixed
    else:
        step = rule.multiple_of
        height, width = (min(_CROP_SIDE, n // spec.scale) // step * step for n in pixels.shape[:2])
    least = max(rule.minimum, 1 if rule.fixed else 16)
    if min(height, width) < least or any(
        m * spec.scale > n for n, m in zip(pixels.shape[:2], (height, width), strict=True)
    ):
        raise UsageError(f"{pixels.shape[1]}x{pixels.shape[0]} pixels are too few; leave this picture out")
    return height, width


def _to_model_input(small: Bytes, spec: ModelSpec) -> Floats:
    black, white = spec.value_range
    values = (small[None] / np.float32(255)) * np.float32(white - black) + np.float32(black)
    return np.ascontiguousarray(values if spec.layout == "NHWC" else values.transpose(0, 3, 1, 2), np.float32)
