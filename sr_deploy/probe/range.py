"""Find the values that black and white have for a model without a spec: 0..1, 0..255 or -1..1.

A trained upscaler restores a picture best in the range it was trained in. In another range its biases,
clips and activations are out of place, and it does no better than repeating pixels, or worse. So a sharp
picture is averaged down, upscaled in each range, and compared with itself. A test without a sharp picture
tells nothing: a net that adds detail to an interpolated picture keeps the picture in every range.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from sr_deploy.errors import ModelError
from sr_deploy.graph.session import RefusedInputError, SessionRunner
from sr_deploy.system.arrays import FloatArray

ValueRange = tuple[float, float]
"""(black, white): the values that the model takes and gives for them."""

UNIT, BYTES, SIGNED = (0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)
_CANDIDATES = (UNIT, BYTES, SIGNED)
"""The value ranges that are tried."""

_LARGEST_FITTING_ERROR = 0.6
"""Largest restoration error of a range that may be the right one, in standard deviations of the picture
(1.0: no better than its mean colour)."""

_CLEAR_RATIO = 1.02
"""A range wins if the errors of the others are this many times larger. Trained nets show 1.03 to 1.06
between -1..1 and 0..1, which is the upper half of -1..1, and 1.5 and more between other pairs."""

_DISCS = 400
"""Discs in the test picture; later ones cover earlier ones."""


def find_range(
    run: SessionRunner, scale: int, size: tuple[int, int], channels: int
) -> tuple[ValueRange, list[str]]:
    """Return the value range of a model, and notes about what stays open.

    `size` is a (height, width) that the model takes. A uint8 input means 0..255. A model that clips its
    output tells its range by that; for the others the range with the smallest restoration error is taken. A
    linear model without biases works in every range. Raises ModelError for a model that gives only NaN or
    infinity.
    """
    if run.takes_bytes:
        return BYTES, []
    sharp = _draw_discs(size[0] * scale, size[1] * scale, channels)
    errors = {candidate: _restoration_error(run, sharp, candidate, scale) for candidate in _CANDIDATES}
    if not any(map(np.isfinite, errors.values())):
        raise ModelError(
            "the model gives no numbers (NaN or infinity) for a picture, in any value range; it is broken, or overflows in "
            "half precision; export it again in fp32"
        )
    if min(errors.values()) < _LARGEST_FITTING_ERROR and _is_homogeneous(run, (*size, channels)):
        return UNIT, [
            "The model is linear and has no biases, so it works the same in every value range; 0..1 is taken."
        ]
    fitting = [candidate for candidate in _CANDIDATES if errors[candidate] < _LARGEST_FITTING_ERROR]
    bounds = _output_bounds(run, (*size, channels)) if fitting else (-np.inf, np.inf)
    for candidate in fitting:
        if _ends_at(bounds, candidate):
            return candidate, []
    return _decide(errors, fitting)


def _decide(errors: dict[ValueRange, float], fitting: list[ValueRange]) -> tuple[ValueRange, list[str]]:
    """Choose among ranges by their restoration errors; 0..1 where the errors do not decide."""
    best = min(errors, key=lambda candidate: errors[candidate])
    if not fitting:
        return UNIT, [
            f"In no value range does the model restore a picture (best {format_range(best)}, {errors[best]:.2g} standard "
            "deviations off); 0..1 is taken."
        ]
    close = [candidate for candidate in fitting if errors[candidate] <= _CLEAR_RATIO * errors[best]]
    if len(close) == 1:
        return best, []
    choice = UNIT if UNIT in close else best
    names = ", ".join(format_range(candidate) for candidate in close)
    return choice, [f"The value ranges {names} fit equally well; {format_range(choice)} is taken."]


def format_range(value_range: ValueRange) -> str:
    """Write a range as people do: 0..255."""
    return f"{value_range[0]:g}..{value_range[1]:g}"


def _restoration_error(run: SessionRunner, sharp: FloatArray, candidate: ValueRange, scale: int) -> float:
    """Return the root mean square of the restored minus the sharp picture, in standard deviations of the
    sharp one.

    An eighth of the picture is left out at every border. The mean colour alone would give 1. Infinite if
    the model refuses the picture or gives no finite values.
    """
    low, high = candidate
    height, width, channels = sharp.shape
    averaged = sharp.reshape(height // scale, scale, width // scale, scale, channels).mean((1, 3))
    try:
        restored = (run(low + averaged * (high - low)) - low) / (high - low)
    except RefusedInputError:
        return float("inf")
    rows, columns = height // 8, width // 8
    inner = (slice(rows, height - rows), slice(columns, width - columns))
    with np.errstate(all="ignore"):
        error = np.sqrt(np.mean((restored - sharp)[inner] ** 2, dtype=np.float64)) / sharp[inner].std()
    return float(error) if np.isfinite(error) else float("inf")


def _is_homogeneous(run: SessionRunner, shape: tuple[int, int, int]) -> bool:
    """Return True if a multiple of a picture, negative ones included, gives that multiple of its result.
    The factors are powers of two, so multiplying by them does not round."""
    picture = np.random.default_rng(6).random(shape, dtype=np.float32)
    try:
        once, more, less = (run(np.float32(factor) * picture) for factor in (1, 256, -256))
    except RefusedInputError:
        return False
    near = partial(np.allclose, rtol=1e-3, atol=1e-2 * float(np.abs(once).max()))
    return bool(near(more, 256 * once) and near(less, -256 * once))


def _output_bounds(run: SessionRunner, shape: tuple[int, int, int]) -> ValueRange:
    """Return the smallest and the largest output for noise far too dark and far too bright; infinite bounds
    if the model refuses it."""
    extreme = np.where(np.random.default_rng(4).random(shape) < 0.5, -1e4, 1e4)
    try:
        result = run(extreme.astype(np.float32))
    except RefusedInputError:
        return -np.inf, np.inf
    return float(result.min()), float(result.max())


def _ends_at(bounds: ValueRange, candidate: ValueRange) -> bool:
    """Return True if the outputs end exactly where the range does, because the model clips to it. The
    tolerance is a thousandth of the range."""
    return bool(np.allclose(bounds, candidate, rtol=0, atol=1e-3 * (candidate[1] - candidate[0])))


def _draw_discs(height: int, width: int, channels: int) -> FloatArray:
    """Draw 400 discs of all sizes on top of each other, [H, W, C] in 0..1, with a fixed seed.

    Edges and scales are like those of photographs (Lee, Mumford and Huang 2001, "Occlusion models for natural
    images"). `sr_deploy.quality.dead_leaves` draws shaded and many more discs in uint8, to serve as
    photographs. This picture stays as it is, because the thresholds above were set on it; and packages on one
    level may not import each other.
    """
    random = np.random.default_rng(5)
    picture = np.full((height, width, channels), 0.5, np.float32)
    smallest, largest = 2.0, max(height, width) / 4
    near, far = smallest**-2, largest**-2
    for _ in range(_DISCS):
        radius = (near - random.random() * (near - far)) ** -0.5
        colour = np.clip(random.uniform(0.05, 0.95) + random.uniform(-0.08, 0.08, channels), 0, 1)
        _paint_disc(
            picture, random.random() * height, random.random() * width, radius, colour.astype(np.float32)
        )
    return picture


def _paint_disc(picture: FloatArray, y: float, x: float, radius: float, colour: FloatArray) -> None:
    """Paint one disc with an edge that is one pixel soft, in place. `y`, `x` and `radius` are in pixels."""
    top, left = (max(int(middle - radius - 1), 0) for middle in (y, x))
    area = picture[top : int(y + radius + 2), left : int(x + radius + 2)]
    rows = np.arange(top, top + area.shape[0], dtype=np.float32)[:, None]
    columns = np.arange(left, left + area.shape[1], dtype=np.float32)
    cover = np.clip(radius - np.hypot(rows - y, columns - x) + 0.5, 0, 1)[..., None].astype(np.float32)
    area += cover * (colour - area)
