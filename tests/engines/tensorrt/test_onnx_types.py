"""Tests of `stored_types` against the onnx package, on the same files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.engines.tensorrt.onnx_types import stored_types
from sr_deploy.precision.half import to_fp16

NAMES = {
    *((TensorProto.FLOAT, "fp32"), (TensorProto.FLOAT16, "fp16")),
    *((TensorProto.BFLOAT16, "bf16"), (TensorProto.INT8, "int8")),
}


def said_by_onnx(model: onnx.ModelProto) -> set[str]:
    """The types of a model's weights, by the onnx package."""
    names = dict(NAMES)
    tensors = [*model.graph.initializer]
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    return {names[t.data_type] for t in tensors if t.data_type in names and np.prod(t.dims) > 1}


def model_of(*tensors: onnx.TensorProto, constants: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    """A model with the given initialisers and constants."""
    nodes = [helper.make_node("Constant", [], [f"c{n}"], value=t) for n, t in enumerate(constants)]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], [*tensors]))


def test_it_agrees_with_onnx_on_every_tiny_model(each_tiny):
    model = each_tiny.model
    assert stored_types(model.SerializeToString()) == said_by_onnx(model)


def test_a_converted_model_has_halves_alone(tiny):
    model = to_fp16(tiny("plain").model)
    assert stored_types(model.SerializeToString()) == said_by_onnx(model) == {"fp16"}


@pytest.mark.parametrize(("kind", "name"), sorted(NAMES))
def test_each_type_is_named_in_initialisers_and_in_constants(kind, name):
    tensor = helper.make_tensor("w", kind, [2, 3], [1.0] * 6 if kind != TensorProto.INT8 else [1] * 6)
    assert stored_types(model_of(tensor).SerializeToString()) == {name}
    assert stored_types(model_of(constants=(tensor,)).SerializeToString()) == {name}


def test_single_numbers_and_shapes_do_not_count():
    limit = numpy_helper.from_array(np.float32(255), "limit")
    one = numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
    shape = numpy_helper.from_array(np.arange(4), "shape")
    half = numpy_helper.from_array(np.ones((3, 2), np.float16), "w")
    assert stored_types(model_of(limit, one, shape, half).SerializeToString()) == {"fp16"}


def test_external_data_counts_by_its_record():
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[64, 64])
    tensor.data_location = TensorProto.EXTERNAL
    assert stored_types(model_of(tensor).SerializeToString()) == {"fp16"}


@given(st.binary(max_size=200))
def test_bytes_that_are_no_model_say_nothing_and_raise_nothing(data):
    assert stored_types(data) <= {name for _, name in NAMES}


def test_a_model_cut_off_anywhere_raises_nothing(tiny):
    data = tiny("plain").model.SerializeToString()
    whole = stored_types(data)
    assert whole == {"fp32"}
    assert all(stored_types(data[:size]) <= whole for size in range(0, len(data), 37))
