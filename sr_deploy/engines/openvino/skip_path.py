"""Keep the skip path of a net in fp32 while OpenVINO computes the rest in bf16.

The skip path takes the picture around the net, and the net's detail is added to it. bf16 has eight bits of
mantissa. That is enough for the detail, which is small; but the picture itself has eight bits, and every
lost one is seen. OpenVINO by itself keeps what follows the last convolution in fp32. A convolution that
interpolates the picture, though, it computes in bf16 like any other.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

_CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")
"""OpenVINO's types of convolutions."""
_ATTRIBUTE = {"name": "precise", "version": "0"}
"""The mark by which OpenVINO 2026.4 keeps an operator's own precision. A version that does not know it
ignores it."""


def with_fp32_skip_path(core: Any, model: Any) -> Any:
    """Return `model`, an openvino.Model, with its skip path in fp32 whatever the precision hint says.

    The skip path is the convolutions with no other convolution before or after them, and the operators that
    lead to them. A model without one is returned unchanged, and so is a model in which all convolutions are
    of that kind, because they are then the net itself.
    """
    operators = model.get_ordered_ops()
    skip_path = _skip_convolutions(operators)
    if not skip_path or len(skip_path) == sum(map(_is_convolution, operators)):
        return model
    import openvino  # type: ignore[import-untyped, unused-ignore]

    names = {
        _with_lasting_attributes(operator).get_friendly_name() for operator in _with_ancestors(skip_path)
    }
    with TemporaryDirectory() as folder:  # from Python the mark can only be set in a file
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


def lets_skip_path_read_bytes(model: Any) -> bool:
    """Let the skip path of `model` read bytes as they are, in place, and multiply its weights by 1/255 instead.

    Bytes are exact in bf16, and their shares of 255 are not. Returns False, and may have changed some convolutions of
    the skip path, if one of them does not read the divided picture itself, or if there is none.
    """
    operators = model.get_ordered_ops()
    skip_path = _skip_convolutions(operators)
    read = [_read_bytes(convolution) for convolution in skip_path]
    return 0 < len(skip_path) < sum(map(_is_convolution, operators)) and all(read)


def _read_bytes(convolution: Any) -> bool:
    """Let one convolution read the value that is divided before it; returns False if it cannot."""
    from openvino import opset1

    divided = _before_identities(convolution)
    weights = convolution.input_value(1).get_node()
    if divided.get_type_name() != "Divide" or weights.get_type_name() != "Constant":
        return False
    steps = divided.input_value(1).get_node()
    if steps.get_type_name() != "Constant" or steps.get_data().size != 1:
        return False
    scaled = opset1.constant(weights.get_data() / steps.get_data().ravel()[0])
    convolution.input(0).replace_source_output(divided.input_value(0))
    convolution.input(1).replace_source_output(scaled.output(0))
    return True


def _before_identities(operator: Any) -> Any:
    """Return the operator that computes the first input of `operator`; those that change nothing do not count."""
    source = operator.input_value(0).get_node()
    while source.get_type_name() == "Identity":
        source = source.input_value(0).get_node()
    return source


def _skip_convolutions(operators: list[Any]) -> list[Any]:
    """Return the convolutions that have no other one before or after them. `operators` are in the order of
    computation."""
    before, after = set[str](), set[str]()  # names of operators that have a convolution before, after them
    for operator in operators:
        if any(_is_convolution(source) or source.get_name() in before for source in _sources(operator)):
            before.add(operator.get_name())
    for operator in reversed(operators):
        if _is_convolution(operator) or operator.get_name() in after:
            after.update(source.get_name() for source in _sources(operator))
    return [op for op in operators if _is_convolution(op) and op.get_name() not in before | after]


def _with_lasting_attributes(operator: Any) -> Any:
    """Return an operator in the place of `operator` that keeps the mark. OpenVINO replaces divisions by a
    constant, and `Pad` as ONNX has it, by operators of its own without the mark. So both are replaced here
    first, by a multiplication and by opset 1's `Pad`. Other operators are returned as they are, and so is a
    `Pad` with negative sizes, which opset 1 does not know."""
    from openvino import opset1

    sources = [operator.input_value(i) for i in range(operator.get_input_size())]
    constant = [source.get_node().get_type_name() == "Constant" for source in sources]
    if operator.get_type_name() == "Divide" and constant[1]:
        inverse = opset1.constant(1 / sources[1].get_node().get_data())
        same = opset1.multiply(sources[0], inverse)
    elif operator.get_type_name() == "Pad" and all(constant[1:3]):
        if min(sources[i].get_node().get_data().min() for i in (1, 2)) < 0:
            return operator
        same = opset1.pad(sources[0], *sources[1:3], operator.get_attributes()["pad_mode"], *sources[3:])
    else:
        return operator
    operator.output(0).replace(same.output(0))
    return same


def _is_convolution(operator: Any) -> bool:
    """Return True for a convolution of any type."""
    return operator.get_type_name() in _CONVOLUTIONS


def _sources(operator: Any) -> list[Any]:
    """Return the operators whose results `operator` reads."""
    return [operator.input_value(i).get_node() for i in range(operator.get_input_size())]


def _with_ancestors(convolutions: list[Any]) -> list[Any]:
    """Return `convolutions` and all operators between the model's inputs and them; constants are left out."""
    found = {node.get_name(): node for node in convolutions}
    waiting = list(convolutions)
    while waiting:
        for source in _sources(waiting.pop()):
            if source.get_type_name() not in ("Parameter", "Constant") and source.get_name() not in found:
                found[source.get_name()] = source
                waiting.append(source)
    return list(found.values())
