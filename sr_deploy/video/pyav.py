"""PyAV, imported where it is needed, and its errors in our words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sr_deploy.errors import InputError, MissingRuntimeError, OutputError

Container = Any
Stream = Any
Packet = Any
Frame = Any
"""PyAV's own types: what they are called is part of no promise of its, so their names are for the reader alone."""

_OLDEST = 17
_DISK_ERRNOS = {
    errno.ENOSPC,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    getattr(errno, "EDQUOT", errno.ENOSPC),
}
"""What is wrong with the disk and not with the video."""


def pyav() -> Any:
    """The module `av`. Raises MissingRuntimeError where it is not installed, or too old."""
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 tells its life on stderr otherwise
    try:
        import av
    except ImportError as error:
        raise MissingRuntimeError(
            f'video needs PyAV, which cannot be imported ({error}); pip install "sr-deploy[video]"'
        ) from error
    if int(av.__version__.partition(".")[0]) < _OLDEST:
        raise MissingRuntimeError(
            f'video needs PyAV {_OLDEST} or later, found {av.__version__}; pip install --upgrade "sr-deploy[video]"'
        )
    return av


@contextmanager
def opened(path: Path) -> Iterator[Container]:
    """The media file `path`, open for reading. Raises InputError for what is none."""
    av = pyav()
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the name")
    try:
        container = av.open(os.fspath(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{path}: it cannot be read as a video ({ffmpeg_message(error)}); check the file"
        ) from error
    with container:
        yield container


def ffmpeg_message(error: BaseException) -> str:
    """What FFmpeg said, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of FFmpeg within are about writing `path`: raise them as OutputError."""
    av = pyav()
    try:
        yield
    except av.FFmpegError as error:
        what = "choose another --codec, --pixel-format or kind of file"
        if getattr(error, "errno", None) in _DISK_ERRNOS:
            what = "make room, or choose another place; what is done is kept"
        raise OutputError(f"cannot write {path}: {ffmpeg_message(error)}; {what}") from error
