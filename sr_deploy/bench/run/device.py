"""Measure work on a device alone: buffers stay there, and the device's own clock times them.

The engine must have `run_device`. CUDA events on a stream of its own give the times, so that neither Python
nor the bus is part of a sample. CUDA is reached through PyCUDA, which such an engine needs anyway.
"""

from __future__ import annotations

from typing import Any

from sr_deploy.bench.run.recorder import SampledCall
from sr_deploy.engines.base import Engine
from sr_deploy.errors import MissingRuntimeError
from sr_deploy.system.arrays import Uint8Array

DEVICE_BACKENDS = ("tensorrt",)
"""Backends whose engines have `run_device`."""


def device_work(engine: Engine, batch: Uint8Array) -> SampledCall:
    """Return a call that runs `batch`, uint8 [N, H, W, C], which is copied to the device once.

    Raises MissingRuntimeError if the engine has no `run_device`.
    """
    run_device: Any = getattr(engine, "run_device", None)
    if run_device is None:
        raise MissingRuntimeError(no_device_mode(engine.backend))
    import pycuda.driver as cuda
    from pycuda import gpuarray

    engine.run(batch)  # loads the engine and makes its CUDA context
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        source, stream = gpuarray.to_gpu(batch), cuda.Stream()
        before, after = cuda.Event(), cuda.Event()
        target = run_device(source)
    finally:
        cuda.Context.pop()

    def self_timed() -> float:
        context.push()
        try:
            before.record(stream)
            run_device(source, target, stream.handle)
            after.record(stream)
            after.synchronize()
            return float(before.time_till(after)) / 1000  # CUDA gives milliseconds
        finally:
            cuda.Context.pop()

    taken: Any = getattr(engine, "device_memory", None)
    return SampledCall(
        call=self_timed, self_timed=self_timed, device_memory=lambda: int(taken()) if taken else None
    )


def no_device_mode(backend: str) -> str:
    """The message that `backend` cannot be measured with buffers on the device, and what to do instead."""
    return (
        f"--mode device times buffers that stay on a GPU, and the {backend} backend has none: it reads and writes host "
        "memory; add --backend tensorrt, which needs an NVIDIA GPU (see `sr-deploy doctor`), or use --mode end-to-end"
    )
