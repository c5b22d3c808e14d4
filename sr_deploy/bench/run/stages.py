"""Split the time of an Upscaler's call into stages, by a clock around the engine and at the end of each tile.

An Upscaler prepares a tile, calls the engine, and copies the result into place. The clock is outside of it,
in the engine that it is given and in the progress that it reports, so that the timed code is the code that
users run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from sr_deploy.engines.base import Engine, Limits
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import BatchArray


class TimedEngine:
    """An engine that adds up the time of its calls. Implements `sr_deploy.engines.base.Engine`.

    Call `begin` before a sample, pass `tile_done` as the Upscaler's progress, and call `note` after the
    sample. `prepare`, `compute` and `finish` are in seconds. For one sample at a time, in one thread.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._mark = 0.0
        self.prepare = self.compute = self.finish = 0.0

    @property
    def spec(self) -> ModelSpec:
        """Spec of the model."""
        return self.engine.spec

    @property
    def limits(self) -> Limits:
        """Limits of the engine."""
        return self.engine.limits

    @property
    def backend(self) -> str:
        """Backend of the engine."""
        return self.engine.backend

    def begin(self) -> None:
        """Start a sample."""
        self.prepare = self.compute = self.finish = 0.0
        self._mark = time.perf_counter()

    def run(self, batch: BatchArray, out: BatchArray | None = None) -> BatchArray:
        """Run the engine as in `Engine.run`, and time it."""
        start = time.perf_counter()
        self.prepare += start - self._mark
        result = self.engine.run(batch, out)
        self._mark = time.perf_counter()
        self.compute += self._mark - start
        return result

    def tile_done(self, done: int, total: int) -> None:
        """Count the time since the engine returned as "finish"; called when a tile is in place."""
        now = time.perf_counter()
        self.finish += now - self._mark
        self._mark = now

    def note(self, stages: Mapping[str, list[float]]) -> None:
        """Append the stages of the finished sample to the lists "prepare", "compute" and "finish"."""
        stages["prepare"].append(self.prepare)
        stages["compute"].append(self.compute)
        stages["finish"].append(self.finish)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def __enter__(self) -> TimedEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
