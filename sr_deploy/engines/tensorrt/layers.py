"""Finds out in which precisions the layers of an engine compute, from TensorRT's description of them.

The options of a build do not show this: with weak typing (8.6) a type is only allowed, and TensorRT uses what it
finds fastest. So every engine is examined after its build, and one that computes in another precision than
its model is an error. TensorRT itself is not used here, only the text that it gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from sr_deploy.errors import ModelError

_TYPES = (
    ("int8", re.compile(r"int8|\bI8\b", re.IGNORECASE)),
    ("bf16", re.compile(r"bf16|bfloat16", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|half|float16", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|float", re.IGNORECASE)),
)
"""Precisions and the words that stand for them. bf16 comes before fp16, because "bfloat16" contains "float16"."""
_KERNEL_TYPES = re.compile(r"_(i8|bf16|f16|f32)\1_")
"""Finds the types of the two factors in the name of a kernel.

For example "fprop_implicit_gemm_f16f16_f16f16_f16": fp16 times fp16.
"""
_KERNEL_TYPE_NAMES = {"i8": "int8", "f16": "fp16", "f32": "fp32"}
"""Precisions by the names in kernels; "bf16" is the same in both."""
_COMPUTE_LAYER = re.compile(r"conv|gemm|matmul|matrix|kgen|myelin|fused|xmma|foreign", re.IGNORECASE)
"""Finds layers that convolve or multiply, by their type or kernel.

"kgen", "myelin" and "foreign" are TensorRT's names for layers that it generates from several operators.
"""


def precisions(description: str) -> dict[str, int]:
    """Count the layers that convolve or multiply, by the precision they compute in.

    `description` is the result of `api.describe_layers`. Layers that only move or round values say nothing
    about precision and are not counted; nor are layers that do not name a type. A text that cannot be read
    gives an empty result.
    """
    found: dict[str, int] = {}
    for entry in _layers(description):
        kind = f"{entry.get('LayerType', '')} {entry.get('ParameterType', '')} {entry.get('TacticName', '')}"
        if _COMPUTE_LAYER.search(kind) and (name := _compute_type(entry)):
            found[name] = found.get(name, 0) + 1
    return found


def _layers(description: str) -> Iterator[dict[str, Any]]:
    """Yield the layers in the description that have details."""
    try:
        # not strict: TensorRT 8.6 puts a bare control character between the names of layers it fused
        layers = json.loads(description, strict=False).get("Layers", [])
    except (ValueError, AttributeError):
        return
    for entry in layers:
        if isinstance(entry, dict):  # without details, an entry is just a name
            yield entry


def _compute_type(entry: dict[str, Any]) -> str | None:
    """Return the precision a layer computes in: by its weights, else its kernel, else its inputs.

    The inputs come last: in an engine with profiles, 8.6 gives "N/A due to dynamic shapes" for them. Weights
    with a count of 0 do not exist.
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
    """Return the precision that `text` names, or None."""
    return next((name for name, pattern in _TYPES if pattern.search(str(text))), None)


def require_precision(found: dict[str, int], asked: str, name: str) -> None:
    """Raises ModelError if an engine of the model `name` does not compute in the precision `asked`.

    `found` is the result of `precisions`. At least half of the layers must compute in `asked`: a first or
    last convolution may well stay in a higher precision. An empty `found` proves nothing and is accepted.
    """
    total, right = sum(found.values()), found.get(asked, 0)
    if total and right * 2 < total:
        shown = ", ".join(f"{count} in {kind}" for kind, count in sorted(found.items()))
        raise ModelError(
            f"the engine of {name} should compute in {asked}, but its layers do not ({shown}); this GPU or TensorRT "
            f"has no {asked} kernels for it, so use a file of another precision"
        )
