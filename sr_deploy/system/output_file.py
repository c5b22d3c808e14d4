"""The place a file is written to: checked beforehand, filled in one step, left alone on any error."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sr_deploy.errors import OutputError


def checked_target(path: Path, overwrite: bool) -> Path:
    """Where the file will really lie (links followed). Raises OutputError where it plainly cannot."""
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder; name a file")
        if not target.parent.is_dir():
            raise OutputError(
                f"cannot write {path}: the folder {target.parent} does not exist; make it first"
            )
        if os.path.lexists(target):
            if not target.is_file():
                raise OutputError(f"cannot write {path}: it is not an ordinary file; choose another name")
            if not overwrite:
                raise _exists_error(path)
            if not os.access(target, os.W_OK):
                raise OutputError(f"cannot write {path}: it is write-protected; choose another name")
    except (OSError, ValueError) as error:
        raise error if isinstance(error, OutputError) else _output_error(path, error) from error
    return target


def _exists_error(path: Path) -> OutputError:
    return OutputError(f"cannot write {path}: it exists already; choose another name or allow overwriting")


def _output_error(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error)
    advice = "choose another folder"
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        advice = "make room on the disk or choose another one"
    elif code == errno.ENAMETOOLONG:
        advice = "choose a shorter name"
    return OutputError(f"cannot write {path}: {reason}; {advice}")


@contextmanager
def atomic_output(path: Path, target: Path, overwrite: bool, suffix: str) -> Iterator[Path]:
    """A temporary name beside `target`, which takes its place at the end, and vanishes on any error."""
    temporary = target.parent / f".sr-deploy-{os.getpid()}-{os.urandom(4).hex()}{suffix}"
    try:
        yield temporary
        if overwrite:
            with suppress(OSError):
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
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
    """Give `temporary` the name `target` if it is free. Raises FileExistsError, in one of two racing processes."""
    if os.name == "nt":
        temporary.rename(target)  # refuses an existing name there
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name first
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        temporary.replace(target)
