"""Compiled engines, kept in the user's cache folder: found by everything that they depend on, written whole.

An engine is machine code, so it is only loaded from here if nobody but the user can write here. Two processes that
want the same engine do not both build it: one waits for the other. Nothing but what this module wrote is deleted.
A folder that cannot be written to costs a build at every start, never a result.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sr_deploy.engines.tensorrt.sidecar import BuildMachine, EngineRecord, digest, read_engine, record_path
from sr_deploy.errors import ModelError, OutputError
from sr_deploy.graph.cache import cache_folder
from sr_deploy.system.files import try_lock, unlock, write_whole

SUFFIX = ".engine"
_KEY = r"[0-9a-f]{32}"
_CACHE_FILE = re.compile(rf"{_KEY}\.(engine|engine\.json|lock)|timings-[0-9a-f]{{16}}\.(cache|lock)")
_TEMPORARY_FILE = re.compile(r"\.(?:" + _CACHE_FILE.pattern + r")\.[0-9a-f]{8}\.tmp")
_ENGINE_FILE = re.compile(rf"({_KEY})\.engine")
_DAY_SECONDS = 24 * 60 * 60
_POLL_SECONDS = 0.2


def engine_folder() -> Path | None:
    """Where engines are kept: beside the prepared graphs, `SR_DEPLOY_CACHE` included; None: nowhere."""
    graphs = cache_folder()
    return None if graphs is None else graphs.parent / "engines"


@dataclass(frozen=True, kw_only=True)
class CachedEngine:
    """One engine in the cache."""

    key: str
    path: Path
    size: int
    """Bytes, of the engine."""
    used: float
    """When it was last loaded, in seconds since 1970."""
    record: EngineRecord | None
    """None where it is missing or damaged, and the engine of no use."""


class EngineCache:
    """The engines in `folder`. Serves several threads and processes."""

    def __init__(self, folder: Path, say: Callable[[str], None] | None = None) -> None:
        self.folder = folder
        self._say = say or (lambda message: None)

    @classmethod
    def of_user(
        cls, folder: Path | None = None, say: Callable[[str], None] | None = None
    ) -> EngineCache | None:
        """The cache in `folder`, else the user's own; None where it is turned off, or others may write to it."""
        folder = folder or engine_folder()
        if folder is None:
            return None
        if reason := distrust_reason(folder):
            (say or (lambda message: None))(
                f"not using the engine cache {folder}: {reason}, and an engine is code; make it yours alone"
            )
            return None
        return cls(folder, say)

    def path(self, key: str) -> Path:
        """Where the engine of `key` lies, if it does."""
        return self.folder / f"{key}{SUFFIX}"

    def find(self, key: str) -> tuple[bytes, EngineRecord] | None:
        """The engine of `key` and its record; None where they are not there, or not what was written."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            found = read_engine(path)
        except ModelError as error:
            self._say(f"{error}; it is built anew")
            return None
        with suppress(OSError):  # when it was last used: access times are often turned off
            os.utime(path)
        return found

    def store(self, key: str, plan: bytes, record: EngineRecord) -> bool:
        """Keep an engine; whether that went well. What goes wrong is reported, not raised."""
        path = self.path(key)
        try:
            self.make_folder()
            write_whole(path, plan)
            write_whole(record_path(path), record.to_json().encode("utf-8"))
        except OSError as error:
            for left in (path, record_path(path)):
                with suppress(OSError):
                    left.unlink()
            self._say(
                f"the engine is not kept in {self.folder} ({error.strerror or error}); it will be built again"
            )
            return False
        return True

    def make_folder(self) -> None:
        """Make the folder, readable and writable by its owner alone. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Alone with `key`, among all processes on this machine; at once where the folder cannot be written to.

        The lock is an empty file, and it stays: who deleted it would let two in that opened it before and after.
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
        """What earlier builds on this machine timed; empty where there is nothing."""
        with suppress(OSError):
            return self._timings_path(machine).read_bytes()
        return b""

    def store_timings(self, machine: BuildMachine, data: bytes) -> None:
        """Keep what a build timed, for the next one; the larger file wins where two builds end at once."""
        path = self._timings_path(machine)
        with suppress(OSError), self.locked(path.stem):
            if data and (not path.exists() or path.stat().st_size <= len(data)):
                write_whole(path, data)

    def _timings_path(self, machine: BuildMachine) -> Path:
        parts = (machine.tensorrt, machine.gpu, *map(str, machine.capability), machine.driver)
        return self.folder / f"timings-{digest('|'.join(parts).encode('utf-8'))[:16]}.cache"

    def entries(self) -> list[CachedEngine]:
        """All engines, the last used first."""
        found = []
        with suppress(OSError):
            for path in sorted(self.folder.iterdir()):
                if match := _ENGINE_FILE.fullmatch(path.name):
                    with suppress(OSError):
                        found.append(_read_entry(match[1], path))
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def prune(self, *, days: float | None = None, most_bytes: int | None = None) -> list[CachedEngine]:
        """Delete engines not used for `days`, the least used beyond `most_bytes`, and what is of no use; they.

        Neither of the two: all engines. Raises OutputError where one cannot be deleted. Files that this module did not write stay, and so does the folder.
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
        with self.locked(path.name.removesuffix(SUFFIX)):
            for each in (path, record_path(path)):
                try:
                    each.unlink(missing_ok=True)
                except OSError as error:
                    raise OutputError(
                        f"cannot delete {each} ({error.strerror or error}); see who may write to {self.folder}"
                    ) from error

    def _delete_leftovers(self, now: float, *, everything: bool) -> None:
        """Drafts of builds that were killed, records without an engine; timings too, where all is to go."""
        with suppress(OSError):
            for path in list(self.folder.iterdir()):
                if _is_leftover(path, now) or (
                    everything and path.name.startswith("timings-") and _CACHE_FILE.fullmatch(path.name)
                ):
                    with suppress(OSError):
                        path.unlink()


def _is_leftover(path: Path, now: float) -> bool:
    if _TEMPORARY_FILE.fullmatch(path.name):
        return now - path.stat().st_mtime > _DAY_SECONDS
    return (
        bool(_CACHE_FILE.fullmatch(path.name))
        and path.name.endswith(".json")
        and not path.with_suffix("").exists()
    )


def _read_entry(key: str, path: Path) -> CachedEngine:
    status = path.stat()
    record = None
    with suppress(OSError, ValueError, ModelError):
        record = EngineRecord.from_json(record_path(path).read_text(encoding="utf-8"))
        record = record if record.plan_size == status.st_size else None
    return CachedEngine(key=key, path=path, size=status.st_size, used=status.st_mtime, record=record)


def distrust_reason(folder: Path) -> str | None:
    """Why an engine in `folder` is not to be run: others may have put it there. None where it is ours alone."""
    if sys.platform == "win32":  # folders under a user's profile are that user's
        return None
    try:
        status = folder.stat()
    except OSError:
        return None  # not there yet, or not to be read, in which case nothing is
    if status.st_uid not in (os.getuid(), 0):
        return "it belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write to it"
    return None


def _try_lock(file: IO[bytes]) -> bool:
    try:
        return try_lock(file.fileno())
    except OSError:  # a file system without locks: two builds cost time, and do no harm
        return True
