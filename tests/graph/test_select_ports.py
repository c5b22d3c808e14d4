"""One picture in and one picture out, of a graph with several ports."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.onnx_file import lost_spec, picture_io
from sr_deploy.graph.select_ports import select_ports, with_packing


def several(noise: list[int | str]) -> onnx.ModelProto:
    """Y = x + noise, and features = 2 * x."""
    shapes = {
        "x": ["n", 3, "h", "w"],
        "noise": noise,
        "y": ["n", 3, "h", "w"],
        "features": ["n", 3, "h", "w"],
    }
    ports = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in shapes.items()
    }
    nodes = [
        helper.make_node("Add", ["x", "noise"], ["y"]),
        helper.make_node("Mul", ["x", "two"], ["features"]),
    ]
    two = numpy_helper.from_array(np.float32(2), "two")
    graph = helper.make_graph(
        nodes, "g", [ports["x"], ports["noise"]], [ports["y"], ports["features"]], [two]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("noise", [[1], [], ["n", 1, 1, 1], ["n", 1, "h", "w"], [1, 3, "h", "w"]], ids=str)
def test_other_inputs_become_numbers_and_other_outputs_go(noise: list[int | str]) -> None:
    made = select_ports(several(noise), output="y", inputs={"noise": 0.25})
    onnx.checker.check_model(made, full_check=True)
    assert [port.name for port in picture_io(made)] == ["x", "y"]
    assert "Mul" not in [node.op_type for node in made.graph.node if "features" in node.output]
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(0).random((2, 3, 5, 7), np.float32)
    np.testing.assert_allclose(session.run(None, {"x": picture})[0], picture + 0.25)


def test_names_that_are_not_there_are_told_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="no output 'z'; it has y, features"):
        select_ports(several([1]), output="z", inputs={})
    with pytest.raises(UsageError, match="no input 'level'; it has x, noise"):
        select_ports(several([1]), inputs={"level": 1})
    with pytest.raises(UsageError, match="none is left for the picture"):
        select_ports(several([1]), inputs={"x": 1, "noise": 1})


def test_a_graph_with_several_ports_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"2 inputs \(x, noise\).*stamp --input NAME=NUMBER"):
        picture_io(several([1]))
    with pytest.raises(ModelError, match=r"2 outputs.*stamp --output-name NAME"):
        picture_io(select_ports(several([1]), inputs={"noise": 1}))


def test_a_spec_that_a_tool_dropped_is_told_as_such(tiny, tmp_path) -> None:
    path, part = tmp_path / "net.onnx", tmp_path / "part.onnx"
    onnx.save(tiny("plain").model, path)
    onnx.utils.extract_model(path, part, ["pixels"], ["upscaled"])
    assert "extract_model" in lost_spec(onnx.load(part))
    bare = tiny("plain").model
    del bare.metadata_props[:]
    bare.producer_name = "simplifier"
    assert "lost when it was rewritten by simplifier" in lost_spec(bare)
    assert lost_spec(several([1])) == ""


@pytest.mark.parametrize("side", [2, 4])
def test_cells_of_pixels_are_packed_as_torch_unshuffles_them(side: int) -> None:
    """Unshuffled by side, then shuffled by 2 * side, a picture of equal pixels becomes itself at twice its size."""
    channels = 3 * side**2
    ports = {
        "cells": helper.make_tensor_value_info("cells", TensorProto.FLOAT, [1, channels, "h", "w"]),
        "given": helper.make_tensor_value_info("given", TensorProto.FLOAT, [1, 3, "H", "W"]),
    }
    # CRD is the order of torch's pixel_shuffle; each channel stands for 2x2 pixels of the result
    row, column = (np.arange(2 * side) // 2 for _ in range(2))
    place = (row[:, None] * side + column[None, :]).reshape(-1)
    index = (np.arange(3)[:, None] * side**2 + place[None, :]).reshape(-1)
    nodes = [
        helper.make_node("Gather", ["cells", "index"], ["many"], axis=1),
        helper.make_node("DepthToSpace", ["many"], ["given"], blocksize=2 * side, mode="CRD"),
    ]
    graph = helper.make_graph(
        nodes, "g", [ports["cells"]], [ports["given"]], [numpy_helper.from_array(index, "index")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = with_packing(model)
    assert made is not None
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(0).random((1, 3, 2 * side, 5 * side), np.float32)
    result = session.run(None, {"cells": picture})[0]
    assert np.array_equal(result, picture.repeat(2, axis=2).repeat(2, axis=3))
    assert with_packing(made) is None
