"""The model class for Triton's Python backend: it runs sr-deploy's Upscaler in the server, for pictures of
any size.

`sr-deploy serve-repo --backend python` writes the `model.py` by which Triton finds it. The server calls
`initialize` once, then `execute` with the requests of each batch, then `finalize`. The interface is
Triton's: https://github.com/triton-inference-server/python_backend
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from sr_deploy.errors import SrDeployError, UsageError
from sr_deploy.system.arrays import Uint8Array
from sr_deploy.triton.config import read_parameters
from sr_deploy.upscale import Upscaler

PIXELS, UPSCALED = "pixels", "upscaled"
"""Names of the input and the output tensor, as in sr_deploy.graph.onnx_file, whose import would load onnx."""

_USED_CAPSULE = ctypes.c_char_p(b"used_dltensor")
"""Name that the DLPack protocol gives a capsule whose content was consumed."""


class TritonPythonModel:
    """One instance of a model in the server. Triton runs each instance in a process of its own."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the model beside model.py. If this raises, the server reports it and serves no model."""
        self._triton: Any = import_module("triton_python_backend_utils")  # exists only in the server
        wanted = read_parameters(json.loads(args["model_config"]))
        threads = int(wanted["threads"]) if "threads" in wanted else None
        # repositories that were written before there was a limit have none
        self._max_pixels = int(wanted["max_pixels"]) if "max_pixels" in wanted else None
        model = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._upscaler = Upscaler.open(model, backend=wanted.get("backend", "auto"), threads=threads)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return one response for each request, in order: the upscaled pixels, or an error text."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """Close the model. The server calls this when it unloads the model."""
        self._upscaler.close()

    def _respond(self, request: Any) -> Any:
        try:
            pixels = _to_numpy(self._triton.get_input_tensor_by_name(request, PIXELS))
            check_pixels(pixels.shape, self._max_pixels)
            result = _to_server_tensor(self._triton, upscale_batch(self._upscaler, pixels))
        except (SrDeployError, MemoryError) as error:  # other requests must not fail with this one
            return self._triton.InferenceResponse(error=self._triton.TritonError(str(error)))
        return self._triton.InferenceResponse(output_tensors=[result])


# Tensors go through DLPack in both directions: in servers before 24.11, Tensor(name, array) treats arrays of NumPy 2
# as empty (https://github.com/triton-inference-server/python_backend/pull/384).


def _to_numpy(tensor: Any) -> Uint8Array:
    """Return a view of the server's tensor, uint8 [N, H, W, C], without a copy."""
    pixels: Any = np.from_dlpack(tensor)
    return cast("Uint8Array", pixels)


def _to_server_tensor(triton: Any, pixels: Uint8Array) -> Any:
    """Return `pixels` as a tensor of the server, without a copy."""
    capsule = pixels.__dlpack__()
    tensor = triton.Tensor.from_dlpack(UPSCALED, capsule)
    # The server gives the consumed capsule a name of its own. NumPy would report that as an error when it frees the
    # capsule, so the name that the protocol asks for is set.
    ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), _USED_CAPSULE)
    return tensor


def check_pixels(shape: Sequence[int], most: int | None) -> None:
    """Raise UsageError if a request of `shape` (N, H, W, C) has more than `most` pixels; None allows all."""
    count, height, width, _ = shape
    if most is not None and count * height * width > most:
        raise UsageError(
            f"{count} pictures of {width}x{height} have {count * height * width:,} pixels, this server takes {most:,} in a "
            "request; send smaller pictures, or write the repository with a larger --max-pixels"
        )


def upscale_batch(upscaler: Upscaler, pixels: Uint8Array) -> Uint8Array:
    """Upscale uint8 [N, H, W, C] to [N, H * scale, W * scale, C], one picture after the other.

    Raises the errors of `Upscaler.upscale_pixels`.
    """
    count, height, width, channels = pixels.shape
    scale = upscaler.spec.scale
    result = np.empty((count, height * scale, width * scale, channels), np.uint8)
    for picture, large in zip(pixels, result, strict=True):
        upscaler.upscale_pixels(picture, out=large)
    return result
