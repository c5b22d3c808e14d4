"""A function of 0, 1, 2, ... computed by several threads, its results in order.

`concurrent.futures` would do, but for its import: that takes a tenth of the time a small picture is upscaled in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


def in_order(function: Callable[[int], _T], count: int, workers: int) -> Iterator[_T]:
    """function(0) to function(count - 1) from `workers` threads; no more than two each are kept waiting.

    An error of `function` is raised in its place, and ends it. With one worker all is done in this thread.
    Raises RuntimeError where the system gives no more threads.
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
    finally:
        queue.stop()
        for thread in started:
            thread.join()


class _WorkQueue(Generic[_T]):
    """What the threads share: which number is next, and the results that nobody took yet."""

    def __init__(self, function: Callable[[int], _T], count: int, ahead: int) -> None:
        self._function, self._end, self._ahead = function, count, ahead
        self._next = self._taken = 0
        self._results: dict[int, tuple[BaseException | None, Any]] = {}
        self._changed = threading.Condition()

    def run_worker(self) -> None:
        """Compute one number after the other, until there are none."""
        while (i := self._next_index()) is not None:
            error, result = None, None
            try:
                result = self._function(i)
            except BaseException as raised:  # it belongs to whoever takes the result
                error = raised
            with self._changed:
                self._results[i] = error, result
                self._changed.notify_all()

    def _next_index(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._next >= self._end or self._next < self._taken + self._ahead)
            if self._next >= self._end:
                return None
            self._next += 1
            return self._next - 1

    def take(self, i: int) -> _T:
        """The result of number `i`, once it is there; they are taken in order."""
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
        """Let the threads end after what they are at."""
        with self._changed:
            self._end = 0
            self._changed.notify_all()
