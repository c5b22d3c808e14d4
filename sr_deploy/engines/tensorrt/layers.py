"""Finds out in which precision each convolution of an engine computes, from TensorRT's description of its layers.

The options of a build do not show this: with weak typing (8.6) a type is only allowed, and TensorRT uses what it
finds fastest. So every engine is examined after its build, and one that computes in another precision than
its model is an error. TensorRT itself is not used here, only the text that it gives: JSON from the inspector of
a loaded engine, or the list that a build logs at VERBOSE, which needs no GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sr_deploy.errors import ModelError

_TYPES = (
    ("int8", re.compile(r"(?<!u)int8|\bI8\b", re.IGNORECASE)),
    ("bf16", re.compile(r"bf16|bfloat16", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|half|float16", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|float", re.IGNORECASE)),
)
"""Precisions and the words that stand for them. bf16 comes before fp16, because "bfloat16" contains "float16".
"UInt8" is the type of pixels, not a precision."""
_KERNEL_TYPES = re.compile(r"_(i8|bf16|f16|f32)\1_")
"""Finds the types of the two factors in the name of a kernel.

For example "fprop_implicit_gemm_f16f16_f16f16_f16": fp16 times fp16.
"""
_KERNEL_TYPE_NAMES = {"i8": "int8", "f16": "fp16", "f32": "fp32"}
"""Precisions by the names in kernels; "bf16" is the same in both."""
_CONVOLUTION = re.compile(r"conv|correlation|gemm|matmul|matrix|attention|^dot|^mha", re.IGNORECASE)
"""Finds layers that convolve or multiply, by their type."""
_KERNEL = re.compile(r"fprop|dgrad|implicit_gemm|xmma|winograd|wngd", re.IGNORECASE)
"""Finds kernels that do so, by their name."""
_GENERATED = re.compile(r"__myl_\w*?(Corr|Conv|Gemm|MatMul|Dot|Fc|Mha)")
"""Finds generated layers that do so. TensorRT names them after the operators that it fused, each by the first
four letters or so of its own word for it: "Corr" (correlation) is a convolution."""
_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=\[|$|\s|\x1e|\x1f)")
"""Finds the names of the ONNX nodes that became a layer, in its metadata."""
_LOGGED = re.compile(
    r"^Name: (?P<Name>.*?), LayerType: (?P<LayerType>\w+), Inputs: \[(?P<Inputs>.*?)\]"
    r"(?:, Constants: \[(?P<Constants>.*?)\])?, Outputs: \[(?P<Outputs>.*)\], "
    r"TacticName: (?P<TacticName>.*?), StreamId: \d+, Metadata: ?(?P<Metadata>.*)$",
    re.MULTILINE,
)
"""One layer in the log of a build (TensorRT for RTX 1.7.1)."""
_LOGGED_VALUE = re.compile(
    r"\{ Name: (?P<Name>.*?), .*?Dimensions: \[(?P<Dims>[^\]]*)\].*?Datatype: (?P<Type>\w+)"
)
"""One value of a layer in that log."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A layer that convolves or multiplies matrices."""

    name: str
    """TensorRT's name for it."""
    precision: str | None
    """The precision it computes in; None if the description does not tell."""
    nodes: tuple[str, ...]
    """Names of the ONNX nodes that became this layer, as far as the description names them."""


def convolutions(description: str) -> list[Convolution]:
    """List the layers that convolve or multiply.

    `description` is the result of `api.describe_layers`, or what `TensorRTLog.take_layers` gives. A text that
    cannot be read gives an empty list.
    """
    return [
        Convolution(
            name=str(entry.get("Name", "")),
            precision=_compute_type(entry),
            nodes=tuple(_ONNX_LAYER.findall(str(entry.get("Metadata", "")))) or (str(entry.get("Name", "")),),
        )
        for entry in _layers(description)
        if _is_convolution(entry)
    ]


def precisions(description: str) -> dict[str, int]:
    """Count the layers that convolve or multiply, by the precision they compute in.

    Layers that only move, round or add values say nothing about precision and are not counted; nor are
    layers that do not name a type.
    """
    found: dict[str, int] = {}
    for layer in convolutions(description):
        if layer.precision:
            found[layer.precision] = found.get(layer.precision, 0) + 1
    return found


def _is_convolution(entry: Mapping[str, Any]) -> bool:
    """Return whether a layer convolves or multiplies matrices, by its type, kernel or generated name."""
    return bool(
        _CONVOLUTION.search(f"{entry.get('LayerType', '')}")
        or _CONVOLUTION.search(f"{entry.get('ParameterType', '')}")
        or _KERNEL.search(str(entry.get("TacticName", "")))
        or _GENERATED.match(str(entry.get("Name", "")))
    )


def _layers(description: str) -> Iterator[Mapping[str, Any]]:
    """Yield the layers in the description that have details."""
    if description.startswith("Layers:"):
        yield from _logged_layers(description)
        return
    try:
        # not strict: TensorRT 8.6 puts a bare control character between the names of layers it fused
        layers = json.loads(description, strict=False).get("Layers", [])
    except (ValueError, AttributeError):
        return
    for entry in layers:
        if isinstance(entry, dict):  # without details, an entry is just a name
            yield entry


def _logged_layers(text: str) -> Iterator[Mapping[str, Any]]:
    """Yield the layers in the log of a build, with the keys of the inspector's JSON."""
    for row in _LOGGED.finditer(text):
        values = {
            key: [
                {"Name": v["Name"], "Dimensions": v["Dims"].split(","), "Datatype": v["Type"]}
                for v in _LOGGED_VALUE.finditer(row[key] or "")
            ]
            for key in ("Inputs", "Constants", "Outputs")
        }
        yield {**row.groupdict(), **values}


def _compute_type(entry: Mapping[str, Any]) -> str | None:
    """Return the precision a layer computes in: by its weights, else its kernel, else its inputs.

    The inputs come last: in an engine with profiles, 8.6 gives "N/A due to dynamic shapes" for them. Weights
    with a count of 0 do not exist.
    """
    weights = entry.get("Weights")
    if isinstance(weights, dict) and weights.get("Count", 1) and (name := _type_in(weights.get("Type"))):
        return name
    if name := next(filter(None, map(_value_type, filter(_is_weight, _values(entry, "Constants")))), None):
        return name
    if kernel := _KERNEL_TYPES.search(str(entry.get("TacticName", ""))):
        return _KERNEL_TYPE_NAMES.get(kernel[1], kernel[1])
    return next(filter(None, map(_value_type, _values(entry, "Inputs"))), None)


def _values(entry: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the values of a layer under `key` that have details."""
    return [value for value in entry.get(key) or [] if isinstance(value, dict)]


def _is_weight(value: Mapping[str, Any]) -> bool:
    """Return whether a constant has two axes or more; a bias or a scale has one."""
    return sum(str(side).strip() not in ("1", "") for side in value.get("Dimensions") or []) > 1


def _value_type(value: Mapping[str, Any]) -> str | None:
    """Return the precision of a value, or None."""
    return _type_in(value.get("Format/Datatype", value.get("Datatype")))


def _type_in(text: object) -> str | None:
    """Return the precision that `text` names, or None."""
    return next((name for name, pattern in _TYPES if pattern.search(str(text))), None)


def require_precision(found: Mapping[str, int], asked: str, name: str, *, convolutions: int = 0) -> None:
    """Raises ModelError if an engine of the model `name` does not compute in the precision `asked`.

    `found` is the result of `precisions`. Half of the layers must compute in `asked`, or half of the
    `convolutions` that the file has in it, if they are fewer: with weak typing, a first or last convolution may
    well stay in a higher precision. An empty `found` proves nothing and is accepted.
    """
    total, right = sum(found.values()), found.get(asked, 0)
    if total and right * 2 < (min(total, convolutions) if convolutions else total):
        shown = ", ".join(f"{count} in {kind}" for kind, count in sorted(found.items()))
        raise ModelError(
            f"the engine of {name} should compute in {asked}, but its layers do not ({shown}); this GPU or TensorRT "
            f"has no {asked} kernels for it, so use a file of another precision"
        )


def require_types(description: str, expected: Mapping[str, str], name: str) -> None:
    """Raises ModelError unless every convolution of a strongly typed engine computes in its own type of the file.

    `expected` gives that type by the name of the ONNX node. Convolutions that the description does not name, or
    for which it tells no type, are accepted. The message lists the first three that differ.
    """
    wrong = [
        f"{node} in {layer.precision} instead of {expected[node]}"
        for layer in convolutions(description)
        for node in layer.nodes
        if layer.precision and node in expected and expected[node] != layer.precision
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ModelError(
            f"the engine of {name} computes {', '.join(wrong[:3])}{more}; use a file of another precision, or report "
            "this with the engine's sidecar"
        )
