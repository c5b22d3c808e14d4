"""Fields of a protobuf message, read without the library that wrote it."""

from __future__ import annotations

from io import BytesIO

import pytest
from onnx import TensorProto, helper

from sr_deploy.system.protobuf import Message

TENSOR = helper.make_tensor("weights", TensorProto.FLOAT, [2, 300], [0.5] * 600)


def test_numbers_texts_and_packed_fields_are_those_that_the_library_wrote():
    fields = list(Message(BytesIO(TENSOR.SerializeToString())).fields())
    numbers = {number: value for number, value in fields if isinstance(value, int)}
    assert numbers[TensorProto.DATA_TYPE_FIELD_NUMBER] == TensorProto.FLOAT
    named = dict(fields)[TensorProto.NAME_FIELD_NUMBER]
    assert isinstance(named, Message)
    assert named.read() == b"weights"
    sides = [value for number, value in fields if number == TensorProto.DIMS_FIELD_NUMBER]
    assert [side for part in sides for side in ([part] if isinstance(part, int) else part.varints())] == [
        2,
        300,
    ]


def test_a_message_inside_a_message_is_found_by_its_number():
    graph = helper.make_graph([], "net", [], [], [TENSOR])
    inner = list(Message(BytesIO(graph.SerializeToString())).messages(5))
    assert [message.read() for message in inner] == [TENSOR.SerializeToString()]


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"", EOFError, "empty"),
        (b"\x0a\x05abc", EOFError, "cut short"),
        (b"\x08", EOFError, "cut short"),
        (b"\x0b\x00", ValueError, "not a protobuf message"),
        (b"\x00\x00", ValueError, "not a protobuf message"),
        (b"\xff" * 12, ValueError, "not a protobuf message"),
    ],
)
def test_what_is_no_whole_message_is_an_error(data, error, text):
    with pytest.raises(error, match=text):
        list(Message(BytesIO(data)).fields())
