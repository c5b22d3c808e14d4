"""Measure a halo by changing input pixels and looking where the output changes.

A whole line is changed at once: a row to measure along the height, a column to measure along the width. The
distance is then measured across the line only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sr_deploy.graph.session import RefusedInputError, SessionRunner
from sr_deploy.probe.range import ValueRange
from sr_deploy.probe.shape import noise
from sr_deploy.spec import SizeRule
from sr_deploy.system.arrays import FloatArray

_LENGTHS = (64, 256, 1024)
"""Long sides of the probes in pixels, tried in turn until the change stays inside. The probes are strips,
because the cost of a strip grows with one side only."""

_BREADTH = 16
"""Short side of a probe in pixels, before the size rule enlarges it. Strips keep runs cheap."""
_NARROW = 4
"""Short side of a probe of the structural twin, before the size rule enlarges it. A NaN spreads along the long side
whatever the short one is."""
_ATTENTION_AREA = 8192
"""Largest probe, in pixels, for a net that multiplies every place with every other place: its memory grows
with the square of this."""


@dataclass(frozen=True)
class Perturbation:
    """A picture, and a change to one line of it."""

    background: Callable[[int, int], FloatArray]
    """Makes the picture, float32 [H, W, C] in the model's value range, from (height, width)."""
    change: Callable[[FloatArray], FloatArray]
    """Returns the changed line, float32 [length, C], for the line as it was."""


@dataclass(frozen=True)
class HaloProbe:
    """A runner of a model, the sizes it takes, and the perturbations to try on it."""

    run: SessionRunner
    scale: int
    rule: SizeRule
    channels: int
    value_range: ValueRange
    perturbations: tuple[Perturbation, ...]
    has_attention: bool = False
    """The memory of a run grows with the square of the picture (`_ATTENTION_AREA`)."""
    confirms: int | None = None
    """Halo in the structural twin, which the pictures only have to confirm: probes are narrow, and long enough for it
    from the start. None: there is no twin.
    """
    is_twin: bool = False
    """The model is a structural twin, in whose results only NaN counts, so nothing has to be compared."""

    def windows(self, axis: int) -> Iterator[tuple[int, int]]:
        """Yield the (height, width) of growing probes that are long along `axis`.

        A model of fixed size has one probe. A net with attention always gets the first, and no larger one
        beyond `_ATTENTION_AREA`.
        """
        if self.rule.fixed:
            yield self.rule.fixed
            return
        narrow = self.is_twin or self.confirms is not None
        # one pixel more than both halos, so that a change of the halo's width ends inside
        least = 2 * (self.confirms or 0) + self.rule.step
        lengths = [length for length in _LENGTHS if length > least] or _LENGTHS[-1:]
        for length in lengths:
            long, breadth = self.rule.padded(length, _NARROW if narrow else _BREADTH)
            if not (self.has_attention and long * breadth > _ATTENTION_AREA and length > lengths[0]):
                yield (long, breadth) if axis == 0 else (breadth, long)


def observed_halo(probe: HaloProbe, offsets: Iterable[int]) -> int | None:
    """Return the halo in input pixels that the perturbations of `probe` show.

    That is the largest distance between a changed input pixel i and the pixel o // scale to which a changed
    output pixel o belongs, over both axes and over input pixels at all `offsets` within a cell. None if the
    change extends to the border of the largest probe.
    """
    offsets = tuple(offsets)
    halo = 0
    for axis in (0, 1):
        along = _halo_along(probe, axis, offsets)
        if along is None:
            return None
        halo = max(halo, along)
    return halo


def _halo_along(probe: HaloProbe, axis: int, offsets: tuple[int, ...]) -> int | None:
    """Return the halo along `axis`, from the smallest probe that holds it; None if none does."""
    for window in probe.windows(axis):
        try:
            halo = _halo_within(probe, axis, window, offsets)
        except RefusedInputError:
            return None
        if halo is not None:
            return halo
    return None


def _halo_within(
    probe: HaloProbe, axis: int, window: tuple[int, int], offsets: tuple[int, ...]
) -> int | None:
    """Return the halo along `axis` in a probe of one size; None if the change extends to a border.

    A perturbation on whose unchanged picture the model gives NaN or infinity is skipped. Raises
    RefusedInputError where the runtime fails.
    """
    # a multiple of the step, so that `offset` is the place inside a cell of the grid
    step = max(offsets) + 1
    middle = window[axis] // 2 // step * step
    halo = 0
    for perturbation in probe.perturbations:
        picture = perturbation.background(*window)
        # a twin gives finite values for a picture without NaN, at any size (checked when it was opened)
        reference, noise_floor = (None, 0.0) if probe.is_twin else _unperturbed_output(probe.run, picture)
        if reference is None and not probe.is_twin:
            continue
        for offset in offsets:
            position = min(middle + offset, window[axis] - 1)
            after = probe.run(_perturbed(picture, axis, position, perturbation))
            changed = _changed_positions(reference, after, noise_floor, axis)
            if changed.size and (changed[0] == 0 or changed[-1] == after.shape[axis] - 1):
                return None
            halo = (
                max(halo, *(abs(int(o) // probe.scale - position) for o in changed[[0, -1]]))
                if changed.size
                else halo
            )
    return halo


def _unperturbed_output(run: SessionRunner, picture: FloatArray) -> tuple[FloatArray | None, float]:
    """Return the output for `picture`, and the largest difference between two runs of it. That difference is
    the runtime's own noise, so it is no change. The output is None if it is not finite."""
    first, second = run(picture), run(picture)
    if not np.isfinite(first).all():
        return None, 0.0
    return first, float(np.abs(first - second).max())


def _perturbed(picture: FloatArray, axis: int, position: int, perturbation: Perturbation) -> FloatArray:
    """Return a copy of `picture` with the line at `position` along `axis` changed."""
    changed: FloatArray = picture.copy()
    line = (position,) if axis == 0 else (slice(None), position)
    changed[line] = perturbation.change(changed[line])
    return changed


def _changed_positions(
    reference: FloatArray | None, after: FloatArray, noise_floor: float, axis: int
) -> npt.NDArray[np.intp]:
    """Positions along `axis` with a value that differs by more than `noise_floor`; NaN differs. Without a reference
    only NaN and infinity count."""
    with np.errstate(invalid="ignore"):
        same = np.isfinite(after) if reference is None else np.abs(after - reference) <= noise_floor
    return np.flatnonzero(~same.all(axis=(1 - axis, 2)))


def structural_perturbation(channels: int) -> Perturbation:
    """Return the perturbation for a structural twin: a line of NaN in a picture of zeros."""
    return Perturbation(
        lambda height, width: np.zeros((height, width, channels), np.float32),
        lambda line: np.full_like(line, np.nan),
    )


def picture_perturbations(channels: int, value_range: tuple[float, float]) -> tuple[Perturbation, ...]:
    """Return the perturbations for the model itself; beside a structural twin only the first two are used.

    The pictures are noise inside and far outside the value range, black, and flat grey; the changes have
    both signs. A path that one picture closes (a dead ReLU, a clip) may be open in another.
    """
    low, high = value_range
    span = high - low

    def in_range(height: int, width: int) -> FloatArray:
        return low + span * noise(height, width, channels)

    def beyond_range(height: int, width: int) -> FloatArray:
        centred: FloatArray = noise(height, width, channels, seed=1) - np.float32(0.5)
        return 20 * span * centred

    def flat(value: float) -> Callable[[int, int], FloatArray]:
        return lambda height, width: np.full((height, width, channels), value, np.float32)

    def added_signs(size: float) -> Callable[[FloatArray], FloatArray]:
        return lambda line: line + size * span * _signs(line.shape)

    return (
        Perturbation(in_range, lambda line: low + high - line),
        Perturbation(in_range, added_signs(100)),
        Perturbation(beyond_range, added_signs(100)),
        Perturbation(flat(low), added_signs(1)),
        Perturbation(flat((low + high) / 2), added_signs(10)),
    )


def _signs(shape: tuple[int, ...]) -> FloatArray:
    """Return noise of both signs with magnitudes in 0.5..1.5, so that no change is close to 0."""
    random = np.random.default_rng(2)
    signs = np.where(random.random(shape) < 0.5, np.float32(-1), np.float32(1))
    signed: FloatArray = signs * (0.5 + random.random(shape, np.float32))
    return signed
