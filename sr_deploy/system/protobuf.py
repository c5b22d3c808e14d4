"""A reader of protobuf messages for those who need a few fields of a large ONNX file and must not import `onnx`.

Nothing is copied until it is asked for: a message is a range of an open file, and its fields are found by skipping
over their contents. The wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types. The other two, 3 and 4, are groups, which ONNX does not use."""
_MOST_VARINT_BYTES = 10
"""A 64-bit number takes at most ten bytes of seven bits each."""


class Message:
    """The bytes `start` to `end` (None: the end of the file) of the seekable binary `file`."""

    # No dataclass: making one takes half a millisecond, and every start of `upscale` imports this module.
    __slots__ = ("end", "file", "start")

    def __init__(self, file: BinaryIO, start: int = 0, end: int | None = None) -> None:
        self.file, self.start, self.end = file, start, end

    def fields(self) -> Iterator[tuple[int, int | Message]]:
        """Yield (field number, value): an int for a varint, a `Message` for anything else.

        Raises EOFError where the message is empty or cut short, ValueError where it is not protobuf.
        """
        at, end = self.start, self.file.seek(0, 2) if self.end is None else self.end
        if at == end:
            raise EOFError("it is empty")
        while at < end:
            tag, at = self._varint(at, end)
            number, kind = divmod(tag, 8)
            if number == 0 or kind not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
                raise ValueError("it is not a protobuf message")
            if kind == _VARINT:
                value, at = self._varint(at, end)
                yield number, value
                continue
            length = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
            if kind == _BYTES:
                length, at = self._varint(at, end)
            if at + length > end:
                raise EOFError("it is cut short")
            yield number, Message(self.file, at, at + length)
            at += length

    def messages(self, number: int) -> Iterator[Message]:
        """Yield the fields `number` that are no varints. Raises as `fields` does; an empty message has none."""
        if self.start != self.end:
            yield from (value for n, value in self.fields() if n == number and isinstance(value, Message))

    def varints(self) -> Iterator[int]:
        """Yield the numbers of a packed repeated field."""
        assert self.end is not None, "a packed field has a length"
        at = self.start
        while at < self.end:
            value, at = self._varint(at, self.end)
            yield value

    def read(self) -> bytes:
        """Return the bytes of the message."""
        self.file.seek(self.start)
        return self.file.read(-1 if self.end is None else self.end - self.start)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number at `at`, and where it ends."""
        self.file.seek(at)
        data = self.file.read(min(_MOST_VARINT_BYTES, end - at))
        value = 0
        for index, byte in enumerate(data):
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value, at + index + 1
        if len(data) < _MOST_VARINT_BYTES:
            raise EOFError("it is cut short")
        raise ValueError("it is not a protobuf message")
