"""Measure PSNR and SSIM of an upscaler on a folder of pictures, as published figures are measured.

An upscaler is any function from pixels [H, W, C] (uint8 or uint16; C is 3 for RGB or 1 for grey) to pixels [H
* scale, W * scale, C] of the same type: `Upscaler.upscale_pixels`, or a baseline from here. Nothing is
printed here, and no model is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sr_deploy.errors import ImageError, InputError, ModelError, OutOfMemoryError, UsageError
from sr_deploy.images.image import read_image
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.damage import blockiness, specks
from sr_deploy.quality.degradations.chain import parse
from sr_deploy.quality.metrics import luma, psnr, shave, ssim
from sr_deploy.quality.pairs import EvalPicture, FailedPicture
from sr_deploy.quality.results import Evaluation, Protocol, Quality, Score
from sr_deploy.system.arrays import AnyArray

Upscale = Callable[[AnyArray], AnyArray]
"""An upscaler, see above."""
Distance = Callable[[AnyArray, AnyArray], float]
"""A measure of a result and its original, both [H, W, C]; 0 where they are equal."""


def bicubic_baseline(scale: int) -> Upscale:
    """Return the upscaler that is MATLAB's bicubic in double precision.

    It rounds once, at the end, because the result of a network is rounded once too.
    """
    return lambda pixels: imresize(pixels, scale, round_once=True)


def nearest_baseline(scale: int) -> Upscale:
    """Return the upscaler that repeats every pixel."""
    return lambda pixels: pixels.repeat(scale, axis=0).repeat(scale, axis=1)


BASELINES: Mapping[str, Callable[[int], Upscale]] = MappingProxyType(
    {"bicubic": bicubic_baseline, "nearest": nearest_baseline}
)
"""Name -> function that makes the upscaler for a scale."""


def evaluate(
    model: str,
    upscale: Upscale,
    pictures: Sequence[EvalPicture],
    protocol: Protocol,
    on_picture: Callable[[EvalPicture], None] | None = None,
    distance: Distance | None = None,
) -> Evaluation:
    """Measure `upscale`, called `model` in the result, on every picture.

    `distance` is a further measure of result and original, in the features of a VGG. `on_picture` is called after each, in the calling thread. Pictures that cannot be read, are too small or
    do not match their partner end up in `failures`. Raises InputError if no picture is left, and passes on
    errors that have nothing to do with pictures.
    """
    scores: list[Score] = []
    failures: list[FailedPicture] = []
    for picture in pictures:
        try:
            scores.append(score_picture(picture, upscale, protocol, distance))
        except (InputError, UsageError, OutOfMemoryError) as error:
            failures.append(FailedPicture(picture.name, str(error)))
        if on_picture is not None:
            on_picture(picture)
    if not scores:
        first = failures[0].message if failures else "there were no pictures"
        raise InputError(f"{model}: none of {len(pictures)} pictures could be measured; the first: {first}")
    return Evaluation(model, protocol, tuple(scores), tuple(failures))


def score_picture(
    picture: EvalPicture, upscale: Upscale, protocol: Protocol, distance: Distance | None = None
) -> Score:
    """Measure `upscale` on one picture.

    Raises ImageError for a picture that cannot be read or whose sizes do not match, UsageError for one that
    is too small to measure, and ModelError if `upscale` returns a wrong shape or type.
    """
    small, large = _load(picture, protocol)
    result = upscale(small)
    expected = (small.shape[0] * protocol.scale, small.shape[1] * protocol.scale, small.shape[2])
    if result.shape != expected or result.dtype != small.dtype:
        raise ModelError(
            f"the upscaler gave {result.dtype} {result.shape}, expected {small.dtype} {expected}; "
            f"use a model for x{protocol.scale}"
        )
    height, width = (min(sizes) for sizes in zip(large.shape[:2], expected[:2], strict=True))
    result, large = result[:height, :width], large[:height, :width]
    quality = compare(result, large, protocol.border)
    if protocol.degrade:
        quality = _with_damage(quality, result, large, protocol.scale)
    if distance is not None:
        border = protocol.border
        quality = replace(quality, vgg=distance(shave(result, border), shave(large, border)))
    return Score(picture.name, height, width, quality)


def compare(result: AnyArray, reference: AnyArray, border: int) -> Quality:
    """Compare two pictures [H, W, C] of one shape and type, with `border` pixels shaved off each side.

    C is 3 (RGB) or 1 (grey, which is measured as Y without conversion). Raises UsageError if too little is
    left.
    """
    result, reference = shave(result, border), shave(reference, border)
    if reference.shape[2] == 1:
        return Quality(psnr(result, reference), ssim(result, reference), None, None)
    y, reference_y = luma(result), luma(reference)
    return Quality(
        psnr(y, reference_y), ssim(y, reference_y), psnr(result, reference), ssim(result, reference)
    )


def _with_damage(quality: Quality, result: AnyArray, original: AnyArray, scale: int) -> Quality:
    """Add the measures of damage to `quality`."""
    blocks = blockiness(result, scale) / blockiness(original, scale)
    return replace(
        quality, blocks=blocks, specks=specks(result, original, scale) if original.shape[2] == 3 else None
    )


def infer_scale(pictures: Iterable[EvalPicture]) -> int:
    """Infer the scale from the first pair of pictures that can be read.

    Raises InputError if no pair can be read, and ImageError if the ratio is not a whole number.
    """
    message = "there are no pairs"
    for picture in pictures:
        try:
            large, small = _read(picture.hr), _read(picture.lr or picture.hr)
        except ImageError as error:
            message = str(error)
            continue
        scale = max(1, round(float(large.shape[0]) / float(small.shape[0])))
        if not _fits(large, small, scale):
            raise ImageError(
                f"{picture.name} is {_size(large)} and {picture.lr} is {_size(small)}, which is no whole multiple; give --scale"
            )
        return scale
    raise InputError(f"the scale cannot be inferred from the pictures ({message}); give --scale")


def _load(picture: EvalPicture, protocol: Protocol) -> tuple[AnyArray, AnyArray]:
    """Return the small and the large version of `picture`.

    The large one is `scale` times as large as the small one, but for a remainder. Without a given small
    picture, the large one is cut to a multiple of `scale` and made small by bicubic.
    """
    scale = protocol.scale
    large = _read(picture.hr)
    if picture.lr is None:
        rows, columns = (n // scale for n in large.shape[:2])
        if not rows or not columns:
            raise UsageError(f"a picture of {_size(large)} pixels is too small for x{scale}; leave it out")
        large = large[: rows * scale, : columns * scale]
        if protocol.degrade:
            return _degraded(large, protocol, picture), large
        return imresize(large, size=(rows, columns)), large
    small = _read(picture.lr)
    if not _fits(large, small, scale):
        raise ImageError(
            f"the low-resolution {picture.lr.name} is {_size(small)}, which times {scale} does not fit the {_size(large)} of the "
            "high-resolution picture; check --lr and --scale"
        )
    if small.shape[2] != large.shape[2] or small.dtype != large.dtype:
        raise ImageError(
            f"the low-resolution {picture.lr.name} is {_kind(small)}, but the high-resolution picture is {_kind(large)}; "
            "convert one of them"
        )
    return small, large


def _degraded(large: AnyArray, protocol: Protocol, picture: EvalPicture) -> AnyArray:
    """Return the degraded small version of `large`. Raises ImageError for other than 8-bit pictures."""
    if large.dtype != np.uint8:
        raise ImageError(f"{picture.name} is {_kind(large)}, but --degrade takes 8 bits; convert it")
    small = parse(protocol.degrade).small(
        large if large.shape[2] == 3 else large.repeat(3, axis=2), protocol.scale, picture.name
    )
    return small[..., : large.shape[2]]


def _read(path: Path) -> AnyArray:
    """Read pixels [H, W, C] without alpha."""
    return read_image(path).pixels


def _fits(large: AnyArray, small: AnyArray, scale: int) -> bool:
    """Check that `small` times `scale` is the size of `large`, but for a remainder.

    It is less than `scale` pixels, and was cut off (modcrop) or rounded up (MATLAB's ceil) when the small
    picture was made.
    """
    return all(abs(n - m * scale) < scale for n, m in zip(large.shape[:2], small.shape[:2], strict=True))


def _size(pixels: AnyArray) -> str:
    """Format a size as WIDTHxHEIGHT."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _kind(pixels: AnyArray) -> str:
    """Describe colours and bit depth of a picture."""
    return f"{'grey' if pixels.shape[2] == 1 else 'RGB'} of {8 * pixels.itemsize} bits"
