"""Layers are found with the weights that operators really use, and paired where that is safe."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.pixel_io import with_pixel_io
from sr_deploy.precision.half import to_fp16
from sr_deploy.verify.layers import layers_of, pair_layers, scaled_layers, weight_culprits

WEIGHT = np.random.default_rng(1).normal(0, 0.5, (4, 3, 3, 3)).astype(np.float32)


def convolution(
    nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], opset: int = 18
) -> onnx.ModelProto:
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", depth, "h", "w"])
        for name, depth in (("pixels", 3), ("upscaled", 4))
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def plain(weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    node = helper.make_node("Conv", ["pixels", "w"], ["upscaled"], "only", pads=[1] * 4)
    return convolution([node], {"w": weight})


def quantised(weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    """The weights as int8, a scale for each output channel."""
    scale = np.abs(weight).max(axis=(1, 2, 3)) / np.float32(127)
    steps = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["w"], axis=0),
        helper.make_node("Conv", ["pixels", "w"], ["upscaled"], "only", pads=[1] * 4),
    ]
    return convolution(nodes, {"steps": steps, "scale": scale, "zero": np.zeros(4, np.int8)})


def pairs(ours: onnx.ModelProto, theirs: onnx.ModelProto):
    return pair_layers(layers_of(ours), layers_of(theirs))


def test_dequantised_weights_are_those_that_are_used():
    (layer,) = layers_of(quantised())
    assert np.abs(layer.weight - WEIGHT).max() <= np.abs(WEIGHT).max() / 127
    assert layer.weight_name == "steps"


def test_weights_behind_a_constant_a_cast_and_a_transpose_are_found():
    turned = numpy_helper.from_array(WEIGHT.transpose(3, 2, 1, 0).astype(np.float16), "turned")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=turned),
        helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["w"], perm=[3, 2, 1, 0]),
        helper.make_node("Conv", ["pixels", "w"], ["upscaled"], "only", pads=[1] * 4),
    ]
    (layer,) = layers_of(convolution(nodes, {}))
    np.testing.assert_allclose(layer.weight, WEIGHT, rtol=1e-3)


def test_rounding_to_int8_is_no_difference_and_a_fiftieth_is():
    assert weight_culprits(pairs(quantised(), plain()), "int8") == []
    (line,) = scaled_layers(pairs(quantised(WEIGHT * np.float32(1.02)), plain()), "int8")
    factor = float(line.removeprefix("the weights of Conv 'only' (steps) are ").split()[0])
    assert factor == pytest.approx(1.02, abs=0.002)


def test_graphs_with_pixel_io_and_in_half_precision_pair_with_the_plain_one(tiny):
    model = tiny("plain").model
    for form, precision in ((with_pixel_io(model), "fp32"), (to_fp16(model), "fp16")):
        found = pairs(form, model)
        assert len(found) == 2
        assert weight_culprits(found, precision) == []


def test_a_bias_that_differs_is_named():
    node = helper.make_node("Conv", ["pixels", "w", "b"], ["upscaled"], "only", pads=[1] * 4)
    one, other = (
        convolution([node], {"w": WEIGHT, "b": np.array(bias, np.float32)})
        for bias in ([1, 2, 3, 4], [1, 2, 3, 5])
    )
    (line,) = weight_culprits(pairs(other, one), "fp32")
    assert line.startswith("the bias of Conv 'only' (w) differs from the reference's by 18 %")


def test_graphs_of_other_layers_are_not_paired(tiny):
    assert pairs(plain(), tiny("plain").model) == []
