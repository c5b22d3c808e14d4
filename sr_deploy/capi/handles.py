"""Table of open models behind the handles of the C library."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from sr_deploy.errors import SrDeployError
from sr_deploy.upscale import Upscaler

_LOADER_STACK_BYTES = 16 << 20
"""Stack size of the thread that loads a model. OpenVINO's GPU plugin alone needs more than the threads of
some programs have."""

_open: dict[int, Handle] = {}
# Numbers are never reused, so a closed handle is recognised. 0 is left out: it would be NULL in C.
_handle_numbers = itertools.count(1)
_start_lock = threading.Lock()


class ClosedError(SrDeployError):
    """Error for a handle that was closed or never existed."""

    def __init__(self) -> None:
        super().__init__(
            "this handle was closed, or never came from sr_open; open a model and use its handle"
        )


class Handle:
    """An open model. As a context manager, it gives the Upscaler and counts its users.

    Closing does not wait: the last call that still computes closes the engine. Thread safe.
    """

    def __init__(self, upscaler: Upscaler, stream: int | None) -> None:
        self._upscaler, self.stream = upscaler, stream
        self._lock = threading.Lock()
        self._users, self._closed = 0, False

    def __enter__(self) -> Upscaler:
        """Count a user and return the Upscaler. Raises ClosedError."""
        with self._lock:
            if self._closed:
                raise ClosedError
            self._users += 1
        return self._upscaler

    def __exit__(self, *error: object) -> None:
        """Uncount a user; close the engine if it was the last user of a closed handle."""
        self._leave(closing=False)

    def close(self) -> None:
        """Refuse further users."""
        self._leave(closing=True)

    def _leave(self, *, closing: bool) -> None:
        """End a use, or close the handle; the engine is closed outside the lock, since that may take long."""
        with self._lock:
            self._users -= not closing
            self._closed = self._closed or closing
            last = self._closed and not self._users
        if last:
            self._upscaler.close()


def open_handle(make: Callable[[], Upscaler], stream: int | None) -> int:
    """Open a model with `make` and return the number of its handle.

    `make` runs in a thread with a large stack, whatever stack the caller has. Its error is raised here.
    `stream` is a CUDA stream or None.
    """
    made: list[Upscaler] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            made.append(make())
        except BaseException as error:
            errors.append(error)

    with _start_lock:  # Python has one stack size for all threads that it starts
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
    """Return the handle with a number. Raises ClosedError."""
    try:
        return _open[number]
    except KeyError:
        raise ClosedError from None


def close_handle(number: int) -> None:
    """Close the handle with a number. Calls that other threads have begun end normally. Raises ClosedError."""
    if (handle := _open.pop(number, None)) is None:
        raise ClosedError
    handle.close()
