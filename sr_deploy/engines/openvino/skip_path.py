"""Keep the picture's own way around a net out of bf16, which OpenVINO would compute it in with all the rest.

bf16 has eight bits of mantissa. A net's detail is small and bears that; the picture itself has eight bits of its own, and
each of them is seen. OpenVINO spares what follows the last convolution by itself, but takes a convolution for one like
the others where it interpolates the picture.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

_CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")
_ATTRIBUTE = {"name": "precise", "version": "0"}
"""What OpenVINO 2026.4 calls an operator that keeps its own precision; a version that does not know it ignores it."""


def with_fp32_skip_path(core: Any, model: Any) -> Any:
    """`model`, an openvino.Model, whose way around the net is computed in fp32 whatever the hint says.

    The way around: convolutions with no other before or after them, and what leads to them. A model without
    one, or of one convolution, comes back as it is.
    """
    operators = model.get_ordered_ops()
    skip_path = _skip_convolutions(operators)
    if not skip_path or len(skip_path) == sum(map(_is_convolution, operators)):
        return model
    import openvino

    names = {
        _with_lasting_attributes(operator).get_friendly_name() for operator in _with_ancestors(skip_path)
    }
    with TemporaryDirectory() as folder:  # Python can set no such attribute but in a file
        text, weights = Path(folder, "model.xml"), Path(folder, "model.bin")
        openvino.serialize(model, str(text), str(weights))
        graph = ElementTree.fromstring(text.read_bytes())
        content = weights.read_bytes()
    for layer in graph.iterfind("layers/layer"):
        if layer.get("name") in names:
            about = layer.find("rt_info")
            about = ElementTree.SubElement(layer, "rt_info") if about is None else about
            ElementTree.SubElement(about, "attribute", _ATTRIBUTE)
    return core.read_model(ElementTree.tostring(graph), content)


def _skip_convolutions(operators: list[Any]) -> list[Any]:
    """The convolutions that have no other before or after them. `operators` come in order."""
    before, after = set[str](), set[str]()  # operators with a convolution on that side of them
    for operator in operators:
        if any(_is_convolution(source) or source.get_name() in before for source in _sources(operator)):
            before.add(operator.get_name())
    for operator in reversed(operators):
        if _is_convolution(operator) or operator.get_name() in after:
            after.update(source.get_name() for source in _sources(operator))
    return [op for op in operators if _is_convolution(op) and op.get_name() not in before | after]


def _with_lasting_attributes(operator: Any) -> Any:
    """What computes the same as `operator` in its place, where OpenVINO would put in one of its own, without the
    attribute: it does so with divisions by a constant, and with `Pad` as ONNX has it."""
    from openvino import opset1

    sources = [operator.input_value(i) for i in range(operator.get_input_size())]
    constant = [source.get_node().get_type_name() == "Constant" for source in sources]
    if operator.get_type_name() == "Divide" and constant[1]:
        inverse = opset1.constant(1 / sources[1].get_node().get_data())
        same = opset1.multiply(sources[0], inverse)
    elif operator.get_type_name() == "Pad" and all(constant[1:3]):
        if min(sources[i].get_node().get_data().min() for i in (1, 2)) < 0:  # which opset1 does not know
            return operator
        same = opset1.pad(sources[0], *sources[1:3], operator.get_attributes()["pad_mode"], *sources[3:])
    else:
        return operator
    operator.output(0).replace(same.output(0))
    return same


def _is_convolution(operator: Any) -> bool:
    return operator.get_type_name() in _CONVOLUTIONS


def _sources(operator: Any) -> list[Any]:
    return [operator.input_value(i).get_node() for i in range(operator.get_input_size())]


def _with_ancestors(convolutions: list[Any]) -> list[Any]:
    """`convolutions` and all between the model's inputs and them."""
    found = {node.get_name(): node for node in convolutions}
    waiting = list(convolutions)
    while waiting:
        for source in _sources(waiting.pop()):
            if source.get_type_name() not in ("Parameter", "Constant") and source.get_name() not in found:
                found[source.get_name()] = source
                waiting.append(source)
    return list(found.values())
