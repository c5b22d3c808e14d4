"""Pass frames from a source through a computation into a sink; the three run at once, with bounded queues
between.

Order is kept and memory is bounded: at most `ahead` frames wait to be computed and `behind` to be written.
A frame is written as soon as it and all frames before it are done, even if the source has no further frame
yet. This module does not look into frames.
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
"""Last item of a queue: nothing follows."""
_POLL_SECONDS = 0.1
"""Seconds to wait for a full or an empty queue before checking whether the other side is still there."""


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
    """Pass every item of `source` through `compute` into `sink`, in order. Returns the number of items
    written.

    `source` is read in one thread and `sink` is called in another; `compute` runs in `workers` threads, for
    engines that a single caller does not keep busy.

    After an error or an interruption, source and sink get `shutdown_timeout` seconds to end, since they may
    hang in a read or a write that another program blocks. None waits until they end.

    An error of the source or of the computation is raised after the items before it are written. An error
    of the sink is raised at once.
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
            pass  # the writer has failed; its own error is raised below
        except Exception as error:
            failed = error  # the items before it are still computed and written
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


class _ReaderGone(Exception):  # noqa: N818 - a signal between two threads, not an error
    """Signal: the other side no longer takes items."""


class _Channel(Generic[_Item]):
    """Bounded queue between two threads, with an end marker. Either side can abandon it."""

    def __init__(self, size: int) -> None:
        self._queue: Queue[_Item | BaseException] = Queue(size)
        self._abandoned = threading.Event()
        self.error: BaseException | None = None
        """Error of the thread that reads from the queue, if any."""

    def put(self, item: _Item | BaseException) -> None:
        """Add an item, waiting while the queue is full. Raises _ReaderGone once the queue is abandoned."""
        while not self._abandoned.is_set():
            with suppress(Full):
                self._queue.put(item, timeout=_POLL_SECONDS)
                return
        raise _ReaderGone

    def fill(self, source: Iterable[_Item]) -> None:
        """Put all items of `source` and the end marker. An error of the source is put as an item, so the
        reader raises it."""
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
        """Put the end marker, unless the queue is abandoned."""
        with suppress(_ReaderGone):
            self.put(_END)

    def abandon(self) -> None:
        """Make the other side stop at its next call."""
        self._abandoned.set()

    def __iter__(self) -> Iterator[_Item]:
        """Yield the items until the end marker or until the queue is abandoned. Raises an error that was
        put as an item."""
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
    """Start a daemon thread that does `work`.

    Its error is stored in the first of `channels`, and all of them are abandoned. The thread is a daemon so
    that a blocked read or write cannot keep the process alive.
    """

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
