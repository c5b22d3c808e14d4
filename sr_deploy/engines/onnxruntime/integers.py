"""Find the convolutions of an int8 graph that ONNX Runtime computes in floating point on the CPU.

ONNX Runtime writes the graph that it made, in which a convolution in integers is a QLinearConv. What it fuses depends
on the operators around a convolution; seen in versions 1.21 and 1.32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from sr_deploy.engines.integers import named_exceptions
from sr_deploy.graph.onnx_file import parse_model
from sr_deploy.graph.rewrites.int8_form import int8_convolutions, operators_behind, weights_of

_DROPPED = {"Relu", "Clip"}
"""Operators that ONNX Runtime drops between a convolution and QuantizeLinear, which clips as they do."""


def float_convolutions(graph: bytes, open_with_file: Callable[[str], object], name: str) -> dict[str, str]:
    """Return the convolutions of `graph` that are marked int8 and computed in floating point, each with its reason.

    `open_with_file` opens a session of the graph that writes the optimised one to the path that it is given. `name` is
    the model's. Raises ModelError if nothing in the graph explains one of them.
    """
    prepared = parse_model(graph)
    with TemporaryDirectory() as folder:
        path = Path(folder, "optimised.onnx")
        open_with_file(str(path))
        optimised = onnx.load(path)
    return named_exceptions(
        computed_in_floats(prepared, optimised), expected_floats(prepared), name, "ONNX Runtime"
    )


def computed_in_floats(prepared: onnx.ModelProto, optimised: onnx.ModelProto) -> list[str]:
    """List the convolutions of `prepared` that are marked int8 and are no QLinearConv in `optimised`."""
    integer = [node for node in optimised.graph.node if node.op_type == "QLinearConv"]
    # a fused node is called NAME_token_NUMBER in 1.32; weights keep their name where other versions name it otherwise
    known = {node.name.partition("_token_")[0] for node in integer} | {node.input[3] for node in integer}
    marked = int8_convolutions(prepared)
    return [name for name, node in marked.items() if not known & {name, weights_of(node, prepared).input[0]}]


def expected_floats(prepared: onnx.ModelProto) -> dict[str, str]:
    """Return the convolutions that no form of Q/DQ makes an integer one in ONNX Runtime, each with the reason."""
    readers = {name: node for node in prepared.graph.node for name in node.input}
    reasons = {}
    for name, node in int8_convolutions(prepared).items():
        value = node.output[0]
        behind = operators_behind(value, prepared)
        if len(behind) == 1 and behind[0] in _DROPPED:
            value = readers[value].output[0]
            behind = operators_behind(value, prepared)
        if behind != ("QuantizeLinear",):
            reasons[name] = (
                f"its result is read by {', '.join(dict.fromkeys(behind)) or 'nothing'} and not quantised"
            )
    return reasons
