"""Int8 weights written as floats that the graph quantises: the same values, and no int8 constants left."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.rewrites.weights_qdq import quantise_weights_in_graph


def with_int8_weights(*, per_channel: bool, axis: int = 0) -> onnx.ModelProto:
    """A DequantizeLinear of int8 weights into a convolution; the weights themselves are an output too."""
    rng = np.random.default_rng(3)
    steps = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    scale = (rng.uniform(1e-4, 1e-2, steps.shape[axis]) if per_channel else np.array(0.0031)).astype(
        np.float32
    )
    tensors = {"w": steps, "s": scale, "z": np.zeros(scale.shape, np.int8)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["weights"], axis=axis),
        helper.make_node("Conv", ["x", "weights"], ["y"], pads=[1, 1, 1, 1]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n, dims in
             (("x", ["n", 3, "h", "w"]), ("y", ["n", 4, "h", "w"]), ("weights", [4, 3, 3, 3]))]  # fmt: skip
    weights = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "int8", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(1).normal(0, 1, (1, 3, 8, 9)).astype(np.float32)})


@pytest.mark.parametrize(("per_channel", "axis"), [(True, 0), (True, 1), (False, 0)])
def test_the_weights_are_the_same_to_the_bit(per_channel, axis):
    model = with_int8_weights(per_channel=per_channel, axis=axis)
    changed = quantise_weights_in_graph(model)
    onnx.checker.check_model(changed, full_check=True)
    (y, weights), (expected, expected_weights) = run(changed), run(model)
    assert (weights == expected_weights).all()
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_no_int8_constant_but_zero_points_is_left():
    changed = quantise_weights_in_graph(with_int8_weights(per_channel=True))
    assert [t.name for t in changed.graph.initializer if t.data_type == TensorProto.INT8] == ["z"]
    assert [node.op_type for node in changed.graph.node] == ["QuantizeLinear", "DequantizeLinear", "Conv"]


def test_models_without_int8_stay_as_they_are(each_tiny):
    assert quantise_weights_in_graph(each_tiny.model) == each_tiny.model
