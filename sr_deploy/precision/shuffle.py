"""Make DepthToSpace move whole pixels instead of single values, where that is possible.

PyTorch's PixelShuffle is DepthToSpace in mode CRD, which takes the channels of a pixel from far apart. In
mode DCR they lie side by side, and a runtime that stores channels last moves them together. With the output
channels of the convolution reordered to match, the result is the same, bit for bit. Measured in OpenVINO on
64 channels at 640x360 in int8, it takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sr_deploy.graph.nodes import constants_of
from sr_deploy.graph.onnx_file import copy_of

_VALUE_BY_VALUE = {"Relu", "LeakyRelu", "Clip", "Identity"}
"""Operators that treat every value alike, so that channels may be reordered before them."""


def shuffled_by_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` that computes the same, with DepthToSpace in mode DCR wherever possible."""
    result = copy_of(model)
    makers = {name: node for node in result.graph.node for name in node.output}
    reads = [name for node in result.graph.node for name in node.input]
    reads += [port.name for port in result.graph.output]
    constants = constants_of(result)
    for node in result.graph.node:
        settings = {a.name: a for a in node.attribute}
        if node.op_type != "DepthToSpace" or "mode" not in settings or settings["mode"].s != b"CRD":
            continue
        convolution = _maker(node.input[0], makers, reads)
        if convolution is not None and _is_only_use(convolution, constants, reads):
            _reorder(convolution, constants, int(settings["blocksize"].i))
            settings["mode"].CopyFrom(helper.make_attribute("mode", "DCR"))
    return result


def _maker(name: str, makers: Mapping[str, onnx.NodeProto], reads: list[str]) -> onnx.NodeProto | None:
    """Return the convolution that `name` follows from, value by value; None if there is none.

    Also None if anything else reads a value between the two, because its channels would be reordered too.
    """
    node = makers.get(name)
    while node is not None and reads.count(name) == 1:
        if node.op_type == "Conv":
            return node
        if node.op_type not in _VALUE_BY_VALUE:
            return None
        name = node.input[0]
        node = makers.get(name)
    return None


def _is_only_use(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], reads: list[str]) -> bool:
    """Check that nothing else reads the weights and bias of `node`, and that they are constants. Grouped
    convolutions are left out, because their outputs cannot be put in any order."""
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    names = [name for name in node.input[1:] if name]
    return group == 1 and all(name in constants and reads.count(name) == 1 for name in names)


def _reorder(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], block: int) -> None:
    """Reorder the output channels of `node` from (C, row, column) to (row, column, C), in place."""
    for name in (name for name in node.input[1:] if name):
        values = numpy_helper.to_array(constants[name])
        order = np.arange(len(values)).reshape(-1, block**2).T.ravel()
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[order]), name))
