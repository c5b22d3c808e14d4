"""The learning rate of a phase, and a clock that ignores suspended time."""

from __future__ import annotations

import math
import time

SUSPENDED = 30.0
"""Seconds that a step can count at most: a step that took longer was interrupted by a suspended machine."""

_RAMP_STEPS = 1000
"""Steps until the peak learning rate is reached, in a phase that is long enough.

With a peak after a hundred steps, bounded activations die and the net never learns again.
"""
_SHORTEST_WARMUP, _LONGEST_WARMUP = 0.05, 0.3
"""Share of a phase with a growing rate: in a phase of 20,000 steps or more, and in one of 3,333 or fewer.

PyTorch's OneCycleLR warms up for 0.3 as well.
"""
REACHED = 0.95
"""Share of the learning rate asked for from which it counts as reached."""
_FEWEST_CHECKED = 1000
"""Steps from which a phase reaches its learning rate anyway."""


def warmup_of(steps: float) -> float:
    """Return the share of a phase of `steps` steps with a growing learning rate.

    It is 1,000 steps, but at least 5 % and at most 30 % of the phase, so that every phase of two steps or more reaches
    its rate.
    """
    if steps * _SHORTEST_WARMUP >= _RAMP_STEPS:
        return _SHORTEST_WARMUP
    if steps < 2:
        return _LONGEST_WARMUP
    whole = max(round(min(_RAMP_STEPS, steps * _LONGEST_WARMUP)), 1)  # so that a step has the peak itself
    return whole / steps


def rate_share(progress: float, step: int, steps: float) -> float:
    """Return the learning rate of a step as a share of its peak.

    Args:
      progress: progress of the phase at the end of the step, 0..1.
      step: number of the step, counted from 0.
      steps: number of steps of the phase; of a phase bounded by time an estimate.
    """
    warmup = warmup_of(steps)
    ramp = min(float(_RAMP_STEPS), max(warmup * steps, 1.0))
    return limit_early_rate(one_cycle(progress, warmup), step, ramp)


def highest_share(steps: int) -> float:
    """Return the highest share of its peak that the learning rate has in a phase of `steps` steps."""
    if steps >= _FEWEST_CHECKED:
        return 1.0
    return max(rate_share((step + 1) / steps, step, steps) for step in range(steps))


def one_cycle(progress: float, warmup: float = 0.05, final: float = 0.005) -> float:
    """Return the learning rate at `progress` 0..1 as a share of its peak.

    It is a linear warm-up followed by cosine annealing. `warmup` is the share of the phase with a growing
    rate; `final` is the rate at the end. Source: Smith and Topin 2018, "Super-convergence"; cosine annealing
    as in PyTorch's OneCycleLR.
    """
    if progress < warmup:
        return 0.04 + 0.96 * progress / warmup
    share = min((progress - warmup) / (1 - warmup), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


def limit_early_rate(share: float, step: int, ramp: float = _RAMP_STEPS) -> float:
    """Limit `share`, a share of the peak rate, to `1 / ramp` of the peak per step done.

    The very first steps are then small; the warm-up alone begins at a twenty-fifth of the peak.
    """
    return min(share, (step + 1) / ramp)


class TrainingClock:
    """Counts seconds of training in `spent`; preparing, looking at the quality and suspended time are left out."""

    def __init__(self, spent: float = 0.0) -> None:
        self.spent = spent
        self._last = time.perf_counter()

    def lap(self, most: float = SUSPENDED) -> float:
        """Add the time since the last lap, limited to `most` seconds. Returns the sum so far."""
        now = time.perf_counter()
        self.spent += min(now - self._last, most)
        self._last = now
        return self.spent

    def skip(self) -> float:
        """Leave out the time since the last lap, and return it in seconds."""
        before = self._last
        self.lap(0.0)
        return self._last - before
