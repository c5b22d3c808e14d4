"""Reading frames from a stream of bytes and writing them to one: raw, or y4m with its headers.

Frames are read whole or not at all. What is in them is not looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import InputError, UsageError
from sr_deploy.frames.layout import Layout, Plane
from sr_deploy.frames.y4m import LONGEST_LINE, MAGIC, Header, parse_header

_PIPE_BYTES = 1 << 20
"""What a pipe is asked to hold, which any user of Linux may: with the usual 64 KiB a frame of 1080p takes a
hundred changes between two programs."""
_F_SETPIPE_SZ = 1031


class Readable(Protocol):
    """Where bytes come from: an unbuffered binary file."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill the start of `buffer`; the number of bytes, 0 at the end."""
        ...


class Writable(Protocol):
    """Where bytes go."""

    def write(self, data: Any, /) -> int | None:
        """Write the start of `data`; the number of bytes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What one must know of raw frames to tell one from the next."""

    width: int
    height: int
    layout: Layout

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return self.layout.frame_bytes(self.height, self.width)


def widen_pipe(stream: Any) -> None:
    """Let the pipe behind `stream` hold more, where there is one and the system has such a thing."""
    if sys.platform != "linux":
        return
    import fcntl

    with suppress(OSError, ValueError, AttributeError):
        fcntl.fcntl(stream.fileno(), _F_SETPIPE_SZ, _PIPE_BYTES)


def read_header(stream: Readable) -> Header:
    """The header of a y4m stream, read up to its newline. Raises InputError where there is none."""
    return parse_header(_read_line(stream, b""))


def read_frames(stream: Readable, geometry: Geometry, *, marked: bool = False) -> Iterator[list[Plane]]:
    """The frames of `stream` as planes, up to its end; `marked`: each after a FRAME line, as y4m has it.

    Raises InputError for a last frame that is not whole, saying how many bytes are missing.
    """
    number = 0
    while True:
        if marked and not _read_frame_line(stream, number):
            return
        data = np.empty(geometry.frame_bytes, np.uint8)
        got = _read_fully(stream, data.data)
        if got == 0 and not marked:
            return
        if got < data.size:
            raise InputError(
                f"frame {number + 1} is cut short: {data.size - got} of its {data.size} bytes are missing "
                f"({geometry.width}x{geometry.height} {geometry.layout.name}); check the size and the format, or what "
                "wrote the stream"
            )
        yield geometry.layout.planes(data, geometry.height, geometry.width)
        number += 1


def write_frame(stream: Writable, planes: Sequence[Plane], *, marked: bool = False) -> None:
    """Write the planes of one frame, after a FRAME line where `marked`."""
    if marked:
        write_all(stream, memoryview(b"FRAME\n"))
    for plane in planes:
        write_all(stream, _bytes_of(plane).data)


def _bytes_of(plane: Plane) -> npt.NDArray[np.uint8]:
    if not plane.flags.c_contiguous:
        raise UsageError("a plane to write must be C-contiguous; copy it first")
    return plane.reshape(-1).view(np.uint8)


def _read_fully(stream: Readable, buffer: memoryview) -> int:
    """Read until `buffer` is full or the stream ends; the number of bytes."""
    done = 0
    while done < len(buffer):
        got = stream.readinto(buffer[done:])
        if not got:
            break
        done += got
    return done


def write_all(stream: Writable, data: memoryview) -> None:
    """Write every byte of `data`, in as many calls as `stream` wants."""
    while data:
        data = data[stream.write(data) or 0 :]


def _read_line(stream: Readable, start: bytes) -> bytes:
    """`start` and what follows it up to a newline, which is read and left out."""
    line, one = bytearray(start), bytearray(1)
    while len(line) < LONGEST_LINE:
        if not stream.readinto(one) or one == b"\n":
            break
        line += one
        if not start and len(line) == len(MAGIC) and line != MAGIC:
            break
    return bytes(line)


def _read_frame_line(stream: Readable, number: int) -> bool:
    """Read the line before a frame; False at the end of the stream."""
    start = bytearray(5)
    got = _read_fully(stream, memoryview(start))
    if got == 0:
        return False
    if start != b"FRAME":
        raise InputError(
            f"expected the word FRAME before frame {number + 1}, got {bytes(start[:got])!r}; the stream is damaged, "
            "make it again"
        )
    _read_line(stream, bytes(start))
    return True
