"""Upscale pictures that already lie on a GPU, with an engine that takes device addresses. Nothing is copied
or converted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sr_deploy.capi.buffers import Buffer
from sr_deploy.errors import UsageError
from sr_deploy.upscale import Upscaler

_TYPES = {0: ("|u1", 1), 2: ("<f4", 4)}
"""NumPy's type string and size in bytes for SR_U8 and SR_F32."""
_CHANNELS = {0: 3, 2: 1}
"""Number of channels for SR_RGB and SR_GREY."""


@dataclass(frozen=True)
class _GpuPicture:
    """One picture [1, H, W, C] at a device address, read through `__cuda_array_interface__`."""

    address: int
    shape: tuple[int, int, int, int]
    typestr: str

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Description of the memory: packed and writable, in version 3 of the interface that Numba defines."""
        place = {"data": (self.address, False), "strides": None, "version": 3}
        return {"shape": self.shape, "typestr": self.typestr, **place}


def upscale_on_gpu(upscaler: Upscaler, small: Buffer, large: Buffer, stream: int | None) -> None:
    """Upscale `small` into `large`, both on the engine's GPU. `stream` is used as in
    `TensorRTEngine.run_device`.

    Raises UsageError for an engine that takes no device addresses, or for pictures that would have to be
    converted.
    """
    engine: Any = upscaler.engine
    if not hasattr(engine, "run_device"):
        raise UsageError(
            f"the picture lies in SR_CUDA, but the backend {engine.backend} computes in main memory; give SR_HOST, or "
            "open the model with the backend tensorrt"
        )
    engine.run_device(_on_gpu(upscaler, small), _on_gpu(upscaler, large), stream)


def _on_gpu(upscaler: Upscaler, buffer: Buffer) -> _GpuPicture:
    """Describe a buffer to the engine. Raises UsageError for another layout or depth, or for rows with
    gaps."""
    address, width, height, stride, depth, layout = buffer
    assert isinstance(address, int)
    channels = upscaler.spec.channels
    if _CHANNELS.get(layout) != channels or depth not in _TYPES:
        name = "SR_RGB" if channels == 3 else "SR_GREY"
        raise UsageError(
            f"in SR_CUDA, {upscaler.spec.name} takes only {name} in SR_U8 or SR_F32; convert the picture first"
        )
    typestr, size = _TYPES[depth]
    if stride != width * channels * size:
        raise UsageError(
            f"in SR_CUDA, rows must have no gaps, got a stride of {stride} bytes for {width} pixels; make a packed copy first"
        )
    return _GpuPicture(address, (1, height, width, channels), typestr)
