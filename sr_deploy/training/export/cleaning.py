"""Clean an exported graph: only what computes stays, under names that depend on the net alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from sr_deploy.graph.onnx_file import PIXELS, UPSCALED

IR_VERSION = 10  # that of ONNX 1.16, the newest one ONNX Runtime 1.18 reads


def clean_graph(
    model: onnx.ModelProto, input_dims: Sequence[int | str], output_dims: Sequence[int | str]
) -> None:
    """Remove everything that does not compute, and name the rest so that equal nets give equal bytes. Stack
    traces and torch's own records (which contain paths), attributes that repeat a default, and intermediate
    shapes are removed. Weights keep their names in the net. The input becomes `pixels` and the output `upscaled`,
    with the given axes."""
    model.producer_name, model.producer_version, model.doc_string = "sr-deploy", "", ""
    model.ir_version = IR_VERSION
    graph = model.graph
    graph.name, graph.doc_string = "core", ""
    del graph.value_info[:], model.metadata_props[:], graph.metadata_props[:]
    for tensor in (*graph.initializer, *graph.input, *graph.output):
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for number, node in enumerate(graph.node):
        node.name, node.doc_string = f"{node.op_type}_{number}", ""
        del node.metadata_props[:]
        _drop_defaults(node)
    if not any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        _rename_values(graph)  # the graphs inside nodes use names of this one, so there all names stay
    _declare(graph.input[0], PIXELS, input_dims)
    _declare(graph.output[0], UPSCALED, output_dims)


def _drop_defaults(node: onnx.NodeProto) -> None:
    """Remove attributes that repeat a default, and sort the others by name."""
    kept = [
        a
        for a in node.attribute
        if not (a.name == "auto_pad" and a.s == b"NOTSET") and not (a.name == "group" and a.i == 1)
    ]
    copies = sorted((_copy(a) for a in kept), key=lambda a: str(a.name))
    del node.attribute[:]
    node.attribute.extend(copies)


def _copy(attribute: onnx.AttributeProto) -> onnx.AttributeProto:
    copied = onnx.AttributeProto()
    copied.CopyFrom(attribute)
    return copied


def _rename_values(graph: onnx.GraphProto) -> None:
    """Name results after their operator, and constants by number; weights keep their names in the net.

    Further results of one operator, such as those of Split, get a second number.
    """
    names = {PIXELS: PIXELS, UPSCALED: UPSCALED, "": ""}
    constants = [t for t in graph.initializer if "." not in t.name]
    names |= {tensor.name: f"constant_{number}" for number, tensor in enumerate(constants)}
    for number, node in enumerate(graph.node):
        for place, name in enumerate(node.output):
            names.setdefault(name, f"{node.op_type.lower()}_{number}" + (f"_{place}" if place else ""))
    for tensor in constants:
        tensor.name = names[tensor.name]
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]


def _declare(port: Any, name: str, dims: Sequence[int | str]) -> None:
    """Set name and shape of a float input or output."""
    port.CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(dims)))
