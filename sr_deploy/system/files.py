"""What the standard library leaves to everyone: a file written whole, told by its digest, locked.

Standard library only, and no errors of our own: who calls knows what a file stands for and what to advise.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

_BLOCK = 1 << 20
_LOCKED_BYTE = 1 << 30
"""Where a Windows lock lies, which would keep others from reading what is under it."""
_LOCK_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


def write_whole(path: Path, data: bytes, *, synced: bool = False) -> None:
    """Write `data` to `path`: all of it or nothing; `synced` sees it to the disk first. Raises OSError."""
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
    """SHA-256 of a file's bytes, which need not fit into memory. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> bool:
        """Lock an open file for this process; False where another has it. Raises OSError where there are no locks."""
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in _LOCK_HELD:
                return False
            raise
        return True

    def unlock(descriptor: int) -> None:
        """Give a lock back. Raises OSError."""
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock an open file for this process; False where another has it. Raises OSError where there are no locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _LOCK_HELD:
                return False
            raise
        return True

    def unlock(descriptor: int) -> None:
        """Give a lock back. Raises OSError."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)
