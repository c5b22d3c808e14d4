"""Spell the quantised values of an int8 graph as its runtime computes them in integers.

A file has one canonical form: weights are int8 with zero point 0, values that are never negative are uint8 with zero
point 0, all others are int8 with zero point 0. Q/DQ stands for QuantizeLinear followed by DequantizeLinear. Files of
other tools, and those that this package wrote earlier, have other spellings of the same numbers. ONNX Runtime computes
a convolution with ReLU in integers only if the zero point of its result is the lowest number of its type; TensorRT
takes int8 with zero point 0 alone. Both compute in floating point, without a word, what they do not take. So engines
write the form of their runtime before they load a graph, and look afterwards which convolutions it computes in
integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sr_deploy.graph.convolution_types import with_named_nodes
from sr_deploy.graph.nodes import constants_of
from sr_deploy.graph.onnx_file import copy_of, remove_weights

_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Abs", "Exp", "Sqrt", "Softmax", "Softplus"}
"""Operators whose results are never negative, whatever they read."""
_KEEPS_SIGN = {
    *("Identity", "DepthToSpace", "SpaceToDepth", "Transpose", "Reshape", "Concat", "Slice", "Split"),
    *("Squeeze", "Unsqueeze", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Mul", "Max"),
}
"""Operators whose results are not negative if nothing that they read is negative."""
MOVES = {"DepthToSpace", "Transpose", "Reshape", "Identity", "SpaceToDepth"}
"""Operators that move values, compute none and read one value that varies."""
_SIGNED, _UNSIGNED = 127, 255
"""Steps above zero of int8 and of uint8 with zero point 0."""
_SHIFT = 128
"""A number of int8, plus this, is the number of uint8 with as many numbers of its type below it."""


@dataclass(frozen=True)
class _Step:
    """Scale and zero point of a quantised value."""

    scale: np.float32
    """Width of a step."""
    zero: Any
    """NumPy scalar: the number that stands for 0.0, in the type of the quantised value."""

    @property
    def below(self) -> int:
        """Count of the numbers of the type that stand for values below 0.0: 0 to 255."""
        return int(self.zero) - int(np.iinfo(self.zero.dtype).min)

    @property
    def largest(self) -> float:
        """The largest value that the type can hold."""
        return float(self.scale) * (_UNSIGNED - self.below)


def never_negative(model: onnx.ModelProto) -> frozenset[str]:
    """Return the values of `model` that are not negative for any picture, as far as its operators tell."""
    constants = constants_of(model)
    found = {name for name, tensor in constants.items() if _is_not_negative(tensor)}
    for node in model.graph.node:
        read = [name for name in node.input if name]
        if node.op_type in _NEVER_NEGATIVE or (
            node.op_type == "Clip" and _lowest_of_clip(node, constants) >= 0
        ):
            found.update(node.output)
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            # constants are weights here: their numbers say nothing without their zero point
            found.update(node.output if read[0] in found and read[0] not in constants else ())
        elif node.op_type in _KEEPS_SIGN and read and found.issuperset(_data_inputs(node)):
            found.update(node.output)
    return frozenset(found)


def _data_inputs(node: onnx.NodeProto) -> list[str]:
    """Return the inputs of `node` that hold values; shapes, axes and bounds are left out."""
    several = {"Concat", "Add", "Mul", "Max"}
    return list(node.input) if node.op_type in several else [node.input[0]]


def _is_not_negative(tensor: onnx.TensorProto) -> bool:
    """Return True for a constant of numbers that holds none below 0."""
    values = numpy_helper.to_array(tensor)
    return bool(values.dtype.kind in "fui" and (values >= 0).all())


def _lowest_of_clip(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> float:
    """Return the lower bound of a Clip, as an attribute or a constant; minus infinity if it is not known."""
    for attribute in node.attribute:
        if attribute.name == "min":
            return float(attribute.f)
    bound = constants.get(node.input[1]) if len(node.input) > 1 else None
    return float(numpy_helper.to_array(bound)) if bound is not None else -np.inf


def spelled_for_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` as ONNX Runtime and OpenVINO compute it in integers on a CPU.

    Values that are never negative become uint8 with zero point 0; they keep their largest value and get finer steps up
    to it, twice as many if they were int8 with zero point 0. Other spellings keep every number: int8 with another zero
    point becomes uint8, weights in uint8 become int8. Behind operators that move values, between DequantizeLinear and a convolution, the
    same values are quantised again, which changes nothing and is the form that ONNX Runtime recognises. Nodes without
    a name of their own get one, so that an engine can find them again.
    """
    speller = _Speller(with_named_nodes(model))
    positive = never_negative(model)
    for node in speller.quantisers():
        step = speller.step_of(node)
        if node.input[0] in positive and 0 < step.below < _UNSIGNED:
            speller.respell(node, _Step(np.float32(step.largest / _UNSIGNED), np.uint8(0)))
        elif step.zero.dtype == np.int8 and step.zero != 0:
            speller.respell(node, _Step(step.scale, np.uint8(step.below)))
    speller.sign_weights()
    speller.quantise_behind_moves()
    return speller.finished()


def spelled_for_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` as TensorRT reads it: int8 with zero point 0 everywhere.

    uint8 with zero point 128 keeps every number. Other values keep their range and get coarser steps: half as many for
    uint8 with zero point 0. Values that are never negative keep the upper end of their range alone.
    """
    speller = _Speller(copy_of(model))
    positive = never_negative(model)
    for node in speller.quantisers():
        step = speller.step_of(node)
        if step.zero.dtype == np.int8 and step.zero == 0:
            continue
        if step.below == _SHIFT:  # uint8: the same numbers, less 128
            speller.respell(node, _Step(step.scale, np.int8(0)))
        else:
            magnitude = (
                step.largest
                if node.input[0] in positive
                else max(step.largest, float(step.scale) * step.below)
            )
            speller.respell(node, _Step(np.float32(magnitude / _SIGNED), np.int8(0)))
    speller.sign_weights()
    return speller.finished()


def int8_convolutions(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the convolutions of `model` that are marked int8, by the names of their nodes.

    Both factors of such a convolution come from a DequantizeLinear, the weights from one of constants. Operators that
    only move values may stand between.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = constants_of(model)
    found = {}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        values, weights = (_before_moves(name, makers) for name in node.input[:2])
        marked = all(maker is not None and maker.op_type == "DequantizeLinear" for maker in (values, weights))
        if marked and weights is not None and weights.input[0] in constants:
            found[node.name] = node
    return found


def _before_moves(name: str, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the node that computed the value `name`, looked for in front of operators that move values."""
    while (node := makers.get(name)) is not None and node.op_type in MOVES:
        name = node.input[0]
    return node


def weights_of(node: onnx.NodeProto, model: onnx.ModelProto) -> onnx.NodeProto:
    """Return the DequantizeLinear of the weights of a convolution in int8."""
    makers = {name: maker for maker in model.graph.node for name in maker.output}
    maker = _before_moves(node.input[1], makers)
    assert maker is not None, f"{node.name} is no convolution in int8"
    return maker


def weights_zero_point(node: onnx.NodeProto, model: onnx.ModelProto) -> int:
    """Return the zero point of the weights of a convolution in int8: the one farthest from 0, of all channels."""
    maker = weights_of(node, model)
    if len(maker.input) < 3 or maker.input[2] not in (constants := constants_of(model)):
        return 0
    zeros = numpy_helper.to_array(constants[maker.input[2]]).astype(np.int64).ravel()
    return int(zeros[np.abs(zeros).argmax()])


def operators_behind(name: str, model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the operators that read the value `name`, sorted. The graph's output counts as "output"."""
    found = [node.op_type for node in model.graph.node if name in node.input]
    found += ["output" for port in model.graph.output if port.name == name]
    return tuple(sorted(found))


class _Speller:
    """Changes scales, zero points and weights of the Q/DQ pairs of `model` in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = constants_of(model)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {port.name for port in model.graph.output}
        self.behind: dict[str, list[onnx.NodeProto]] = {}
        self.replaced: set[str] = set()

    def quantisers(self) -> list[onnx.NodeProto]:
        """List each QuantizeLinear with one constant scale and zero point that only its DequantizeLinear reads."""
        return [
            node
            for node in self.model.graph.node
            if node.op_type == "QuantizeLinear"
            and node.output[0] not in self.outputs
            and self._has_one_step(node)
            and (readers := self.readers.get(node.output[0]))
            and all(self._is_same_pair(node, reader) for reader in readers)
        ]

    def _has_one_step(self, node: onnx.NodeProto) -> bool:
        """Return True if scale and zero point of `node` are constants with one value, of 8 bits."""
        if len(node.input) < 3 or not all(name in self.constants for name in node.input[1:3]):
            return False
        scale, zero = (numpy_helper.to_array(self.constants[name]) for name in node.input[1:3])
        return bool(scale.size == zero.size == 1 and zero.dtype in (np.int8, np.uint8))

    def _is_same_pair(self, node: onnx.NodeProto, reader: onnx.NodeProto) -> bool:
        """Return True if `reader` dequantises with the scale and the zero point of `node`."""
        if reader.op_type != "DequantizeLinear" or not self._has_one_step(reader):
            return False
        return self.step_of(node) == self.step_of(reader)

    def step_of(self, node: onnx.NodeProto) -> _Step:
        """Return the scale and the zero point of `node`."""
        scale, zero = (numpy_helper.to_array(self.constants[name]).ravel()[0] for name in node.input[1:3])
        return _Step(np.float32(scale), zero)

    def respell(self, node: onnx.NodeProto, step: _Step) -> None:
        """Give `node` and the DequantizeLinear nodes behind it another scale and zero point."""
        names = [
            self._constant(f"{node.output[0]}/{kind}", value)
            for kind, value in (("scale", step.scale), ("zero", step.zero))
        ]
        for one in (node, *self.readers[node.output[0]]):
            self.replaced.update(one.input[1:3])
            one.input[1], one.input[2] = names

    def sign_weights(self) -> None:
        """Write constant uint8 weights as int8: the same numbers, less 128, and so their zero points."""
        for node in self.model.graph.node:
            if node.op_type != "DequantizeLinear" or len(node.input) < 3:
                continue
            held = [self.constants.get(node.input[index]) for index in (0, 2)]
            if not all(tensor is not None and tensor.data_type == onnx.TensorProto.UINT8 for tensor in held):
                continue
            for index, tensor in zip((0, 2), held, strict=True):
                assert tensor is not None  # checked above, for mypy
                shifted = (numpy_helper.to_array(tensor).astype(np.int16) - _SHIFT).astype(np.int8)
                self.replaced.add(node.input[index])
                node.input[index] = self._constant(f"{node.output[0]}/{index}", shifted)

    def quantise_behind_moves(self) -> None:
        """Quantise again what operators moved between a DequantizeLinear and a convolution."""
        makers = {name: node for node in self.model.graph.node for name in node.output}
        for node in int8_convolutions(self.model).values():
            maker = _before_moves(node.input[0], makers)
            moved = makers[node.input[0]]
            if maker is None or moved is maker or not self._has_one_step(maker):
                continue
            node.input[0] = self._quantised_again(moved, maker)

    def _quantised_again(self, moved: onnx.NodeProto, maker: onnx.NodeProto) -> str:
        """Return the result of `moved`, quantised and dequantised as `maker` does it; once for all readers."""
        value = moved.output[0]
        steps, back = f"{value}/steps", f"{value}/again"
        self.behind.setdefault(
            value,
            [
                helper.make_node("QuantizeLinear", [value, *maker.input[1:3]], [steps], name=steps),
                helper.make_node("DequantizeLinear", [steps, *maker.input[1:3]], [back], name=back),
            ],
        )
        return back

    def finished(self) -> onnx.ModelProto:
        """Return the model, with the pairs of `quantise_behind_moves` in the order of computation, and without the
        constants that were replaced."""
        graph = self.model.graph
        if not self.replaced and not self.behind:  # such as a file without Q/DQ, whose bytes stay as they are
            return self.model
        nodes = []
        for node in graph.node:
            nodes += [node, *(made for name in node.output for made in self.behind.get(name, ()))]
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:], graph.value_info[:]  # the types of inner values have changed, and are optional
        graph.node.extend(nodes)
        if not any(
            attribute.HasField("g") or attribute.graphs for node in nodes for attribute in node.attribute
        ):
            remove_weights(graph, self.replaced - {name for node in nodes for name in node.input})
        return self.model

    def _constant(self, name: str, value: Any) -> str:
        """Store a constant and return its name, which no other value has."""
        while name in self.constants or name in self.readers:
            name += "_"
        tensor = numpy_helper.from_array(np.asarray(value), name)
        self.model.graph.initializer.append(tensor)
        self.constants[name] = tensor
        return name
