"""Finds the types in which an ONNX file stores its weights, by reading its bytes. Standard library only.

A machine that builds engines need not have the onnx package, so the protobuf encoding is read directly. Only
the graph's initialisers and the tensors in its nodes' attributes are looked at; other faults of a file are
left to TensorRT's parser.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from sr_deploy.system.protobuf import Message

_PRECISION_NAMES = {1: "fp32", 3: "int8", 10: "fp16", 16: "bf16"}
"""Precisions by their number in TensorProto.DataType."""
_GRAPH, _NODE, _INITIALISER, _ATTRIBUTE, _TENSOR = 7, 1, 5, 5, 5
"""Field numbers in onnx.proto.

ModelProto.graph, GraphProto.node, GraphProto.initializer, NodeProto.attribute, AttributeProto.t.
"""
_DIMS, _DATA_TYPE = 1, 2
"""Field numbers of TensorProto."""


def stored_types(model: bytes) -> set[str]:
    """Return the types of the weights in `model` (the bytes of an ONNX file).

    A subset of "fp32", "fp16", "bf16" and "int8"; empty if `model` is not an ONNX file. Tensors of one
    element do not count: scales and limits are often kept in fp32 in a file of another precision. Never
    raises.
    """
    found = set()
    try:
        for tensor in _tensors(Message(BytesIO(model))):
            kind, count = _kind_and_count(tensor)
            if kind in _PRECISION_NAMES and count > 1:
                found.add(_PRECISION_NAMES[kind])
    except (EOFError, ValueError):  # truncated, or not protobuf
        return set()
    return found


def _tensors(model: Message) -> Iterator[Message]:
    """Yield the encoded tensors of `model`: initialisers, and constants in nodes."""
    for graph in model.messages(_GRAPH):
        yield from graph.messages(_INITIALISER)
        for node in graph.messages(_NODE):
            for attribute in node.messages(_ATTRIBUTE):
                yield from attribute.messages(_TENSOR)


def _kind_and_count(tensor: Message) -> tuple[int, int]:
    """Return the data type and the number of elements of an encoded tensor."""
    kind, count = 0, 1
    for number, value in tensor.fields():
        if number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _DIMS:
            for side in [value] if isinstance(value, int) else value.varints():
                count *= side
    return kind, count
