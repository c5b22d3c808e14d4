"""In which types an ONNX file stores its numbers, read off its bytes. Stdlib only.

A machine that builds engines need not have onnx. Only the graph's own initialisers and constants are looked at;
whatever is wrong with the file otherwise is the parser's to say.
"""

from __future__ import annotations

from collections.abc import Iterator

_PRECISION_NAMES = {1: "fp32", 3: "int8", 10: "fp16", 16: "bf16"}
"""TensorProto.DataType, those a precision is named after."""
_GRAPH, _NODE, _INITIALISER, _ATTRIBUTE, _TENSOR = 7, 1, 5, 5, 5
"""Fields: of ModelProto, of GraphProto (two), of NodeProto, of AttributeProto."""
_DIMS, _DATA_TYPE = 1, 2
"""Fields of TensorProto."""
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
"""How a field of a protobuf message is written."""
Field = tuple[int, "int | memoryview"]


def stored_types(model: bytes) -> set[str]:
    """The types of the weights in `model`, of "fp32", "fp16", "bf16" and "int8"; empty for what is no ONNX.

    Single numbers do not count: scales and limits are often kept in fp32 in a file of another precision.
    """
    found = set()
    try:
        for tensor in _tensors(memoryview(model)):
            kind, count = _kind_and_count(tensor)
            if kind in _PRECISION_NAMES and count > 1:
                found.add(_PRECISION_NAMES[kind])
    except (IndexError, ValueError):  # cut off, or not protobuf
        return set()
    return found


def _tensors(model: memoryview) -> Iterator[memoryview]:
    for graph in _messages(model, _GRAPH):
        yield from _messages(graph, _INITIALISER)
        for node in _messages(graph, _NODE):
            for attribute in _messages(node, _ATTRIBUTE):
                yield from _messages(attribute, _TENSOR)


def _kind_and_count(tensor: memoryview) -> tuple[int, int]:
    """Data type, and number of elements."""
    kind, count = 0, 1
    for number, value in _fields(tensor):
        if number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _DIMS:
            for side in [value] if isinstance(value, int) else _packed(value):
                count *= side
    return kind, count


def _packed(values: memoryview) -> Iterator[int]:
    position = 0
    while position < len(values):
        value, position = _varint(values, position)
        yield value


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(message):
        if number == wanted and not isinstance(value, int):
            yield value


def _fields(message: memoryview) -> Iterator[Field]:
    """(number, value) of each field: a number, or bytes. Raises ValueError or IndexError for no such message."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == _LENGTH_DELIMITED:
            size, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"field {number} is written in no known way ({kind})")
        if position + size > len(message):
            raise ValueError(f"field {number} is cut off")
        yield number, message[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
