"""Draw pictures that have the statistics of photographs: the dead-leaves model.

Discs are drawn on top of each other. If the density of their radii is proportional to r**-3, then edges,
textures and spectrum are like those of natural pictures (Lee, Mumford and Huang 2001, "Occlusion models for
natural images"). The pictures serve where no photographs are at hand, and as training material with sharp
edges.

`sr_deploy.probe.range` draws other discs, flat and fewer, in float: its thresholds were set on those.
"""

from __future__ import annotations

import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.system.arrays import DoubleArray, Uint8Array

_SMALLEST, _LARGEST = 1.5, 60.0
"""Smallest and largest radius of a disc, in pixels."""
_PIXELS_A_LEAF = 10
"""Pixels per disc: few enough that nothing of the background shows."""


def dead_leaves(height: int, width: int, *, seed: int = 0) -> Uint8Array:
    """Draw a picture [height, width, 3], RGB uint8; the same arguments always give the same bytes. Raises
    UsageError for a size without pixels."""
    if height < 1 or width < 1:
        raise UsageError(f"a picture needs pixels, got {width}x{height}")
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[...] = random.uniform(0, 255, 3)
    for radius in _radii(random, height * width // _PIXELS_A_LEAF + 1):
        y, x = random.uniform(0, height), random.uniform(0, width)
        colour = np.clip(random.uniform(0, 255) + random.normal(0, 40, 3), 0, 255)
        shade = random.normal(0, 20, 2) / radius
        top, bottom = _around(y, radius, height)
        left, right = _around(x, radius, width)
        down, across = rows[top:bottom, left:right] - y, columns[top:bottom, left:right] - x
        cover = np.clip(radius - np.hypot(down, across) + 0.5, 0, 1)[..., None]
        leaf = colour + (shade[0] * down + shade[1] * across)[..., None]
        canvas[top:bottom, left:right] += cover * (leaf - canvas[top:bottom, left:right])
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _radii(random: np.random.Generator, count: int) -> DoubleArray:
    """Draw `count` radii in pixels, with density proportional to r**-3, by inversion."""
    share = random.uniform(0, 1, count)
    return np.asarray(1 / np.sqrt(share * _LARGEST**-2 + (1 - share) * _SMALLEST**-2))


def _around(centre: float, radius: float, length: int) -> tuple[int, int]:
    """Return the range of rows or columns that a disc may cover, with a margin for its smooth edge."""
    return max(int(centre - radius) - 1, 0), min(int(centre + radius) + 3, length)
