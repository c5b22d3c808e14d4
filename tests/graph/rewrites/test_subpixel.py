"""A convolution that was moved in front of the shuffle computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.rewrites.subpixel import convolve_before_shuffle


def ending_in_a_convolution(
    block=2, mode="CRD", side=3, outputs=3, inputs=5, bias=True, **changes
) -> onnx.ModelProto:
    """DepthToSpace, then a convolution."""
    rng = np.random.default_rng(block * side)
    tensors = {"w": rng.normal(0, 1, (outputs, inputs, side, side))} | (
        {"b": rng.normal(0, 1, outputs)} if bias else {}
    )
    settings = {"pads": [side // 2] * 4, **changes}
    nodes = [
        helper.make_node("DepthToSpace", ["x"], ["large"], blocksize=block, mode=mode),
        helper.make_node("Conv", ["large", *tensors], ["y"], **settings),
    ]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs * block**2, "h", "w"]),
             helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs, "H", "W"])]  # fmt: skip
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "ending", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@pytest.mark.parametrize(("block", "side"), [(2, 3), (2, 5), (3, 3), (4, 3), (2, 1), (2, 7), (3, 9)])
def test_the_result_is_the_same_at_every_size(block, mode, side):
    model = ending_in_a_convolution(block, mode, side)
    changed = convolve_before_shuffle(model)
    assert kinds(changed) == ["Conv", "DepthToSpace"]
    assert {t.name for t in changed.graph.initializer} == set(changed.graph.node[0].input[1:])
    onnx.checker.check_model(changed, full_check=True)
    for height, width in ((1, 1), (1, 6), (5, 4), (9, 12)):
        x = np.random.default_rng(1).normal(0, 1, (2, 5 * block**2, height, width)).astype(np.float32)
        np.testing.assert_allclose(run(changed, x), run(model, x), atol=1e-4)


def test_a_convolution_without_bias_stays_without():
    model = ending_in_a_convolution(bias=False)
    x = np.random.default_rng(1).normal(0, 1, (1, 20, 7, 5)).astype(np.float32)
    changed = convolve_before_shuffle(model)
    assert len(changed.graph.node[0].input) == 2
    np.testing.assert_allclose(run(changed, x), run(model, x), atol=1e-4)


def test_weights_that_are_named_among_the_inputs_go_with_their_tensors():
    model = ending_in_a_convolution()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 5, 3, 3]))
    assert [port.name for port in convolve_before_shuffle(model).graph.input] == ["x"]


@pytest.mark.parametrize(
    "other",
    [
        {"outputs": 65},
        {"strides": [2, 2]},
        {"dilations": [2, 2], "pads": [2] * 4},
        {"pads": [0] * 4},
        {"inputs": 4, "outputs": 4, "group": 1, "auto_pad": "SAME_UPPER", "pads": None},
    ],
)
def test_other_convolutions_stay_as_they_are(other):
    changes = {key: value for key, value in other.items() if value is not None}
    if "auto_pad" in changes:
        model = ending_in_a_convolution(**{k: v for k, v in changes.items() if k != "auto_pad"})
        settings = model.graph.node[1].attribute
        del settings[:]
        settings.append(helper.make_attribute("auto_pad", "SAME_UPPER"))
    else:
        model = ending_in_a_convolution(**changes)
    assert kinds(convolve_before_shuffle(model)) == ["DepthToSpace", "Conv"]


def test_a_shuffle_that_something_else_reads_too_stays():
    model = ending_in_a_convolution()
    model.graph.output.append(helper.make_tensor_value_info("large", TensorProto.FLOAT, ["n", 5, "H", "W"]))
    assert kinds(convolve_before_shuffle(model)) == ["DepthToSpace", "Conv"]


def test_whole_models_compute_the_same(each_tiny):
    changed = convolve_before_shuffle(each_tiny.model)
    spec = each_tiny.spec
    rng = np.random.default_rng(2)
    height, width = spec.size_rule.fixed or (6, 5)
    shape = (1, spec.channels, height, width) if spec.layout == "NCHW" else (1, height, width, spec.channels)
    kind = np.float16 if each_tiny.spec.precision == "fp16" else np.float32
    x = rng.uniform(*spec.value_range, shape).astype(kind)
    tolerance = (4e-3 if kind == np.float16 else 1e-5) * (spec.value_range[1] - spec.value_range[0])
    np.testing.assert_allclose(run(changed, x), run(each_tiny.model, x), atol=tolerance)


def test_the_model_that_was_handed_in_is_left_alone(tiny):
    model = tiny("convolved").model
    before = model.SerializeToString(deterministic=True)
    assert convolve_before_shuffle(model).SerializeToString(deterministic=True) != before
    assert model.SerializeToString(deterministic=True) == before
