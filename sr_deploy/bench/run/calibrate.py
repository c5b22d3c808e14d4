"""What this machine can do at most, by a short test of its own: how fast it copies, how fast it multiplies.

Shares of this peak tell a slow net from a slow machine. It is what NumPy's BLAS and memcpy reach, not a data sheet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sr_deploy.bench.result import Calibration

_COPY_BYTES = 64 << 20  # beyond any cache that a core has for itself
_SIDE = 1024


def calibrate(threads: int, seconds: float = 0.4) -> Calibration:
    """The best of several tries at each, `seconds` long; copies run on `threads` threads, the product on BLAS's own."""
    return Calibration(
        copy_bytes_per_second=_copy_rate(threads, seconds / 2),
        multiply_adds_per_second=_multiply_rate(seconds / 2),
        threads=threads,
    )


def _copy_rate(threads: int, seconds: float) -> float:
    source = np.ones((threads, _COPY_BYTES // threads), np.uint8)
    target = np.zeros_like(source)
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(np.copyto, target, source))

        return 2 * source.nbytes / _best(copy, seconds)


def _multiply_rate(seconds: float) -> float:
    rng = np.random.default_rng(0)
    left, right = (rng.random((_SIDE, _SIDE), np.float32) for _ in range(2))
    result = np.empty_like(left)
    return _SIDE**3 / _best(lambda: np.matmul(left, right, out=result), seconds)


def _best(call: Callable[[], object], seconds: float) -> float:
    """The shortest time of a call, over `seconds` after a first one."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best
