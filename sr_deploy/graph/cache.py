"""Keep prepared graphs of model files in the user's cache folder, for the next start.

An entry is found by the hash of the model file's bytes, of this package's version, and of the sources that
made the entry. So neither a changed file nor a changed program can find an old entry. Entries that nobody
used for 90 days are deleted, and the ones unused for longest if all together are too large.
`SR_DEPLOY_CACHE` names another folder; if it is empty, nothing is cached. A folder that others may write to
is not used, and of the files in it only the user's own (or root's). Nothing here raises: every
failure is a miss, which costs time and never a result.
"""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from sr_deploy.system.files import sha256_of, sources_digest, write_whole
from sr_deploy.system.own_files import distrust_reason, make_private_folder, read_own
from sr_deploy.version import __version__

LARGEST_MODEL = 64 << 20
"""Largest model file, in bytes, that is worth keeping a second time."""

_LARGEST_ENTRY = LARGEST_MODEL + 100
"""Largest file of an entry, in bytes: the data and its checksum."""
_PACKAGE = "sr_deploy.graph"
_MAKERS = (
    "rewrites/byte_ports",
    "rewrites/carried",
    "footprint",
    "foreign_ports",
    "cache",
    "convolution_types",
    "rewrites/depth_to_space",
    "rewrites/int8_form",
    "multiplications",
    "nodes",
    "old_resize",
    "onnx_file",
    "pixel_io",
    "planes",
    "runnable",
    "select_ports",
    "session",
    "rewrites/subpixel",
    "rewrites/weights_qdq",
)
"""The modules of this package. A change in any of them makes all entries invalid. A test checks that the
list is complete."""
_ENTRY = re.compile(
    r"[0-9a-f]{32}-(json|(uint8|float32)(-tensorrt)?\.(onnx|[0-9a-f]{16}\.openvino)|[0-9a-f]{16}\.fastest)"
)
"""Names of our entries: the key, then the kind. Only files with such names are ever deleted."""
_DRAFT = re.compile(r"\." + _ENTRY.pattern + r"\.[0-9a-f]{8}\.tmp")
"""Names of entries that are being written."""
_DAY = 24 * 60 * 60
_LONGEST_UNUSED = 90 * _DAY
"""Seconds after which an unused entry is deleted."""
_LARGEST_TOTAL = 256 << 20
"""Largest size of all entries together, in bytes."""


class UntrustedCacheWarning(UserWarning):
    """Warning that the cache is not used, because others may write to it."""


class CacheEntry:
    """The cached results of one model file. `kind` names a result; processes may share the folder."""

    def __init__(self, folder: Path, key: str, size: int) -> None:
        self.folder, self.key, self.size = folder, key, size

    @classmethod
    def of(cls, path: Path) -> CacheEntry | None:
        """Return the cache entry for `path`; None if caching is off or the file is unreadable or too large."""
        folder = trusted_cache_folder()
        try:
            if folder is None or path.stat().st_size > LARGEST_MODEL:
                return None
            data = path.read_bytes()
        except (OSError, ValueError):
            return None
        head = f"{__version__}|{_sources()}|{len(data)}|"
        return cls(folder, sha256_of(head.encode() + data)[:32], len(data))

    def read(self, kind: str) -> bytes | None:
        """Return the bytes kept as `kind`; None if there are none, or if their checksum is wrong."""
        path = self.folder / f"{self.key}-{kind}"
        try:
            digest, data = read_own(path, _LARGEST_ENTRY).split(b"\n", 1)
        except (OSError, ValueError):
            return None
        if sha256_of(data).encode() != digest:
            return None
        with suppress(OSError):  # the time of the last use, to the day; systems often turn access times off
            if time.time() - path.stat().st_mtime > _DAY:
                os.utime(path)
        return data

    def write(self, kind: str, data: bytes) -> None:
        """Keep `data` as `kind`, and delete old entries. Failures are ignored."""
        target = self.folder / f"{self.key}-{kind}"
        with suppress(OSError):  # a read-only or full cache must not stop a run
            make_private_folder(self.folder)
            write_whole(target, sha256_of(data).encode() + b"\n" + data)
        with suppress(OSError):
            _prune(self.folder)


def _sources() -> str:
    """Return the digest of the modules that make entries."""
    return sources_digest(_PACKAGE, _MAKERS)


def _prune(folder: Path) -> None:
    """Delete entries that were not used for long, then the ones unused for longest until the rest is small
    enough. Other files are not touched."""
    now, used = time.time(), list[tuple[float, int, str]]()
    with os.scandir(folder) as found:
        for entry in found:
            if not (_ENTRY.fullmatch(entry.name) or _DRAFT.fullmatch(entry.name)):
                continue
            with suppress(OSError):
                facts = entry.stat(follow_symlinks=False)
                # a draft older than a day was left by a program that was killed
                old = now - facts.st_mtime > (_DAY if entry.name.startswith(".") else _LONGEST_UNUSED)
                # 0.0 marks an entry that goes however small the total is
                used.append((0.0 if old else facts.st_mtime, facts.st_size, entry.path))
    total = 0  # bytes of the entries used last, newest first
    for when, size, path in sorted(used, reverse=True):
        total += size
        if not when or total > _LARGEST_TOTAL:
            with suppress(OSError):
                os.unlink(path)


@lru_cache(maxsize=8)
def _is_trusted(folder: Path) -> bool:
    """Return whether only the user can write to `folder`. If not, one warning says so."""
    reason = distrust_reason(folder)
    if reason is not None:
        warnings.warn(
            f"working without the cache {folder}: {reason}; remove other users' write access, or choose another "
            "folder with SR_DEPLOY_CACHE",
            UntrustedCacheWarning,
            stacklevel=2,
        )
    return reason is None


def trusted_cache_folder() -> Path | None:
    """Return the folder of the entries, or None if caching is off or others may write to the folder.

    Whoever can write there decides what our sessions compute, so the rule is that of engines, which are code. The
    folder is looked at once per process.
    """
    folder = cache_folder()
    return folder if folder is not None and _is_trusted(folder) else None


def folder_for_code(folder: Path) -> str | None:
    """Make `folder` for the user alone. Returns why files in it must not be run, or None if they may."""
    try:
        make_private_folder(folder)
    except OSError as error:
        return error.strerror or "it cannot be made"
    return distrust_reason(folder)


def cache_folder() -> Path | None:
    """Return the folder of the entries: in `SR_DEPLOY_CACHE`, else in the platform's cache folder. None if
    caching is off or there is no home folder."""
    chosen = os.environ.get("SR_DEPLOY_CACHE")
    if chosen is not None:
        return Path(chosen) / "graphs" if chosen else None
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "sr-deploy" / "graphs"
