"""When: the learning rate of a phase, and how far along it is, by steps or by the clock."""

from __future__ import annotations

import math
import time

SUSPENDED = 30.0
"""Seconds; of a step that took longer only this much counts, because the machine was suspended meanwhile."""

_RAMP_STEPS = 1000  # steps


def one_cycle(progress: float, warmup: float = 0.05, final: float = 0.005) -> float:
    """Learning rate as a share of its peak at `progress` 0..1: linear warm-up, then cosine annealing.

    Source: Smith and Topin 2018, "Super-convergence"; cosine annealing as in PyTorch's OneCycleLR.
    """
    if progress < warmup:
        return 0.04 + 0.96 * progress / warmup
    share = min((progress - warmup) / (1 - warmup), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


def limit_early_rate(share: float, step: int) -> float:
    """`share` of the peak, but no more than `step` thousandths of it.

    However short a run is, its first steps are small: a peak reached in a hundred steps makes bounded
    activations die, and the net never learns anything again.
    """
    return min(share, (step + 1) / _RAMP_STEPS)


class Clock:
    """Seconds of work, `spent` so far; time in which the machine was suspended is left out."""

    def __init__(self, spent: float = 0.0) -> None:
        self.spent = spent
        self._last = time.perf_counter()

    def lap(self, most: float = SUSPENDED) -> float:
        """Count the time since the last lap, `most` seconds of it at most; the sum so far."""
        now = time.perf_counter()
        self.spent += min(now - self._last, most)
        self._last = now
        return self.spent
