"""Run the graph of an ONNX model in torch, so that its weights can be tuned.

The graph is taken as it stands, in opset 13 or later. What torch computes is compared with ONNX Runtime before
anything is tuned (`check_net`): an operator that is understood wrongly would spoil the weights without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from sr_deploy.errors import UsageError
from sr_deploy.graph.nodes import constants_of
from sr_deploy.graph.onnx_file import picture_io
from sr_deploy.graph.session import open_session
from sr_deploy.system.arrays import FloatArray
from sr_deploy.training.finetune.operators import OPERATORS, Attributes, Operator

LARGEST_DIFFERENCE = 1e-4
"""Largest difference between torch and ONNX Runtime, as a share of the largest value of the result."""

Prepare = Callable[[onnx.NodeProto, list[Any]], list[Any]]
"""Function that gives the inputs of a convolution, out of those in the graph."""


@dataclass(frozen=True)
class _ReadyNode:
    """A node with what is needed to run it."""

    node: onnx.NodeProto
    """The node of the graph."""
    operator: Operator
    """Function that computes it."""
    attributes: Attributes
    """Attributes of the node."""
    last_use: tuple[str, ...]
    """Values that no later step reads, so that their memory can be freed."""


class GraphNet:
    """A graph in torch. `constants` holds its weights by name; a tuner may put others in their place.

    Raises UsageError for a graph with an operator that is not supported, or with subgraphs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        missing = sorted({node.op_type for node in model.graph.node} - OPERATORS.keys())
        if missing:
            raise UsageError(
                f"fine-tuning does not support the operator {', '.join(missing)}; convert without --finetune"
            )
        ports = picture_io(model)
        self.input, self.output = ports[0].name, ports[1].name
        self.constants: dict[str, Tensor] = {
            name: _tensor(tensor) for name, tensor in constants_of(model).items()
        }
        self.steps = _steps(model, {self.output, *self.constants})

    def __call__(self, pixels: Tensor, prepare: Prepare | None = None) -> Tensor:
        """Compute the result for `pixels`, in the layout and the range of the model.

        `prepare` may change the inputs of each Conv.
        """
        values: dict[str, Any] = {**self.constants, self.input: pixels}
        for step in self.steps:
            inputs = [values[name] if name else None for name in step.node.input]
            if prepare is not None and step.node.op_type == "Conv":
                inputs = prepare(step.node, inputs)
            result = step.operator(step.attributes, inputs)
            values.update(
                zip(step.node.output, result if isinstance(result, tuple) else (result,), strict=True)
            )
            for name in step.last_use:
                del values[name]
        found: Tensor = values[self.output]
        return found


def _steps(model: onnx.ModelProto, kept: set[str]) -> list[_ReadyNode]:
    """Return the nodes as steps, in order. Constant nodes are left out: their tensors are known."""
    nodes = [node for node in model.graph.node if not set(node.output) <= kept - {model.graph.output[0].name}]
    steps: list[_ReadyNode] = []
    read = set(kept)
    for node in reversed(nodes):
        names = {name for name in (*node.input, *node.output) if name}
        attributes = _attributes(node)
        steps.append(_ReadyNode(node, OPERATORS[node.op_type], attributes, tuple(sorted(names - read))))
        read |= names
    return steps[::-1]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of `node`, texts as str; `outputs` is the number of its results."""
    found: dict[str, Any] = {"outputs": len(node.output)}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    if node.op_type == "Constant" and "value" not in found:
        given = next(value for name, value in found.items() if name.startswith("value_"))
        kind = torch.float32 if "value_float" in str(node.attribute[0].name) else torch.int64
        found["value"] = torch.tensor(given, dtype=kind)
    return found


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    """Return a tensor of a file as one of torch, with memory of its own."""
    return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))


@torch.no_grad()
def check_net(model: onnx.ModelProto, picture: FloatArray) -> GraphNet:
    """Return `model` in torch, after a comparison with ONNX Runtime on `picture`.

    Raises UsageError for a graph that torch does not compute in the same way, with the reason.
    """
    net = GraphNet(model)
    try:
        found = net(torch.from_numpy(picture)).numpy()
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise UsageError(
            f"fine-tuning cannot run this net in torch ({' '.join(str(error).split())[:160]}); convert without --finetune"
        ) from error
    (expected,) = open_session(model, "the model").run([net.output], {net.input: picture})
    scale = max(float(np.abs(expected).max()), 1e-6)
    apart = float(np.abs(found - expected).max()) / scale if found.shape == expected.shape else np.inf
    if not apart <= LARGEST_DIFFERENCE:  # written so that NaN fails
        raise UsageError(
            f"fine-tuning in torch gives another picture than ONNX Runtime (difference {apart:.1e} of the largest "
            f"value, {LARGEST_DIFFERENCE:g} is allowed); convert without --finetune"
        )
    return net
