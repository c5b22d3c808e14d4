"""Upsample and Resize of opsets 7 to 10 keep their picture when a graph moves to a later opset."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import ModelError
from sr_deploy.graph.nodes import in_opset


def resizing(
    opset: int, mode: str, scales: tuple[float, ...], *, given: str = "initializer"
) -> onnx.ModelProto:
    """A graph that only resizes, in an old opset: scales as an attribute, an initializer, a constant or an input."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "h", "w"]) for name in "xy"]
    tensor = numpy_helper.from_array(np.array(scales, np.float32), "s")
    kind = "Upsample" if opset < 10 else "Resize"
    if opset < 9:
        nodes = [helper.make_node(kind, ["x"], ["y"], mode=mode, scales=scales)]
    else:
        nodes = [helper.make_node(kind, ["x", "s"], ["y"], mode=mode)]
    if given == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["s"], value=tensor))
    if given == "input":
        ports.insert(1, helper.make_tensor_value_info("s", TensorProto.FLOAT, [4]))
    weights = [tensor] if given == "initializer" and opset > 8 else []
    graph = helper.make_graph(nodes, "g", ports[:-1], ports[-1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(0).random((1, 3, 12, 18), np.float32)
    return session.run(None, {"x": picture})[0]


@pytest.mark.parametrize("given", ["initializer", "constant"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("opset", [7, 8, 9, 10])
def test_an_old_resize_keeps_its_picture(opset: int, mode: str, given: str) -> None:
    if given == "constant" and opset < 9:
        pytest.skip("scales are an attribute there")
    for factor in (2.0, 3.0) if opset < 10 else (2.0, 3.0, 0.5, 1 / 3):
        model = resizing(opset, mode, (1, 1, factor, factor), given=given)
        newer = in_opset(model, 13)
        onnx.checker.check_model(newer, full_check=True)
        np.testing.assert_allclose(run(newer), run(model), rtol=0, atol=1e-6)


def test_scales_that_only_a_run_can_tell_are_refused() -> None:
    with pytest.raises(ModelError, match=r"Resize \(node y\).*computes its scales.*opset 17"):
        in_opset(resizing(10, "linear", (1, 1, 2, 2), given="input"), 13)


def test_one_that_enlarges_and_shrinks_is_refused() -> None:
    with pytest.raises(ModelError, match="enlarges one axis"):
        in_opset(resizing(10, "nearest", (1, 1, 2, 0.5)), 13)
