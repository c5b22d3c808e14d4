"""Encode frames into the parts of a result, each an encoded file with a record."""

from __future__ import annotations

import io
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from sr_deploy.errors import UsageError
from sr_deploy.frames.convert import FramePixels
from sr_deploy.system.scheduling import ordinary_scheduling
from sr_deploy.video.encoder import Encoding
from sr_deploy.video.parts import Part, Parts
from sr_deploy.video.pixels import to_frame
from sr_deploy.video.pyav import Frame, Packet, pyav, url_of, writing

_INNER_FORMATS = ("nut", "matroska", "mov", "avi")
"""Containers for a part; the first that supports the codec is used. Their timestamps are ignored."""


class SegmentWriter:
    """Encoder that writes parts of `length` frames and closes each part when it is full. Used by one
    thread.

    Every part has an encoder of its own, so it begins with a key frame and depends on no other part.
    """

    def __init__(self, parts: Parts, encoding: Encoding, length: int) -> None:
        self._parts, self._encoding, self._length = parts, encoding, length
        self._format = part_container(encoding.encoder)
        self._container: Any = None
        self._stream: Any = None
        # Display times of the current part: of its frames in the order they were added, and of its packets in the
        # order they were written. The two orders differ if the encoder uses B-frames.
        self._pts: list[int] = []
        self._coded: list[int] = []
        self._tail = 0

    def add(self, picture: FramePixels, pts: int, duration: int, source: Frame | None = None) -> None:
        """Encode the next frame. `pts` is its display time and `duration` its length, both in the
        encoding's time base. `source` is the decoded frame, whose closed captions are kept.

        The duration counts only if no frame follows. Raises OutputError if the part cannot be written.
        """
        with writing(self._temporary):
            if self._container is None:
                self._open()
            encoding = self._encoding
            captioned = source if encoding.keeps_captions else None
            frame = to_frame(picture, encoding.layout, encoding.pixel_format, encoding.colours, captioned)
            frame.pts, frame.time_base = pts, encoding.time_base
            frame.colorspace, frame.color_range = encoding.space, encoding.range
            self._pts.append(pts)
            self._tail = duration
            with (
                ordinary_scheduling() if len(self._pts) == 1 else nullcontext()
            ):  # the first one opens the encoder
                packets = self._stream.encode(frame)
            self._mux(packets)
            if len(self._pts) == self._length:
                self._close()

    def finish(self) -> None:
        """Close the last part, which may be shorter. Raises OutputError if it cannot be written."""
        with writing(self._temporary):
            if self._container is not None:
                self._close()

    def abandon(self) -> None:
        """Drop the part that is not full. Never raises."""
        if self._container is not None:
            with suppress(Exception):
                self._container.close()
            self._container = None

    @property
    def _temporary(self) -> Path:
        """Path of the part that is being written."""
        return self._parts.folder / "unfinished.tmp"

    def _open(self) -> None:
        """Begin a part with a new encoder."""
        self._container = pyav().open(url_of(self._temporary), "w", format=self._format)
        self._stream = self._encoding.add_to(self._container)
        self._pts, self._coded = [], []

    def _mux(self, packets: list[Packet]) -> None:
        """Write packets and note their display times, in the order of the file."""
        for packet in packets:
            self._coded.append(int(packet.pts or 0))  # read before muxing, which rescales it
            self._container.mux(packet)

    def _close(self) -> None:
        """Flush the encoder, close the file, and store it as a part with its record."""
        self._mux(self._stream.encode(None))
        self._container.close()
        self._container = self._stream = None
        place = {pts: i for i, pts in enumerate(self._pts)}
        order = [place[pts] for pts in self._coded]
        size = self._temporary.stat().st_size
        part = Part(pts=self._pts, order=order, tail=self._tail, bytes=size)
        self._parts.finish(self._temporary, part)


def part_container(encoder: str) -> str:
    """Return the container in which parts of an encoder's stream are stored. Raises UsageError if there is none."""
    for name in _INNER_FORMATS:
        with suppress(ValueError), pyav().open(io.BytesIO(), "w", format=name) as empty:
            empty.add_stream(encoder)
            return name
    raise UsageError(
        f"no container of this PyAV holds unfinished video of the encoder {encoder}; choose another --codec"
    )
