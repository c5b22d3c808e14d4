"""Balance the channels of a network before it is quantised, without changing what it computes.

int8 has one scale for a whole tensor. A channel whose values are ten times smaller than the largest therefore
gets a tenth of the 127 steps. Between two convolutions, a positive factor s per channel can be moved through
any activation f with f(s x) = s f(x), such as ReLU, leaky ReLU and PReLU: the outputs of the first
convolution are divided by it, the inputs of the second are multiplied by it.

Sources: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section
4.1; the strength as in Xiao et al. 2023, "SmoothQuant", eq. 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from sr_deploy.graph.nodes import constants_of
from sr_deploy.graph.onnx_file import copy_of
from sr_deploy.precision.calibrate import observe
from sr_deploy.precision.quantise import quantisable
from sr_deploy.system.arrays import AnyArray, FloatArray

_HOMOGENEOUS_ACTIVATIONS = {"Relu", "LeakyRelu", "PRelu"}
"""Activations with f(s x) = s f(x) for every s > 0."""
_SMALLEST_FACTOR = 2.0**-6
"""Smallest factor: a channel that is nearly always 0 is enlarged at most 64 times."""


@dataclass(frozen=True)
class Link:
    """A place where channels can be balanced."""

    first: onnx.NodeProto
    """Convolution that computes the channels."""
    value: str
    """Name of its activated result."""
    readers: tuple[onnx.NodeProto, ...]
    """Convolutions that read that value."""


def find_links(model: onnx.ModelProto) -> list[Link]:
    """List the places in `model` where channels can be balanced."""
    constants, chosen = constants_of(model), set(quantisable(model))
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    results = {port.name for port in model.graph.output}
    weights = [n.input[1] for n in model.graph.node if n.op_type == "Conv"]
    links = []
    for value, reading in readers.items():
        first = _first(value, makers, readers)
        if first is None or value in results or not all(n.output[0] in chosen for n in reading):
            continue
        involved = [first, *reading]
        if all(_balanceable(n, constants) and weights.count(n.input[1]) == 1 for n in involved):
            links.append(Link(first, value, tuple(reading)))
    return links


def equalised(
    model: onnx.ModelProto, pictures: Sequence[FloatArray], *, strength: float = 1.0
) -> onnx.ModelProto:
    """Return a copy of `model` that computes the same, with channels of similar magnitude. `strength` 1 makes
    the channels of a value equally large on `pictures`; below 1, part of the difference remains. The weights
    are rounded to float32 again, so results agree but for rounding."""
    links = find_links(model)
    largest = _channel_magnitudes(model, [link.value for link in links], pictures)
    factors: dict[str, FloatArray] = {}
    inputs: dict[str, FloatArray] = {}
    for link in links:
        factor = _factors(largest[link.value], strength)
        factors[link.first.output[0]] = factor
        inputs |= {reader.output[0]: factor for reader in link.readers}
    result = copy_of(model)
    for node in result.graph.node:
        if node.op_type == "Conv":
            _rescale(result, node, factors.get(node.output[0]), inputs.get(node.output[0]))
    return result


def _first(
    value: str, makers: Mapping[str, onnx.NodeProto], readers: Mapping[str, Sequence[onnx.NodeProto]]
) -> onnx.NodeProto | None:
    """Return the convolution whose result, activated or not, is `value`.

    None if there is none, or if anything else reads the value before the activation.
    """
    node = makers.get(value)
    if node is not None and node.op_type in _HOMOGENEOUS_ACTIVATIONS:
        before = node.input[0]
        node = makers.get(before) if len(readers[before]) == 1 else None
    return node if node is not None and node.op_type == "Conv" else None


def _balanceable(node: onnx.NodeProto, constants: Mapping[str, Any]) -> bool:
    """Check that weights and bias of `node` are constants, and that it is not a grouped convolution."""
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    return group == 1 and all(name in constants for name in node.input[1:] if name)


def _channel_magnitudes(
    model: onnx.ModelProto, values: Sequence[str], pictures: Sequence[FloatArray]
) -> dict[str, FloatArray]:
    """Measure how large each channel of `values` gets: name -> [C].

    It is the 99.99th percentile of the magnitudes, and the largest of those over all pictures. One value in
    ten thousand is left out, so that single outliers do not decide the factor.
    """
    found: dict[str, list[FloatArray]] = {name: [] for name in values}

    def note(name: str, value: AnyArray) -> None:
        flat = np.abs(value).transpose(1, 0, 2, 3).reshape(value.shape[1], -1)
        found[name].append(np.quantile(flat, 0.9999, axis=1).astype(np.float32))

    observe(model, values, pictures, note)
    return {name: np.max(parts, axis=0) for name, parts in found.items()}


def _factors(largest: FloatArray, strength: float) -> FloatArray:
    """Return the factor of each channel, [C]: its share of the largest magnitude, to the power of `strength`."""
    share = np.maximum(largest / max(float(largest.max()), 1e-12), _SMALLEST_FACTOR)
    return np.asarray(share**strength, np.float32)


def _rescale(
    model: onnx.ModelProto, node: onnx.NodeProto, outputs: FloatArray | None, inputs: FloatArray | None
) -> None:
    """Divide the outputs of a convolution by `outputs` [C out], and multiply its inputs by `inputs` [C in].
    The weights and the bias are changed in place; None leaves a side as it is."""
    constants = constants_of(model)
    weight = constants[node.input[1]] if outputs is not None or inputs is not None else None
    if weight is None:
        return
    values = numpy_helper.to_array(weight).astype(np.float32)
    if inputs is not None:
        values = values * inputs[None, :, None, None]
    if outputs is not None:
        values = values / outputs[:, None, None, None]
        if len(node.input) > 2 and node.input[2]:
            bias = constants[node.input[2]]
            shifted = numpy_helper.to_array(bias).astype(np.float32) / outputs
            bias.CopyFrom(numpy_helper.from_array(shifted, bias.name))
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
