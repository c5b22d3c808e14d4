"""Stand-in for Triton's ONNX Runtime backend, which the wheel of the server lacks: a "Python-based backend" of that name.

The server itself reads the configuration, checks requests, batches and warms up as for the real one. This backend applies
the real one's rules when it loads a model, and runs batches of several requests at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from sr_deploy.triton.backend import _to_numpy, _to_server_tensor


class TritonPythonModel:
    """One instance of a model in the server."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._triton: Any = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        version = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["intra_op_thread_count"]["string_value"])
        self._session = onnxruntime.InferenceSession(
            version / config["default_model_filename"], options, providers=["CPUExecutionProvider"]
        )
        for port, found in zip(config["input"], self._session.get_inputs(), strict=True):
            _compare(config, port, found, exact=False)
        for port, found in zip(config["output"], self._session.get_outputs(), strict=True):
            _compare(config, port, found, exact=True)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        given = [_to_numpy(self._triton.get_input_tensor_by_name(request, "pixels")) for request in requests]
        (result,) = self._session.run(["upscaled"], {"pixels": np.concatenate(given)})
        ends = np.cumsum([len(pixels) for pixels in given])
        parts = [np.ascontiguousarray(part) for part in np.split(result, ends[:-1])]
        tensors = [_to_server_tensor(self._triton, part) for part in parts]
        return [self._triton.InferenceResponse(output_tensors=[tensor]) for tensor in tensors]


def _compare(config: Mapping[str, Any], port: Mapping[str, Any], found: Any, *, exact: bool) -> None:
    """Compare a port of the configuration with that of the session; see CompareDimsSupported in
    https://github.com/triton-inference-server/onnxruntime_backend."""
    batches = int(config["max_batch_size"]) > 0
    axes = [-1] * batches + [int(axis) for axis in port["dims"]]
    shape = [axis if isinstance(axis, int) else -1 for axis in found.shape]
    fits = len(axes) == len(shape) and all(
        a == b or (b == -1 and not exact) for a, b in zip(axes, shape, strict=True)
    )
    if port["name"] != found.name or not fits or (batches and shape[0] != -1):
        raise ValueError(f"the model expects {found.name} {shape}, the configuration {port['name']} {axes}")
