"""The open models behind the handles of the C library, by number. Knows no statuses and no pictures."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from sr_deploy.errors import SrDeployError
from sr_deploy.upscale import Upscaler

_LOADER_STACK_BYTES = 16 << 20
"""Bytes of stack that loading a runtime gets: OpenVINO's GPU plugin alone wants more than some programs' threads have."""

_open: dict[int, Handle] = {}
_handle_numbers = itertools.count(1)  # never used twice, so a handle that was closed is known as such
_start_lock = threading.Lock()


class ClosedError(SrDeployError):
    """A handle that was closed, or that never was one."""

    def __init__(self) -> None:
        super().__init__(
            "this handle was closed, or never came from sr_open; open a model and use its handle"
        )


class Handle:
    """What is behind a handle. Closing it waits for nobody: the last call that still computes closes the engine."""

    def __init__(self, upscaler: Upscaler, stream: int | None) -> None:
        self._upscaler, self.stream = upscaler, stream
        self._lock = threading.Lock()
        self._users, self._closed = 0, False

    def __enter__(self) -> Upscaler:
        with self._lock:
            if self._closed:
                raise ClosedError
            self._users += 1
        return self._upscaler

    def __exit__(self, *error: object) -> None:
        self._leave(closing=False)

    def close(self) -> None:
        """Let nobody begin any more."""
        self._leave(closing=True)

    def _leave(self, *, closing: bool) -> None:
        with self._lock:
            self._users -= not closing
            self._closed = self._closed or closing
            last = self._closed and not self._users
        if last:
            self._upscaler.close()


def open_handle(make: Callable[[], Upscaler], stream: int | None) -> int:
    """The number of a new handle for what `make` opens, in a thread with a large stack, whatever the caller's has."""
    made: list[Upscaler] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            made.append(make())
        except BaseException as error:
            errors.append(error)

    with _start_lock:  # the size is one for all threads that Python starts
        before = threading.stack_size(_LOADER_STACK_BYTES)
        try:
            thread = threading.Thread(target=work)
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise errors.pop()
    number = next(_handle_numbers)
    _open[number] = Handle(made.pop(), stream)
    return number


def handle_of(number: int) -> Handle:
    """The handle of a number. Raises ClosedError."""
    try:
        return _open[number]
    except KeyError:
        raise ClosedError from None


def close_handle(number: int) -> None:
    """Close the handle of a number; what other threads compute with it ends well. Raises ClosedError."""
    if (handle := _open.pop(number, None)) is None:
        raise ClosedError
    handle.close()
