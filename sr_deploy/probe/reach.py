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
class TestPicture:
    """A picture to change one line of, and what that line becomes; both of the shape asked for."""

    background: Callable[[int, int], Picture]
    poke: Callable[[Picture], Picture]


@dataclass(frozen=True)
class Probe:
    """What is run to measure reach: a runner, the sizes it takes, and pictures to change."""

    run: SessionRunner
    scale: int
    rule: SizeRule
    channels: int
    value_range: Range
    stimuli: tuple[TestPicture, ...]
    attends: bool = False

    def windows(self, axis: int) -> Iterator[tuple[int, int]]:
        """(height, width) of growing probes, long along `axis`."""
        if self.rule.fixed:
            yield self.rule.fixed
            return
        for length in _LENGTHS:
            long, breadth = self.rule.padded(length, _BREADTH)
            if not (self.attends and long * breadth > _ATTENTION_AREA and length > _LENGTHS[0]):
                yield (long, breadth) if axis == 0 else (breadth, long)


def measure_reach(probe: Probe, phases: Iterable[int]) -> int | None:
    """The receptive-field radius in input pixels: the largest distance between a changed input pixel i and
    the pixel o // scale that a changed output o belongs to, over both axes and over pixels at `phases`.

    None where the change reaches the border of the largest probe.
    """
    phases = tuple(phases)
    reach = 0
    for axis in (0, 1):
        along = _reach_along(probe, axis, phases)
        if along is None:
            return None
        reach = max(reach, along)
    return reach


def _reach_along(probe: Probe, axis: int, phases: tuple[int, ...]) -> int | None:
    for window in probe.windows(axis):
        try:
            reach = _reach_within(probe, axis, window, phases)
        except RefusedInputError:
            return None
        if reach is not None:
            return reach
    return None


def _reach_within(probe: Probe, axis: int, window: tuple[int, int], phases: tuple[int, ...]) -> int | None:
    """The reach along `axis` in a probe of one size; None where it touches a border."""
    step = max(phases) + 1
    middle = window[axis] // 2 // step * step
    reach = 0
    for stimulus in probe.stimuli:
        picture = stimulus.background(*window)
        before, noise_floor = _steady(probe.run, picture)
        if before is None:
            continue
        for phase in phases:
            at = min(middle + phase, window[axis] - 1)
            touched = _changed(before, probe.run(_poked(picture, axis, at, stimulus)), noise_floor, axis)
            if touched.size and (touched[0] == 0 or touched[-1] == before.shape[axis] - 1):
                return None
            reach = (
                max(reach, *(abs(int(o) // probe.scale - at) for o in touched[[0, -1]]))
                if touched.size
                else reach
            )
    return reach


def _steady(run: SessionRunner, picture: Picture) -> tuple[Picture | None, float]:
    """The output for `picture` and how far two runs of it differ; None where it is not finite."""
    first, second = run(picture), run(picture)
    if not np.isfinite(first).all():
        return None, 0.0
    return first, float(np.abs(first - second).max())


def _poked(picture: Picture, axis: int, at: int, stimulus: TestPicture) -> Picture:
    poked: Picture = picture.copy()
    line = (at,) if axis == 0 else (slice(None), at)
    poked[line] = stimulus.poke(poked[line])
    return poked


def _changed(before: Picture, after: Picture, noise_floor: float, axis: int) -> npt.NDArray[np.intp]:
    """Positions along `axis` where anything differs by more than the runtime's own noise; NaN differs."""
    with np.errstate(invalid="ignore"):
        same = np.abs(after - before) <= noise_floor
    return np.flatnonzero(~same.all(axis=(1 - axis, 2)))


def structural_stimulus(channels: int) -> TestPicture:
    """For the structural twin: NaN into zeros."""
    return TestPicture(
        lambda height, width: np.zeros((height, width, channels), np.float32),
        lambda line: np.full_like(line, np.nan),
    )


def picture_stimuli(channels: int, value_range: tuple[float, float]) -> tuple[TestPicture, ...]:
    """For the model itself: noise in and far beyond its range, black and flat grey, changed by pixels of both
    signs; a path that one background keeps shut (a dead ReLU, a clip) another may open."""
    low, high = value_range
    span = high - low

    def noisy(height: int, width: int) -> Picture:
        return low + span * noise(height, width, channels)

    def wild(height: int, width: int) -> Picture:
        centred: Picture = noise(height, width, channels, seed=1) - np.float32(0.5)
        return 20 * span * centred

    def flat(value: float) -> Callable[[int, int], Picture]:
        return lambda height, width: np.full((height, width, channels), value, np.float32)

    def mixed(size: float) -> Callable[[Picture], Picture]:
        return lambda line: line + size * span * _signs(line.shape)

    return (
        TestPicture(noisy, lambda line: low + high - line),
        TestPicture(noisy, mixed(100)),
        TestPicture(wild, mixed(100)),
        TestPicture(flat(low), mixed(1)),
        TestPicture(flat((low + high) / 2), mixed(10)),
    )


def _signs(shape: tuple[int, ...]) -> Picture:
    random = np.random.default_rng(2)
    signs = np.where(random.random(shape) < 0.5, np.float32(-1), np.float32(1))
    signed: Picture = signs * (0.5 + random.random(shape, np.float32))
    return signed
