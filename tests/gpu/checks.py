"""Checks of robustness for `run.py`: threads, long use, little memory, foreign contexts, damaged engines.

Each returns its findings for the record, and raises AssertionError if the engine fails.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.build import EngineToBuild
from benchmarks.gpu.common import STEPS, Run, filled, open_engine


def threads(run: Run, plan: EngineToBuild, count: int = 8) -> dict[str, Any]:
    """Eight threads on one engine get the same bytes as a single one."""
    sizes = ((64, 64), (97, 131), (180, 320), (255, 190), (360, 640), (33, 200))
    base = run.pictures(plan.model)[0][0]
    batches = [filled(base, *size)[None] for size in sizes]
    wrong: list[str] = []
    with open_engine(run, plan.name) as engine:
        expected = [engine.run(batch) for batch in batches]

        def work(number: int) -> None:
            try:
                for turn in range(40):
                    index = (number * 5 + turn) % len(batches)
                    if not (engine.run(batches[index]) == expected[index]).all():
                        wrong.append(f"thread {number}, turn {turn}")
            except Exception as error:
                wrong.append(repr(error))

        start = time.perf_counter()
        workers = [threading.Thread(target=work, args=(n,)) for n in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - start
        streamed = list(engine.run_stream(batches * 3))
        equal = all((a == b).all() for a, b in zip(streamed, expected * 3, strict=True))
    if wrong or not equal:
        raise AssertionError(f"{wrong[:5]}, stream equal: {equal}")
    return {"threads": count, "runs": count * 40, "seconds": seconds, "stream_equal": equal}


def frames(run: Run, plan: EngineToBuild, count: int = 1000) -> dict[str, Any]:
    """1,000 frames of changing sizes do not increase the memory used on device and host."""
    rng, rows = np.random.default_rng(5), []
    sizes = [
        (int(h), int(w)) for h, w in zip(rng.integers(40, 500, 40), rng.integers(40, 700, 40), strict=True)
    ]
    base = run.pictures(plan.model)[0][0]
    batches = [filled(base, *size)[None] for size in (*sizes, (540, 960))]
    with open_engine(run, plan.name) as engine:
        for number in range(count):
            engine.run(batches[int(rng.integers(0, len(batches)))] if number else batches[-1])
            if number % 50 == 49:
                with engine._gpu.current():
                    free, _ = engine._gpu.cuda.mem_get_info()
                rows.append({"frame": number + 1, "device_free": free, "host_rss": resident()})
    settled = [row for row in rows if row["frame"] >= 300]
    device = settled[0]["device_free"] - settled[-1]["device_free"]
    host = settled[-1]["host_rss"] - settled[0]["host_rss"]
    run.log(f"frames: device grew by {device} bytes, host by {host} bytes from frame 300 to {count}")
    if device > 2 << 20 or host > 16 << 20:
        raise AssertionError(f"memory grew: device {device}, host {host}: {rows}")
    return {"samples": rows, "device_grew": device, "host_grew": host}


def resident() -> int:
    """Resident memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def refused(run: Run, plan: EngineToBuild) -> dict[str, Any]:
    """Engines of another model, version or GPU are refused, and so are damaged ones and unknown operators."""
    from sr_deploy.engines.tensorrt.build import BuildSource, build_engine
    from sr_deploy.engines.tensorrt.engine import TensorRTEngine
    from sr_deploy.engines.tensorrt.options import TensorRTOptions
    from sr_deploy.engines.tensorrt.sidecar import digest, read_engine
    from sr_deploy.errors import SrDeployError

    data, record = read_engine(run.engines[plan.name])
    garbage = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
    spec = record.spec
    cases: dict[str, Callable[[Path], Any]] = {
        "truncated": lambda p: stored(p, data[: len(data) // 3], record),
        "without its sidecar": lambda p: p.write_bytes(data),
        "of another version": lambda p: stored(
            p, data, replace(record, machine=replace(record.machine, tensorrt="9.9.9"))
        ),
        "of another gpu": lambda p: stored(
            p, data, replace(record, machine=replace(record.machine, gpu="NVIDIA T4"))
        ),
        "spoiled, with a matching sidecar": lambda p: stored(
            p, garbage, replace(record, plan_sha256=digest(garbage), plan_size=len(garbage))
        ),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, write in cases.items():
            path = Path(folder) / f"{name.split()[0]}.engine"
            write(path)
            found[name] = refusal(
                lambda p=path: TensorRTEngine(p).run(np.zeros((1, 32, 32, 3), np.uint8)), SrDeployError
            )
        good = Path(folder) / "good.engine"
        stored(good, data, record)
        other = TensorRTOptions(model=run.folder / "unsupported.onnx")
        found["of another model"] = refusal(lambda: TensorRTEngine(good, other), SrDeployError)
    graph = (run.folder / "unsupported.onnx").read_bytes()
    lacking = BuildSource(graph=graph, spec=spec, pixels="uint8", sha256="0" * 64, name="unsupported.onnx")
    found["an operator that it lacks"] = refusal(lambda: build_engine(lacking), SrDeployError)
    for name, message in found.items():
        run.log(f"refused {name}: {message}")
    if "Sharpen" not in found["an operator that it lacks"]:
        raise AssertionError(f"the operator is not named: {found}")
    return found


def stored(path: Path, plan: bytes, record: Any) -> None:
    """Write an engine and its sidecar."""
    from sr_deploy.engines.tensorrt.sidecar import sidecar_path

    path.write_bytes(plan)
    sidecar_path(path).write_text(record.to_json(), encoding="utf-8")


def refusal(work: Callable[[], Any], kind: type[Exception]) -> str:
    """Run `work`, which must raise `kind`, and return the error as text."""
    try:
        work()
    except kind as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it was not refused")


def device_arrays(run: Run, plan: EngineToBuild) -> dict[str, Any]:
    """Pixels in GPU memory give the same bytes as `run`, with and without the caller's stream."""
    from sr_deploy.engines.tensorrt.cuda import OwnedMemory
    from sr_deploy.engines.tensorrt.device import DeviceArray

    batch = run.pictures(plan.model)[0][1][None]
    with open_engine(run, plan.name) as engine:
        expected, cuda = engine.run(batch), engine._gpu.cuda
        with engine._gpu.current():
            memory, stream = OwnedMemory(engine._gpu, batch.nbytes), engine._gpu.stream()
            cuda.memcpy_htod(memory.address, batch)
        taken = DeviceArray(memory.address, batch.shape, batch.dtype, memory)
        equal = {}
        for name, handle in (("waits", None), ("on the caller's stream", int(stream.handle))):
            for turn in range(4):
                given = engine.run_device(taken, stream=handle)
                with engine._gpu.current():
                    stream.synchronize()
                    back = np.empty(given.shape, np.uint8)
                    cuda.memcpy_dtoh(back, given.address)
                equal[f"{name}, {turn}"] = bool((back == expected).all())
        interface = engine.run_device(taken, out=engine.run_device(taken)).__cuda_array_interface__
        del given, taken, memory, stream
    if not all(equal.values()):
        raise AssertionError(f"{equal}")
    return equal | {"interface": str(interface)}


def out_of_memory(run: Run, plan: EngineToBuild) -> dict[str, Any]:
    """With little device memory left, a large picture is computed in smaller tiles, with one line, equally."""
    from sr_deploy.engines.tensorrt.cuda import DeviceBuffer
    from sr_deploy.upscale import Upscaler

    picture = filled(run.pictures(plan.model)[0][0], 1080, 1080)
    said: list[str] = []
    with open_engine(run, plan.name) as engine:
        expected = Upscaler(engine, tile=200).upscale_pixels(picture)
    with open_engine(run, plan.name) as engine:
        engine.run(
            np.zeros((1, 32, 32, 3), np.uint8)
        )  # loads the code of the kernels, which takes memory too
        # working memory follows the shape from TensorRT 10 on
        scratch = engine._loaded_engines["uint8"].lanes.idle()[0].memory.size
        pixels = engine.limits.max_height * engine.limits.max_width * 3 * (1 + engine.spec.scale**2)
        engine._loaded_engines["uint8"].lanes.trim()
        with engine._gpu.current():
            ballast = DeviceBuffer(engine._gpu)
            free, _ = engine._gpu.cuda.mem_get_info()
            # too little for the largest tile, enough for one of half its side
            left = scratch + pixels * 3 // 4
            ballast.reserve(free - left)
        try:
            result = Upscaler(engine, say=said.append).upscale_pixels(picture)
        finally:
            with engine._gpu.current():
                ballast.free()
    worst = int(np.abs(result.astype(np.int16) - expected.astype(np.int16)).max())
    run.log(f"memory: {said}, max step {worst}")
    if not said or worst > STEPS[plan.precision]:
        raise AssertionError(f"said {said}, max step {worst}")
    return {"left": left, "scratch": scratch, "said": said, "max_step": worst}


def callers_context(run: Run, plan: EngineToBuild) -> dict[str, Any]:
    """An engine also runs in a context of the caller instead of the device's primary one."""
    small = run.pictures(plan.model)[1][1][None]
    with open_engine(run, plan.name) as engine:
        expected = engine.run(small)
    import pycuda.driver as cuda

    context = cuda.Device(0).make_context()
    try:
        engine = open_engine(run, plan.name, context="current")
        equal = bool((engine.run(small) == expected).all() and (engine.run(small) == expected).all())
        engine.close()
    finally:
        context.pop()
        context.detach()
    if not equal:
        raise AssertionError("other pixels in the caller's context")
    return {"equal": equal}
