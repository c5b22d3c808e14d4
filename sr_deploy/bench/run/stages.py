"""What a call of an Upscaler spends its time on: told by a clock on the engine's calls and on the end of each tile.

An Upscaler prepares a tile, calls the engine, and puts the result where it belongs. It is watched from outside,
through the engine it is given and the progress it reports, so that what is timed is what users run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from sr_deploy.engines.base import Batch, Engine, Limits
from sr_deploy.spec import ModelSpec


class TimedEngine:
    """`engine`, with the time of its calls added up. Implements `sr_deploy.engines.base.Engine`.

    Begin a sample with `begin`, pass `tile_done` as the Upscaler's progress, read `stages` at its end. One sample
    at a time, in one thread.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._mark = 0.0
        self.prepare = self.compute = self.finish = 0.0

    @property
    def spec(self) -> ModelSpec:
        """Of the model."""
        return self.engine.spec

    @property
    def limits(self) -> Limits:
        """Of the engine."""
        return self.engine.limits

    @property
    def backend(self) -> str:
        """Of the engine."""
        return self.engine.backend

    def begin(self) -> None:
        """A sample starts now."""
        self.prepare = self.compute = self.finish = 0.0
        self._mark = time.perf_counter()

    def run(self, batch: Batch, out: Batch | None = None) -> Batch:
        """See `Engine.run`."""
        start = time.perf_counter()
        self.prepare += start - self._mark
        result = self.engine.run(batch, out)
        self._mark = time.perf_counter()
        self.compute += self._mark - start
        return result

    def tile_done(self, done: int, total: int) -> None:
        """A tile is where it belongs."""
        now = time.perf_counter()
        self.finish += now - self._mark
        self._mark = now

    def note(self, stages: Mapping[str, list[float]]) -> None:
        """Append the parts of the sample that just ended to lists of these names."""
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
