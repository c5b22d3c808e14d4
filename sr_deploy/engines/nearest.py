"""Nearest-neighbour upscaling in NumPy: the engine every upper layer is tested with, and the floor of
what a pipeline costs when the net costs nothing."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.engines.base import Batch, Limits, check_batch
from sr_deploy.errors import UsageError
from sr_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto


class NearestEngine:
    """Repeats every pixel `scale` times along each axis."""

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
        """An engine of the scale and channels that `model` records; what `open_engine` calls."""
        from sr_deploy.graph.onnx_file import load_model, parse_model, require_spec

        if options is not None:
            raise UsageError(f"the nearest backend takes no options, got {type(options).__name__}")
        if isinstance(model, Path):
            model = load_model(model)
        spec = require_spec(parse_model(model) if isinstance(model, bytes) else model)
        return cls(spec.scale, channels=spec.channels)

    @staticmethod
    def check() -> None:
        """NumPy is all it needs."""

    def run(self, batch: Batch, out: Batch | None = None) -> Batch:
        """See `Engine.run`."""
        if self._closed:
            raise UsageError("this engine is closed; make a new one")
        shape = check_batch(self.spec, self.limits, batch, out)
        result = np.empty(shape, batch.dtype) if out is None else out
        scale = self.spec.scale
        count, height, width, channels = batch.shape
        cells = result.reshape(count, height, scale, width, scale, channels)
        cells[...] = batch[:, :, None, :, None, :]
        if batch.dtype == np.float32:
            np.clip(result, 0.0, 1.0, out=result)
        return result

    def close(self) -> None:
        """Running it afterwards raises."""
        self._closed = True

    def __enter__(self) -> NearestEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
