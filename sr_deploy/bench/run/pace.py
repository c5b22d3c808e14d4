"""How fast the machine itself is while something is measured on it: a fixed piece of work, timed between the samples.

The cores of a virtual machine share caches, clock and execution units with neighbours that nobody sees: on an idle
one the same program was up to 6 % slower or faster from one run to the next, and the fixed work with it. So two
runs are compared at the same pace (`sr_deploy.bench.compare`). The work is NumPy's, whichever runtime is measured, so
a runtime that became slower cannot hide in it. Runs with another version of NumPy are not compared by it; whoever
changes the work itself must raise the schema of the results.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from sr_deploy.system.cores import usable_cores

_INTERVAL = 0.35  # seconds of samples between two looks
_REST = 0.02  # seconds that a runtime's threads spin after its last call, and more
_REPEATS = 10
_SIDE, _STACK, _PRODUCTS = 64, 16, 15
"""Matrices so small stay in a core's own cache, and BLAS gives them one thread."""
_MAX_THREADS = 8


class PaceMeter:
    """Call it after every sample; now and then it does the fixed work, and keeps the `seconds` that took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        threads = min(usable_cores() or 1, _MAX_THREADS)
        rng = np.random.default_rng(0)
        self._factors = [rng.random((2, _STACK, _SIDE, _SIDE), np.float32) for _ in range(threads)]
        self._products = [np.empty((_STACK, _SIDE, _SIDE), np.float32) for _ in range(threads)]
        self._due = 0.0
        self._work()  # BLAS takes its memory now

    def begin(self) -> None:
        """The warm-up is over: work once for nothing, and count from now."""
        self._work()
        self.seconds.clear()
        self._due = time.perf_counter() + _INTERVAL

    def __call__(self) -> None:
        """Does nothing but read the clock unless it is time for a look."""
        if time.perf_counter() < self._due:
            return
        time.sleep(_REST)
        for _ in range(_REPEATS):
            start = time.perf_counter()
            self._work()
            self.seconds.append(time.perf_counter() - start)
        self._due = time.perf_counter() + _INTERVAL

    def _work(self) -> None:
        """The same on every core."""
        threads = [threading.Thread(target=self._multiply, args=(i,)) for i in range(1, len(self._factors))]
        for thread in threads:
            thread.start()
        self._multiply(0)
        for thread in threads:
            thread.join()

    def _multiply(self, i: int) -> None:
        (left, right), product = self._factors[i], self._products[i]
        for _ in range(_PRODUCTS):
            np.matmul(left, right, out=product)
