"""Import PyAV when it is needed, and translate its errors."""

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
"""PyAV's own types. PyAV does not promise their names, so these aliases only help the reader."""

_OLDEST = 17
"""Oldest major version of PyAV that works."""
_DISK_ERRNOS = {
    errno.ENOSPC,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    getattr(errno, "EDQUOT", errno.ENOSPC),
}
"""Error numbers that concern the disk, not the video."""


def pyav() -> Any:
    """Return the module `av`. Raises MissingRuntimeError if it is missing or too old."""
    os.environ.setdefault("SVT_LOG", "1")  # otherwise SVT-AV1 logs its settings to stderr
    try:
        import av
    except ImportError as error:
        raise MissingRuntimeError(
            f'video needs PyAV, which cannot be imported ({error}); pip install "sr-deploy[video]"'
        ) from error
    if int(av.__version__.partition(".")[0]) < _OLDEST:
        raise MissingRuntimeError(
            f'video needs PyAV {_OLDEST} or later, found {av.__version__}; pip install --upgrade "av>={_OLDEST}"'
        )
    return av


def pyav_version() -> int:
    """Return the major version of PyAV. PyAV 17 does not hand the side data of a frame on, such as closed captions."""
    return int(pyav().__version__.partition(".")[0])


def url_of(path: Path) -> str:
    """Return the URL by which FFmpeg opens a file. FFmpeg takes the text before a colon in a name for a protocol."""
    return f"file:{os.fspath(path)}"


@contextmanager
def opened(path: Path) -> Iterator[Container]:
    """Open the media file `path` for reading. Raises InputError if it is missing or not a media file."""
    av = pyav()
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the name")
    try:
        container = av.open(url_of(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as a video ({ffmpeg_message(error)}); check the file"
        ) from error
    with container:
        yield container


def ffmpeg_message(error: BaseException) -> str:
    """Return FFmpeg's message in a few words, without a path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise errors of FFmpeg in the block as OutputError about `path`. The advice depends on whether the
    disk is the cause."""
    av = pyav()
    try:
        yield
    except av.FFmpegError as error:
        what = "choose another --codec, --pixel-format or container"
        if getattr(error, "errno", None) in _DISK_ERRNOS:
            what = "make room, or choose another place; the finished parts are kept"
        raise OutputError(f"cannot write {path}: {ffmpeg_message(error)}; {what}") from error


def add_copy(container: Container, stream: Stream) -> Stream:
    """Add a stream to `container` that takes the packets of `stream`. Raises ValueError if the container refuses.

    The parameters are copied as they are, for video too. Without `opaque`, PyAV 18.1 looks for an encoder with
    the name of the decoder, and finds none for libdav1d.
    """
    made: Stream = container.add_stream_from_template(stream, opaque=True)
    return made
