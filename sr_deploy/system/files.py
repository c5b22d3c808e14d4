"""Operations that the standard library lacks: writing a file completely, its digest, and file locks.

The functions raise OSError and no errors of sr-deploy, because only the caller knows what the file is
for and what to advise.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

_BLOCK = 1 << 20  # bytes per read
_LOCKED_BYTE = 1 << 30
"""Offset of the byte that is locked on Windows. It lies beyond the content, because a Windows lock
keeps others from reading the locked bytes.
"""
# errors by which the various systems say that another process has the lock
_LOCK_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


def write_whole(path: Path, data: bytes, *, synced: bool = False) -> None:
    """Write `data` to `path`, completely or not at all. Raises OSError.

    The data goes to a temporary file in the same folder, which then replaces `path`. `synced` flushes
    it to the disk first, so that even a power failure leaves the old or the new content.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(data)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def digest_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits. The file need not fit into memory. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


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
