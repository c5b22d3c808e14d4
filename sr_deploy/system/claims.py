"""Claims: lock files by which one process owns a piece of work, and which hold a record of the finished work.

Records let an interrupted run continue, and claims let several processes share the work. The operating
system releases a lock when its process ends, in whatever way. The caller decides what to record.
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
from sr_deploy.system.files import sync, try_lock, unlock, write_whole
from sr_deploy.system.own_files import NotOwnError, open_own, read_all, read_own

_COMPACTED = 16 << 10
"""Bytes of a claim's file beyond which the next record replaces the earlier ones."""
_LINES = 16
"""Most lines, from the end, in which a complete record is looked for."""
_LARGEST_RECORD = 4 << 20
"""Largest record in bytes that is read. Ours have some hundred bytes; those of a part of a video some thousand."""


class NoLocksError(OutputError):
    """The claim's folder is on a file system without locks, for example some network file systems.

    The message gives no advice; the caller adds it.
    """


class UntrustedRecordError(OutputError):
    """The claim's file or its folder is a link, is not a regular file, or belongs to another user."""


class Claim:
    """Sole ownership of a piece of work, and the record of it.

    It lasts until `release` or the end of the process. Use it from one thread.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self.path = descriptor, path

    @classmethod
    def take(cls, path: Path) -> Claim | None:
        """Claim the file `path`, creating it and its folders. Returns None if another owner holds it.

        Raises OutputError if the file cannot be created, NoLocksError if the file system has no locks,
        UntrustedRecordError if the file is not one of our own.
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
            # if it was locked, the previous owner had deleted the file before that: try again
            if not locked:
                return None

    def record(self) -> dict[str, Any] | None:
        """The record that was written last, or None if there is none or it is incomplete."""
        try:
            data = read_all(self._descriptor, _LARGEST_RECORD)
        except OSError:
            return None
        return _json_object(data)

    def is_damaged(self) -> bool:
        """True if what was written last is incomplete, as after a power loss: `record` may return an earlier one."""
        try:
            data = read_all(self._descriptor, _LARGEST_RECORD)
        except OSError:
            return True
        return data.endswith(b"\0") or _json_object(data.rsplit(b"\n", 1)[-1]) is None

    def write(self, record: Mapping[str, Any], *, synced: bool = False) -> None:
        """Write a record, which counts instead of the earlier ones. Values must be JSON values. Raises OSError.

        The file is changed in place, because replacing it would lose the lock. The record is added as a line, so
        if the process is interrupted here, the one before it is still there. `synced` flushes it to the disk.
        """
        data = b"\n" + json.dumps(record, sort_keys=True).encode("utf-8")
        if os.fstat(self._descriptor).st_size > _COMPACTED:
            os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        os.write(self._descriptor, data)
        if synced:
            sync(self._descriptor)

    def release(self) -> None:
        """Release the claim and keep the record. Further calls do nothing."""
        if self._descriptor >= 0:
            with suppress(OSError):
                unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Release the claim and delete its file with the record."""
        if self._descriptor < 0:
            return
        if os.name == "nt":
            self.release()  # Windows does not delete open files
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
    """The JSON object in the file `path`, or None if there is none, it is incomplete, or it is not our own file."""
    try:
        return _json_object(read_own(path, _LARGEST_RECORD))
    except OSError:
        return None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write `record` to `path`, completely or not at all, and flush it to the disk. Raises OSError."""
    write_whole(path, json.dumps(record, sort_keys=True).encode("utf-8"), synced=True)


def stamp_of(path: Path) -> list[int]:
    """[size in bytes, time of the last change in nanoseconds] of a file.

    Comparing stamps is a cheap test of whether a file is still the same. Raises OSError.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _open_for_lock(path: Path) -> int:
    """A descriptor of the file `path`, which is created if necessary. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open_own(path, create=True)
    except NotOwnError as error:
        raise UntrustedRecordError(
            f"{path} is not used as a record: {error.strerror}; delete it if you do not need it"
        ) from error
    except OSError as error:
        raise OutputError(
            f"cannot keep {path} ({error.strerror}); choose a folder that you may write to"
        ) from error


def _is_same_file(descriptor: int, path: Path) -> bool:
    """True if `path` is still the file that was opened. A previous owner may have deleted it since then."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _json_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in the last line of `data` that is a complete one, or None."""
    # a power loss may leave zeros in the place of what was written last
    for line in reversed(data.rstrip(b"\0").rsplit(b"\n", _LINES)):
        with suppress(ValueError, RecursionError):  # the latter if lists are nested too deep
            record = json.loads(line)
            if isinstance(record, dict):
                return record
    return None
