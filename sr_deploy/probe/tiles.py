"""Check a halo by comparing tiles of a picture with the whole picture.

This does what tiling does, so it finds what single pixels do not show: a grid that is counted from the
picture's corner, and a result that depends on where a tile lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sr_deploy.graph.session import RefusedInputError
from sr_deploy.probe.perturbation import HaloProbe
from sr_deploy.probe.shape import noise
from sr_deploy.system.arrays import FloatArray

_EXTRA_LENGTH, _SHORT_EXTRA_LENGTH = 96, 32
"""Length of the compared strips in pixels, beyond the halo on both sides; the short one where the halo is above
`_LARGE_HALO`, because such nets are slow."""
_BREADTHS = (32, 8)
"""Short side of the strips in pixels, for small and for large halos."""
_LARGE_HALO = 32


def tiles_agree(probe: HaloProbe, halo: int, step: int, tolerance: float) -> bool:
    """Return True if tiles cut `step` pixels from a border equal the whole, along both axes.

    Pixels closer than `halo` to the cut are left out. Values may differ by `tolerance`, a share of full
    scale. A size that the runtime refuses, or a fixed one that is no larger than the halos, counts as
    agreement, because no difference was seen.
    """
    pairs = _fixed_size_pairs if probe.rule.fixed else _free_size_pairs
    try:
        return all(
            _is_close(probe, tile, whole, tolerance)
            for axis in (0, 1)
            for tile, whole in pairs(probe, axis, halo, step)
        )
    except RefusedInputError:
        return True


def _is_close(probe: HaloProbe, tile: FloatArray, whole: FloatArray, tolerance: float) -> bool:
    """Compare two results [along, across, C]. Full scale is the value range, or the range of `whole` if
    that is larger."""
    low, high = probe.value_range
    full_scale = max(high - low, float(np.ptp(whole)) if whole.size else 0.0)
    with np.errstate(invalid="ignore"):
        return bool(np.all(np.abs(tile - whole) <= tolerance * full_scale))


def _free_size_pairs(
    probe: HaloProbe, axis: int, halo: int, step: int
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield (tile, whole) for the same pixels, `axis` leading: cut at the front, then at the back."""
    is_large = halo >= _LARGE_HALO
    extra, breadth = max(step, _SHORT_EXTRA_LENGTH if is_large else _EXTRA_LENGTH), _BREADTHS[is_large]
    length, breadth = replace(probe.rule, multiple_of=step, tile_step=None).padded(extra + 2 * halo, breadth)
    # a net that takes sizes between two steps must also give equal tiles where the picture ends between them
    unit = probe.rule.multiple_of
    for rest in sorted({0, step // 2 // unit * unit, step - unit}):
        picture = _strip(probe, length + step - rest, breadth)
        whole = _run_along(probe, picture, axis)
        scale = probe.scale
        yield _run_along(probe, picture[step:], axis)[halo * scale :], whole[(step + halo) * scale :]
        cut = picture[: length - rest]
        kept = (length - rest - halo) * scale
        yield _run_along(probe, cut, axis)[:kept], whole[:kept]


def _fixed_size_pairs(
    probe: HaloProbe, axis: int, halo: int, step: int
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield the overlap of two tiles, `step` apart, for a model of one fixed size.

    The whole cannot be run here, so the tiles are compared with each other.
    """
    assert probe.rule.fixed is not None
    length, breadth = probe.rule.fixed[axis], probe.rule.fixed[1 - axis]
    picture = _strip(probe, length + step, breadth)
    first, second = (_run_along(probe, picture[start : start + length], axis) for start in (0, step))
    kept = max(length - step - 2 * halo, 0) * probe.scale
    from_first, from_second = (step + halo) * probe.scale, halo * probe.scale
    yield first[from_first : from_first + kept], second[from_second : from_second + kept]


def _strip(probe: HaloProbe, length: int, breadth: int) -> FloatArray:
    """Return noise [length, breadth, C] in the value range of the model."""
    low, high = probe.value_range
    strip: FloatArray = low + (high - low) * noise(length, breadth, probe.channels, seed=3)
    return strip


def _run_along(probe: HaloProbe, picture: FloatArray, axis: int) -> FloatArray:
    """Run `picture` [along, across, C] so that its first axis is the model's `axis`; returns the result in
    the same order of axes."""
    return probe.run(picture) if axis == 0 else probe.run(picture.swapaxes(0, 1)).swapaxes(0, 1)
