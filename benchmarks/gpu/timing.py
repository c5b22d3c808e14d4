"""Measures speed for `tests/gpu/run.py`: copies on, to and from the device, and engines on one picture.

All results are raw samples in seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.build import EngineToBuild
from benchmarks.gpu.common import Run, named, open_engine


def peaks(run: Run) -> dict[str, Any]:
    """The rates that copies reach: within the device (reading and writing both count), to it and from it."""
    from sr_deploy.engines.tensorrt.cuda import DeviceBuffer, GpuContext, pinned_empty

    gpu, size = GpuContext(0, "primary"), 1 << 30
    with gpu.current():
        first, second, stream = DeviceBuffer(gpu), DeviceBuffer(gpu), gpu.stream()
        a, b, host = first.reserve(size), second.reserve(size), pinned_empty(gpu.cuda, size)[:size]
        cuda = gpu.cuda
        works = {
            "device_to_device": (2 * size, lambda: cuda.memcpy_dtod_async(a, b, size, stream)),
            "host_to_device": (size, lambda: cuda.memcpy_htod_async(a, host, stream)),
            "device_to_host": (size, lambda: cuda.memcpy_dtoh_async(host, a, stream)),
        }
        found = {}
        for name, (moved, work) in works.items():
            seconds = event_times(gpu, stream, work, count=10)
            found[name] = {"bytes": moved, "seconds": seconds, "gb_per_s": moved / min(seconds) / 1e9}
            run.log(f"{name}: {found[name]['gb_per_s']:.1f} GB/s")
        source = np.ones(64 << 20, np.uint8)
        target = np.ones(64 << 20, np.uint8)
        samples = wall_times(lambda: np.copyto(target, source), 5)
        found["host_to_host_one_core"] = {"bytes": 64 << 20, "seconds": samples}
        first.free()
        second.free()

    return found


def event_times(gpu: Any, stream: Any, work: Callable[[], None], count: int, warm_up: int = 3) -> list[float]:
    """Seconds of `work` on the device, between two events each; the CUDA context must be current."""
    cuda = gpu.cuda
    for _ in range(warm_up):
        work()
    pairs = [(cuda.Event(), cuda.Event()) for _ in range(count)]
    for before, after in pairs:
        before.record(stream)
        work()
        after.record(stream)
    stream.synchronize()
    return [before.time_till(after) / 1e3 for before, after in pairs]


def wall_times(work: Callable[[], object], count: int, warm_up: int = 2) -> list[float]:
    """Wall-clock seconds of `work`, `count` samples after `warm_up` unmeasured ones."""
    samples = []
    for number in range(count + warm_up):
        start = time.perf_counter()
        work()
        if number >= warm_up:
            samples.append(time.perf_counter() - start)
    return samples


def timing(run: Run, plan: EngineToBuild, size: tuple[int, int]) -> dict[str, Any]:
    """Time one picture.

    On the device alone, with and without graph replay; and from host pixels to host pixels.
    """
    row = run.row(plan.model, plan.precision)
    assert row is not None
    batch = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    with open_engine(run, plan.name) as engine:
        found: dict[str, Any] = {"profile": profile_of(engine, size), "level": plan.level}
        found["device_graph"] = device_times(engine, size)
        found |= host_times(engine, batch)
    with open_engine(run, plan.name, graphs=False) as engine:
        found["device_launches"] = device_times(engine, size)
    operations = row["operations_per_pixel"] * size[0] * size[1]
    best = statistics.median(found["device_graph"])
    found |= {"operations": operations, "tera_operations_per_s": operations / best / 1e12}
    summary = {key: round(statistics.median(v) * 1e3, 4) for key, v in found.items() if isinstance(v, list)}
    run.log(f"{plan.name} {named(size)} ms: {summary}, {found['tera_operations_per_s']:.1f} TFLOP/s")
    return found | {"median_ms": summary}


def profile_of(engine: Any, size: tuple[int, int]) -> str:
    """Name of the profile that `size` runs in."""
    from sr_deploy.engines.tensorrt.profiles import choose_profile

    profiles = engine.record.profiles
    return str(profiles[choose_profile(profiles, (1, *size))].name)


def device_times(engine: Any, size: tuple[int, int], count: int = 50) -> list[float]:
    """Seconds of a run on the device, with pixels in device memory before and after."""
    scale, channels = engine.spec.scale, engine.spec.channels
    taken, given = (1, *size, channels), (1, size[0] * scale, size[1] * scale, channels)
    loaded_engine = engine._loaded_engine("uint8")
    lane = loaded_engine.lanes.take()
    try:
        with engine._gpu.current():
            source, target = lane.reserve(int(np.prod(taken)), int(np.prod(given)))
            pixels = np.random.default_rng(1).integers(0, 256, taken, np.uint8)
            engine._gpu.cuda.memcpy_htod(source, pixels)
            count = sample_count(
                lambda: (lane.launch(taken, given, source, target), lane.stream.synchronize()), count
            )
            return event_times(
                engine._gpu, lane.stream, lambda: lane.launch(taken, given, source, target), count
            )
    finally:
        loaded_engine.lanes.give_back(lane)


def sample_count(work: Callable[[], object], count: int, most: float = 1.5) -> int:
    """Number of times that `work` fits into `most` seconds, limited to 10..`count`."""
    work()
    once = min(wall_times(work, 2, 0))
    return max(10, min(count, int(most / max(once, 1e-6))))


def host_times(engine: Any, batch: Any) -> dict[str, Any]:
    """Seconds per picture with ordinary arrays, with page-locked ones, and in a stream of frames."""
    scale = engine.spec.scale
    shape = (1, batch.shape[1] * scale, batch.shape[2] * scale, 3)
    ordinary, locked_in, locked_out = (
        np.empty(shape, np.uint8),
        engine.empty(batch.shape),
        engine.empty(shape),
    )
    locked_in[...] = batch
    count = sample_count(lambda: engine.run(batch, ordinary), 40)
    found = {
        "host": wall_times(lambda: engine.run(batch, ordinary), count),
        "host_page_locked": wall_times(lambda: engine.run(locked_in, locked_out), count),
    }
    if not (ordinary == locked_out).all():
        raise AssertionError("page-locked and ordinary arrays give different pixels")
    marks = [time.perf_counter()]
    for _ in engine.run_stream([batch] * count):
        marks.append(time.perf_counter())
    found["stream"] = [(marks[-1] - marks[0]) / count] * 1
    found["stream_intervals"] = np.diff(marks).tolist()
    return found
