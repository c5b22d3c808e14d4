"""NVIDIA's real parser and builder for tests: TensorRT for RTX, which builds on a machine without a GPU.

The wheels `tensorrt-rtx-cu12-libs` and `-bindings` (extra `[rtx]`) contain them. The parser is that of the 11.x
line. `build(model, tmp_path)` prepares a file as `sr-deploy build` does, and compiles it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from sr_deploy.engines.tensorrt import api
from sr_deploy.engines.tensorrt.build import BuildSource, BuiltEngine, build_engine, source_of
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.runtimes import RTX
from sr_deploy.errors import MissingRuntimeError
from sr_deploy.graph.onnx_file import load_model, save_model
from sr_deploy.models import find_model
from sr_deploy.precision.half import to_bf16, to_fp16
from sr_deploy.precision.quantise import quantised_inputs, to_int8

SMALL = BuildOptions(tile=64)
"""A single profile, which halves the time of a build."""
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
EXPECTED_WARNINGS: tuple[re.Pattern[str], ...] = ()
"""The warnings of parser and builder that are known and harmless. There are none."""


def why_missing() -> str | None:
    """Return why TensorRT for RTX cannot be imported; None if it can."""
    try:
        api.runtime(RTX)
    except MissingRuntimeError as error:
        return str(error)
    return None


needs_rtx = pytest.mark.skipif(why_missing() is not None, reason=f"{why_missing()}")
"""Skips a test where the wheels are not installed, and says so."""


def converted(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The fp32 model in another precision; int8 with ranges that need no photographs."""
    if precision == "int8":
        return to_int8(model, dict.fromkeys(quantised_inputs(model).values(), 1.0))
    return {"fp32": lambda m: m, "fp16": to_fp16, "bf16": to_bf16}[precision](model)


def bundled(name: str, precision: str) -> onnx.ModelProto:
    """A bundled model in a precision."""
    return converted(load_model(find_model(name)), precision)


def prepared(model: onnx.ModelProto, tmp_path: Path, pixels: str = "uint8") -> BuildSource:
    """The graph that `sr-deploy build` gives to the compiler for a file of `model`."""
    path = tmp_path / "model.onnx"
    save_model(model, path)
    return source_of(path, pixels)


def build(source: BuildSource, options: BuildOptions = SMALL, **more: Any) -> tuple[BuiltEngine, list[str]]:
    """Compile `source`; returns the engine and the warnings that are not expected."""
    said: list[str] = []
    built = build_engine(source, options, say=said.append, runtime=RTX, **more)
    return built, [line for line in said if not any(known.search(line) for known in EXPECTED_WARNINGS)]
