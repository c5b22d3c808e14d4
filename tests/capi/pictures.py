"""Pictures in the form that `calls.c` reads, and the results of the Python API for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sr_deploy.images.image import Image
from sr_deploy.upscale import Upscaler, _upscaled_alpha

DEPTHS = (np.uint8, np.uint16, np.float32)
LAYOUTS = {"RGB": 3, "BGR": 3, "GREY": 1, "RGBA": 4, "BGRA": 4}
_LEFT = 171
"""Byte with which calls.c fills the output before a call."""


@dataclass(frozen=True)
class Case:
    """One picture: size, depth, layout, and bytes between its rows."""

    width: int
    height: int
    depth: int
    layout: str
    gap: int

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}-{np.dtype(DEPTHS[self.depth]).name}-{self.layout}-{self.gap}"

    def row(self, scale: int = 1) -> int:
        """Bytes of a row without the gap."""
        return self.width * scale * LAYOUTS[self.layout] * np.dtype(DEPTHS[self.depth]).itemsize

    def pixels(self) -> np.ndarray:
        """Return noise; the fourth channel has fully transparent and fully opaque parts."""
        rng = np.random.default_rng(self.width * 100 + self.height)
        shape = (self.height, self.width, LAYOUTS[self.layout])
        dtype = DEPTHS[self.depth]
        top = 1.0 if dtype is np.float32 else np.iinfo(dtype).max
        values = rng.random(shape) if dtype is np.float32 else rng.integers(0, top + 1, shape)
        if shape[2] == 4:
            values[: self.height // 2, : self.width // 2, 3] = 0
            values[self.height // 2 :, self.width // 2 :, 3] = top
        return values.astype(dtype)

    def write(self, folder: Path, scale: int) -> str:
        """Write the buffer with all gaps but the last to a file, and return the line of stdin that names it."""
        gapped = np.zeros((self.height, self.row() + self.gap), np.uint8)
        gapped[:, : self.row()] = self.pixels().reshape(self.height, -1).view(np.uint8)
        source, target = folder / f"{self.name}.in", folder / f"{self.name}.out"
        source.write_bytes(gapped.tobytes()[: gapped.size - self.gap])
        layout, strides = (
            list(LAYOUTS).index(self.layout),
            (self.row() + self.gap, self.row(scale) + self.gap),
        )
        numbers = (self.width, self.height, self.depth, layout, *strides)
        return " ".join([*map(str, numbers), str(source), str(target)])

    def read(self, folder: Path, scale: int) -> tuple[np.ndarray, bool]:
        """Return the result, and whether the gaps are unchanged."""
        raw = (folder / f"{self.name}.out").read_bytes() + bytes([_LEFT]) * self.gap
        rows = np.frombuffer(raw, np.uint8).reshape(self.height * scale, self.row(scale) + self.gap)
        pixels = np.ascontiguousarray(rows[:, : self.row(scale)]).view(DEPTHS[self.depth])
        shape = (self.height * scale, self.width * scale, LAYOUTS[self.layout])
        return pixels.reshape(shape), bool((rows[:, self.row(scale) :] == _LEFT).all())

    def expected(self, upscaler: Upscaler) -> np.ndarray:
        """Return the result of the Python API."""
        pixels = self.pixels()
        reversed_order = self.layout.startswith("B")
        rgb = np.ascontiguousarray(pixels[..., 2::-1] if reversed_order else pixels[..., :3])
        if LAYOUTS[self.layout] == 4:
            rgb, alpha = _with_alpha(upscaler, rgb, np.ascontiguousarray(pixels[..., 3]))
            return np.dstack([rgb[..., ::-1] if reversed_order else rgb, alpha])
        large = upscaler.upscale_pixels(rgb)
        return large[..., ::-1] if reversed_order else large


def _with_alpha(upscaler: Upscaler, rgb: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if rgb.dtype == np.float32:  # an Image cannot hold float32
        from sr_deploy.images.image import fill_hidden_colour

        filled = fill_hidden_colour(rgb, alpha)
        return upscaler.upscale_pixels(filled), _upscaled_alpha(alpha, upscaler.spec.scale)
    image = upscaler.upscale(Image(pixels=rgb, alpha=alpha))
    return image.pixels, image.alpha


def cases(*sizes: tuple[int, int]) -> list[Case]:
    """Return pictures of every depth, layout and size. Every other one has gaps between its rows."""
    found = [(size, d, layout) for size in sizes for d in range(len(DEPTHS)) for layout in LAYOUTS]
    return [Case(*size, d, layout, 8 * (i % 2)) for i, (size, d, layout) in enumerate(found)]
