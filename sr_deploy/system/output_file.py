"""An output file: its path is checked before the work, and it is written in one step.

If anything fails, an existing file at the path stays unchanged.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sr_deploy.errors import OutputError
from sr_deploy.system.files import sync_file

_PERMISSIONS = 0o777
"""Bits of the mode that a new file takes over from the one it replaces: not those that change the user (setuid)."""


def checked_target(path: Path, overwrite: bool) -> Path:
    """The path where the file will really be, with links in its folder followed.

    A link at `path` itself is not followed: it counts as an existing file, and writing replaces it. So a link in an
    unpacked archive cannot direct a result to another file.

    Raises OutputError if the path clearly cannot be written, so that the user learns it before the
    work. With `overwrite=False` an existing file is such an error.
    """
    try:
        target = Path(os.path.realpath(path.parent), path.name)
        if target.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder; name a file")
        if not target.parent.is_dir():
            raise OutputError(
                f"cannot write {path}: the folder {target.parent} does not exist; create it first"
            )
        if os.path.lexists(target):
            _check_existing(path, target, overwrite)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, OutputError) else _output_error(path, error) from error
    return target


def _check_existing(path: Path, target: Path, overwrite: bool) -> None:
    """Raise OutputError if the existing file `target`, which the user calls `path`, cannot be replaced."""
    is_link = target.is_symlink()
    if not (is_link or target.is_file()):
        raise OutputError(f"cannot write {path}: it is not a regular file; choose another name")
    if not overwrite:
        raise _exists_error(path)
    if not (is_link or os.access(target, os.W_OK)):
        raise OutputError(f"cannot write {path}: it is write-protected; choose another name")


def _exists_error(path: Path) -> OutputError:
    """The error for a file that exists and must not be overwritten."""
    return OutputError(f"cannot write {path}: it exists already; choose another name or allow overwriting")


def _output_error(path: Path, error: Exception) -> OutputError:
    """An OutputError for an error of the operating system, with fitting advice."""
    reason = getattr(error, "strerror", None) or str(error)
    advice = "choose another folder"
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        advice = "make room on the disk or choose another one"
    elif code == errno.ENAMETOOLONG:
        advice = "choose a shorter name"
    return OutputError(f"cannot write {path}: {reason}; {advice}")


@contextmanager
def atomic_output(
    path: Path, target: Path, overwrite: bool, suffix: str, ready: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Context manager: a temporary path beside `target`, which is renamed to `target` at the end.

    The caller creates the temporary file. On any error it is deleted and `target` stays as it was. An
    existing file's permissions are kept. `path` is the user's name for `target`, used in messages;
    `suffix` is that of the temporary file. `ready` is called with the temporary path when the file is complete and
    flushed to the disk, before it is renamed. Raises OutputError, also if `overwrite` is False and
    `target` appeared meanwhile.
    """
    # beside the target, because a rename works only within one file system
    # 8 random bytes, because encoders that open it by its name would follow a link that somebody put there
    temporary = target.parent / f".sr-deploy-{os.getpid()}-{os.urandom(8).hex()}{suffix}"
    try:
        yield temporary
        sync_file(temporary)
        if ready is not None:
            ready(temporary)
        if overwrite:
            with suppress(OSError):
                if stat.S_ISREG(mode := target.lstat().st_mode):
                    temporary.chmod(mode & _PERMISSIONS)
            temporary.replace(target)
        else:
            _rename_if_free(temporary, target)
    except FileExistsError as error:
        raise _exists_error(path) from error
    except OSError as error:
        raise error if isinstance(error, OutputError) else _output_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _rename_if_free(temporary: Path, target: Path) -> None:
    """Rename `temporary` to `target`.

    Raises FileExistsError if `target` exists. If two processes race, exactly one of them succeeds.
    """
    if os.name == "nt":
        temporary.rename(target)  # on Windows this fails if the name exists
        return
    # On POSIX a rename replaces an existing file without asking; making a hard link does not.
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: create the name first, then replace it
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        temporary.replace(target)
