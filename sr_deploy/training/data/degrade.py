"""Degrade a crop as cameras and the web do, and shrink it.

The order is blur, shrinking, noise, filters, compression, and then optionally all but the shrinking again. Order and
second pass follow Wang et al. 2021 (Real-ESRGAN, sections 3.1 and 3.2) in a plain form. Every strength is
drawn uniformly from its range. The code uses NumPy, OpenCV and libvips only, so that it can run in loader threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.quality.degradations.compress import FORMATS, TABLES, jpeg, on_shifted_grid, to_uint8
from sr_deploy.quality.degradations.filters import blur, sharpen, shift_chroma
from sr_deploy.quality.degradations.noise import add_camera_noise, add_noise, dither
from sr_deploy.quality.degradations.resample import KERNELS, shrink
from sr_deploy.system.arrays import FloatArray, Uint8Array

Span = tuple[float, float]
_LIMITS: Mapping[str, Span] = {
    "blur": (0, 8), "noise": (0, 64), "camera": (0, 64), "sharpen": (0, 4), "chroma_shift": (0, 4),
    "jpeg": (5, 100), "webp": (5, 100), "avif": (5, 100),
}  # fmt: skip
"""Range keys -> smallest and largest value."""
_SHARES: Mapping[str, float] = {"jpeg": 0.8, "webp": 0.15, "avif": 0.05}
"""Share of each format among those that a recipe names. AVIF takes 60 times as long to encode as JPEG."""
_SHARPEN_RADIUS = (0.6, 1.6)
"""Range of the standard deviation of the unsharp mask in small pixels: what cameras and image programs use."""
_DITHER_LEVELS = (2, 2, 3, 4)
"""Levels that a dithered crop may have; 1-bit pictures are the most frequent."""
_GRID = 8
"""Side of a JPEG block in pixels."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """Ranges that the strengths are drawn from. None leaves a step out.

    Raises UsageError for a range outside its limits.
    """

    clean: float = 0.0
    """Probability that a crop is only shrunk by bicubic, 0 to 1, so that the net stays good on clean pictures."""
    chance: float = 1.0
    """Probability of each of blur, noise, camera, sharpen and chroma_shift, 0 to 1. Compression is not concerned."""
    blur: Span | None = None
    """Standard deviation of the anisotropic Gaussian kernel along each of its axes, in large pixels: 0 to 8.

    The kernel is rotated by a random angle.
    """
    kernels: tuple[str, ...] = ("bicubic",)
    """Kernels to shrink with, one of which is drawn; see `quality.degradations.resample`."""
    noise: Span | None = None
    """Standard deviation of the Gaussian noise added to the small crop, in 8-bit steps: 0 to 64.

    Half of the crops get grey noise, half coloured noise.
    """
    camera: Span | None = None
    """Standard deviation of the sensor's noise at middle grey, in 8-bit steps: 0 to 64.

    It grows with the light; half of the crops are demosaiced.
    """
    sharpen: Span | None = None
    """Amount of an unsharp mask on the small crop: 0 to 4."""
    chroma_shift: Span | None = None
    """Distance by which the colours of the small crop are moved down and right, in small pixels: 0 to 4."""
    jpeg: Span | None = None
    """JPEG quality of the small crop: 5 to 100."""
    webp: Span | None = None
    """WebP quality of the small crop: 5 to 100."""
    avif: Span | None = None
    """AVIF quality of the small crop: 5 to 100."""
    encoders: bool = False
    """Use JPEG files of several encoders: both chroma samplings, several quantisation tables, and blocks that begin
    anywhere. Otherwise they are those of OpenCV, with blocks that begin at the corner."""
    uncompressed: float = 0.0
    """Probability that a crop is not compressed, 0 to 1."""
    twice: float = 0.0
    """Probability that a crop is compressed as JPEG twice, 0 to 1. With `encoders`, the blocks are shifted in between."""
    dither: float = 0.0
    """Probability that a crop is dithered to a few levels instead of all other steps, 0 to 1."""
    second: float = 0.0
    """Probability of a second, weaker pass (half the blur and noise) on the small crop: 0 to 1."""

    def __post_init__(self) -> None:
        for key, (low, high) in _LIMITS.items():
            value = getattr(self, key)
            if value is not None and not low <= value[0] <= value[1] <= high:
                raise UsageError(
                    f"degrade: {key} = {list(value)}, expected [low, high] between {low:g} and {high:g}"
                )
        for key in ("clean", "chance", "uncompressed", "twice", "dither", "second"):
            if not 0 <= getattr(self, key) <= 1:
                raise UsageError(f"degrade: {key} = {getattr(self, key)}, expected a probability from 0 to 1")
        unknown = [name for name in self.kernels if name not in KERNELS]
        if unknown or not self.kernels:
            raise UsageError(
                f"degrade: kernels = {list(self.kernels)!r}, expected some of {', '.join(KERNELS)}"
            )
        if (self.encoders or self.twice) and self.jpeg is None:
            raise UsageError("degrade: encoders and twice need jpeg = [low, high]")

    @classmethod
    def from_lists(cls, table: Mapping[str, Any]) -> Degradation:
        """Build from a TOML table, in which a range is a list of two numbers.

        Raises UsageError that names the key of a value that does not fit.
        """
        values: dict[str, Any] = dict(table)
        for key in _LIMITS:
            if key not in values:
                continue
            pair = values[key]
            if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int | float) for n in pair):
                raise UsageError(f"degrade: {key} = {pair!r}, expected two numbers [low, high]")
            values[key] = (float(pair[0]), float(pair[1]))
        if "kernels" in values:
            values["kernels"] = tuple(values["kernels"])
        return cls(**values)

    @property
    def margin(self) -> int:
        """Number of small pixels to cut around a crop, so that no step sees the border of the cut."""
        return 4

    @property
    def formats(self) -> dict[str, Span]:
        """Formats that a crop may be compressed in, with their ranges of quality."""
        return {name: getattr(self, name) for name in FORMATS if getattr(self, name) is not None}


def _happens(probability: float, random: np.random.Generator) -> bool:
    """Decide by chance. Draws nothing where the answer is certain."""
    return probability >= 1 or (probability > 0 and random.random() < probability)


def _blurred(pixels: FloatArray, span: Span, strength: float, random: np.random.Generator) -> FloatArray:
    """Blur [H, W, 3] with a random kernel; `strength` scales the standard deviations."""
    sigma_x, sigma_y = random.uniform(*span, size=2) * strength
    return blur(pixels, sigma_x, sigma_y, random.uniform(0, np.pi))


def _noisy(pixels: FloatArray, span: Span, strength: float, random: np.random.Generator) -> FloatArray:
    """Add Gaussian noise to [H, W, 3]: with equal chance grey noise or different noise in each channel."""
    grey = bool(random.random() < 0.5)
    noise = add_noise(np.zeros_like(pixels), 1.0, random, grey=grey)
    noisy: FloatArray = pixels + noise * np.float32(random.uniform(*span) * strength)
    return noisy


def _compressed(pixels: FloatArray, how: Degradation, random: np.random.Generator) -> FloatArray:
    """Compress [H, W, 3] in 0..255 in one of the formats of `how`, and decode it again."""
    formats = how.formats
    names = list(formats)
    shares = np.cumsum([_SHARES[name] for name in names])
    name = names[int(np.searchsorted(shares / shares[-1], random.random()))] if len(names) > 1 else names[0]
    if name != "jpeg":
        return FORMATS[name](pixels, round(random.uniform(*formats[name])))
    for _ in range(2 if _happens(how.twice, random) else 1):
        pixels = (
            _one_jpeg(pixels, formats["jpeg"], random)
            if how.encoders
            else jpeg(pixels, round(random.uniform(*formats["jpeg"])))
        )
    return pixels


def _one_jpeg(pixels: FloatArray, span: Span, random: np.random.Generator) -> FloatArray:
    """Compress [H, W, 3] as JPEG of any encoder, with blocks that begin anywhere, and decode it again."""
    down, right = random.integers(0, 2 * _GRID, size=2)  # blocks of chroma are twice as large
    chroma = "420" if random.random() < 0.6 else "444"
    tables = str(random.choice(list(TABLES))) if random.random() < 0.5 else "standard"
    quality = round(random.uniform(*span))
    decoded = jpeg(on_shifted_grid(pixels, down, right), quality, chroma=chroma, tables=tables)
    return decoded[down:, right:]


def _after_shrinking(
    small: FloatArray, how: Degradation, strength: float, random: np.random.Generator
) -> FloatArray:
    """Apply the steps that follow the shrinking."""
    if how.noise and _happens(how.chance, random):
        small = _noisy(small, how.noise, strength, random)
    if how.camera and _happens(how.chance, random):
        demosaic = bool(random.random() < 0.5)
        small = add_camera_noise(small, random.uniform(*how.camera) * strength, random, demosaic=demosaic)
    if how.sharpen and _happens(how.chance, random):
        small = sharpen(small, random.uniform(*how.sharpen) * strength, random.uniform(*_SHARPEN_RADIUS))
    if how.chroma_shift and _happens(how.chance, random):
        down, right = random.uniform(*how.chroma_shift, size=2) * random.choice([-1, 1], size=2)
        small = shift_chroma(small, down, right)
    if how.formats and not _happens(how.uncompressed, random):
        small = _compressed(small, how, random)
    return small


def degraded(large: Uint8Array, scale: int, how: Degradation, random: np.random.Generator) -> Uint8Array:
    """Return the small, degraded version of `large` [H, W, 3]: uint8 [H / scale, W / scale, 3].

    All random numbers come from `random`, so equal generators give equal pixels.
    """
    pixels = large.astype(np.float32)
    if _happens(how.clean, random):
        return to_uint8(shrink(pixels, scale))
    if _happens(how.dither, random):
        levels = int(random.choice(_DITHER_LEVELS))
        return to_uint8(dither(shrink(pixels, scale), levels, grey=bool(random.random() < 0.7)))
    if how.blur and _happens(how.chance, random):
        pixels = _blurred(pixels, how.blur, 1.0, random)
    kernel = str(random.choice(how.kernels)) if len(how.kernels) > 1 else how.kernels[0]
    small = _after_shrinking(shrink(pixels, scale, kernel), how, 1.0, random)
    if _happens(how.second, random):
        if how.blur:
            small = _blurred(small, how.blur, 0.5 / scale, random)
        small = _after_shrinking(small, how, 0.5, random)
    return to_uint8(small)
