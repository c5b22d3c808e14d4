"""Nearest-neighbour upscaling in NumPy.

All upper layers are tested with this engine. It also shows what a pipeline costs by itself, because the net
costs almost nothing.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.engines.base import Limits, check_batch
from sr_deploy.errors import UsageError
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import BatchArray

if TYPE_CHECKING:
    from onnx import ModelProto


class NearestEngine:
    """Repeats every pixel `scale` times along each axis. Threads may share it."""

    backend = "nearest"

    def __init__(self, scale: int = 2, *, channels: int = 3, limits: Limits | None = None) -> None:
        self.spec = ModelSpec(
            name=f"nearest-x{scale}", scale=scale, halo=0, architecture="nearest", channels=channels
        )
        self.limits = limits or Limits()
        self._closed = False

    @classmethod
    def open(
        cls, model: Path | bytes | ModelProto, options: object = None, threads: int | None = None
    ) -> NearestEngine:
        """Open an engine with the scale and channels of the spec in `model`; `open_engine` calls this.

        There are no options, so `options` must be None (else UsageError); `threads` is ignored.
        """
        from sr_deploy.graph.onnx_file import load_model, parse_model, require_spec

        if options is not None:
            raise UsageError(f"the nearest backend takes no options, got {type(options).__name__}")
        if isinstance(model, Path):
            model = load_model(model)
        spec = require_spec(parse_model(model) if isinstance(model, bytes) else model)
        return cls(spec.scale, channels=spec.channels)

    @staticmethod
    def check() -> None:
        """Do nothing: NumPy is always installed."""

    def run(self, batch: BatchArray, out: BatchArray | None = None) -> BatchArray:
        """Upscale a batch; see `Engine.run`."""
        if self._closed:
            raise UsageError("this engine is closed; make a new one")
        shape = check_batch(self.spec, self.limits, batch, out)
        result = np.empty(shape, batch.dtype) if out is None else out
        scale = self.spec.scale
        count, height, width, channels = batch.shape
        # cells[n, y, :, x, :, c] are all output pixels of one input pixel; broadcasting fills them at once
        cells = result.reshape(count, height, scale, width, scale, channels)
        cells[...] = batch[:, :, None, :, None, :]
        if batch.dtype == np.float32:
            np.clip(result, 0.0, 1.0, out=result)
        return result

    def close(self) -> None:
        """Close the engine; `run` raises UsageError afterwards."""
        self._closed = True

    def __enter__(self) -> NearestEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
