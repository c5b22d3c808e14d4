"""int8 graphs are spelled for their runtime: the numbers stay, or get finer steps in the same range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from benchmarks.int8_forms import FORMS, Form, net
from sr_deploy.graph.nodes import constants_of
from sr_deploy.graph.rewrites.int8_form import (
    int8_convolutions,
    never_negative,
    spelled_for_cpu,
    spelled_for_tensorrt,
)

PICTURE = np.random.default_rng(3).random((1, 3, 12, 10), np.float32)


def computed(model: onnx.ModelProto) -> np.ndarray:
    """The result operator by operator, without any fusion."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"pixels": PICTURE})[0]


def steps_of(model: onnx.ModelProto) -> list[tuple[float, str, int]]:
    """Scale, type and zero point of every QuantizeLinear."""
    constants = constants_of(model)
    found = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
            found.append((float(scale), zero.dtype.name, int(zero)))
    return found


@pytest.mark.parametrize("title", FORMS)
def test_every_form_computes_nearly_the_same_in_the_spelling_of_each_runtime(title):
    model = net(FORMS[title])
    before = model.SerializeToString()
    expected = computed(model)
    assert expected.std() > 0.05
    for spelled in (spelled_for_cpu(model), spelled_for_tensorrt(model)):
        onnx.checker.check_model(spelled, full_check=True)
        assert np.abs(computed(spelled) - expected).max() < 0.06
        assert len(int8_convolutions(spelled)) == 3
    assert model.SerializeToString() == before


def test_values_that_are_never_negative_get_twice_as_many_steps_in_the_same_range():
    first, *between, last = steps_of(spelled_for_cpu(net(Form(kind="int8"))))
    assert first == (
        pytest.approx(1 / 127),
        "int8",
        0,
    )  # of pixels the graph does not say that they are positive
    assert between == [(pytest.approx(2 / 255), "uint8", 0)] * 2
    assert last == (pytest.approx(2 / 127), "int8", 0)


@pytest.mark.parametrize("form", [Form(kind="int8", zero=-128), Form(kind="int8", zero=-128, activation="")])
def test_another_zero_point_of_int8_becomes_uint8_with_the_same_numbers(form):
    model = net(form)
    spelled = spelled_for_cpu(model)
    assert all(kind == "uint8" or zero == 0 for _, kind, zero in steps_of(spelled))
    np.testing.assert_array_equal(computed(spelled), computed(model))


def test_weights_in_uint8_become_int8_with_the_same_numbers():
    model = net(Form(weights="uint8"))
    spelled = spelled_for_cpu(model)
    kinds = {tensor.data_type for tensor in spelled.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.INT8}
    np.testing.assert_array_equal(computed(spelled), computed(model))


@pytest.mark.parametrize("title", FORMS)
def test_tensorrt_gets_int8_with_zero_point_0_alone(title):
    spelled = spelled_for_tensorrt(net(FORMS[title]))
    assert {(kind, zero) for _, kind, zero in steps_of(spelled)} == {("int8", 0)}


def test_tensorrt_keeps_the_range_of_unsigned_values_and_the_numbers_of_shifted_ones():
    first, *between, last = steps_of(spelled_for_tensorrt(net(Form())))
    assert first == (pytest.approx(1 / 127), "int8", 0)
    assert between == [(pytest.approx(2 / 127), "int8", 0)] * 2
    assert last == (pytest.approx(2 / 127), "int8", 0)
    same = net(Form(kind="int8"))
    assert steps_of(spelled_for_tensorrt(same)) == steps_of(same)
    assert spelled_for_tensorrt(same).SerializeToString() == same.SerializeToString()
    shifted = net(Form(zero=128, activation=""))
    np.testing.assert_array_equal(computed(spelled_for_tensorrt(shifted)), computed(shifted))


def test_what_was_moved_is_quantised_again_in_front_of_its_convolution():
    model = net(replace(FORMS["uint8, zero point 0, DepthToSpace behind Q/DQ"], closed=False))
    spelled = spelled_for_cpu(model)
    makers = {name: node for node in spelled.graph.node for name in node.output}
    last = list(int8_convolutions(spelled).values())[-1]
    dequantised = makers[last.input[0]]
    assert dequantised.op_type == "DequantizeLinear"
    assert makers[makers[dequantised.input[0]].input[0]].op_type == "DepthToSpace"
    np.testing.assert_array_equal(computed(spelled), computed(model))


def test_the_sign_of_values_follows_from_operators():
    nodes = [
        helper.make_node("Relu", ["pixels"], ["a"]),
        helper.make_node("Add", ["a", "positive"], ["b"]),
        helper.make_node("Add", ["a", "negative"], ["c"]),
        helper.make_node("DepthToSpace", ["b"], ["d"], blocksize=2),
        helper.make_node("Clip", ["pixels", "zero"], ["e"]),
        helper.make_node("Clip", ["pixels", "negative"], ["f"]),
        helper.make_node("LeakyRelu", ["pixels"], ["g"]),
        helper.make_node("Concat", ["a", "e"], ["h"], axis=1),
        helper.make_node("Concat", ["a", "g"], ["i"], axis=1),
        helper.make_node("Clip", ["pixels"], ["j"]),
        helper.make_node("DequantizeLinear", ["bytes", "positive", "middle"], ["k"]),
    ]
    constants = {"positive": 1.0, "negative": -1.0, "zero": 0.0}
    tensors = [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()]
    tensors += [
        numpy_helper.from_array(np.uint8(value), name) for name, value in (("bytes", 3), ("middle", 9))
    ]
    graph = helper.make_graph(nodes, "g", [], [], tensors)
    assert never_negative(helper.make_model(graph)) & set("abcdefghijk") == set("abdeh")
