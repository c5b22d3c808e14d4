"""Keeps compiled engines in the user's cache folder, under a key made of everything they depend on.

- An engine is machine code, so engines are loaded from the folder only if nobody but the user can write to
  it.
- Of two processes that want the same engine, one builds it and the other waits.
- Files are written completely or not at all, and only files that this module wrote are ever deleted.
- A folder that cannot be written to costs a build at every start, but never a result.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sr_deploy.engines.tensorrt.sidecar import BuildMachine, EngineSidecar, digest, read_engine, sidecar_path
from sr_deploy.errors import ModelError, OutputError
from sr_deploy.graph.cache import cache_folder
from sr_deploy.system.files import read_bounded, try_lock, unlock, write_whole
from sr_deploy.system.json_values import LARGEST_JSON
from sr_deploy.system.own_files import distrust_reason, make_private_folder, open_own, read_own

SUFFIX = ".engine"
"""Suffix of engine files in the cache."""
_KEY = r"[0-9a-f]{32}"
"""A key in a file name: the first 32 hex digits of a SHA-256 (see `sidecar.engine_key`)."""
_CACHE_FILE = re.compile(
    rf"{_KEY}\.(engine|engine\.json|lock)|(timings|kernels)-[0-9a-f]{{16}}\.(cache|lock)"
)
"""Names of all files that this module writes; nothing else in the folder is touched."""
_TEMPORARY_FILE = re.compile(r"\.(?:" + _CACHE_FILE.pattern + r")\.[0-9a-f]{8}\.tmp")
"""Names that `write_whole` gives to files it has not finished yet."""
_ENGINE_FILE = re.compile(rf"({_KEY})\.engine")
"""Name of an engine file; the group is its key."""
_DAY_SECONDS = 24 * 60 * 60
"""Seconds in a day. A temporary file older than a day belongs to a process that was killed."""
_LARGEST_FILE = 1 << 30
"""Largest file of timings or kernels that is read, in bytes; they have some megabytes."""
_POLL_SECONDS = 0.2
"""Interval between two attempts to get a lock."""


def engine_folder() -> Path | None:
    """Return the folder of the engine cache, or None if caching is turned off.

    It lies beside the folder of prepared graphs, so `SR_DEPLOY_CACHE` moves both or, set to nothing, turns
    both off.
    """
    graphs = cache_folder()
    return None if graphs is None else graphs.parent / "engines"


@dataclass(frozen=True, kw_only=True)
class CachedEngine:
    """An engine in the cache, as listed by `EngineCache.entries`."""

    key: str
    """The key it is found by, 32 hex digits."""
    path: Path
    """The engine file; its sidecar lies beside it."""
    size: int
    """Size of the engine file in bytes."""
    used: float
    """Time of the last load, in seconds since 1970."""
    record: EngineSidecar | None
    """Content of the sidecar; None if it is missing or damaged, which makes the engine unusable."""


class EngineCache:
    """The engines in one folder.

    May be used by several threads and processes at once. Failures to read or write never raise, except where
    a method says so; those that cost a build are reported through `say`, one line each.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] | None = None) -> None:
        self.folder = folder
        self._say = say or (lambda message: None)

    @classmethod
    def of_user(
        cls, folder: Path | None = None, say: Callable[[str], None] | None = None
    ) -> EngineCache | None:
        """Open the cache in `folder`, or the user's own.

        Returns None if caching is turned off, or if others may write to the folder; the latter is reported
        through `say`.
        """
        folder = folder or engine_folder()
        if folder is None:
            return None
        if reason := distrust_reason(folder):
            (say or (lambda message: None))(
                f"not using the engine cache {folder}: {reason}, and an engine is code; remove other users' write access"
            )
            return None
        return cls(folder, say)

    def path(self, key: str) -> Path:
        """Return the path that the engine of `key` has in the cache; the file need not exist."""
        return self.folder / f"{key}{SUFFIX}"

    def find(self, key: str) -> tuple[bytes, EngineSidecar] | None:
        """Return the engine of `key` and its record, or None if it is missing or damaged.

        A damaged engine is reported. Finding an engine marks it as used now.
        """
        path = self.path(key)
        if not path.exists():
            return None
        try:
            for file in (path, sidecar_path(path)):
                _require_own(file)
            found = read_engine(path)
        except ModelError as error:
            self._say(f"{error}; it is built again now")
            return None
        # the modification time marks the last use, because access times are often turned off
        with suppress(OSError):
            os.utime(path)
        return found

    def store(self, key: str, plan: bytes, record: EngineSidecar) -> bool:
        """Store an engine. Returns whether it was stored; failures are reported, not raised.

        The sidecar is written last: an engine without one is never used, so a process that dies in between
        does no harm.
        """
        path = self.path(key)
        try:
            self.make_folder()
            write_whole(path, plan)
            write_whole(sidecar_path(path), record.to_json().encode("utf-8"))
        except OSError as error:
            for file in (path, sidecar_path(path)):
                with suppress(OSError):
                    file.unlink()
            self._say(
                f"the engine cannot be stored in {self.folder} ({error.strerror or error}); it will be built again next time"
            )
            return False
        return True

    def make_folder(self) -> None:
        """Create the folder if needed, readable and writable by its owner only. Raises OSError."""
        make_private_folder(self.folder)

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the lock of `key` among all threads and processes of this machine.

        Waits until the lock is free. If the folder cannot be written to, there is no lock and the body runs
        at once: the worst that can happen is a second build. The system drops the lock when the process dies.

        The lock is an empty file, and it stays. Deleting it would break the lock: a process that had opened
        the old file and one that creates a new file would both believe they hold it.
        """
        try:
            self.make_folder()
            file = (self.folder / f"{key}.lock").open("ab")
        except OSError:
            yield
            return
        with file:
            self._wait_for(file)
            try:
                yield
            finally:
                with suppress(OSError):
                    unlock(file.fileno())

    def _wait_for(self, file: IO[bytes]) -> None:
        reported = False
        while not _try_lock(file):
            if not reported:
                self._say("another process is building this engine; waiting for it")
                reported = True
            time.sleep(_POLL_SECONDS)

    def timings(self, machine: BuildMachine) -> bytes:
        """Return the kernel timings of earlier builds on `machine`, or no bytes if there are none."""
        with suppress(OSError):
            return read_own(self._timings_path(machine), _LARGEST_FILE)
        return b""

    def store_timings(self, machine: BuildMachine, data: bytes) -> None:
        """Store the kernel timings of a build for the next one; failures are ignored.

        Timings only accumulate, so when two builds end at the same time, the larger file is kept.
        """
        path = self._timings_path(machine)
        with suppress(OSError), self.locked(path.stem):
            if data and (not path.exists() or path.stat().st_size <= len(data)):
                write_whole(path, data)

    def _timings_path(self, machine: BuildMachine) -> Path:
        """Return the timings file of `machine`: timings depend on TensorRT, GPU and driver."""
        parts = (machine.tensorrt, machine.gpu, *map(str, machine.capability), machine.driver)
        return self.folder / f"timings-{digest('|'.join(parts).encode('utf-8'))[:16]}.cache"

    def kernels(self, plan_sha256: str, machine: BuildMachine) -> bytes:
        """Return the kernels that TensorRT for RTX compiled on `machine` for an engine; no bytes if there are none."""
        with suppress(OSError):
            return read_own(self._kernels_path(plan_sha256, machine), _LARGEST_FILE)
        return b""

    def store_kernels(self, plan_sha256: str, machine: BuildMachine, data: bytes) -> None:
        """Store compiled kernels for the next start; failures are ignored. They only accumulate, as timings do."""
        path = self._kernels_path(plan_sha256, machine)
        with suppress(OSError), self.locked(path.stem):
            if not path.exists() or path.stat().st_size < len(data):
                write_whole(path, data)

    def _kernels_path(self, plan_sha256: str, machine: BuildMachine) -> Path:
        """Return the file of the kernels of one engine on `machine`."""
        parts = (plan_sha256, machine.tensorrt, machine.gpu, *map(str, machine.capability), machine.driver)
        return self.folder / f"kernels-{digest('|'.join(parts).encode('utf-8'))[:16]}.cache"

    def entries(self) -> list[CachedEngine]:
        """Return all engines in the cache, the last used first; an unreadable folder counts as empty."""
        found = []
        with suppress(OSError):
            for path in sorted(self.folder.iterdir()):
                if match := _ENGINE_FILE.fullmatch(path.name):
                    with suppress(OSError):
                        found.append(_read_entry(match[1], path))
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def prune(self, *, days: float | None = None, most_bytes: int | None = None) -> list[CachedEngine]:
        """Delete engines and return them.

        Deletes those not used for `days`, the least recently used beyond `most_bytes` in all, and every
        unusable one. With neither limit, deletes all engines and the timings too. Leftovers of builds that
        were killed are always deleted. Locks, foreign files and the folder itself stay.

        Raises OutputError if an engine cannot be deleted.
        """
        now, total, deleted = time.time(), 0, []
        for entry in self.entries():
            total += entry.size
            old = days is not None and now - entry.used > days * _DAY_SECONDS
            beyond = most_bytes is not None and total > most_bytes
            if (days is None and most_bytes is None) or old or beyond or entry.record is None:
                self._delete(entry.path)
                deleted.append(entry)
        self._delete_leftovers(now, everything=days is None and most_bytes is None)
        return deleted

    def _delete(self, path: Path) -> None:
        """Delete one engine and its sidecar under its lock, so that no build of it is disturbed."""
        with self.locked(path.name.removesuffix(SUFFIX)):
            for each in (path, sidecar_path(path)):
                try:
                    each.unlink(missing_ok=True)
                except OSError as error:
                    raise OutputError(
                        f"cannot delete {each} ({error.strerror or error}); check the permissions of {self.folder}"
                    ) from error

    def _delete_leftovers(self, now: float, *, everything: bool) -> None:
        """Delete old temporary files and sidecars without an engine; timings and kernels too if `everything`."""
        with suppress(OSError):
            for path in list(self.folder.iterdir()):
                if _is_leftover(path, now) or (
                    everything
                    and path.name.startswith(("timings-", "kernels-"))
                    and _CACHE_FILE.fullmatch(path.name)
                ):
                    with suppress(OSError):
                        path.unlink()


def _is_leftover(path: Path, now: float) -> bool:
    """Return whether `path` is an old temporary file, or a sidecar whose engine is gone."""
    if _TEMPORARY_FILE.fullmatch(path.name):
        return now - path.stat().st_mtime > _DAY_SECONDS
    return (
        bool(_CACHE_FILE.fullmatch(path.name))
        and path.name.endswith(".json")
        and not path.with_suffix("").exists()
    )


def _read_entry(key: str, path: Path) -> CachedEngine:
    """Describe the engine file `path`. A sidecar that states another size counts as missing."""
    status = path.stat()
    record = None
    with suppress(OSError, ValueError, ModelError):
        record = EngineSidecar.from_json(read_bounded(sidecar_path(path), LARGEST_JSON).decode("utf-8"))
        record = record if record.plan_size == status.st_size else None
    return CachedEngine(key=key, path=path, size=status.st_size, used=status.st_mtime, record=record)


def _require_own(path: Path) -> None:
    """Raise ModelError if the file `path` exists and is a link, a special file, or another user's."""
    try:
        os.close(open_own(path))
    except FileNotFoundError:  # reading it says what is missing
        return
    except OSError as error:
        raise ModelError(f"the engine {path} is not used ({error.strerror or error})") from error


def _try_lock(file: IO[bytes]) -> bool:
    """Try to lock `file` without waiting, and return whether that succeeded."""
    try:
        return try_lock(file.fileno())
    except OSError:  # a file system without locks: a second build costs time, but does no harm
        return True
