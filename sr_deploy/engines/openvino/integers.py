"""Find the convolutions of an int8 graph that OpenVINO computes in floating point.

OpenVINO's execution graph has one layer for each primitive that it runs, with the names of the operators that became
it and the type it computes in (seen in 2025.0 and 2026.4).
"""

from __future__ import annotations

from typing import Any

from sr_deploy.engines.integers import named_exceptions
from sr_deploy.graph.onnx_file import parse_model
from sr_deploy.graph.rewrites.int8_form import int8_convolutions, weights_of, weights_zero_point

_INTEGERS = ("i8", "u8")
"""OpenVINO's names of the types of integer convolutions."""
_WITHOUT_BIAS = "/WithoutBiases"
"""Ending that OpenVINO gives the convolution of a node with a bias; the node's own name is that of the addition."""


def float_convolutions(compiled: Any, graph: bytes, name: str) -> dict[str, str]:
    """Return the convolutions of `graph` that are marked int8 and computed in floating point, each with its reason.

    `compiled` is an openvino.CompiledModel of `graph`, `name` the name of the model. Raises ModelError if nothing in
    the graph explains one of them.
    """
    model = parse_model(graph)
    marked = int8_convolutions(model)
    integers = integer_layers(compiled)
    floats = [
        node
        for node in marked
        if not integers & {node, f"{node}{_WITHOUT_BIAS}", weights_of(marked[node], model).input[0]}
    ]
    zeros = {node: weights_zero_point(marked[node], model) for node in floats}
    reasons = {node: f"its weights have the zero point {zero}" for node, zero in zeros.items() if zero}
    return named_exceptions(floats, reasons, name, "OpenVINO")


def integer_layers(compiled: Any) -> set[str]:
    """Return the names of the operators that became convolutions in integers, and of the constants that those read.

    A convolution may lose its name when another operator is fused into it; its weights keep theirs.
    """
    found = set[str]()
    for layer in convolution_layers(compiled):
        if _told(layer, "runtimePrecision") in _INTEGERS:
            read = [layer.input_value(index).get_node() for index in range(layer.get_input_size())]
            for one in (layer, *(node for node in read if _told(node, "layerType") == "Const")):
                found.update(_told(one, "originalLayersNames").split(","))
    return found


def count_integers(compiled: Any) -> int:
    """Count the convolutions that are computed in integers."""
    return sum(_told(layer, "runtimePrecision") in _INTEGERS for layer in convolution_layers(compiled))


def convolution_layers(compiled: Any) -> list[Any]:
    """List the layers of the execution graph that are convolutions."""
    return [op for op in compiled.get_runtime_model().get_ops() if "Convolution" in _told(op, "layerType")]


def _told(layer: Any, what: str) -> str:
    """Return what the execution graph says about a layer under the key `what`; empty if nothing."""
    info = layer.get_rt_info()
    return str(info[what].astype(str)) if what in info else ""
