"""Open one subject and measure it on one case after another, in this process.

A sample times the calls that users make: `Upscaler.upscale_pixels` for one picture, `Engine.run` for a batch,
and `read_image`, `upscale`, `write_image` with files. `worker` runs this in a process of its own.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal

from sr_deploy.bench.frames import Photographs
from sr_deploy.bench.result import BenchCase, BenchRun, BenchSubject
from sr_deploy.bench.run.device import device_work
from sr_deploy.bench.run.measure import Effort
from sr_deploy.bench.run.recorder import Recorder, SampledCall
from sr_deploy.bench.run.stages import TimedEngine
from sr_deploy.engines.base import Engine
from sr_deploy.engines.registry import open_engine
from sr_deploy.errors import UsageError
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.system.arrays import Uint8Array
from sr_deploy.upscale import Upscaler

Tile = int | Literal["auto"] | None
_FILE_STAGES = ("read", "decode", "prepare", "compute", "finish", "encode", "write")
"""Stages of the mode "with-files", in order."""


class SubjectRunner:
    """Measure `subject`, whose model is the file `path`, on frames of `photographs`.

    Use it in a `with` statement, from one thread. Raises the errors of `open_engine`.
    """

    def __init__(self, subject: BenchSubject, path: Path, photographs: Photographs) -> None:
        self.subject, self._photographs = subject, photographs
        self._recorder = Recorder(subject)
        self.engine: Engine = self._recorder.time_opening(
            lambda: open_engine(path, subject.backend, threads=subject.threads)
        )

    def measure(self, case: BenchCase, mode: str, throughput: bool, effort: Effort) -> BenchRun:
        """Measure one case. Raises the errors of the engine, the reader and the writer.

        Frames and results of the mode "with-files" are in a temporary folder, which is removed at the end.
        """
        with tempfile.TemporaryDirectory(prefix="sr-deploy-bench-") as folder:
            # Each stream has its own number, so that no two write to the same file.
            numbers = range(self.subject.streams if throughput else 1)
            works = [self._work(case, mode, Path(folder), number) for number in numbers]
            run = self._recorder.record(case, mode, throughput, effort, works)
        return replace(run, subject=replace(run.subject, engine_sha256=self._engine_sha256))

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def __enter__(self) -> SubjectRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _engine_sha256(self) -> str | None:
        """SHA-256 of the compiled engine that ran; None if the backend keeps none."""
        sha256: str | None = getattr(getattr(self.engine, "record", None), "plan_sha256", None)
        return sha256

    def _work(self, case: BenchCase, mode: str, folder: Path, number: int) -> SampledCall:
        """The call to measure for a case in a mode; `number` selects the photograph of a stream."""
        if mode == "device":
            return device_work(self.engine, self._batch(case))
        if mode == "with-files":
            return self._file_work(case, folder, number)
        return self._batch_work(case) if case.batch > 1 else self._pixel_work(case, number)

    def _frame(self, case: BenchCase, number: int) -> Uint8Array:
        """A frame of the photograph that the case is named after, otherwise of photograph `number`."""
        own = self._photographs.named(case.label)
        return self._photographs.frame(case.width, case.height, number if own is None else own)

    def _file(self, case: BenchCase, folder: Path, number: int) -> Path:
        """The file of the photograph that the case is named after, otherwise a PNG file of the frame."""
        if (own := self._photographs.named(case.label)) is not None:
            return self._photographs.files[own]
        source = folder / f"{number}.png"
        write_image(Image(pixels=self._frame(case, number)), source)
        return source

    def _batch(self, case: BenchCase) -> Uint8Array:
        """The pictures of a batch, uint8 [N, H, W, C]; a model with one channel gets the green one."""
        batch = self._photographs.batch(case.width, case.height, case.batch)
        # The slice is not contiguous; the copy is.
        return batch if self.engine.spec.channels == 3 else batch[:, :, :, 1:2].copy()

    def _pixel_work(self, case: BenchCase, number: int) -> SampledCall:
        """The call of `Upscaler.upscale_pixels` on one picture in memory, split into three stages."""
        frame = self._frame(case, number)
        if self.engine.spec.channels == 1:
            frame = frame[:, :, 1:2].copy()
        timed_engine = TimedEngine(self.engine)
        upscaler = Upscaler(timed_engine, tile=tile_of(case))
        stages: dict[str, list[float]] = {"prepare": [], "compute": [], "finish": []}

        def call() -> None:
            timed_engine.begin()
            upscaler.upscale_pixels(frame, progress=timed_engine.tile_done)
            timed_engine.note(stages)

        return SampledCall(call=call, stages=stages, tiles=upscaler.plan(case.height, case.width).count)

    def _batch_work(self, case: BenchCase) -> SampledCall:
        """The call of `Engine.run` on a batch. Raises UsageError for a batch with tiles of a given size."""
        if tile_of(case) not in ("auto", None):
            raise UsageError(f"a batch of {case.batch} is not tiled; use --batch 1 to measure tiles")
        batch = self._batch(case)
        return SampledCall(call=lambda: self.engine.run(batch))

    def _file_work(self, case: BenchCase, folder: Path, number: int) -> SampledCall:
        """The call from file to file. Raises UsageError for a batch."""
        if case.batch > 1:
            raise UsageError(
                f"files are processed one by one, but a batch of {case.batch} was asked for; leave --batch out"
            )
        source, target = self._file(case, folder, number), folder / f"{number}-large.png"
        timed_engine = TimedEngine(self.engine)
        upscaler = Upscaler(timed_engine, tile=tile_of(case))
        # "read" and "write" stay part of "decode" and "encode" until `time_bare_files` separates them.
        stages: dict[str, list[float]] = {name: [] for name in _FILE_STAGES}

        def call() -> None:
            start = time.perf_counter()
            image = read_image(source)
            stages["decode"].append(time.perf_counter() - start)
            timed_engine.begin()
            large = upscaler.upscale(image, progress=timed_engine.tile_done)
            timed_engine.note(stages)
            start = time.perf_counter()
            write_image(large, target)
            stages["encode"].append(time.perf_counter() - start)

        def time_bare_files() -> None:
            """Time reading and writing the bare files, and move these times to stages of their own."""
            start = time.perf_counter()
            source.read_bytes()
            read = time.perf_counter() - start
            data = target.read_bytes()
            start = time.perf_counter()
            (folder / f"{number}-copy").write_bytes(data)
            written = time.perf_counter() - start
            for name, seconds, holder in (("read", read, "decode"), ("write", written, "encode")):
                # Never more than the stage it is taken from, so that no stage is negative.
                part = min(seconds, stages[holder][-1])
                stages[name].append(part)
                stages[holder][-1] -= part

        tiles = upscaler.plan(case.height, case.width).count
        return SampledCall(call=call, stages=stages, tiles=tiles, after=time_bare_files)


def tile_of(case: BenchCase) -> Tile:
    """The tile argument of an Upscaler for `case`: pixels, "auto", or None for "whole". Raises UsageError."""
    if case.tile == "whole":
        return None
    if case.tile == "auto":
        return "auto"
    if not case.tile.isdecimal() or int(case.tile) < 1:
        raise UsageError(f"{case.tile!r} is not a tile size; give whole, auto or a number of pixels")
    return int(case.tile)
