"""Write int8 as explicit Q/DQ: one file for ONNX Runtime, OpenVINO and TensorRT.

Q/DQ stands for QuantizeLinear followed by DequantizeLinear. Convolutions read quantised activations and
quantised weights; everything else stays in single precision. Weights are symmetric with one scale per output
channel: weights [O, ...] have scales [O]. Activations are symmetric with zero point 0 and one scale per
tensor, and have one Q/DQ pair in front of every convolution: that is the form that TensorRT requires. Values that are
never negative may be uint8 instead, also with zero point 0: 255 steps rather than 127. The ranges are not chosen here;
`sr_deploy.precision.calibrate` measures them on pictures, `sr_deploy.precision.learned` has those of a training.

Sources: the ONNX operators QuantizeLinear and DequantizeLinear; Jacob et al. 2018, "Quantization and training
of neural networks for efficient integer-arithmetic-only inference", section 2.1; Krishnamoorthi 2018,
"Quantizing deep convolutional networks for efficient inference", sections 2.2 and 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.nodes import constants_of, in_opset, name_of, node_roles
from sr_deploy.graph.onnx_file import read_spec, remove_weights, write_spec
from sr_deploy.system.arrays import FloatArray

LEVELS = 127
"""Steps on each side of zero. -128 is left out, so that a value and its negative are rounded alike."""
UNSIGNED_LEVELS = 255
"""Steps above zero of a value that is never negative."""
OLDEST_OPSET = 13
"""First opset whose QuantizeLinear and DequantizeLinear have a scale per channel."""
_SMALLEST_SCALE = 1e-8
"""Smallest scale: a channel of zeros needs one above 0 too."""
_MOVING_OPERATORS = {"DepthToSpace", "Transpose", "Reshape", "Identity", "SpaceToDepth"}
"""Operators that move values and compute none. Values are quantised before them, so that a quarter of the
bytes is moved."""


def quantisable(model: onnx.ModelProto) -> tuple[str, ...]:
    """List the convolutions that can be int8, first to last, each by the name of its result.

    They have constant weights and do not lie on the picture's way around the network. Raises ModelError if
    there is none.
    """
    constants = constants_of(model)
    nodes = [model.graph.node[index] for index in node_roles(model).convolutions]
    found = tuple(node.output[0] for node in nodes if node.op_type == "Conv" and node.input[1] in constants)
    if not found:
        raise ModelError(
            "the model has no convolution with constant weights to make int8; use --precision fp16"
        )
    return found


def quantised_inputs(model: onnx.ModelProto) -> dict[str, str]:
    """Return, for each `quantisable` convolution by name, the value whose range sets the scale of its input."""
    makers = {name: node for node in model.graph.node for name in node.output}
    wanted, found = set(quantisable(model)), {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.output[0] in wanted:
            found[node.output[0]] = _source_before_moves(node.input[0], makers, _readers(model))
    return found


def to_int8(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    *,
    keep: Set[str] = frozenset(),
    unsigned: Set[str] = frozenset(),
) -> onnx.ModelProto:
    """Return `model` with its `quantisable` convolutions in int8, except those named in `keep`.

    `ranges` gives, for every value of `quantised_inputs`, the magnitude that the last of 127 steps stands
    for; larger magnitudes are clipped. The values in `unsigned` are never negative and become uint8 with 255 steps. The precision in the spec becomes "int8". Raises UsageError for a
    model that is not fp32, and ModelError for one with nothing to quantise.
    """
    spec = read_spec(model)
    if spec is not None and spec.precision != "fp32":
        raise UsageError(f"{spec.name} is already {spec.precision}; convert the fp32 file it was made from")
    copied = in_opset(model, OLDEST_OPSET)
    _Quantiser(copied, ranges, unsigned).convert(set(quantisable(copied)) - keep)
    return write_spec(copied, spec.with_(precision="int8")) if spec else copied


def weight_scales(weights: FloatArray) -> FloatArray:
    """Return the scale of every output channel of `weights` [O, ...], as [O]: its largest magnitude over 127."""
    largest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    scales: FloatArray = np.maximum(largest / LEVELS, _SMALLEST_SCALE).astype(np.float32)
    return scales


def rounded_weights(weights: FloatArray, scales: FloatArray) -> npt.NDArray[np.int8]:
    """Round `weights` [O, ...] to whole steps of their channel's scale [O], -127 to 127, ties to even."""
    steps = np.rint(weights / scales.reshape(-1, *[1] * (weights.ndim - 1)))
    rounded: npt.NDArray[np.int8] = np.clip(steps, -LEVELS, LEVELS).astype(np.int8)
    return rounded


def _readers(model: onnx.ModelProto) -> dict[str, int]:
    """Count the readers of each value: nodes, and the graph's outputs."""
    count: dict[str, int] = {port.name: 1 for port in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            count[name] = count.get(name, 0) + 1
    return count


def _source_before_moves(name: str, makers: Mapping[str, onnx.NodeProto], readers: Mapping[str, int]) -> str:
    """Follow `name` back through operators that only move values, while nothing else reads what lies between."""
    while (node := makers.get(name)) and node.op_type in _MOVING_OPERATORS and readers[name] == 1:
        name = node.input[0]
    return name


class _Quantiser:
    """Rewrites the graph of `model` node by node, in order, so that Q/DQ pairs stand before their readers."""

    def __init__(
        self, model: onnx.ModelProto, ranges: Mapping[str, float], unsigned: Set[str] = frozenset()
    ) -> None:
        self.graph, self.ranges, self.unsigned = model.graph, ranges, unsigned
        self.sources = quantised_inputs(model)
        self.constants = constants_of(model)
        self.taken = {n for node in model.graph.node for n in (*node.input, *node.output)} | set(
            self.constants
        )
        self.pairs: dict[str, str] = {}
        self.weights: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def convert(self, chosen: Set[str]) -> None:
        """Convert the convolutions in `chosen`, named by their results, in place."""
        through = self._sources_before_moves(chosen)
        for node in list(self.graph.node):
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            if node.op_type == "Conv" and node.output[0] in chosen:
                copied.input[1] = self._quantised_weight(node)
                if self.sources[node.output[0]] == node.input[0]:
                    copied.input[0] = self._quantised_and_back(node.input[0])
            elif node.input and node.input[0] in through and node.op_type in _MOVING_OPERATORS:
                copied.input[0] = self._quantised_and_back(node.input[0])
            self.nodes.append(copied)
        # the types of inner values have changed, and are optional in ONNX
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self._drop_unused()

    def _sources_before_moves(self, chosen: Set[str]) -> set[str]:
        """Return the values that are quantised before an operator that moves them."""
        direct = {node.output[0]: node.input[0] for node in self.graph.node if node.op_type == "Conv"}
        return {self.sources[name] for name in chosen if self.sources[name] != direct[name]}

    def _quantised_and_back(self, name: str) -> str:
        """Return the name of `name` quantised and dequantised; one Q/DQ pair serves all readers."""
        if name not in self.pairs:
            unsigned = name in self.unsigned
            levels = UNSIGNED_LEVELS if unsigned else LEVELS
            scale = max(float(self.ranges[name]) / levels, _SMALLEST_SCALE)
            step = self._constant(f"{name}_scale", np.float32(scale))
            zero = self._constant(f"{name}_zero", np.uint8(0) if unsigned else np.int8(0))
            steps = self._node(
                "QuantizeLinear", [name, step, zero], f"{name}_{'uint8' if unsigned else 'int8'}"
            )
            self.pairs[name] = self._node("DequantizeLinear", [steps, step, zero], f"{name}_steps")
        return self.pairs[name]

    def _quantised_weight(self, node: onnx.NodeProto) -> str:
        """Return the name of the dequantised weights of `node`, which are stored as int8.

        Raises ModelError if a weight is NaN or infinite.
        """
        name = node.input[1]
        if name not in self.weights:
            values = numpy_helper.to_array(self.constants[name]).astype(np.float32)
            if not np.isfinite(values).all():
                raise ModelError(
                    f"the weights of {name_of(node)} hold NaN or infinity; train or export the model again"
                )
            scales = weight_scales(values)
            steps = self._constant(f"{name}_int8", rounded_weights(values, scales))
            step = self._constant(f"{name}_scale", scales)
            zero = self._constant(f"{name}_zero", np.zeros(len(scales), np.int8))
            self.weights[name] = self._node("DequantizeLinear", [steps, step, zero], f"{name}_steps", axis=0)
        return self.weights[name]

    def _node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Append a node and return the name of its result."""
        result = self._unused_name(name)
        self.nodes.append(helper.make_node(kind, inputs, [result], name=f"{result}_node", **attributes))
        return result

    def _constant(self, name: str, value: npt.ArrayLike) -> str:
        """Store a constant and return its name."""
        name = self._unused_name(name)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _unused_name(self, name: str) -> str:
        """Return `name`, with underscores appended until no value has it."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def _drop_unused(self) -> None:
        """Remove the single-precision weights that nothing reads any more."""
        used = {name for node in self.nodes for name in node.input}
        unused = self.weights.keys() - used
        remove_weights(self.graph, unused)
        for node in [n for n in self.graph.node if n.op_type == "Constant" and n.output[0] in unused]:
            self.graph.node.remove(node)
