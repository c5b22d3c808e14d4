"""The learning rate of a phase, and a clock that ignores suspended time."""

from __future__ import annotations

import math
import time

SUSPENDED = 30.0
"""Seconds that a step can count at most: a step that took longer was interrupted by a suspended machine."""

_RAMP_STEPS = 1000  # steps until the peak learning rate is allowed


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


def limit_early_rate(share: float, step: int) -> float:
    """Limit `share`, a share of the peak rate, to a thousandth of the peak per step done.

    The first steps are then small however short a run is. With a peak after a hundred steps, bounded
    activations die and the net never learns again.
    """
    return min(share, (step + 1) / _RAMP_STEPS)


class TrainingClock:
    """Counts seconds of work in `spent`; suspended time is left out."""

    def __init__(self, spent: float = 0.0) -> None:
        self.spent = spent
        self._last = time.perf_counter()

    def lap(self, most: float = SUSPENDED) -> float:
        """Add the time since the last lap, limited to `most` seconds. Returns the sum so far."""
        now = time.perf_counter()
        self.spent += min(now - self._last, most)
        self._last = now
        return self.spent
