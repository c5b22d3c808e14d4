"""Graphs in torch compute what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import UsageError
from sr_deploy.graph.session import open_session
from sr_deploy.training.finetune.graph_net import GraphNet, check_net
from sr_deploy.training.finetune.operators import OPERATORS
from tests.graph.rewrites.test_carried import net

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.normal(0, 1, (2, 4, 6, 8)).astype(np.float32)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 0.5, shape).astype(np.float32)


def graph(
    operator: str, constants: list[np.ndarray | None], results: int = 1, **attributes: Any
) -> onnx.ModelProto:
    """A model of one operator that reads the picture, then constants; the last of its results is the output."""
    given = {f"c{i}": value for i, value in enumerate(constants) if value is not None}
    names = ["x", *(f"c{i}" if value is not None else "" for i, value in enumerate(constants))]
    outputs = [*(f"other{i}" for i in range(results - 1)), "y"]
    nodes = [helper.make_node(operator, names, outputs, **attributes)]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, "h", "w"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C", "H", "W"]),
    ]
    held = [numpy_helper.from_array(value, name) for name, value in given.items()]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


SCALES = np.array([1, 1, 2, 3], np.float32)
EDGES = {"kernel_shape": [3, 3]}
CASES: list[tuple[str, list[np.ndarray | None], dict[str, Any]]] = [
    ("Add", [floats(4, 1, 1)], {}),
    ("Sub", [floats(4, 1, 1)], {}),
    ("Mul", [floats(1)], {}),
    ("Div", [floats(4, 1, 1)], {}),
    ("Clip", [np.float32(-0.5), np.float32(0.5)], {}),
    ("Clip", [None, np.float32(0.5)], {}),
    ("Clip", [np.float32(0)], {}),
    ("Concat", [floats(2, 3, 6, 8)], {"axis": 1}),
    ("Conv", [floats(5, 4, 3, 3), floats(5)], {**EDGES, "pads": [1, 1, 1, 1]}),
    ("Conv", [floats(8, 2, 3, 3)], {**EDGES, "group": 2, "strides": [2, 1], "dilations": [1, 2]}),
    ("Conv", [floats(5, 4, 3, 3)], {**EDGES, "pads": [0, 1, 2, 1]}),
    ("ConvTranspose", [floats(4, 3, 4, 4), floats(3)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("ConvTranspose", [floats(4, 3, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1]}),
    ("DepthToSpace", [], {"blocksize": 2}),
    ("DepthToSpace", [], {"blocksize": 2, "mode": "CRD"}),
    ("Gather", [numbers(2, 0, -1)], {"axis": 1}),
    ("GlobalAveragePool", [], {}),
    ("Identity", [], {}),
    ("LeakyRelu", [], {"alpha": 0.2}),
    ("LeakyRelu", [], {}),
    ("PRelu", [floats(4, 1, 1)], {}),
    ("Pad", [numbers(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": "reflect"}),
    ("Pad", [numbers(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": "edge"}),
    ("Pad", [numbers(0, 1, 1, 2, 0, 0, -1, 1), np.float32(0.5)], {}),
    ("Relu", [], {}),
    ("Reshape", [numbers(0, 2, -1, 8)], {}),
    ("Resize", [None, SCALES], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Resize", [None, SCALES], {"mode": "nearest"}),
    ("Resize", [None, None, numbers(2, 4, 12, 24)], {"mode": "linear"}),
    ("Resize", [None, SCALES], {"mode": "linear"}),
    ("Resize", [None, SCALES], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", [None, SCALES], {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel"}),
    ("Sigmoid", [], {}),
    ("Slice", [numbers(1, -3), numbers(1000, -1), numbers(2, 3)], {}),
    ("Slice", [numbers(-1), numbers(-1000), numbers(1), numbers(-1)], {}),
    ("SpaceToDepth", [], {"blocksize": 2}),
    ("Split", [numbers(1, 3)], {"axis": 1, "results": 2}),
    ("Split", [], {"axis": 1, "num_outputs": 2, "results": 2}),
    ("Squeeze", [numbers(0)], {}),
    ("Tanh", [], {}),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Unsqueeze", [numbers(0, -1)], {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "constants", "attributes"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_operator_is_that_of_onnx_runtime(operator, constants, attributes):
    model = graph(operator, constants, **attributes)
    picture = PICTURE[:1] if operator == "Squeeze" else PICTURE
    (expected,) = open_session(model, "one").run(["y"], {"x": picture})
    found = GraphNet(model)(torch.from_numpy(picture))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_shapes_are_computed_too():
    """Exporters write the size of a result as a computation from that of the input."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=2),
        helper.make_node("Constant", [], ["two"], value_ints=[2]),
        helper.make_node("Mul", ["shape", "two"], ["doubled"]),
        helper.make_node("Div", ["doubled", "one"], ["large"]),
        helper.make_node("Cast", ["large"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Concat", ["kept", "whole"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
    ]
    model = graph("Identity", [])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    held = {"kept": numbers(2, 4), "one": numbers(1)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in held.items())
    check_net(model, PICTURE)


def test_every_operator_is_tried():
    tried = {operator for operator, _, _ in CASES} | {"Shape", "Constant", "Cast"}
    assert tried == set(OPERATORS)


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_a_whole_net_is_that_of_onnx_runtime(unshuffle):
    check_net(net(unshuffle), RANDOM.random((1, 3, 16, 24), np.float32))


def test_gradients_reach_the_weights():
    made = GraphNet(net())
    weight = made.constants["first.weight"].requires_grad_()
    made(torch.rand(1, 3, 8, 8)).square().mean().backward()
    assert float(weight.grad.abs().max()) > 0


@pytest.mark.parametrize(
    ("operator", "constants", "attributes", "says"),
    [
        ("Selu", [], {}, "does not support the operator Selu;"),
        ("Resize", [None, SCALES], {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, "Resize with"),
        ("Resize", [None, SCALES], {"mode": "nearest", "nearest_mode": "ceil"}, "Resize with"),
        ("Resize", [None, SCALES / 2], {"mode": "linear", "antialias": 1}, "Resize with"),
        ("Conv", [floats(5, 4, 3, 3)], {**EDGES, "auto_pad": "SAME_UPPER"}, "Conv with auto_pad"),
    ],
)  # fmt: skip
def test_what_torch_would_compute_in_another_way_is_refused(operator, constants, attributes, says):
    with pytest.raises(UsageError, match=says):
        check_net(graph(operator, constants, **attributes), PICTURE)


def test_a_net_that_comes_out_differently_is_refused(monkeypatch):
    monkeypatch.setattr(GraphNet, "__call__", lambda self, pixels: pixels * 1.01)
    with pytest.raises(UsageError, match="another picture than ONNX Runtime"):
        check_net(graph("Identity", []), PICTURE)
