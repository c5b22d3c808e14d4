"""Copies pixels to the GPU and back, overlapping the copies with each other and with work in main memory.

The GPU accesses page-locked memory directly; all other memory needs a page-locked copy in between. The result
of a large picture is copied out of that in pieces, each as soon as it has arrived, and by several threads:
one core copies at a fifth of the speed of the bus.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from sr_deploy.engines.tensorrt.cuda import is_pinned
from sr_deploy.engines.tensorrt.lane import Lane
from sr_deploy.system.arrays import BatchArray
from sr_deploy.system.cores import usable_cores

_PIECE_BYTES = 4 << 20
"""Size of the pieces that a result is divided into, in bytes.

4 MiB take about 100 microseconds on the bus, while the overhead of a piece is a few microseconds.
"""
_THREADED_BYTES = 16 << 20
"""Copies of smaller results are not handed to threads."""
_MAX_THREADS = 4
"""Number of copying threads at most."""


class CopyThreads:
    """Threads that copy between arrays in main memory, started when they are first needed. Shared by all lanes."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, size: int, copy: Callable[[], None]) -> Future[None] | None:
        """Perform `copy`, part of a result of `size` bytes.

        Small copies are done at once and None is returned; others run in a thread, and their future is
        returned.
        """
        if size < _THREADED_BYTES:
            copy()
            return None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(_MAX_THREADS, usable_cores() or 1), "sr-deploy-copy")
        return self._pool.submit(copy)

    def close(self) -> None:
        """Wait for the copies that were submitted, and end the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()


def send(lane: Lane, batch: BatchArray, address: int) -> None:
    """Queue the copy of `batch` to the device address `address` on the lane's stream.

    An array that is not page-locked is first copied into the lane's page-locked buffer. A page-locked `batch`
    must not change until the run has finished.
    """
    source: Any = np.ascontiguousarray(batch)
    if not is_pinned(source):
        staged = lane.host_in.view(source.shape, source.dtype)
        np.copyto(staged, source)
        source = staged
    lane.loaded.gpu.cuda.memcpy_htod_async(address, source, lane.stream)


class PendingResult:
    """A result that is being copied to main memory. `finish` waits for it."""

    def __init__(self, lane: Lane, address: int, out: BatchArray, copy_threads: CopyThreads) -> None:
        """Queue the copies from the device address `address`.

        They go to `out` itself if it is page-locked, otherwise to the lane's page-locked buffer, piece by
        piece.
        """
        self._lane, self._out, self._copy_threads = lane, out, copy_threads
        self._direct = is_pinned(out)
        target = out if self._direct else lane.host_out.view(out.shape, out.dtype)
        self._flat: Any = target.reshape(-1).view(np.uint8)
        self._pieces = deque[tuple[int, int, Any]]()
        step = out.nbytes if self._direct else _PIECE_BYTES
        for start in range(0, out.nbytes, step):
            self._queue(address, start, min(start + step, out.nbytes))

    def _queue(self, address: int, start: int, stop: int) -> None:
        """Queue the copy of bytes `start` to `stop`, and an event that tells when it has arrived."""
        cuda = self._lane.loaded.gpu.cuda
        cuda.memcpy_dtoh_async(self._flat[start:stop], address + start, self._lane.stream)
        event = cuda.Event(cuda.event_flags.DISABLE_TIMING)
        event.record(self._lane.stream)
        self._pieces.append((start, stop, event))

    def finish(self) -> BatchArray:
        """Wait until the whole result is in `out`, and return it."""
        out: Any = self._out.reshape(-1).view(np.uint8)
        copies = []
        while self._pieces:
            start, stop, event = self._pieces.popleft()
            event.synchronize()
            if not self._direct:
                copies.append(self._copy(out[start:stop], self._flat[start:stop]))
        for copy in copies:
            if copy is not None:
                copy.result()
        return self._out

    def _copy(self, target: Any, source: Any) -> Future[None] | None:
        """Copy one piece from the page-locked buffer into the result, perhaps in a thread."""
        return self._copy_threads.submit(self._out.nbytes, lambda: np.copyto(target, source))
