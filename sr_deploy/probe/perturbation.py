"""How far one input pixel reaches in the output, by changing it and looking where the output changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sr_deploy.graph.session import Picture, RefusedInputError, SessionRunner
from sr_deploy.probe.range import Range
from sr_deploy.probe.shape import noise
from sr_deploy.spec import SizeRule

_LENGTHS = (64, 256, 1024)
"""Long sides of the probes, in pixels, until the field fits; strips, since cost then grows with one side."""

_BREADTH = 16
_ATTENTION_AREA = 8192
"""Largest probe, in pixels, for a net that multiplies all places with all places: its square must fit memory."""


@dataclass(frozen=True)
class Perturbation:
    """A picture to change one line of, and what that line becomes; both of the shape asked for."""

    background: Callable[[int, int], Picture]
    change: Callable[[Picture], Picture]


@dataclass(frozen=True)
class HaloProbe:
    """What is run to measure reach: a runner, the sizes it takes, and pictures to change."""

    run: SessionRunner
    scale: int
    rule: SizeRule
    channels: int
    value_range: Range
    perturbations: tuple[Perturbation, ...]
    has_attention: bool = False

    def windows(self, axis: int) -> Iterator[tuple[int, int]]:
        """(height, width) of growing probes, long along `axis`."""
        if self.rule.fixed:
            yield self.rule.fixed
            return
        for length in _LENGTHS:
            long, breadth = self.rule.padded(length, _BREADTH)
            if not (self.has_attention and long * breadth > _ATTENTION_AREA and length > _LENGTHS[0]):
                yield (long, breadth) if axis == 0 else (breadth, long)


def observed_halo(probe: HaloProbe, offsets: Iterable[int]) -> int | None:
    """The receptive-field radius in input pixels: the largest distance between a changed input pixel i and
    the pixel o // scale that a changed output o belongs to, over both axes and over pixels at `phases`.

    None where the change reaches the border of the largest probe.
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
    """The reach along `axis` in a probe of one size; None where it touches a border."""
    step = max(offsets) + 1
    middle = window[axis] // 2 // step * step
    halo = 0
    for perturbation in probe.perturbations:
        picture = perturbation.background(*window)
        reference, noise_floor = _unperturbed_output(probe.run, picture)
        if reference is None:
            continue
        for offset in offsets:
            position = min(middle + offset, window[axis] - 1)
            changed = _changed_positions(
                reference, probe.run(_perturbed(picture, axis, position, perturbation)), noise_floor, axis
            )
            if changed.size and (changed[0] == 0 or changed[-1] == reference.shape[axis] - 1):
                return None
            halo = (
                max(halo, *(abs(int(o) // probe.scale - position) for o in changed[[0, -1]]))
                if changed.size
                else halo
            )
    return halo


def _unperturbed_output(run: SessionRunner, picture: Picture) -> tuple[Picture | None, float]:
    """The output for `picture` and how far two runs of it differ; None where it is not finite."""
    first, second = run(picture), run(picture)
    if not np.isfinite(first).all():
        return None, 0.0
    return first, float(np.abs(first - second).max())


def _perturbed(picture: Picture, axis: int, position: int, perturbation: Perturbation) -> Picture:
    changed: Picture = picture.copy()
    line = (position,) if axis == 0 else (slice(None), position)
    changed[line] = perturbation.change(changed[line])
    return changed


def _changed_positions(
    reference: Picture, after: Picture, noise_floor: float, axis: int
) -> npt.NDArray[np.intp]:
    """Positions along `axis` where anything differs by more than the runtime's own noise; NaN differs."""
    with np.errstate(invalid="ignore"):
        same = np.abs(after - reference) <= noise_floor
    return np.flatnonzero(~same.all(axis=(1 - axis, 2)))


def structural_perturbation(channels: int) -> Perturbation:
    """For the structural twin: NaN into zeros."""
    return Perturbation(
        lambda height, width: np.zeros((height, width, channels), np.float32),
        lambda line: np.full_like(line, np.nan),
    )


def picture_perturbations(channels: int, value_range: tuple[float, float]) -> tuple[Perturbation, ...]:
    """For the model itself: noise in and far beyond its range, black and flat grey, changed by pixels of both
    signs; a path that one background keeps shut (a dead ReLU, a clip) another may open."""
    low, high = value_range
    span = high - low

    def in_range(height: int, width: int) -> Picture:
        return low + span * noise(height, width, channels)

    def beyond_range(height: int, width: int) -> Picture:
        centred: Picture = noise(height, width, channels, seed=1) - np.float32(0.5)
        return 20 * span * centred

    def flat(value: float) -> Callable[[int, int], Picture]:
        return lambda height, width: np.full((height, width, channels), value, np.float32)

    def added_signs(size: float) -> Callable[[Picture], Picture]:
        return lambda line: line + size * span * _signs(line.shape)

    return (
        Perturbation(in_range, lambda line: low + high - line),
        Perturbation(in_range, added_signs(100)),
        Perturbation(beyond_range, added_signs(100)),
        Perturbation(flat(low), added_signs(1)),
        Perturbation(flat((low + high) / 2), added_signs(10)),
    )


def _signs(shape: tuple[int, ...]) -> Picture:
    random = np.random.default_rng(2)
    signs = np.where(random.random(shape) < 0.5, np.float32(-1), np.float32(1))
    signed: Picture = signs * (0.5 + random.random(shape, np.float32))
    return signed
