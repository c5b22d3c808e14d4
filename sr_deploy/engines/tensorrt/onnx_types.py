"""Finds the types in which an ONNX file stores its weights, by reading its bytes. Standard library only.

A machine that builds engines need not have the onnx package, so the protobuf encoding is read directly. Only
the graph's initialisers and the tensors in its nodes' attributes are looked at; other faults of a file are
left to TensorRT's parser.
"""

from __future__ import annotations

from collections.abc import Iterator

_PRECISION_NAMES = {1: "fp32", 3: "int8", 10: "fp16", 16: "bf16"}
"""Precisions by their number in TensorProto.DataType."""
_GRAPH, _NODE, _INITIALISER, _ATTRIBUTE, _TENSOR = 7, 1, 5, 5, 5
"""Field numbers in onnx.proto.

ModelProto.graph, GraphProto.node, GraphProto.initializer, NodeProto.attribute, AttributeProto.t.
"""
_DIMS, _DATA_TYPE = 1, 2
"""Field numbers of TensorProto."""
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
"""Protobuf's wire types: how the value of a field is encoded."""
Field = tuple[int, "int | memoryview"]
"""Number and value of a field: an integer, or the bytes of anything else."""


def stored_types(model: bytes) -> set[str]:
    """Return the types of the weights in `model` (the bytes of an ONNX file).

    A subset of "fp32", "fp16", "bf16" and "int8"; empty if `model` is not an ONNX file. Tensors of one
    element do not count: scales and limits are often kept in fp32 in a file of another precision. Never
    raises.
    """
    found = set()
    try:
        for tensor in _tensors(memoryview(model)):
            kind, count = _kind_and_count(tensor)
            if kind in _PRECISION_NAMES and count > 1:
                found.add(_PRECISION_NAMES[kind])
    except (IndexError, ValueError):  # truncated, or not protobuf
        return set()
    return found


def _tensors(model: memoryview) -> Iterator[memoryview]:
    """Yield the encoded tensors of `model`: initialisers, and constants in nodes."""
    for graph in _messages(model, _GRAPH):
        yield from _messages(graph, _INITIALISER)
        for node in _messages(graph, _NODE):
            for attribute in _messages(node, _ATTRIBUTE):
                yield from _messages(attribute, _TENSOR)


def _kind_and_count(tensor: memoryview) -> tuple[int, int]:
    """Return the data type and the number of elements of an encoded tensor."""
    kind, count = 0, 1
    for number, value in _fields(tensor):
        if number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _DIMS:
            for side in [value] if isinstance(value, int) else _packed(value):
                count *= side
    return kind, count


def _packed(values: memoryview) -> Iterator[int]:
    """Yield the integers of a packed repeated field."""
    position = 0
    while position < len(values):
        value, position = _varint(values, position)
        yield value


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the values of the fields numbered `wanted` in an encoded message."""
    for number, value in _fields(message):
        if number == wanted and not isinstance(value, int):
            yield value


def _fields(message: memoryview) -> Iterator[Field]:
    """Yield (number, value) for each field of an encoded message.

    Raises ValueError or IndexError if the bytes are not a valid message.
    """
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
            raise ValueError(f"field {number} has an unknown wire type ({kind})")
        if position + size > len(message):
            raise ValueError(f"field {number} is truncated")
        yield number, message[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read a variable-length integer; returns its value and the position after it.

    Seven bits a byte, the lowest first; the highest bit says that another byte follows. Raises IndexError at
    the end of the data.
    """
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
