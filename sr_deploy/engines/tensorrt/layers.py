"""What the layers of an engine compute in, read off TensorRT's own description of them. Names nothing of TensorRT.

What a network was built with says little: where typing is weak (8.6), a type is only allowed, and TensorRT takes what
it finds fastest. So an engine is looked at once it is built, and one that computes in another precision than its
model is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from sr_deploy.errors import ModelError

_TYPES = (
    ("int8", re.compile(r"int8|\bI8\b", re.IGNORECASE)),
    ("bf16", re.compile(r"bf16|bfloat16", re.IGNORECASE)),  # before fp16, for "bfloat16" holds "float16"
    ("fp16", re.compile(r"fp16|half|float16", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|float", re.IGNORECASE)),
)
_KERNEL_TYPES = re.compile(r"_(i8|bf16|f16|f32)\1_")
"""In the names of kernels: what is multiplied with what, as in "fprop_implicit_gemm_f16f16_f16f16_f16"."""
_KERNEL_TYPE_NAMES = {"i8": "int8", "f16": "fp16", "f32": "fp32"}
_COMPUTE_LAYER = re.compile(r"conv|gemm|matmul|matrix|kgen|myelin|fused|xmma|foreign", re.IGNORECASE)


def precisions(description: str) -> dict[str, int]:
    """How many of the layers that convolve or multiply compute in which type, by `describe_layers`.

    Layers that only move or round values say nothing of precision and are not counted, nor those that do not say
    what they compute in.
    """
    found: dict[str, int] = {}
    for entry in _layers(description):
        kind = f"{entry.get('LayerType', '')} {entry.get('ParameterType', '')} {entry.get('TacticName', '')}"
        if _COMPUTE_LAYER.search(kind) and (name := _compute_type(entry)):
            found[name] = found.get(name, 0) + 1
    return found


def _layers(description: str) -> Iterator[dict[str, Any]]:
    try:
        # TensorRT 8.6 puts a bare control character between the names of layers it made one of
        layers = json.loads(description, strict=False).get("Layers", [])
    except (ValueError, AttributeError):
        return
    for entry in layers:
        if isinstance(entry, dict):  # without details, only names are given
            yield entry


def _compute_type(entry: dict[str, Any]) -> str | None:
    """The type of a layer's weights as they are in the engine, else of its kernel, else of what goes in.

    In an engine with profiles, what goes in is "N/A due to dynamic shapes", so that comes last.
    """
    weights = entry.get("Weights")
    if isinstance(weights, dict) and weights.get("Count", 1) and (name := _type_in(weights.get("Type"))):
        return name
    if kernel := _KERNEL_TYPES.search(str(entry.get("TacticName", ""))):
        return _KERNEL_TYPE_NAMES.get(kernel[1], kernel[1])
    ports = [port for port in entry.get("Inputs", []) if isinstance(port, dict)]
    types = (_type_in(port.get("Format/Datatype", port.get("Datatype"))) for port in ports)
    return next((name for name in types if name), None)


def _type_in(text: object) -> str | None:
    return next((name for name, pattern in _TYPES if pattern.search(str(text))), None)


def require_precision(found: dict[str, int], asked: str, name: str) -> None:
    """Raises ModelError where an engine of a model of precision `asked` computes in another.

    Most of the layers must show it: a first or last convolution may rightly stay in a higher one.
    """
    total, right = sum(found.values()), found.get(asked, 0)
    if total and right * 2 < total:
        shown = ", ".join(f"{count} in {kind}" for kind, count in sorted(found.items()))
        raise ModelError(
            f"the engine of {name} was to compute in {asked}, but its layers do in others ({shown}); this GPU or TensorRT "
            f"has no {asked} kernels for it, so use a file of another precision"
        )
