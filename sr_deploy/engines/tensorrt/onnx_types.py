"""In which types an ONNX file stores its numbers, read off its bytes. Stdlib only.

A machine that builds engines need not have onnx. Only the graph's own initialisers and constants are looked at;
whatever is wrong with the file otherwise is the parser's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from sr_deploy.system.protobuf import Message

_NAMES = {1: "fp32", 3: "int8", 10: "fp16", 16: "bf16"}
"""TensorProto.DataType, those a precision is named after."""
_GRAPH, _NODE, _INITIALISER, _ATTRIBUTE, _TENSOR = 7, 1, 5, 5, 5
"""Fields: of ModelProto, of GraphProto (two), of NodeProto, of AttributeProto."""
_DIMS, _DATA_TYPE = 1, 2
"""Fields of TensorProto."""


def stored_types(model: bytes) -> set[str]:
    """The types of the weights in `model`, of "fp32", "fp16", "bf16" and "int8"; empty for what is no ONNX.

    Single numbers do not count: scales and limits are often kept in fp32 in a file of another precision.
    """
    found = set()
    try:
        for tensor in _tensors(Message(BytesIO(model))):
            kind, count = _kind_and_count(tensor)
            if kind in _NAMES and count > 1:
                found.add(_NAMES[kind])
    except (EOFError, ValueError):  # cut off, or not protobuf
        return set()
    return found


def _tensors(model: Message) -> Iterator[Message]:
    for graph in model.messages(_GRAPH):
        yield from graph.messages(_INITIALISER)
        for node in graph.messages(_NODE):
            for attribute in node.messages(_ATTRIBUTE):
                yield from attribute.messages(_TENSOR)


def _kind_and_count(tensor: Message) -> tuple[int, int]:
    """Data type, and number of elements."""
    kind, count = 0, 1
    for number, value in tensor.fields():
        if number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _DIMS:
            for side in [value] if isinstance(value, int) else value.varints():
                count *= side
    return kind, count
