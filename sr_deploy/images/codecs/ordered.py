"""A function of 0, 1, 2, ... computed by several threads, with its results in order.

`concurrent.futures` could do this too, but importing it takes a tenth of the time in which a small
picture is upscaled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


def in_order(function: Callable[[int], _T], count: int, workers: int) -> Iterator[_T]:
    """function(0) to function(count - 1), computed by `workers` threads.

    At most two results per worker wait to be taken, which limits memory. An exception of `function` is
    raised instead of its result and ends the iteration. With one worker everything runs in the calling
    thread. Raises RuntimeError if the system provides no more threads.
    """
    if min(workers, count) <= 1:
        yield from map(function, range(count))
        return
    queue = _WorkQueue(function, count, 2 * workers)
    threads = [threading.Thread(target=queue.run_worker, daemon=True) for _ in range(min(workers, count))]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        for i in range(count):
            yield queue.take(i)
    finally:  # also reached when the caller stops iterating early
        queue.stop()
        for thread in started:
            thread.join()


class _WorkQueue(Generic[_T]):
    """State shared by the threads: the next number to compute, and the results that wait to be taken.

    `ahead` is the largest number of results that may wait.
    """

    def __init__(self, function: Callable[[int], _T], count: int, ahead: int) -> None:
        self._function, self._end, self._ahead = function, count, ahead
        self._next = self._taken = 0
        self._results: dict[int, tuple[BaseException | None, Any]] = {}
        self._changed = threading.Condition()

    def run_worker(self) -> None:
        """Compute one number after another until none is left. Runs in a worker thread."""
        while (i := self._next_index()) is not None:
            error, result = None, None
            try:
                result = self._function(i)
            except BaseException as raised:  # raised again in the thread that takes the result
                error = raised
            with self._changed:
                self._results[i] = error, result
                self._changed.notify_all()

    def _next_index(self) -> int | None:
        """The next number to compute, or None if none is left.

        Waits while too many results are not yet taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._next >= self._end or self._next < self._taken + self._ahead)
            if self._next >= self._end:
                return None
            self._next += 1
            return self._next - 1

    def take(self, i: int) -> _T:
        """The result of number `i`, as soon as it is ready. Results must be taken in order."""
        with self._changed:
            self._changed.wait_for(lambda: i in self._results)
            error, result = self._results.pop(i)
            self._taken = i + 1
            self._changed.notify_all()
        if error is not None:
            raise error
        taken: _T = result
        return taken

    def stop(self) -> None:
        """Let every thread end after its current number."""
        with self._changed:
            self._end = 0
            self._changed.notify_all()
