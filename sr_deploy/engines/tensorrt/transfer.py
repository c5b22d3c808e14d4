"""Pixels to the GPU and back, overlapped with each other and with copying in main memory.

A GPU reads and writes page-locked memory by itself, and everything else through a page-locked copy. The result of
a large picture is copied out of that in pieces, each as soon as it has come, by a few threads: one core moves a
fifth of what the bus does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from sr_deploy.engines.base import Batch
from sr_deploy.engines.tensorrt.cuda import is_pinned
from sr_deploy.engines.tensorrt.lane import Lane
from sr_deploy.system.cores import usable_cores

_PIECE_BYTES = 4 << 20
"""Bytes: some 100 microseconds on the bus, against a few for each piece."""
_THREADED_BYTES = 16 << 20
_MAX_THREADS = 4


class CopyThreads:
    """Threads that copy between arrays in main memory, started when they are first worth it."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, size: int, copy: Callable[[], None]) -> Future[None] | None:
        """Do `copy`, part of a job of `size` bytes: at once and return None, or in a thread."""
        if size < _THREADED_BYTES:
            copy()
            return None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(_MAX_THREADS, usable_cores() or 1), "sr-deploy-copy")
        return self._pool.submit(copy)

    def close(self) -> None:
        """End the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()


def send(lane: Lane, batch: Batch, address: int) -> None:
    """Queue the copy of `batch` to device memory. `batch` may change once `fetch` has returned, not before."""
    source: Any = np.ascontiguousarray(batch)
    if not is_pinned(source):
        staged = lane.host_in.view(source.shape, source.dtype)
        np.copyto(staged, source)
        source = staged
    lane.loaded.gpu.cuda.memcpy_htod_async(address, source, lane.stream)


class PendingResult:
    """A result on its way to main memory. `finish` waits for it and puts it into its array."""

    def __init__(self, lane: Lane, address: int, out: Batch, copy_threads: CopyThreads) -> None:
        """Queue the copies from device memory `address` into `out`, or into what is between."""
        self._lane, self._out, self._copy_threads = lane, out, copy_threads
        self._direct = is_pinned(out)
        target = out if self._direct else lane.host_out.view(out.shape, out.dtype)
        self._flat: Any = target.reshape(-1).view(np.uint8)
        self._pieces = deque[tuple[int, int, Any]]()
        step = out.nbytes if self._direct else _PIECE_BYTES
        for start in range(0, out.nbytes, step):
            self._queue(address, start, min(start + step, out.nbytes))

    def _queue(self, address: int, start: int, stop: int) -> None:
        cuda = self._lane.loaded.gpu.cuda
        cuda.memcpy_dtoh_async(self._flat[start:stop], address + start, self._lane.stream)
        event = cuda.Event(cuda.event_flags.DISABLE_TIMING)
        event.record(self._lane.stream)
        self._pieces.append((start, stop, event))

    def finish(self) -> Batch:
        """The array, whole."""
        out: Any = self._out.reshape(-1).view(np.uint8)
        jobs = []
        while self._pieces:
            start, stop, event = self._pieces.popleft()
            event.synchronize()
            if not self._direct:
                jobs.append(self._copy(out[start:stop], self._flat[start:stop]))
        for job in jobs:
            if job is not None:
                job.result()
        return self._out

    def _copy(self, target: Any, source: Any) -> Future[None] | None:
        return self._copy_threads.submit(self._out.nbytes, lambda: np.copyto(target, source))
