"""Operations that the standard library lacks: reading and writing a file completely, digests, and file locks.

The functions raise OSError and no errors of sr-deploy, because only the caller knows what the file is
for and what to advise.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20  # bytes per read
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_LOCKED_BYTE = 1 << 30
"""Offset of the byte that is locked on Windows. It lies beyond the content, because a Windows lock
keeps others from reading the locked bytes.
"""
_SMALL = 1 << 20
"""Bytes up to which Python's own SHA-256 takes less time than loading OpenSSL, whose SHA-256 is four times as fast."""
_OWN_SHA256 = ("_sha2", "_sha256")
"""Modules with Python's own SHA-256: of 3.12 and later, and of earlier versions. Some builds lack them."""
# errors by which the various systems say that another process has the lock
_LOCK_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


def write_whole(path: Path, data: bytes, *, synced: bool = False) -> None:
    """Write `data` to `path`, completely or not at all. Raises OSError.

    The data goes to a temporary file in the same folder, which then replaces `path`. `synced` flushes
    it to the disk first, so that even a power failure leaves the old or the new content.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with draft.open("xb") as file:  # never through a link
            file.write(data)
            if synced:
                file.flush()
                sync(file.fileno())
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def read_bounded(path: Path, most: int) -> bytes:
    """Return the content of a regular file. Raises OSError, also if it has more than `most` bytes or is a pipe."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        data = file.read(most + 1) if status.st_size <= most else b""
    if status.st_size > most or len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than the {most:,} bytes that are read", str(path))
    return data


def sync(descriptor: int) -> None:
    """Flush the content and the size of an open file to the disk. Raises OSError."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file that was written by its name to the disk. Failures are ignored: some file systems cannot do it."""
    with suppress(OSError), open(path, "rb+") as file:
        sync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, where the system can do that. Failures are ignored."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(size: int) -> Any:
    """Return a new SHA-256 for about `size` bytes of data, with the methods of `hashlib.sha256()`.

    For little data it is Python's own, because importing `hashlib` loads OpenSSL: 4 MB of memory, and some milliseconds
    of every start.
    """
    if size <= _SMALL and "_hashlib" not in sys.modules:
        for name in _OWN_SHA256:
            with suppress(ImportError, AttributeError):
                return import_module(name).sha256()
    import hashlib

    return hashlib.sha256()


def sha256_of(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal digits."""
    digest = sha256(len(data))
    digest.update(data)
    return str(digest.hexdigest())


def digest_of(path: Path) -> str:
    """SHA-256 of a regular file in hexadecimal digits. The file need not fit into memory. Raises OSError."""
    # without waiting: a named pipe would keep us until somebody writes into it
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        digest = sha256(status.st_size)
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())


def sources_digest(package: str, names: Sequence[str]) -> str:
    """SHA-256 in hexadecimal digits of the modules `names` of the imported package `package`.

    As part of a cache key, it makes entries of older code invalid.

    The sources are read from disk or from a zip archive. If no sources are shipped at all, as in a
    frozen program, the result is the digest of nothing; the version number must then distinguish cache
    entries.

    Raises RuntimeError if only some sources are missing: then a module was renamed and the list of
    names was not updated.
    """
    spec = sys.modules[package].__spec__
    assert spec is not None, package
    assert spec.submodule_search_locations, f"{package} is not a package"
    folder, digest, missing = spec.submodule_search_locations[0], sha256(0), list[str]()
    for name in names:
        try:
            # the loader, not open(): it also reads from zip archives
            data = spec.loader.get_data(os.path.join(folder, f"{name}.py"))  # type: ignore[union-attr]
        except (OSError, AttributeError):
            missing.append(name)
        else:
            digest.update(name.encode() + b"\0" + data)  # the name, so that swapping two modules counts
    if missing and len(missing) < len(names):
        raise RuntimeError(f"{package} has no module {', '.join(missing)}, which a cache key depends on")
    return str(digest.hexdigest())


if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> bool:
        """Lock an open file without waiting. Returns False if another process holds the lock.

        Raises OSError if the file system has no locks.
        """
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in _LOCK_HELD:
                return False
            raise
        return True

    def unlock(descriptor: int) -> None:
        """Release a lock taken with `try_lock`. Raises OSError."""
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock an open file without waiting. Returns False if another process holds the lock.

        Raises OSError if the file system has no locks.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _LOCK_HELD:
                return False
            raise
        return True

    def unlock(descriptor: int) -> None:
        """Release a lock taken with `try_lock`. Raises OSError."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)
