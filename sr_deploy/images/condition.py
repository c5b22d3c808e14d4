"""The condition of a picture: clean, or damaged by lossy compression or noise as photographs mostly are.

`condition_of` decides which kind of net suits a picture. It looks at the file's format and at the middle of the pixels.
No net is opened here; `sr_deploy.batch.nets` knows the nets.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sr_deploy.images.image import Image
from sr_deploy.system.arrays import AnyArray, Uint8Array

RULE_VERSION = 2
"""Version of the rule and its limits. Records of results hold it, so a changed rule makes results again."""
LOSSY_QUALITY = 92
"""Highest JPEG quality that counts as damaged by itself. At 92 the photo net has 0.15 dB more on photographs held out; at 95
both are equal."""
LOSSY_FORMATS = {"webp": "WebP", "avif": "AVIF"}
"""Formats whose lossy files count as damaged by themselves, with their names: mostly they are made for small files, and
their header tells no quality."""
MOST_LEVELS = 64
"""Most levels of grey of a picture of few colours: pixel art has up to 64 colours, the middle of a photograph mostly has
more than 100 levels. Enlarged pixel art has blocks that look like those of JPEG."""
DITHER_LEVELS = 8
"""Most levels of grey of a picture of few colours whose neighbours differ: a dither, or pixel art of single pixels."""
FLAT_SHARE = 0.5
"""Least share of pixels that equal their right neighbour in a picture of few colours; a photograph of few levels (fog,
night) has noise between neighbours."""
BLOCK_SURPLUS = 0.07
"""Least surplus of `_block_surplus` that counts as blocks worth taking away. Of photographs shrunk by 4, clean ones reach
0.02, and 9 in 10 have more than 0.08 after JPEG of quality 90."""
JPEG_BLOCK_SURPLUS = 0.12
"""The same for a JPEG of higher quality than `LOSSY_QUALITY`, whose own blocks reach 0.10 at quality 95. A larger surplus is
that of an earlier JPEG."""
NOISE = 3.4
"""Least standard deviation of noise in a channel, in 8-bit steps, that counts as noise. Noise of 5 added is 4.3 to 4.9 in
`_colour_noise`, where the photo net has more PSNR on 9 photographs in 10. Noise of 3 is 2.6 to 3.1, where the clean net has
on 3 in 4."""
GREY_EVENNESS = 0.66
"""Least ratio of the 10th percentile to the median of the estimates of noise over a grey picture. Noise is everywhere; the
texture of 9 in 10 clean photographs stays below this ratio."""
_SIDE = 448
"""Side in pixels of the middle part that is looked at; it bounds the time, to 1.5 ms on one core of a server."""
_LEAST_SIDE = 32
"""Least side in pixels whose pixels tell anything: smaller pictures are mostly icons."""
_NOISE_BLOCK = 16
"""Side in pixels of the parts in which noise is estimated."""


class Condition(NamedTuple):
    """The condition of a picture, and the reason."""

    kind: Literal["clean", "photo"]
    """Kind of net that suits the picture: "clean", or "photo" for damaged pictures."""
    reason: str
    """The reason in a few words, such as "JPEG of quality 75"."""


def condition_by_file(format: str, quality: int | None, lossless: bool) -> Condition | None:
    """Decide by the facts of the file alone, as `Image` has them. None: the pixels decide."""
    if lossless:
        return None
    if format == "jpeg" and quality is not None and quality <= LOSSY_QUALITY:
        return Condition("photo", f"JPEG of quality {quality}")
    if format in LOSSY_FORMATS:
        return Condition("photo", f"lossy {LOSSY_FORMATS[format]}")
    return None


def condition_of(image: Image) -> Condition:
    """Decide which kind of net suits `image`. Takes at most 2 ms; pure and thread safe.

    A picture of `images.large`, whose rows can be read only once, is clean.
    """
    if type(image) is not Image:
        return Condition("clean", "too large to be looked at first")
    if image.pixels.dtype != np.uint8:
        return Condition("clean", "16 bits")
    if min(image.width, image.height) < _LEAST_SIDE:
        return Condition("clean", "small")
    found = condition_by_file(image.format, image.quality, image.lossless)
    if found is not None:
        return found
    return _condition_of_pixels(_middle(image.pixels), jpeg=image.format == "jpeg")


def _condition_of_pixels(pixels: AnyArray, *, jpeg: bool) -> Condition:
    """Decide by the middle of a picture, uint8 [H, W, 1 or 3]; `jpeg` for one from a JPEG of high quality."""
    luma = _luma(pixels)
    if _has_few_colours(luma):
        return Condition("clean", "few colours")
    if _block_surplus(luma) >= (JPEG_BLOCK_SURPLUS if jpeg else BLOCK_SURPLUS):
        return Condition("photo", "traces of JPEG blocks")
    noise = _colour_noise(pixels) if pixels.shape[2] == 3 else None
    if noise is None:  # JPEG makes the texture of a grey picture as even as noise
        noise = 0.0 if jpeg else _grey_noise(luma)
    if noise >= NOISE:
        return Condition("photo", "noise")
    return Condition("clean", "JPEG of high quality" if jpeg else "neither blocks nor noise")


def _middle(pixels: AnyArray) -> AnyArray:
    """The middle of pixels [H, W, C], at most _SIDE pixels a side."""
    top, left = (max(0, (n - _SIDE) // 2) for n in pixels.shape[:2])
    return pixels[top : top + _SIDE, left : left + _SIDE]


def _luma(pixels: AnyArray) -> Uint8Array:
    """Luma [H, W] of uint8 pixels [H, W, 1 or 3]: BT.601 in full range, which JPEG compresses, in 256ths."""
    if pixels.shape[2] == 1:
        return np.ascontiguousarray(pixels[..., 0])
    red, green, blue = (pixels[..., c].astype(np.uint16) for c in range(3))
    luma: Uint8Array = ((red * 77 + green * 150 + blue * 29 + 128) >> 8).astype(np.uint8)
    return luma


def _has_few_colours(luma: Uint8Array) -> bool:
    """True for a picture of few levels whose neighbours are mostly equal, such as pixel art, or of very few levels."""
    levels = np.count_nonzero(np.bincount(luma.ravel(), minlength=256))
    if levels <= DITHER_LEVELS or levels > MOST_LEVELS:
        return bool(levels <= DITHER_LEVELS)
    return bool((luma[:, 1:] == luma[:, :-1]).mean() >= FLAT_SHARE)


def _block_surplus(luma: Uint8Array) -> float:
    """How strongly the luma [H, W] shows 8 x 8 blocks, wherever their grid begins: 0 without, below 1.

    JPEG rounds high frequencies of a block to zero. Frequency 6 of the DCT of 8 pixels in a row is then zero for the
    rows of that block, but not for 8 pixels that begin elsewhere. So at one of the 8 beginnings more runs of pixels have
    a value near zero than at any other. The surplus is that over the second highest as a share of all runs, for rows and
    columns. Enlarging by 2 or 4 raises several beginnings alike, and so do flat squares of 8 pixels, whose only step
    gives zero at the border of a run and in its middle: then there is no surplus.
    """
    return sum(_surplus(lines) for lines in (luma, np.ascontiguousarray(luma.T))) / 2


def _surplus(lines: Uint8Array) -> float:
    """The surplus of `_block_surplus` for the rows of `lines` [H, W]."""
    values, width = lines.astype(np.int16), lines.shape[1] - 7
    by_one = values[:, :-1] - values[:, 1:]
    by_three = values[:, :-3] - values[:, 3:]
    outer = by_three[:, :width] - by_three[:, 4 : 4 + width]
    inner = by_one[:, 1 : 1 + width] - by_one[:, 5 : 5 + width]
    # cos(6 pi / 16) : cos(2 pi / 16) is nearly 5 : 12. Rounding to 8 bits alone gives a standard deviation of 8, so
    # at most 20 is as good as zero.
    near_zero = np.abs(5 * outer - 12 * inner) <= 20
    counts = near_zero.sum(axis=0, dtype=np.int32)
    by_start = counts[: width // 8 * 8].reshape(-1, 8).sum(axis=0)
    second, most = (int(count) for count in np.sort(by_start)[-2:])
    return float((most - second) / (lines.shape[0] * (width // 8)))


def _colour_noise(pixels: AnyArray) -> float | None:
    """Standard deviation of noise in the channels of uint8 [H, W, 3], in 8-bit steps; None if the picture is grey.

    It is measured on the difference of red and green. Texture is mostly in all channels alike and cancels there; noise
    of a sensor does not.
    """
    difference = pixels[..., 0].astype(np.int16) - pixels[..., 1]
    if not difference.any():
        return None
    low, _ = _noise(difference)
    return low / 2**0.5  # two channels have contributed


def _grey_noise(luma: Uint8Array) -> float:
    """Standard deviation of noise in the luma [H, W], in 8-bit steps; 0 if it is more likely to be texture."""
    low, median = _noise(luma.astype(np.int16))
    return low if low >= GREY_EVENNESS * median else 0.0


def _noise(values: npt.NDArray[np.int16]) -> tuple[float, float]:
    """10th percentile and median of the standard deviation of noise in parts of `values` [H, W].

    In each part it is the mean size of a second difference along both axes (Immerkaer 1996), which texture raises as
    well. So the low percentile counts.
    """
    down = values[:-2] - 2 * values[1:-1] + values[2:]
    both = np.abs(down[:, :-2] - 2 * down[:, 1:-1] + down[:, 2:])
    if np.count_nonzero(both) < both.size / 2:  # noise is in nearly every pixel; corners of squares are not
        return 0.0, 0.0
    rows, columns = (n // _NOISE_BLOCK for n in both.shape)
    cut = both[: rows * _NOISE_BLOCK, : columns * _NOISE_BLOCK]
    parts: npt.NDArray[np.float64] = cut.reshape(rows, _NOISE_BLOCK, columns, _NOISE_BLOCK).mean(axis=(1, 3))
    # the mask's coefficients have a norm of 6; the mean size of a normal variable is sqrt(2 / pi) of its deviation
    low, median = np.percentile(parts * ((np.pi / 2) ** 0.5 / 6), (10, 50))
    return float(low), float(median)
