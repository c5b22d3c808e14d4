"""Measure the peak of this machine in a short test: its copy rate and its rate of multiply-adds.

A share of this peak shows whether the net or the machine is slow. The peak is what memcpy and the BLAS library of
NumPy reach, not the figure of a data sheet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sr_deploy.bench.result import Calibration

_COPY_BYTES = 64 << 20  # larger than the private caches of a core
_SIDE = 1024  # rows and columns of the float32 matrices


def calibrate(threads: int, seconds: float = 0.4) -> Calibration:
    """Measure copying and multiplying for half of `seconds` each, and keep the best of several tries.

    Copies run on `threads` threads; the matrix product uses the threads of the BLAS library.
    """
    return Calibration(
        copy_bytes_per_second=_copy_rate(threads, seconds / 2),
        multiply_adds_per_second=_multiply_rate(seconds / 2),
        threads=threads,
    )


def _copy_rate(threads: int, seconds: float) -> float:
    """Bytes read and written per second by `threads` threads that copy parts of one large array."""
    source = np.ones((threads, _COPY_BYTES // threads), np.uint8)
    target = np.zeros_like(source)
    with ThreadPoolExecutor(threads) as pool:
        # Each thread copies its own rows; NumPy releases the interpreter's lock meanwhile.
        def copy() -> None:
            list(pool.map(np.copyto, target, source))

        return 2 * source.nbytes / _best(copy, seconds)


def _multiply_rate(seconds: float) -> float:
    """Multiply-adds per second of a float32 matrix product that allocates nothing."""
    rng = np.random.default_rng(0)
    left, right = (rng.random((_SIDE, _SIDE), np.float32) for _ in range(2))
    result = np.empty_like(left)
    return _SIDE**3 / _best(lambda: np.matmul(left, right, out=result), seconds)


def _best(call: Callable[[], object], seconds: float) -> float:
    """The shortest time of a call in seconds, tried for `seconds` after one call that is not timed."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best
