"""What was made from what, kept on disk, so that work that was cut off goes on and two processes share it.

A `Claim` is one small file: locked by the process that works on what it stands for, and holding the record of
it once it is done. The system drops the lock with the process, however that ends. What is worth recording is
the caller's to know.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from sr_deploy.errors import OutputError
from sr_deploy.system.files import try_lock, unlock, write_whole

_BLOCK = 1 << 20


class NoLocksError(OutputError):
    """A place whose file system has no locks."""


class Claim:
    """The sole right to work on something, and the record of it. Held until `release`, or the process ends."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self.path = descriptor, path

    @classmethod
    def take(cls, path: Path) -> Claim | None:
        """Claim `path`, making it and its folders; None where another holds it.

        Raises OutputError where no such file can be made, NoLocksError where the place has no locks.
        """
        while True:
            descriptor = _open_for_lock(path)
            try:
                locked = try_lock(descriptor)
            except OSError as error:
                os.close(descriptor)
                raise NoLocksError(
                    f"the file system of {path.parent} has no locks ({error.strerror})"
                ) from error
            if locked and _is_same_file(descriptor, path):
                return cls(descriptor, path)
            os.close(descriptor)
            if not locked:
                return None

    def record(self) -> dict[str, Any] | None:
        """What was recorded last; None where nothing was, or not whole."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        data = b""
        while block := os.read(self._descriptor, _BLOCK):
            data += block
        return _json_object(data)

    def write(self, record: Mapping[str, Any]) -> None:
        """Put `record` in place of the one before."""
        data = json.dumps(record, sort_keys=True).encode("utf-8")
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, data)

    def release(self) -> None:
        """Let others have it. Releasing it again does nothing."""
        if self._descriptor >= 0:
            with suppress(OSError):
                unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Let others have it as if it had never been claimed: without a record, and without the file."""
        if self._descriptor < 0:
            return
        if os.name == "nt":
            self.release()  # an open file cannot be removed there
        with suppress(OSError):
            self.path.unlink()
        self.release()

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def read_record(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None where there is none that is whole."""
    try:
        return _json_object(path.read_bytes())
    except OSError:
        return None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write `record` to `path`, whole or not at all, and see it to the disk."""
    write_whole(path, json.dumps(record, sort_keys=True).encode("utf-8"), synced=True)


def stamp_of(path: Path) -> list[int]:
    """[bytes, nanoseconds of the last change] of a file: what tells cheaply that it is still the same."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _open_for_lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise OutputError(
            f"cannot keep {path} ({error.strerror}); choose a place you may write to"
        ) from error


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Whether `path` is still the file that was opened; whoever had it before may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _json_object(data: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(data)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
