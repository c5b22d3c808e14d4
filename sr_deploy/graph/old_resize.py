"""Convert the resizing operators of opsets 7 to 10 to those of opset 11 and later, exactly.

ONNX's version converter (seen in onnx 1.22) gives an old Upsample or Resize the defaults of opset 11, whose pixel
centres lie elsewhere: a linear one moved the picture by up to half a pixel. Until opset 10 an output pixel o was
read at o / scale (`asymmetric` today), and a nearest one was rounded down, or up where the picture shrinks, as
ONNX Runtime computes it. So these nodes are hidden from the converter, and written by this rule afterwards.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from sr_deploy.errors import ModelError

_HIDDEN = "sr_deploy.hidden"
"""Domain of the nodes that the version converter must not touch; it converts the standard domain only."""
_OPERATORS = ("Upsample", "Resize")
_FIRST_EXACT_OPSET = 11
"""First opset whose Resize says where its pixels lie."""


def hide_old_resizes(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy of `model`, which has `opset`, with its old resizing nodes in a domain of their own.

    Returns `model` itself if it has none. The shapes of all values are written into the copy, because the
    converter cannot infer them behind a node that it does not know.
    """
    if opset >= _FIRST_EXACT_OPSET or not any(node.op_type in _OPERATORS for node in model.graph.node):
        return model
    hidden = shape_inference.infer_shapes(model)
    hidden.opset_import.append(helper.make_opsetid(_HIDDEN, 1))
    for node in hidden.graph.node:
        if node.op_type in _OPERATORS and node.domain in ("", "ai.onnx"):
            node.domain = _HIDDEN
    return hidden


def write_hidden_resizes(model: onnx.ModelProto) -> None:
    """Replace the nodes that `hide_old_resizes` hid by exact ones of opset 11 or later, in place.

    Raises ModelError for scales that only a run can tell.
    """
    graph = model.graph
    for node in graph.node:
        if node.domain == _HIDDEN:
            scales = _scales(model, node)
            mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "nearest")
            name = f"{node.output[0]}_sr_deploy_scales"
            graph.initializer.append(numpy_helper.from_array(scales, name))
            graph_node = helper.make_node(
                "Resize",
                [node.input[0], "", name],
                node.output,
                name=node.name,
                mode=mode,
                coordinate_transformation_mode="asymmetric",
                nearest_mode=_nearest_mode(scales, mode, node),
            )
            node.CopyFrom(graph_node)
    kept = [entry for entry in model.opset_import if entry.domain != _HIDDEN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _scales(model: onnx.ModelProto, node: onnx.NodeProto) -> np.ndarray:
    """Return the constant scales of an old node, float32, one an axis: an attribute until opset 8, an input later."""
    for attribute in node.attribute:
        if attribute.name == "scales":
            return np.array(attribute.floats, np.float32)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for other in model.graph.node:
        if other.op_type == "Constant":
            constants.update((other.output[0], a.t) for a in other.attribute if a.name == "value")
    if len(node.input) < 2 or node.input[1] not in constants:
        raise ModelError(
            f"the operator {node.op_type} (node {node.name or node.output[0]}) of an opset before 11 computes its scales, "
            "expected constant ones; export the model again with opset 17"
        )
    return numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)


def _nearest_mode(scales: np.ndarray, mode: str, node: onnx.NodeProto) -> str:
    """Return "floor" where the node enlarges and "ceil" where it shrinks. Raises ModelError for one that does both."""
    if mode != "nearest" or (scales >= 1).all():
        return "floor"
    if (scales <= 1).all():
        return "ceil"
    raise ModelError(
        f"the operator {node.op_type} (node {node.name or node.output[0]}) of an opset before 11 enlarges one axis and "
        "shrinks another; export the model again with opset 17"
    )
