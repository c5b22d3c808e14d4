"""Draw pictures that have the statistics of photographs: the dead-leaves model.

Discs are drawn on top of each other. If the density of their radii is proportional to r**-3, then edges,
textures and spectrum are like those of natural pictures (Lee, Mumford and Huang 2001, "Occlusion models for
natural images"). The pictures serve where no photographs are at hand, and as training material with sharp
edges.

`sr_deploy.probe.range` draws other discs, flat and fewer, in float: its thresholds were set on those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.system.arrays import DoubleArray, FloatArray, IntArray, Uint8Array

_SMALLEST, _LARGEST = 1.5, 60.0
"""Smallest and largest radius of a disc, in pixels."""
_PIXELS_A_LEAF = 10
"""Pixels per disc: few enough that nothing of the background shows."""


def dead_leaves(height: int, width: int, *, seed: int = 0) -> Uint8Array:
    """Draw a picture [height, width, 3], RGB uint8; the same arguments always give the same bytes. Raises
    UsageError for a size without pixels."""
    if height < 1 or width < 1:
        raise UsageError(f"a picture needs pixels, got {width}x{height}")
    leaves = _draw_leaves(np.random.default_rng(seed), height, width)
    # A margin as wide as the largest disc spares the test for the border; it is cut off at the end.
    margin = int(np.ceil(_LARGEST)) + 1
    shape = (height + 2 * margin, width + 2 * margin)
    canvas = _painted(leaves, shape, margin).reshape(*shape, 3)
    inner = canvas[margin : margin + height, margin : margin + width]
    return np.clip(np.rint(inner), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Leaves:
    """Discs in the order they are painted; the last one lies on top. The first is a background without end."""

    radius: FloatArray
    """Radii in pixels, [N]."""
    centre: FloatArray
    """Row and column of the centres, in pixels, [N, 2]."""
    colour: FloatArray
    """Colours at the centres, 0..255, [N, 3]."""
    shade: FloatArray
    """Change of the colour for each pixel further down and to the right, [N, 2]."""

    def colours(self, which: IntArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
        """Return the colours [M, 3] of the discs `which` at the pixels (rows, columns)."""
        down, across = rows - self.centre[which, 0], columns - self.centre[which, 1]
        shift = self.shade[which, 0] * down + self.shade[which, 1] * across
        return cast(FloatArray, self.colour[which] + shift[:, None])


def _draw_leaves(random: np.random.Generator, height: int, width: int) -> _Leaves:
    """Draw places, radii and colours of the discs of a picture."""
    count = height * width // _PIXELS_A_LEAF + 1
    radius = np.concatenate([[1.0], _radii(random, count)])
    centre = random.uniform(0, (height, width), (count + 1, 2))
    colour = np.clip(random.uniform(0, 255, (count + 1, 1)) + random.normal(0, 40, (count + 1, 3)), 0, 255)
    shade = random.normal(0, 20, (count + 1, 2)) / radius[:, None]
    shade[0] = 0
    return _Leaves(*(array.astype(np.float32) for array in (radius, centre, colour, shade)))


def _radii(random: np.random.Generator, count: int) -> DoubleArray:
    """Draw `count` radii in pixels, with density proportional to r**-3, by inversion."""
    share = random.uniform(0, 1, count)
    return np.asarray(1 / np.sqrt(share * _LARGEST**-2 + (1 - share) * _SMALLEST**-2))


def _painted(leaves: _Leaves, shape: tuple[int, int], margin: int) -> FloatArray:
    """Return the colours [rows * columns, 3] of a canvas of `shape`, in which pixel 0 of the picture is at `margin`.

    A disc hides everything below it, so only the topmost disc that covers a pixel fully is painted, and then the
    smooth edges above it, from the lowest to the topmost. That gives what painting all discs one after another would
    give, in a thirtieth of the time.
    """
    width = shape[1]
    top = np.zeros(shape[0] * width, np.int32)  # 0: the background
    edges = []
    for reach in range(int(np.ceil(_SMALLEST)), int(np.ceil(_LARGEST)) + 1):
        which = np.flatnonzero(np.ceil(leaves.radius[1:]) == reach).astype(np.int32) + 1
        place, cover = _covered(leaves, which, reach, width, margin)
        disc = np.broadcast_to(which[:, None], place.shape)
        layer = np.zeros_like(top)
        full = cover >= 1
        layer[place[full]] = disc[full]  # NumPy assigns in order, so the last disc stays
        np.maximum(top, layer, out=top)
        edge = (cover > 0) & ~full
        edges.append((place[edge], disc[edge], cover[edge]))
    place, disc, cover = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    seen = disc > top[place]
    canvas = leaves.colours(top, *_pixels(np.arange(len(top)), width, margin))
    _paint_edges(canvas, leaves, place[seen], disc[seen], cover[seen], width, margin)
    return canvas


def _covered(
    leaves: _Leaves, which: IntArray, reach: int, width: int, margin: int
) -> tuple[IntArray, FloatArray]:
    """Return, for the discs `which`, indices of canvas pixels and how much of each is covered, 0..1: [N, K] each.

    No pixel outside the square of `reach` pixels around the pixel of the centre is covered.
    """
    near = np.rint(leaves.centre[which]).astype(np.int32)
    offset = np.arange(-reach, reach + 1, dtype=np.int32)
    away = (near - leaves.centre[which])[:, :, None] + offset.astype(np.float32)
    squared = np.square(away[:, 0, :, None]) + np.square(away[:, 1, None, :])
    cover = np.clip(leaves.radius[which, None, None] - np.sqrt(squared) + 0.5, 0, 1)
    first = (near[:, 0] + margin) * width + near[:, 1] + margin
    place = first[:, None] + (offset[:, None] * width + offset).ravel()
    return place, cover.reshape(place.shape)


def _pixels(place: IntArray, width: int, margin: int) -> tuple[FloatArray, FloatArray]:
    """Return rows and columns in the picture of canvas indices `place`."""
    rows, columns = np.divmod(place, width)
    return (rows - margin).astype(np.float32), (columns - margin).astype(np.float32)


def _paint_edges(
    canvas: FloatArray,
    leaves: _Leaves,
    place: IntArray,
    disc: IntArray,
    cover: FloatArray,
    width: int,
    margin: int,
) -> None:
    """Paint partly covered pixels onto `canvas`, in the order of the discs at each pixel."""
    order = np.lexsort((disc, place))
    place, disc, cover = place[order], disc[order], cover[order]
    mix = leaves.colours(disc, *_pixels(place, width, margin))
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    rank = np.arange(len(place)) - np.repeat(starts, np.diff(starts, append=len(place)))
    for level in range(int(rank.max(initial=-1)) + 1):
        now = rank == level
        below = canvas[place[now]]
        canvas[place[now]] = below + cover[now, None] * (mix[now] - below)
