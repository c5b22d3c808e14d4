"""Opens files that we keep beside results, such as records and locks: never through a link, and only our own.

The folder of results may come from an unpacked archive or be shared with others. A link in the place of a record would
make us read or overwrite another file, and a named pipe would make us wait forever.

Where the system has no `O_NOFOLLOW` or cannot open relative to a folder (Windows), the names are looked at before they
are opened. Somebody could exchange a file in between, but making links needs special rights there.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

_FLAGS = sum(
    getattr(os, name, 0) for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC")
)
"""Flags for every file. Opening a pipe with O_NONBLOCK does not wait for the other end."""
_BY_FOLDER = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY") and hasattr(os, "O_NOFOLLOW")
"""True if files can be opened relative to an open folder, which cannot be exchanged for a link meanwhile."""
_BLOCK = 1 << 20  # bytes per read


class NotOwnError(OSError):
    """The file or its folder is a link, is not a regular file, or belongs to another user. `strerror` says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(errno.EPERM, reason, str(path))


def open_own(path: Path, *, create: bool = False) -> int:
    """Return a descriptor of our own regular file `path`: to read, or with `create` to read and write.

    With `create` a missing file is made. Raises NotOwnError, or another OSError if it cannot be opened.
    """
    access = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
    folder = _open_folder(path.parent)
    try:
        descriptor = _open(path, access | _FLAGS, folder)
        try:
            _check(path, os.fstat(descriptor), reading=not create)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
    finally:
        if folder is not None:
            os.close(folder)


def read_own(path: Path, most: int) -> bytes:
    """Return the content of our own (or root's) regular file `path`, at most `most` bytes.

    Raises NotOwnError, or another OSError if the file cannot be read or is larger.
    """
    descriptor = open_own(path)
    try:
        return read_all(descriptor, most)
    finally:
        os.close(descriptor)


def read_all(descriptor: int, most: int) -> bytes:
    """Return the content of an open file from its beginning. Raises OSError (EFBIG) beyond `most` bytes."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    size = os.fstat(descriptor).st_size
    first = os.read(descriptor, min(size, most) + 1)
    if len(first) == size <= most:  # the usual case, without copying
        return first
    data = bytearray(first)
    while len(data) <= most and (block := os.read(descriptor, min(_BLOCK, most + 1 - len(data)))):
        data += block
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most} bytes")
    return bytes(data)


def _open_folder(folder: Path) -> int | None:
    """Return a descriptor of `folder`, or None where files cannot be opened by it. Raises OSError if it is a link."""
    if folder.is_symlink():
        raise NotOwnError(folder, f"{folder} is a link")
    if not _BY_FOLDER:
        return None
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _open(path: Path, flags: int, folder: int | None) -> int:
    """Open `path`, by the descriptor of its folder if there is one. Raises OSError."""
    if folder is None and path.is_symlink():
        raise NotOwnError(path, "it is a link")
    try:
        if folder is None:
            return os.open(path, flags, 0o666)
        return os.open(path.name, flags, 0o666, dir_fd=folder)
    except OSError as error:
        # systems differ in the error number for a link, and some special files have numbers of their own
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(mode := path.lstat().st_mode):
                raise NotOwnError(path, _kind(mode)) from error
        raise


def _check(path: Path, status: os.stat_result, *, reading: bool) -> None:
    """Raise NotOwnError if `status`, that of `path`, is not that of a regular file of our own with one name.

    Files of root may be read: an administrator may have filled the cache, and can change anything anyway.
    """
    if not stat.S_ISREG(status.st_mode):
        raise NotOwnError(path, _kind(status.st_mode))
    if status.st_nlink > 1:
        # writing would change the file under its other names as well, which may be anywhere
        raise NotOwnError(path, "it has other names (hard links)")
    if sys.platform == "win32" or status.st_uid == os.geteuid() or (reading and status.st_uid == 0):
        return
    if status.st_uid != _owner_of_new_file(path):
        raise NotOwnError(path, "it belongs to another user")


def _owner_of_new_file(path: Path) -> int | None:
    """Return the owner of a file that we make beside `path`; None if we cannot make one.

    Some file systems give all files one owner, whoever makes them (vfat, network drives).
    """
    probe = path.with_name(f".sr-deploy-{os.urandom(8).hex()}")
    with suppress(OSError):
        descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _FLAGS, 0o600)
        try:
            return os.fstat(descriptor).st_uid
        finally:
            os.close(descriptor)
            probe.unlink()
    return None


def _kind(mode: int) -> str:
    """Return what a file is instead of a regular file."""
    return "it is a link" if stat.S_ISLNK(mode) else "it is not a regular file"


def make_private_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, for the user alone. Raises OSError."""
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)


def distrust_reason(folder: Path) -> str | None:
    """Return why files in `folder` must not be believed, or None if only the user and root can have put them there.

    The folder and all folders above it must belong to the user or to root, and nobody else may write to them. A folder
    above may be writable by all if it is sticky, as /tmp is: there only the owner can rename a folder. It may also be
    writable by its owner's private group, whose number is that of the user. A link on the way must belong to the user
    or to root, and what it leads to is looked at as well.

    Not checked on Windows, where caches lie in the user's own profile. A folder that does not exist yet, or cannot be
    read, is no danger: nothing is read from it.
    """
    if sys.platform == "win32":
        return None
    try:
        for path in (Path(os.path.abspath(folder)), Path(os.path.realpath(folder))):
            for above in (path, *path.parents):
                reason = _link_reason(above.lstat()) or _folder_reason(above.stat(), inner=above == path)
                if reason:
                    return f"{above}: {reason}" if above != path else reason
    except OSError:
        return None
    return None


def _link_reason(status: os.stat_result) -> str | None:
    """Return why a link must not be followed; None if it may be, or is no link."""
    if stat.S_ISLNK(status.st_mode) and not _is_trusted(status.st_uid):
        return "it is a link of another user"
    return None


def _folder_reason(status: os.stat_result, *, inner: bool) -> str | None:
    """Return why a folder does not keep others out. `inner` is the folder itself, the others lie above it."""
    if not _is_trusted(status.st_uid):
        return "it belongs to another user"
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not inner and status.st_mode & stat.S_ISVTX:
        return None
    if not inner and not writable & stat.S_IWOTH and status.st_gid == status.st_uid:
        return None
    return "others may write to it" if writable else None


def _is_trusted(owner: int) -> bool:
    """Return True for the user and for root, who can change anything anyway."""
    return sys.platform == "win32" or owner in (os.geteuid(), 0)
