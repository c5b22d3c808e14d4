"""Carry the picture to the last convolution of an int8 graph as channels of bytes.

A net that adds its detail to the picture by nearest neighbour computes the sum in floating point: a convolution in
integers, one in single precision for the picture, an addition, and a rounding to bytes. Where every byte of the picture
is exact in the quantised input, the picture can be further channels of the last convolution's input, each with a weight
of 1 for the pixels that it becomes. Sum and rounding are then part of one convolution in integers. Measured with
OpenVINO 2026.4 on 16 features at 320x180, the way from the last activation to bytes takes a third of the time.

The weight of 1 sets the scale of every output channel of that convolution. If the other weights are far below 1, that
scale would leave them few steps; so the picture is carried several times, and the copies share the weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from sr_deploy.graph.nodes import attributes_of, constants_of
from sr_deploy.graph.onnx_file import copy_of, picture_io
from sr_deploy.system.arrays import FloatArray

_LEVELS = 127
"""Largest weight in int8."""
_WHITE = 255
"""Largest byte; a byte stands for itself over this."""
_MOST_CHANNELS = 24
"""Channels that the copies of the picture may take together: more would cost more than the finer steps are worth."""
_MOST_COPIES = 4
_COARSEST = 2.5
"""Largest ratio of the steps of the last convolution's weights to those without the picture, at the median channel."""
_PREFIX = "carried/"
"""Prefix of the names of nodes, values and constants that are written here."""


@dataclass(frozen=True)
class _Sum:
    """A sum of detail and picture at the end of a graph."""

    add: onnx.NodeProto
    head: onnx.NodeProto
    """The convolution of the detail, in int8."""
    around: onnx.NodeProto
    """The convolution of the picture: it copies pixels."""
    steps: onnx.NodeProto
    """DequantizeLinear of the head's input."""
    weights: onnx.NodeProto
    """DequantizeLinear of the head's weights."""


def with_carried_picture(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model`, an int8 graph of pixels in 0..1, with the picture carried as channels of bytes.

    The result computes the same on pictures of bytes, but for the rounding of the last convolution's weights. A graph
    that does not end in the sum of an int8 convolution and a copy of the picture is returned as it is, and so is one
    whose detail has such small weights that it would get too few steps.
    """
    found = _find_sum(model)
    return model if found is None else _Carrier(copy_of(model)).carried(found) or model


def ends_in_integers(model: onnx.ModelProto) -> bool:
    """Return True if the picture is carried in `model`, so that bytes come out of its last convolution."""
    return any(
        node.name == f"{_PREFIX}concat" or node.name.endswith(f"/{_PREFIX}concat")
        for node in model.graph.node
    )


def _find_sum(model: onnx.ModelProto) -> _Sum | None:
    """Return the sum at the end of `model`; None if it does not have the form that is described above."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = constants_of(model)
    reads = [name for node in model.graph.node for name in node.input]
    port_in, port_out = picture_io(model)
    last = makers.get(port_out.name)
    add = makers.get(last.input[0]) if last is not None and last.op_type == "DepthToSpace" else None
    if add is None or add.op_type != "Add" or reads.count(add.output[0]) != 1:
        return None
    convs = [makers.get(name) for name in add.input]
    if any(node is None or node.op_type != "Conv" or reads.count(node.output[0]) != 1 for node in convs):
        return None
    for head, around in (convs, convs[::-1]):
        assert head is not None  # checked above, for mypy
        assert around is not None
        steps, weights = (makers.get(name) for name in head.input[:2])
        if (
            around.input[0] == port_in.name
            and _copies_pixels(around, constants)
            and _is_plain(head, constants)
            and steps is not None
            and weights is not None
            and _is_byte_pair(steps, constants)
            and weights.op_type == "DequantizeLinear"
            and weights.input[0] in constants
        ):
            return _Sum(add, head, around, steps, weights)
    return None


def _is_plain(head: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Return True for a convolution with an odd kernel that keeps the size of the picture, and a constant bias."""
    told = attributes_of(head)
    kernel = told.get("kernel_shape", [])
    return (
        told.get("group", 1) == 1
        and all(size % 2 for size in kernel)
        and list(told.get("pads", [])) == [size // 2 for size in kernel] * 2
        and set(told.get("strides", [1])) | set(told.get("dilations", [1])) == {1}
        and all(name in constants for name in head.input[2:])
    )


def _copies_pixels(around: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Return True if each output channel of a convolution is one value of its input."""
    if (
        around.input[1] not in constants
        or len(around.input) > 2
        or attributes_of(around).get("group", 1) != 1
    ):
        return False
    weights = numpy_helper.to_array(constants[around.input[1]])
    return bool(np.isin(weights, (0, 1)).all() and (weights.reshape(len(weights), -1).sum(axis=1) == 1).all())


def _is_byte_pair(steps: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Return True for a DequantizeLinear of uint8 with one scale and zero point 0."""
    if steps.op_type != "DequantizeLinear" or len(steps.input) < 3 or steps.input[0] in constants:
        return False
    scale, zero = (
        numpy_helper.to_array(constants[name]) if name in constants else None for name in steps.input[1:3]
    )
    return (
        scale is not None
        and zero is not None
        and scale.size == 1
        and zero.dtype == np.uint8
        and not zero.any()
    )


class _Carrier:
    """Writes the carried form of `model` in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = constants_of(model)
        self.nodes: list[onnx.NodeProto] = []
        self.picture = picture_io(model)[0].name

    def carried(self, found: _Sum) -> onnx.ModelProto | None:
        """Return the model with `found` in its carried form; None if its detail would get too few steps."""
        kernels, place = np.unique(self._array(found.around.input[1]), axis=0, return_inverse=True)
        weights = self._head_weights(found)
        wanted = 1 / max(float(np.median(np.abs(weights).reshape(len(weights), -1).max(axis=1))), 1e-8)
        copies = max(1, min(math.ceil(wanted), _MOST_COPIES, _MOST_CHANNELS // len(kernels)))
        if wanted > _COARSEST * copies:
            return None
        values, scales = _joined_weights(weights, place.ravel(), len(kernels), copies)
        byte = (self._constant("byte", np.float32(1 / _WHITE)), self._constant("zero", np.uint8(0)))
        pixels = self._op("DequantizeLinear", self._op("QuantizeLinear", self.picture, *byte), *byte)
        again = np.tile(kernels, (copies, 1, 1, 1)).astype(np.int8) * np.int8(_LEVELS)
        copied = self._conv(
            found.around, pixels, again, np.full(len(again), 1 / _LEVELS, np.float32), "copies"
        )
        copied = self._op("QuantizeLinear", self._op("Relu", copied), *byte)
        joined = self._op("Concat", found.steps.input[0], copied, name="concat", axis=1)
        self._conv(
            found.head,
            self._op("DequantizeLinear", joined, *byte),
            values,
            scales,
            "head",
            found.add.output[0],
        )
        self._replace({found.add.output[0], found.head.output[0], found.around.output[0]})
        return self.model

    def _head_weights(self, found: _Sum) -> FloatArray:
        """Return the weights of the head [O, I, kH, kW] for an input of bytes that stand for themselves over 255."""
        numbers = self._array(found.weights.input[0]).astype(np.float32)
        zeros = self._array(found.weights.input[2]) if len(found.weights.input) > 2 else np.int8(0)
        steps = self._array(found.weights.input[1])
        shape = (-1, 1, 1, 1) if steps.size > 1 else ()
        values = (numbers - zeros.astype(np.float32).reshape(shape)) * steps.reshape(shape)
        scaled: FloatArray = values * (self._array(found.steps.input[1]).ravel()[0] * _WHITE)
        return scaled

    def _conv(
        self,
        like: onnx.NodeProto,
        source: str,
        values: npt.NDArray[np.int8],
        scales: FloatArray,
        name: str,
        result: str | None = None,
    ) -> str:
        """Append a convolution in int8 with the attributes and the bias of `like`; returns the name of its result."""
        weights = self._op(
            "DequantizeLinear",
            self._constant(f"{name}/weights", values),
            self._constant(f"{name}/scales", scales),
            self._constant(f"{name}/zeros", np.zeros(len(scales), np.int8)),
            name=f"{name}/steps",
            axis=0,
        )
        made = onnx.NodeProto()
        made.CopyFrom(like)
        made.name = f"{_PREFIX}{name}"
        made.input[:] = [source, weights, *like.input[2:]]
        output = result or f"{_PREFIX}{name}"
        made.output[:] = [output]
        self.nodes.append(made)
        return output

    def _op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node; returns the name of its result."""
        result = f"{_PREFIX}{name or f'{kind}_{len(self.nodes)}'}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], name=result, **attributes))
        return result

    def _constant(self, name: str, value: npt.ArrayLike) -> str:
        """Store a constant and return its name."""
        tensor = numpy_helper.from_array(np.asarray(value), f"{_PREFIX}{name}")
        self.model.graph.initializer.append(tensor)
        return tensor.name

    def _array(self, name: str) -> npt.NDArray[Any]:
        return numpy_helper.to_array(self.constants[name])

    def _replace(self, dropped: set[str]) -> None:
        """Write the new nodes before the last one, and drop those that compute `dropped` and what only they read."""
        graph = self.model.graph
        nodes = [node for node in graph.node if not dropped.intersection(node.output)]
        last = nodes.pop()
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*nodes, *self.nodes, last)]
        wanted = {port.name for port in graph.output}
        kept = []
        for node in reversed(nodes):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(reversed(kept))
        constants = [tensor for tensor in graph.initializer if tensor.name in wanted]
        constants = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in constants]
        del graph.initializer[:]
        graph.initializer.extend(constants)


def _joined_weights(
    weights: FloatArray, place: npt.NDArray[np.intp], channels: int, copies: int
) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return the weights of detail and picture as int8 [O, I + copies * channels, kH, kW], and their scales [O].

    `place` is, for every output channel, the channel of the picture that it adds.
    """
    count, inputs, height, width = weights.shape
    largest = np.abs(weights).reshape(count, -1).max(axis=1)
    # a whole number of steps makes 1, so that the picture stays exact
    ones = np.clip(np.floor(_LEVELS / np.maximum(largest, 1e-8)), 1, _LEVELS * copies).astype(np.int64)
    values = np.zeros((count, inputs + copies * channels, height, width), np.int8)
    steps = np.rint(weights * ones.reshape(-1, 1, 1, 1))
    values[:, :inputs] = np.clip(steps, -_LEVELS, _LEVELS)
    for copy in range(copies):
        share = np.clip(ones - copy * _LEVELS, 0, _LEVELS)
        values[np.arange(count), inputs + copy * channels + place, height // 2, width // 2] = share
    return values, (1 / ones).astype(np.float32)
