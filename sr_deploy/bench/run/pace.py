"""Measure the speed of the machine during a run: a fixed piece of work is timed between the samples.

The cores of a virtual machine share caches, clock and execution units with invisible neighbours. On an idle
one the same program was up to 6 % slower or faster from run to run, and so was the fixed work. So
`sr_deploy.bench.compare` divides the times of two runs by their paces. NumPy does the work whichever runtime
is measured, so that the division cannot hide a slower runtime. Runs with different versions of NumPy are not
corrected by it. A change of the fixed work needs a new schema number of the results.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from sr_deploy.system.cores import usable_cores

_INTERVAL = 0.35  # seconds of samples between two measurements of the pace
_REST = 0.02  # seconds; longer than a runtime's threads spin after its last call
_REPEATS = 10  # times that the work is done in each measurement
_SIDE, _STACK, _PRODUCTS = 64, 16, 15
"""Side, number and repetitions of the matrix products.

Matrices of this size stay in a core's own cache, and BLAS uses one thread for them.
"""
_MAX_THREADS = 8  # at most this many cores take part


class PaceMeter:
    """A callable for use after every sample: at intervals it does the fixed work and keeps the times.

    The times are in the list `seconds`. One thread per usable core works, at most eight.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        threads = min(usable_cores() or 1, _MAX_THREADS)
        rng = np.random.default_rng(0)
        self._factors = [rng.random((2, _STACK, _SIDE, _SIDE), np.float32) for _ in range(threads)]
        self._products = [np.empty((_STACK, _SIDE, _SIDE), np.float32) for _ in range(threads)]
        self._due = 0.0
        self._multiply_on_every_core()  # so that BLAS allocates its buffers before the first measurement

    def begin(self) -> None:
        """Forget the warm-up and start counting: do the work once untimed, and clear `seconds`."""
        self._multiply_on_every_core()
        self.seconds.clear()
        self._due = time.perf_counter() + _INTERVAL

    def __call__(self) -> None:
        """Measure the pace if the interval is over; otherwise only read the clock."""
        if time.perf_counter() < self._due:
            return
        time.sleep(_REST)
        for _ in range(_REPEATS):
            start = time.perf_counter()
            self._multiply_on_every_core()
            self.seconds.append(time.perf_counter() - start)
        self._due = time.perf_counter() + _INTERVAL

    def _multiply_on_every_core(self) -> None:
        threads = [threading.Thread(target=self._multiply, args=(i,)) for i in range(1, len(self._factors))]
        for thread in threads:
            thread.start()
        self._multiply(0)
        for thread in threads:
            thread.join()

    def _multiply(self, i: int) -> None:
        """Multiply the matrices of thread `i`; NumPy releases the interpreter's lock meanwhile."""
        (left, right), product = self._factors[i], self._products[i]
        for _ in range(_PRODUCTS):
            np.matmul(left, right, out=product)
