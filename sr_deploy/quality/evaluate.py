"""PSNR and SSIM of an upscaler on a folder of pictures, under the protocol of the published figures.

An upscaler is any function from pixels [H, W, C] (uint8 or uint16, C = 3 for RGB or 1 for grey) to pixels
[H*scale, W*scale, C] of the same type: `Upscaler.upscale_pixels`, or a baseline from here. This module
prints nothing and opens no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from sr_deploy.errors import ImageError, InputError, ModelError, OutOfMemoryError, UsageError
from sr_deploy.images.image import read_image
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.metrics import luma, psnr, shave, ssim
from sr_deploy.quality.pairs import EvalPicture, FailedPicture
from sr_deploy.quality.results import Evaluation, Protocol, Quality, Score

Pixels = npt.NDArray[Any]
Upscale = Callable[[Pixels], Pixels]


def bicubic_baseline(scale: int) -> Upscale:
    """MATLAB's bicubic in double precision, rounded once at the end, as the result of a net is."""
    return lambda pixels: imresize(pixels, scale, round_once=True)


def nearest_baseline(scale: int) -> Upscale:
    """Every pixel repeated."""
    return lambda pixels: pixels.repeat(scale, axis=0).repeat(scale, axis=1)


BASELINES: Mapping[str, Callable[[int], Upscale]] = MappingProxyType(
    {"bicubic": bicubic_baseline, "nearest": nearest_baseline}
)
"""Name -> maker of an upscaler of any scale."""


def evaluate(
    model: str,
    upscale: Upscale,
    pictures: Sequence[EvalPicture],
    protocol: Protocol,
    on_picture: Callable[[EvalPicture], None] | None = None,
) -> Evaluation:
    """Measure `upscale`, called `model` in the result, on every picture; `on_picture` is called after each.

    Pictures that cannot be read, are too small or do not match end up in `failures`. Raises InputError when
    no picture is left, and passes on errors that have nothing to do with pictures.
    """
    scores: list[Score] = []
    failures: list[FailedPicture] = []
    for picture in pictures:
        try:
            scores.append(score_picture(picture, upscale, protocol))
        except (InputError, UsageError, OutOfMemoryError) as error:
            failures.append(FailedPicture(picture.name, str(error)))
        if on_picture is not None:
            on_picture(picture)
    if not scores:
        first = failures[0].message if failures else "there were none to begin with"
        raise InputError(f"{model}: none of {len(pictures)} pictures could be measured; the first: {first}")
    return Evaluation(model, protocol, tuple(scores), tuple(failures))


def score_picture(picture: EvalPicture, upscale: Upscale, protocol: Protocol) -> Score:
    """Measure `upscale` on one picture.

    Raises ImageError for a picture that cannot be read or whose sizes do not fit, UsageError for one that is
    too small to measure, ModelError where `upscale` returns another shape or type than it should.
    """
    small, large = _load(picture, protocol.scale)
    result = upscale(small)
    expected = (small.shape[0] * protocol.scale, small.shape[1] * protocol.scale, small.shape[2])
    if result.shape != expected or result.dtype != small.dtype:
        raise ModelError(
            f"the upscaler gave {result.dtype} {result.shape}, expected {small.dtype} {expected}; "
            f"use a model for x{protocol.scale}"
        )
    height, width = (min(sizes) for sizes in zip(large.shape[:2], expected[:2], strict=True))
    quality = compare(result[:height, :width], large[:height, :width], protocol.border)
    return Score(picture.name, height, width, quality)


def compare(result: Pixels, reference: Pixels, border: int) -> Quality:
    """The measures between two pictures [H, W, C] of one shape and type, `border` pixels shaved off.

    C is 3 (RGB) or 1 (grey: measured as it is, as Y). Raises UsageError where too little is left.
    """
    result, reference = shave(result, border), shave(reference, border)
    if reference.shape[2] == 1:
        return Quality(psnr(result, reference), ssim(result, reference), None, None)
    y, reference_y = luma(result), luma(reference)
    return Quality(
        psnr(y, reference_y), ssim(y, reference_y), psnr(result, reference), ssim(result, reference)
    )


def infer_scale(pictures: Iterable[EvalPicture]) -> int:
    """The scale between the pictures of the first pair that can be read.

    Raises InputError where no pair can, or the ratio is no whole number.
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
                f"{picture.name} is {_size(large)} and {picture.lr} {_size(small)}, no whole multiple; say --scale"
            )
        return scale
    raise InputError(f"the scale cannot be told from the pictures ({message}); say --scale")


def _load(picture: EvalPicture, scale: int) -> tuple[Pixels, Pixels]:
    """The small picture and the large one, which `scale` times the small one covers but for a cut-off rest."""
    large = _read(picture.hr)
    if picture.lr is None:
        rows, columns = (n // scale for n in large.shape[:2])
        if not rows or not columns:
            raise UsageError(f"{_size(large)} pixels are too few for x{scale}; leave this picture out")
        large = large[: rows * scale, : columns * scale]
        return imresize(large, size=(rows, columns)), large
    small = _read(picture.lr)
    if not _fits(large, small, scale):
        raise ImageError(
            f"the low-resolution {picture.lr.name} is {_size(small)}, which times {scale} does not fit the high-resolution "
            f"{_size(large)}; check --lr and --scale"
        )
    if small.shape[2] != large.shape[2] or small.dtype != large.dtype:
        raise ImageError(
            f"the low-resolution {picture.lr.name} is {_kind(small)}, the high-resolution picture {_kind(large)}; "
            "convert one of them"
        )
    return small, large


def _read(path: Path) -> Pixels:
    """Pixels [H, W, C]; alpha is left aside."""
    return read_image(path).pixels


def _fits(large: Pixels, small: Pixels, scale: int) -> bool:
    """Whether `small` times `scale` is `large` but for a rest, cut off (modcrop) or filled up (MATLAB's ceil)."""
    return all(abs(n - m * scale) < scale for n, m in zip(large.shape[:2], small.shape[:2], strict=True))


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _kind(pixels: Pixels) -> str:
    return f"{'grey' if pixels.shape[2] == 1 else 'RGB'} of {8 * pixels.itemsize} bits"
