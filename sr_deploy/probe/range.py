"""Find the values that black and white have for a model without a spec: 0..1, 0..255 or -1..1.

A trained upscaler restores a picture best in the range it was trained in. In another range its biases,
clips and activations are out of place, and it does no better than repeating pixels, or worse. So a sharp
picture is averaged down, upscaled in each range, and compared with itself. A test without a sharp picture
tells nothing: a net that adds detail to an interpolated picture keeps the picture in every range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Ranges:
    """The values of black and white that were found."""

    value_range: ValueRange
    """At the input, and at the output unless `output_range` says otherwise."""
    output_range: ValueRange | None = None
    """At the output, if it differs."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about what stays open."""
    evidence: str = ""
    """Evidence for the answer, in words."""


def find_range(
    run: SessionRunner,
    scale: int,
    size: tuple[int, int],
    channels: int,
    *,
    small: tuple[int, int] | None = None,
    given: ValueRange | None = None,
    gives_bytes: bool = False,
) -> Ranges:
    """Find the value range of a model at its input and at its output.

    `size` is a (height, width) that the model takes, and `small` one for noise, by default the same; `given` is the range of the input if the user stated it. A
    uint8 input means 0..255, and so does a uint8 output (`gives_bytes`). A model that clips its output tells its
    range by that; for the others the range with the smallest restoration error is taken. Another range at the
    output is taken only where no common one restores the picture. A linear model without biases works in every
    range. Raises ModelError for a model that gives only NaN or infinity.
    """
    inputs = (given,) if given else (BYTES,) if run.takes_bytes else _CANDIDATES
    outputs = (BYTES,) if gives_bytes else (*_CANDIDATES, *inputs)
    sharp = _draw_discs(size[0] * scale, size[1] * scale, channels)
    pairs = {
        (taken, returned): error
        for taken in inputs
        for returned, error in _restoration_errors(run, sharp, taken, outputs, scale).items()
    }
    if not any(map(np.isfinite, pairs.values())):
        raise ModelError(
            "the model gives no numbers (NaN or infinity) for a picture, in any value range; it is broken, or overflows in "
            "half precision; export it again in fp32"
        )
    errors = {taken: error for (taken, returned), error in pairs.items() if taken == returned}
    if min(errors.values(), default=np.inf) >= _LARGEST_FITTING_ERROR:
        (taken, returned), least = min(pairs.items(), key=lambda item: item[1])
        if least < _LARGEST_FITTING_ERROR:
            other = None if gives_bytes or taken == returned else returned
            return Ranges(taken, other, evidence=_errors_text(pairs))
        if gives_bytes and not errors:
            errors = {taken: error for (taken, _), error in pairs.items()}
    if given or run.takes_bytes:
        return Ranges(inputs[0], evidence="given" if given else "an input of bytes")
    return replace(_common_range(run, errors, (*(small or size), channels)), evidence=_errors_text(pairs))


def _errors_text(pairs: Mapping[tuple[ValueRange, ValueRange], float]) -> str:
    """Say how far the restored picture is from the sharp one, for the best three ranges."""
    best = sorted(pairs.items(), key=lambda item: item[1])[:3]
    texts = [
        f"{format_range(taken)}{'' if taken == given else ' to ' + format_range(given)} {error:.2g}"
        for (taken, given), error in best
    ]
    return f"a restored picture, in standard deviations off: {', '.join(texts)}"


def _common_range(run: SessionRunner, errors: dict[ValueRange, float], shape: tuple[int, int, int]) -> Ranges:
    """Return the range of input and output, from the restoration errors of the candidates."""
    if min(errors.values()) < _LARGEST_FITTING_ERROR and _is_homogeneous(run, shape):
        note = (
            "The model is linear and has no biases, so it works the same in every value range; 0..1 is taken."
        )
        return Ranges(UNIT, notes=(note,))
    fitting = [candidate for candidate in errors if errors[candidate] < _LARGEST_FITTING_ERROR]
    bounds = _output_bounds(run, shape) if fitting else (-np.inf, np.inf)
    for candidate in fitting:
        if _ends_at(bounds, candidate):
            return Ranges(candidate)
    value_range, notes = _decide(errors, fitting)
    return Ranges(value_range, notes=tuple(notes))


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


def _restoration_errors(
    run: SessionRunner, sharp: FloatArray, taken: ValueRange, outputs: Iterable[ValueRange], scale: int
) -> dict[ValueRange, float]:
    """Return the error of the restored picture for each value range of the output; `taken` is the input's.

    The error is the root mean square of the restored minus the sharp picture, in standard deviations of the sharp
    one. An eighth of the picture is left out at every border. The mean colour alone would give 1. Infinite if the
    model refuses the picture or gives no finite values.
    """
    low, high = taken
    height, width, channels = sharp.shape
    averaged = sharp.reshape(height // scale, scale, width // scale, scale, channels).mean((1, 3))
    try:
        result = run(low + averaged * (high - low))
    except RefusedInputError:
        return dict.fromkeys(outputs, float("inf"))
    rows, columns = height // 8, width // 8
    inner = (slice(rows, height - rows), slice(columns, width - columns))
    found = {}
    for black, white in outputs:
        with np.errstate(all="ignore"):
            restored = (result - black) / (white - black)
            error = np.sqrt(np.mean((restored - sharp)[inner] ** 2, dtype=np.float64)) / sharp[inner].std()
        found[black, white] = float(error) if np.isfinite(error) else float("inf")
    return found


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
