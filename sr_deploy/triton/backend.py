"""What runs inside Triton's Python backend: sr-deploy's own Upscaler, so that pictures of any size are served.

Triton finds it through the `model.py` that `sr-deploy serve-repo --backend python` writes. The server calls
`initialize` once, then `execute` with the requests that it batched, then `finalize`.
Triton's own contract: https://github.com/triton-inference-server/python_backend
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import SrDeployError
from sr_deploy.triton.config import read_parameters
from sr_deploy.upscale import Upscaler

PIXELS, UPSCALED = "pixels", "upscaled"  # as in sr_deploy.graph.onnx_file, which imports onnx

_USED_CAPSULE = ctypes.c_char_p(
    b"used_dltensor"
)  # what the DLPack protocol calls a capsule whose content was taken


class TritonPythonModel:
    """One instance of a model in the server."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the model that lies beside model.py. Whatever it raises, the server reports and serves no such model."""
        self._triton: Any = import_module("triton_python_backend_utils")  # exists inside the server alone
        wanted = read_parameters(json.loads(args["model_config"]))
        threads = int(wanted["threads"]) if "threads" in wanted else None
        model = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._upscaler = Upscaler.open(model, backend=wanted.get("backend", "auto"), threads=threads)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response a request, in their order: pixels, or the sentence that says why there are none."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """Close the model."""
        self._upscaler.close()

    def _respond(self, request: Any) -> Any:
        try:
            pixels = _to_numpy(self._triton.get_input_tensor_by_name(request, PIXELS))
            result = _to_server_tensor(self._triton, upscale_batch(self._upscaler, pixels))
        except (SrDeployError, MemoryError) as error:  # one request's trouble is not that of the others
            return self._triton.InferenceResponse(error=self._triton.TritonError(str(error)))
        return self._triton.InferenceResponse(output_tensors=[result])


# DLPack both ways: Tensor(name, array) of servers before 24.11 takes arrays of NumPy 2 for empty ones
# (https://github.com/triton-inference-server/python_backend/pull/384).


def _to_numpy(tensor: Any) -> npt.NDArray[np.uint8]:
    pixels: Any = np.from_dlpack(tensor)
    return cast("npt.NDArray[np.uint8]", pixels)


def _to_server_tensor(triton: Any, pixels: npt.NDArray[np.uint8]) -> Any:
    """`pixels` as the server's tensor, without a copy."""
    capsule = pixels.__dlpack__()
    tensor = triton.Tensor.from_dlpack(UPSCALED, capsule)
    # the server names what it took in a way of its own, which NumPy reports as an error when it lets go of it
    ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), _USED_CAPSULE)
    return tensor


def upscale_batch(upscaler: Upscaler, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 [N, H, W, C] -> [N, H * scale, W * scale, C]. Raises as `Upscaler.upscale_pixels`."""
    count, height, width, channels = pixels.shape
    scale = upscaler.spec.scale
    result = np.empty((count, height * scale, width * scale, channels), np.uint8)
    for picture, large in zip(pixels, result, strict=True):
        upscaler.upscale_pixels(picture, out=large)
    return result
