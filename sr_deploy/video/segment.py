"""Writing one part of a result: frames in, an encoded file with its record out."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from sr_deploy.frames.convert import FramePixels
from sr_deploy.video.encoder import Encoding
from sr_deploy.video.parts import Part, Parts
from sr_deploy.video.pixels import to_frame
from sr_deploy.video.pyav import Packet, pyav, writing

_INNER_FORMATS = ("nut", "matroska")
"""Containers of a part, the first that knows the codec. Their timestamps are not used."""


class SegmentWriter:
    """Encodes pictures into parts of `length` frames each, closing each part as it is full."""

    def __init__(self, parts: Parts, encoding: Encoding, length: int) -> None:
        self._parts, self._encoding, self._length = parts, encoding, length
        self._format = part_container(encoding.encoder)
        self._container: Any = None
        self._stream: Any = None
        self._pts: list[int] = []
        self._coded: list[int] = []
        self._tail = 0

    def add(self, picture: FramePixels, pts: int, duration: int) -> None:
        """Encode the next frame, shown from `pts` on; for `duration` where it is the last."""
        with writing(self._temporary):
            if self._container is None:
                self._open()
            encoding = self._encoding
            frame = to_frame(picture, encoding.layout, encoding.pixel_format, encoding.colours)
            frame.pts, frame.time_base = pts, encoding.time_base
            frame.colorspace, frame.color_range = encoding.space, encoding.range
            self._pts.append(pts)
            self._tail = duration
            self._mux(self._stream.encode(frame))
            if len(self._pts) == self._length:
                self._close()

    def finish(self) -> None:
        """Close the last part, which may be short."""
        with writing(self._temporary):
            if self._container is not None:
                self._close()

    def abandon(self) -> None:
        """Drop the part that is not full."""
        if self._container is not None:
            with suppress(Exception):
                self._container.close()
            self._container = None

    @property
    def _temporary(self) -> Path:
        return self._parts.folder / "unfinished.tmp"

    def _open(self) -> None:
        self._container = pyav().open(os.fspath(self._temporary), "w", format=self._format)
        self._stream = self._encoding.add_to(self._container)
        self._pts, self._coded = [], []

    def _mux(self, packets: list[Packet]) -> None:
        for packet in packets:
            self._coded.append(int(packet.pts or 0))  # before the container changes it
            self._container.mux(packet)

    def _close(self) -> None:
        self._mux(self._stream.encode(None))
        self._container.close()
        self._container = self._stream = None
        place = {pts: i for i, pts in enumerate(self._pts)}
        order = [place[pts] for pts in self._coded]
        size = self._temporary.stat().st_size
        part = Part(pts=self._pts, order=order, tail=self._tail, bytes=size)
        self._parts.finish(self._temporary, part)


def part_container(encoder: str) -> str:
    """The container a part of this encoder's stream is kept in."""
    av = pyav()
    codec = av.codec.Codec(encoder, "w").canonical_name
    for name in _INNER_FORMATS[:-1]:
        if codec in _known_codecs(name):
            return name
    return _INNER_FORMATS[-1]


def _known_codecs(container: str) -> set[str]:
    with pyav().open(io.BytesIO(), "w", format=container) as empty:
        known: set[str] = empty.supported_codecs
        return known
