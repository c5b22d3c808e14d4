"""Cut the crops that a conversion calibrates and measures on, each with its small version.

The loss of a precision depends on the numbers that a network meets. So the inputs are real ones: crops of
photographs, made small as the network's task has it (bit-exact bicubic) and rounded to 8 bits. Pixels
are [H, W, C]. No model is run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sr_deploy.errors import ImageError, InputError, UsageError
from sr_deploy.images.image import read_image
from sr_deploy.precision.effort import FULL, SearchEffort
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.quality.pairs import list_pictures
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import FloatArray, Uint8Array

_MEASURE_EVERY = 3
"""Every third photograph is for measuring, the others are for calibration."""
_TUNING_PICTURES = 256
"""Maximum number of pictures to fine-tune on: some ten times those of calibration, and 30 MB of memory."""
_CROPS_EACH = 16
"""Maximum number of crops from one photograph to fine-tune on; more would hardly show anything new."""


@dataclass(frozen=True, eq=False)
class CalibrationCrop:
    """A crop of a photograph and its small version."""

    small: FloatArray
    """Input of the model, [1, C, h, w] or [1, h, w, C], in its layout and value range."""
    large: FloatArray
    """Ground truth, [1, H, W, C] in 0..1, whatever the model's layout and value range."""
    path: Path | None = None
    """Photograph that it was cut from; None for a drawn picture."""


@dataclass(frozen=True)
class CalibrationSet:
    """Crops to calibrate on, and others to measure on."""

    calibrate: tuple[CalibrationCrop, ...]
    """Crops on which ranges and magnitudes are measured."""
    measure: tuple[CalibrationCrop, ...]
    """Crops on which the loss is measured; none of them is calibrated on."""


def photograph_crops(folder: Path, spec: ModelSpec, effort: SearchEffort = FULL) -> CalibrationSet:
    """Cut one crop from each of up to 36 photographs in `folder`, spread evenly over it; `effort` may ask for fewer and
    smaller crops.

    Pictures that cannot be read or are too small are left out. Nothing depends on chance: the same
    photographs give the same crops. Raises InputError if fewer than two photographs can be used.
    """
    files = list_pictures(folder)
    found: list[CalibrationCrop] = []
    for path in files[:: -(-len(files) // effort.photographs)]:
        try:
            crop = _cut_crop(_rgb(path), spec, len(found), effort.crop_side)
            found.append(replace(crop, path=path))
        except (ImageError, UsageError):
            continue
    if len(found) < 2:
        raise InputError(
            f"{folder}: expected at least 2 pictures of {spec.scale * 16}x{spec.scale * 16} pixels or more, found "
            f"{len(found)} among {len(files)}; point --data at a folder of photographs"
        )
    return _split(found)


def tuning_pictures(
    folder: Path, spec: ModelSpec, measured: Sequence[CalibrationCrop], side: int
) -> list[FloatArray]:
    """Cut inputs of the model of at most `side` pixels a side to fine-tune on, all of one size.

    They come from up to 256 photographs of `folder`, none of which is among those of `measured`. Few photographs are
    cut up to 16 times each. Nothing depends on chance.
    """
    left_out = {crop.path for crop in measured}
    files = [path for path in list_pictures(folder) if path not in left_out]
    files = files[:: -(-len(files) // _TUNING_PICTURES)]
    each = min(-(-_TUNING_PICTURES // len(files)), _CROPS_EACH)
    found: dict[tuple[int, ...], list[FloatArray]] = {}
    for number, path in enumerate(files):
        try:
            pixels = _rgb(path)
            crops = [_cut_crop(pixels, spec, number * each + i, side).small for i in range(each)]
        except (ImageError, UsageError):
            continue
        found.setdefault(crops[0].shape, []).extend(crops)
    return max(found.values(), key=len)


def drawn_crops(spec: ModelSpec, count: int = 4) -> CalibrationSet:
    """Cut crops from `count` drawn pictures.

    They show how large values get, but are not real enough to calibrate on.
    """
    side = FULL.crop_side * spec.scale
    drawn = [dead_leaves(side, side, seed=seed) for seed in range(count)]
    return _split([_cut_crop(pixels, spec, seed, FULL.crop_side) for seed, pixels in enumerate(drawn)])


def _split(found: list[CalibrationCrop]) -> CalibrationSet:
    """Divide crops into those to calibrate on and those to measure on; both are non-empty from two crops on."""
    measured = {i for i in range(len(found)) if i % _MEASURE_EVERY == _MEASURE_EVERY - 1} or {len(found) - 1}
    calibrated = set(range(len(found))) - measured
    return CalibrationSet(
        tuple(found[i] for i in sorted(calibrated)), tuple(found[i] for i in sorted(measured))
    )


def _rgb(path: Path) -> Uint8Array:
    """Read 8-bit pixels [H, W, 3]; grey is repeated, 16-bit pixels lose their lower 8 bits."""
    pixels = read_image(path).pixels
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def _cut_crop(pixels: Uint8Array, spec: ModelSpec, seed: int, side: int) -> CalibrationCrop:
    """Cut a crop of at most `side` input pixels from `pixels` [H, W, 3] at a position drawn with `seed`.

    Raises UsageError if the photograph is too small.
    """
    height, width = _size(pixels, spec, side)
    random = np.random.default_rng(seed)
    top, left = (
        int(random.integers(n - m * spec.scale + 1))
        for n, m in zip(pixels.shape[:2], (height, width), strict=True)
    )
    large = pixels[top : top + height * spec.scale, left : left + width * spec.scale]
    if spec.channels == 1:
        large = large[..., 1:2]  # green stands for grey: it makes up most of luma
    small = imresize(np.ascontiguousarray(large), size=(height, width))
    return CalibrationCrop(_to_model_input(small, spec), (large[None] / np.float32(255)).astype(np.float32))


def _size(pixels: Uint8Array, spec: ModelSpec, side: int) -> tuple[int, int]:
    """Return height and width of the small crop for a photograph `pixels` [H, W, 3].

    At least 16 pixels a side, unless the model has a fixed size. Raises UsageError if the photograph is too
    small.
    """
    rule = spec.size_rule
    if rule.fixed:
        height, width = rule.fixed
    else:
        step = rule.multiple_of
        height, width = (min(side, n // spec.scale) // step * step for n in pixels.shape[:2])
    least = max(rule.minimum, 1 if rule.fixed else 16)
    if min(height, width) < least or any(
        m * spec.scale > n for n, m in zip(pixels.shape[:2], (height, width), strict=True)
    ):
        raise UsageError(
            f"a picture of {pixels.shape[1]}x{pixels.shape[0]} pixels is too small; leave it out"
        )
    return height, width


def _to_model_input(small: Uint8Array, spec: ModelSpec) -> FloatArray:
    """Convert 8-bit pixels [h, w, C] to the layout and value range of the model."""
    black, white = spec.value_range
    values = (small[None] / np.float32(255)) * np.float32(white - black) + np.float32(black)
    return np.ascontiguousarray(values if spec.layout == "NHWC" else values.transpose(0, 3, 1, 2), np.float32)
