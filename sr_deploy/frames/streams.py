"""Read frames from a byte stream and write them to one: raw, or y4m with its headers.

A frame is read whole or not at all. This module does not look at pixel values.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sr_deploy.errors import InputError, UsageError
from sr_deploy.frames.layout import Layout, Plane
from sr_deploy.frames.y4m import LONGEST_LINE, MAGIC, Header, parse_header
from sr_deploy.system.arrays import Uint8Array

_PIPE_BYTES = 1 << 20
"""Size in bytes asked for a pipe's buffer: 1 MiB, the most that Linux allows to any user by default. With
the usual 64 KiB, a frame of 1080p takes about a hundred switches between two programs."""
_F_SETPIPE_SZ = 1031
"""Number of the fcntl command of Linux that sets the size of a pipe."""


class Readable(Protocol):
    """Source of bytes: an unbuffered binary file."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Read into the start of `buffer`. Returns the number of bytes, 0 at the end."""
        ...


class Writable(Protocol):
    """Target of bytes: an unbuffered binary file."""

    def write(self, data: Any, /) -> int | None:
        """Write the start of `data`. Returns the number of bytes written, which may be fewer than given."""
        ...


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size and layout of raw frames, which tell where a frame ends."""

    width: int
    height: int
    layout: Layout
    stride: int | None = None
    """Bytes from one row of the first plane to the next; None: rows have no padding."""

    def __post_init__(self) -> None:
        if self.stride is None:
            return
        # interleaved chroma of an odd width has a longer row than luma, in the same stride
        shared = self.layout.paired and self.layout.across == 2
        least = max(self._row_bytes()) if shared else self._row_bytes()[0]
        if self.stride < least or self.stride % self.layout.dtype.itemsize:
            raise UsageError(
                f"a stride of {self.stride} bytes does not fit: a row of {self.width} pixels of {self.layout.name} "
                f"takes {least} bytes, and every word {self.layout.dtype.itemsize}; give bytes, not pixels"
            )

    @property
    def frame_bytes(self) -> int:
        """Number of bytes of one frame."""
        if self.stride is None:
            return self.layout.frame_bytes(self.height, self.width)
        return sum(stride * rows for stride, rows in zip(self._strides(), self._rows(), strict=True))

    def planes(self, data: Uint8Array) -> list[Plane]:
        """Return the planes in `data`, the bytes of one frame; views if rows have no padding, else copies."""
        if self.stride is None:
            return self.layout.planes(data, self.height, self.width)
        planes, start = [], 0
        every = zip(self._strides(), self._rows(), self._row_bytes(), self._shapes(), strict=True)
        for stride, count, row, shape in every:
            rows = data[start : start + stride * count].reshape(count, stride)[: shape[0], :row]
            planes.append(np.ascontiguousarray(rows).view(self.layout.dtype).reshape(shape))
            start += stride * count
        return planes

    def _shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the planes."""
        return self.layout.shapes(self.height, self.width)

    def _row_bytes(self) -> list[int]:
        """Return the bytes of a row of each plane without padding."""
        return [math.prod(shape[1:]) * self.layout.dtype.itemsize for shape in self._shapes()]

    def _rows(self) -> list[int]:
        """Return the number of rows of each plane in memory, padding included.

        GStreamer 1.22 stores an even number of luma rows with chroma of half the rows, and an even number of rows
        in every plane of 4:2:2 with more than 8 bits and a plane for each channel.
        """
        layout, rows = self.layout, [shape[0] for shape in self._shapes()]
        if layout.down == 2:
            return [rows[0] + rows[0] % 2, *rows[1:]]
        if layout.across == 2 and layout.depth > 8 and not layout.paired:
            return [count + count % 2 for count in rows]
        return rows

    def _strides(self) -> list[int]:
        """Return the stride of each plane, as GStreamer 1.22 derives those of chroma from the first plane.

        Half a stride is rounded up to 4 bytes. Twice a stride is too, but counted from the row without padding
        if the first plane has no more padding than that.
        """
        assert self.stride is not None
        first, *_ = rows = self._row_bytes()
        layout = self.layout
        if layout.kind != "yuv" or layout.paired == (layout.across == 2):  # as many words in every row
            return [self.stride] * len(rows)
        if layout.paired:
            tight = self.stride == _up_to_4(first)
            return [self.stride, _up_to_4(2 * first) if tight else 2 * self.stride]
        return [self.stride, *[_up_to_4(-(-self.stride // 2))] * 2]


def _up_to_4(size: int) -> int:
    """Round a number of bytes up to a multiple of 4."""
    return -(-size // 4) * 4


def widen_pipe(stream: Any) -> None:
    """Enlarge the buffer of the pipe behind `stream`. Does nothing for other streams and other systems."""
    if sys.platform != "linux":
        return
    import fcntl

    with suppress(OSError, ValueError, AttributeError):
        fcntl.fcntl(stream.fileno(), _F_SETPIPE_SZ, _PIPE_BYTES)


def read_header(stream: Readable) -> Header:
    """Read the header of a y4m stream, up to and including its newline. Raises InputError for any other
    stream."""
    return parse_header(_read_line(stream, b""))


def read_frames(stream: Readable, geometry: Geometry, *, marked: bool = False) -> Iterator[list[Plane]]:
    """Yield the frames of `stream` as lists of planes, up to its end.

    `marked` means that each frame follows a FRAME line, as in y4m. Raises InputError for an incomplete last
    frame, with the number of missing bytes. Every frame has memory of its own.
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
                f"({geometry.width}x{geometry.height} {geometry.layout.name}); check the size and the format, or the program "
                "that wrote the stream"
            )
        yield geometry.planes(data)
        number += 1


def write_frame(stream: Writable, planes: Sequence[Plane], *, marked: bool = False) -> None:
    """Write the planes of one frame, after a FRAME line if `marked`."""
    if marked:
        write_all(stream, memoryview(b"FRAME\n"))
    for plane in planes:
        write_all(stream, _bytes_of(plane).data)


def _bytes_of(plane: Plane) -> Uint8Array:
    """Return a flat view of the bytes of a plane. Raises UsageError for a plane that is not C-contiguous."""
    if not plane.flags.c_contiguous:
        raise UsageError("a plane to write must be C-contiguous; copy it first")
    return plane.reshape(-1).view(np.uint8)


def _read_fully(stream: Readable, buffer: memoryview) -> int:
    """Read until `buffer` is full or the stream ends. Returns the number of bytes read."""
    done = 0
    while done < len(buffer):
        got = stream.readinto(buffer[done:])
        if not got:
            break
        done += got
    return done


def write_all(stream: Writable, data: memoryview) -> None:
    """Write all of `data`, in as many calls as `stream` needs."""
    while data:
        data = data[stream.write(data) or 0 :]


def _read_line(stream: Readable, start: bytes) -> bytes:
    """Return `start` and the bytes up to the next newline; the newline is read and dropped.

    Reads byte by byte, since a byte too many would belong to the frame. A header that does not begin like
    y4m is given up early.
    """
    line, one = bytearray(start), bytearray(1)
    while len(line) < LONGEST_LINE:
        if not stream.readinto(one) or one == b"\n":
            break
        line += one
        if not start and len(line) == len(MAGIC) and line != MAGIC:
            break
    return bytes(line)


def _read_frame_line(stream: Readable, number: int) -> bool:
    """Read the FRAME line before a frame. Returns False at the end of the stream.

    Raises InputError if the stream has other bytes there. Parameters after the word are ignored.
    """
    start = bytearray(5)
    got = _read_fully(stream, memoryview(start))
    if got == 0:
        return False
    if start != b"FRAME":
        raise InputError(
            f"expected the word FRAME before frame {number + 1}, got {bytes(start[:got])!r}; the stream is damaged; "
            "make it again"
        )
    _read_line(stream, bytes(start))
    return True
