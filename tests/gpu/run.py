"""Checks everything about TensorRT that needs a GPU, in one go and offline, in 15 minutes of a GPU machine.

    python -m tests.gpu.run --prepare gpu_models          # here: needs onnx, ONNX Runtime
    python -m tests.gpu.run gpu_models --dry-run --out RESULTS         # here: builds with TensorRT for RTX, no CUDA
    python -X faulthandler -m tests.gpu.run gpu_models --out RESULTS   # there: TensorRT, PyCUDA, NumPy

The sections run from the most to the least important: pixels of one fp16 and one int8 engine, then speed beside
torch.compile at three sizes, then tiles, streams, graphs, threads and device arrays, then the rest. A
section that fails is recorded with its traceback and does not stop the others. Before and after each section, all raw results so far are written to `gpu_run.json`.
A section that needs more seconds than are left of `--budget` is skipped, and the record says so: nothing that
did not run counts as passed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.build import EngineToBuild, build_section, for_any_size, for_crops, to_be_timed, usual
from benchmarks.gpu.common import COMMON, Run
from benchmarks.gpu.timing import peaks, timing
from tests.gpu import checks, parity
from tests.gpu.processes import child, exits, interrupted, two_processes

FIRST = "rt-x4"
"""The model that all checks use."""
PLAIN = "-plain"
"""Suffix of models whose last convolution stays behind the PixelShuffle."""


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("folder", type=Path, nargs="?", help="the folder that --prepare wrote")
    cli.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_results")))
    cli.add_argument("--budget", type=float, default=780.0, help="time limit in seconds")
    cli.add_argument(
        "--runtime", choices=["tensorrt", "tensorrt-rtx"], default="tensorrt", help="library to test"
    )
    cli.add_argument(
        "--dry-run", action="store_true", help="build with tensorrt-rtx and stop before the first CUDA call"
    )
    cli.add_argument(
        "--only",
        action="append",
        default=[],
        help="run only sections whose names begin with this; repeatable",
    )
    cli.add_argument("--prepare", type=Path, help="write the folder for the GPU machine and stop")
    cli.add_argument(
        "--model", type=Path, action="append", default=[], help="another fp32 ONNX file besides rt-x4"
    )
    cli.add_argument("--int8", type=Path, action="append", default=[], help="a Q/DQ ONNX file")
    cli.add_argument("--photos", type=Path, help="folder of PNG photographs; default: the example picture")
    cli.add_argument(
        "--srresnet", default="", help="checkpoint of srresnet-x4, or a seed for an untrained one"
    )
    cli.add_argument("--child", help=argparse.SUPPRESS)
    cli.add_argument("--child-builds", default="quick", help=argparse.SUPPRESS)
    options = cli.parse_args()
    if options.prepare:
        from benchmarks.gpu.prepare import prepare

        prepare(options.prepare, options.model, options.int8, options.photos, options.srresnet)
        return
    if options.folder is None:
        cli.error("name the folder that --prepare wrote")
    options.out.mkdir(parents=True, exist_ok=True)
    runtime = "tensorrt-rtx" if options.dry_run else options.runtime
    run = Run(
        options.folder, options.out, options.budget, set(options.only), runtime=runtime, dry=options.dry_run
    )
    run.models = json.loads((options.folder / "models.json").read_text(encoding="utf-8"))
    if options.child:
        try:
            child(run, options.child, options.child_builds)
        except KeyboardInterrupt:  # as the command line does: nothing waits for the build's thread
            os._exit(130)
        return
    run.results["command"] = [Path(sys.argv[0]).name, *sys.argv[2:]]
    sections(run)
    run.save()
    states = [found["state"] for found in run.results["sections"].values()]
    run.log(f"ran {states.count('ran')}, failed {states.count('failed')}, skipped {states.count('skipped')}")


def sections(run: Run) -> None:
    """Run all sections, in order of importance."""
    others = [m for m in models_of(run) if m != FIRST]
    any_size = for_any_size(FIRST, "fp16")
    run.section("environment", lambda: environment(run))
    for precision in ("fp16", "int8"):
        compared(run, FIRST, precision)
    for model in (FIRST, *others):
        timed(run, model, "fp16", COMMON[0])
    run.section("torch", lambda: torch_peer(run), needs=90)
    for size in COMMON[1:]:
        timed(run, FIRST, "fp16", size)
    build_section(run, any_size)
    pixel_checks(run, any_size)
    robustness(run, any_size)
    run.section("peaks", lambda: peaks(run))
    for model in others:
        timed(run, model, "fp16", COMMON[0], compare=True)
    for model in others:
        timed(run, f"{model}{PLAIN}", "fp16", COMMON[0])
    other_forms(run)
    run.section("two processes", lambda: two_processes(run), needs=50)
    run.section("interrupted", lambda: interrupted(run), needs=40)
    for model in others:
        for size in COMMON[1:]:
            timed(run, model, "fp16", size)
    for model in (*others, FIRST):
        timed(run, model, "fp32", COMMON[0])
    run.section("sweep/large", lambda: parity.sweep(run, any_size, parity.LARGE), needs=40, of=any_size.name)
    build_section(run, usual(FIRST, "fp16"))


def models_of(run: Run) -> list[str]:
    """Names of the prepared models."""
    return list(dict.fromkeys(row["model"] for row in run.models if not row["model"].endswith(PLAIN)))


def pixel_checks(run: Run, plan: EngineToBuild) -> None:
    """Sections that check precision and pixels of an engine."""
    run.section(f"precision/{plan.name}", lambda: parity.precision_shown(run, plan), of=plan.name)
    run.section(f"parity/{plan.name}", lambda: parity.parity(run, plan), needs=5, of=plan.name)


def compared(run: Run, model: str, precision: str) -> None:
    """Build an engine for the prepared pictures, and compare its pixels with those of the CPU."""
    plan = for_crops(model, precision)
    if run.row(model, precision) is not None:
        build_section(run, plan)
        pixel_checks(run, plan)


def torch_peer(run: Run) -> str:
    """Time the same networks in torch, eager and compiled; its results lie beside ours. Returns its last lines."""
    command = [sys.executable, "-m", "benchmarks.gpu.torch_peer", str(run.folder), "--out", str(run.out)]
    done = subprocess.run([*command, "--budget", "80"], capture_output=True, text=True, timeout=150)
    if done.returncode:
        raise RuntimeError(done.stderr[-800:])
    return done.stdout[-800:]


def timed(run: Run, model: str, precision: str, size: tuple[int, int], *, compare: bool = False) -> None:
    """Build an engine for `size` and time it.

    With `compare`, its pixels are compared with those of an engine that was itself compared with the CPU.
    """
    plan, checked = to_be_timed(model, precision, size), for_crops(model, precision)
    if run.row(model, precision) is None:
        return
    if compare and checked.name not in run.engines:
        build_section(run, checked)
        pixel_checks(run, checked)
    if plan.name not in run.engines:
        build_section(run, plan)
    if f"timing/{plan.name}" not in run.results["sections"]:
        run.section(f"precision/{plan.name}", lambda: parity.precision_shown(run, plan), of=plan.name)
        run.section(f"timing/{plan.name}", lambda: timing(run, plan, size), needs=10, of=plan.name)
    if compare and checked.name in run.engines:
        run.section(f"agree/{plan.name}", lambda: parity.agree(run, plan, checked), needs=5, of=plan.name)


def robustness(run: Run, plan: EngineToBuild) -> None:
    """Sections that check the robustness of the engine for every size."""
    works: tuple[tuple[str, Callable[[Run, EngineToBuild], Any], float], ...] = (
        ("sweep", parity.sweep, 20),
        ("threads", checks.threads, 10),
        ("refused", checks.refused, 10),
        ("device", checks.device_arrays, 5),
        ("memory", checks.out_of_memory, 10),
        ("exit", exits, 40),
        ("frames", checks.frames, 20),
        ("contexts", checks.callers_context, 10),
    )
    for name, work, needs in works:
        run.section(name, partial(work, run, plan), needs=needs, of=plan.name)


def other_forms(run: Run) -> None:
    """Sections for int8, fp32 and float pixels on the compared pictures; int8 is timed too."""
    for precision in ("int8", "fp32"):
        for row in [r for r in run.models if r["precision"] == precision and r["pixels"] == "uint8"]:
            plan = for_crops(row["model"], precision)
            if plan.name not in run.engines:
                build_section(run, plan)
                pixel_checks(run, plan)
            if precision == "int8":
                timed(run, row["model"], precision, COMMON[0])
    plan = for_crops(FIRST, "fp16", "float32")
    build_section(run, plan)
    run.section("float", lambda: parity.float_pixels(run, plan), needs=5, of=plan.name)


def environment(run: Run) -> dict[str, Any]:
    """Versions, GPU, memory and host, for the record."""
    from sr_deploy.engines.tensorrt import api
    from sr_deploy.engines.tensorrt.cuda import GpuContext, machine
    from sr_deploy.engines.tensorrt.runtimes import RUNTIMES
    from sr_deploy.version import __version__

    runtime = RUNTIMES[run.runtime]
    trt = api.runtime(runtime)
    here, gpu = machine(0, api.version(trt), runtime), GpuContext(0, "primary", runtime)
    with gpu.current():
        free, total = gpu.cuda.mem_get_info()
    import pycuda

    return {
        "sr_deploy": __version__,
        "tensorrt": here.tensorrt,
        "gpu": here.gpu,
        "capability": here.capability,
        "driver": here.driver,
        "pycuda": pycuda.VERSION_TEXT,
        "cuda_driver_api": gpu.cuda.get_driver_version(),
        "memory_free": free,
        "memory_total": total,
        "python": sys.version,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "nvidia_smi": shell("nvidia-smi", "--query-gpu=name,clocks.sm,clocks.mem,power.draw,pcie.link.gen.current",
                            "--format=csv,noheader"),
    }  # fmt: skip


def shell(*command: str) -> str:
    """Output of a command, or the error as text."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return repr(error)


if __name__ == "__main__":
    main()
