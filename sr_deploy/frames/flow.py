"""Frames from a source through a computation into a sink, the three at once, with bounded queues between them.

Order is kept and memory bounded: at most `ahead` frames wait to be computed and `behind` to be written. A frame goes
out as soon as it and those before it are done, whether or not more come in. What a frame is, is nobody's business here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_Item = TypeVar("_Item")
_END = StopIteration()
"""The last item: nothing more comes."""
_POLL_SECONDS = 0.1
"""Seconds a full queue is waited for before looking whether anyone still reads it."""


def run_flow(
    source: Iterable[_In],
    compute: Callable[[_In], _Out],
    sink: Callable[[_Out], None],
    *,
    workers: int = 1,
    ahead: int = 2,
    behind: int = 2,
    shutdown_timeout: float | None = None,
) -> int:
    """Pass every item of `source` through `compute` into `sink`, in order; the number that came out.

    `workers` computations run at once, for an engine that is not kept busy by one.
    Once the work is in vain, source and sink are waited for `shutdown_timeout` seconds, for they may hang in a read or a write
    that someone else holds up; None: until they end, for those that do.
    An error of the source or of the computation is raised after what came before it is written; one of the sink at once.
    """
    incoming: _Channel[_In] = _Channel(ahead)
    outgoing: _Channel[Future[_Out]] = _Channel(behind + workers)
    pool = ThreadPoolExecutor(workers)
    written = 0

    def write() -> None:
        nonlocal written
        for future in outgoing:
            sink(future.result())
            written += 1

    threads = (_started(lambda: incoming.fill(source)), _started(write, outgoing, incoming))
    failed: Exception | None = None
    try:
        try:
            for item in incoming:
                outgoing.put(pool.submit(compute, item))
        except _ReaderGone:
            pass  # the writer's own error says why
        except Exception as error:
            failed = error  # what came before is still computed and written
        outgoing.finish()
        threads[1].join()
    finally:
        incoming.abandon()
        outgoing.abandon()
        pool.shutdown(cancel_futures=True)
        for thread in threads:
            thread.join(shutdown_timeout)
    if outgoing.error is not None:
        raise outgoing.error
    if failed is not None:
        raise failed
    return written


class _ReaderGone(Exception):  # noqa: N818 - no error: a signal between two threads
    """Nobody takes what is put."""


class _Channel(Generic[_Item]):
    """A bounded queue with an end, in which either side can be given up."""

    def __init__(self, size: int) -> None:
        self._queue: Queue[_Item | BaseException] = Queue(size)
        self._abandoned = threading.Event()
        self.error: BaseException | None = None
        """Of the thread that reads from it."""

    def put(self, item: _Item | BaseException) -> None:
        while not self._abandoned.is_set():
            with suppress(Full):
                self._queue.put(item, timeout=_POLL_SECONDS)
                return
        raise _ReaderGone

    def fill(self, source: Iterable[_Item]) -> None:
        with suppress(_ReaderGone):
            try:
                for item in source:
                    self.put(item)
            except _ReaderGone:
                raise
            except Exception as error:
                self.put(error)
            else:
                self.put(_END)

    def finish(self) -> None:
        with suppress(_ReaderGone):
            self.put(_END)

    def abandon(self) -> None:
        """Let the other side stop."""
        self._abandoned.set()

    def __iter__(self) -> Iterator[_Item]:
        while not self._abandoned.is_set():
            try:
                item = self._queue.get(timeout=_POLL_SECONDS)
            except Empty:
                continue
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item


def _started(work: Callable[[], None], *channels: _Channel[Any]) -> threading.Thread:
    """A thread that does `work`; an error of it is left in the first of `channels`, and all are given up."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            if not channels:
                raise
            channels[0].error = error
            for channel in channels:
                channel.abandon()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
