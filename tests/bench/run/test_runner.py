"""Measuring real engines in this process: the runs describe what was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import sr_deploy.bench.run.runner as runner_module
from sr_deploy.bench.frames import load_photographs
from sr_deploy.bench.result import BenchCase, BenchRun, BenchSubject
from sr_deploy.bench.run.measure import Effort
from sr_deploy.bench.run.runner import SubjectRunner
from sr_deploy.bench.run.stages import TimedEngine
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.errors import MissingRuntimeError, UsageError
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.models import find_model
from sr_deploy.upscale import Upscaler

QUICK = Effort(samples=4, seconds=0, warm_up_least=0)
SMALL = BenchCase(label="24x18", width=24, height=18)


@pytest.fixture
def runner(tmp_path: Path, tiny: Callable[[str], Any]) -> Callable[..., SubjectRunner]:
    def make(name: str = "plain", backend: str = "onnxruntime", **changes: Any) -> SubjectRunner:
        model = tiny(name)
        path = tmp_path / f"{name}.onnx"
        onnx.save(model.model, path)
        subject = BenchSubject(
            model=name, backend=backend, precision="fp32", scale=model.spec.scale, threads=1
        )
        return SubjectRunner(replace(subject, **changes), path, load_photographs())

    return make


@pytest.mark.parametrize("name", ["plain", "grey", "nhwc"])
@pytest.mark.parametrize("tile", ["whole", "auto", "8"])
def test_a_run_has_samples_and_stages_that_add_up(
    runner: Callable[..., SubjectRunner], name: str, tile: str
) -> None:
    with runner(name) as measuring:
        run = measuring.measure(replace(SMALL, tile=tile), "end-to-end", False, QUICK)
    assert len(run.samples) == 4
    assert set(run.stages) == {"prepare", "compute", "finish"}
    assert all(len(seconds) == 4 for seconds in run.stages.values())
    for number, whole in enumerate(run.samples):
        assert sum(seconds[number] for seconds in run.stages.values()) <= whole
    assert run.case.tiles == (6 if tile == "8" else 1)
    assert run.cold_start is not None
    assert run.cold_start.open > 0


def test_a_batch_goes_through_the_engine_at_once(runner: Callable[..., SubjectRunner]) -> None:
    with runner() as measuring:
        run = measuring.measure(replace(SMALL, batch=3), "end-to-end", False, QUICK)
        assert run.case.batch == 3
        with pytest.raises(UsageError, match="a batch of 2 is not tiled"):
            measuring.measure(replace(SMALL, batch=2, tile="8"), "end-to-end", False, QUICK)


def test_with_files_reading_and_writing_are_stages_too(runner: Callable[..., SubjectRunner]) -> None:
    with runner() as measuring:
        run = measuring.measure(SMALL, "with-files", False, QUICK)
        assert run.mode == "with-files"
        assert list(run.stages) == ["read", "decode", "prepare", "compute", "finish", "encode", "write"]
        assert all(len(seconds) == 4 and min(seconds) >= 0 for seconds in run.stages.values())
        with pytest.raises(UsageError, match="one by one"):
            measuring.measure(replace(SMALL, batch=2), "with-files", False, QUICK)


def test_a_case_called_after_a_photograph_runs_that_one_and_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("a.png", 10), ("b.png", 200)):
        write_image(Image(pixels=np.full((6, 9, 3), value, np.uint8)), tmp_path / name)
    read: list[Path] = []
    monkeypatch.setattr(runner_module, "read_image", lambda path: read.append(path) or read_image(path))
    seen: list[int] = []
    run = NearestEngine.run
    monkeypatch.setattr(
        NearestEngine, "run", lambda self, b, out=None: seen.append(b.max()) or run(self, b, out)
    )
    subject = BenchSubject(model="rt-x2", backend="nearest", precision="fp32", scale=2)
    case = BenchCase(label="b.png", width=9, height=6)
    with SubjectRunner(subject, find_model("rt-x2"), load_photographs([tmp_path])) as measuring:
        measuring.measure(case, "end-to-end", False, QUICK)
        measuring.measure(case, "with-files", False, QUICK)
    assert set(seen) == {200}
    assert set(read) == {tmp_path / "b.png"}


def test_with_several_streams_every_call_is_a_sample(runner: Callable[..., SubjectRunner]) -> None:
    with runner(streams=3) as measuring:
        run = measuring.measure(SMALL, "end-to-end", True, QUICK)
    assert run.throughput
    assert len(run.samples) >= 4
    assert run.stages == {}


def test_buffers_on_a_device_need_an_engine_that_has_them(runner: Callable[..., SubjectRunner]) -> None:
    with runner() as measuring, pytest.raises(MissingRuntimeError, match="the onnxruntime backend has none"):
        measuring.measure(SMALL, "device", False, QUICK)


def test_memory_and_load_are_recorded_where_the_platform_tells(runner: Callable[..., SubjectRunner]) -> None:
    with runner(backend="nearest") as measuring:
        run = measuring.measure(replace(SMALL, width=640, height=480), "end-to-end", False, QUICK)
    assert_plausible(run)


def assert_plausible(run: BenchRun) -> None:
    assert run.memory.host_total is None or run.memory.host_total > 10 << 20
    assert run.memory.device is None
    assert run.others is None or 0 <= run.others <= 1
    assert run.energy is None or run.energy >= 0


@pytest.mark.parametrize("tile", ["0", "-8", "big", ""])
def test_a_tile_that_is_none_is_refused(runner: Callable[..., SubjectRunner], tile: str) -> None:
    with runner(backend="nearest") as measuring, pytest.raises(UsageError, match="is not a tile size"):
        measuring.measure(replace(SMALL, tile=tile), "end-to-end", False, QUICK)


def test_a_watched_engine_changes_nothing_of_the_picture() -> None:
    frame = load_photographs().frame(50, 30)
    plain = Upscaler(NearestEngine(2), tile=16).upscale_pixels(frame)
    timed = TimedEngine(NearestEngine(2))
    timed.begin()
    seen = Upscaler(timed, tile=16).upscale_pixels(frame, progress=timed.tile_done)
    assert np.array_equal(plain, seen)
    assert min(timed.prepare, timed.compute, timed.finish) > 0
    timed.close()
    with pytest.raises(UsageError, match="closed"):
        timed.run(frame[None])
