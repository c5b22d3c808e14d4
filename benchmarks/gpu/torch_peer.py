"""Times the same nets in torch on the same GPU, eager and compiled, in half precision, to compare TensorRT with.

    python -m benchmarks.gpu.torch_peer gpu_models --out RESULTS

Needs torch with CUDA and safetensors; needs neither TensorRT nor a network connection. Measures the net alone
(CUDA events, half-precision pixels in and out, channels-last, in device memory), and the peak rates of matrix
products and copies. All results are raw samples. `torch.compile` also runs with CUDA graphs
("reduce-overhead") and, last and if time allows, with its search ("max-autotune").
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.pages import ROOT
from sr_deploy.training.checkpoint import load_net
from sr_deploy.training.nets.blocks import fold

FIRST, *OTHERS = ((540, 960), (360, 640), (1080, 1920))
"""(height, width); the first is the size that the acceptance criterion names."""
CHECKPOINTS = ROOT / "export" / "checkpoints"
MODELS = ("srresnet-x4", "rt-x4")
USUAL = ("compile", "compile-reduce-overhead", "eager")
SEARCHED = "compile-max-autotune"
"""Takes twenty seconds per shape, so it runs last."""


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument(
        "folder",
        type=Path,
        help="the folder that tests.gpu.run --prepare wrote, with srresnet-x4.safetensors in it",
    )
    cli.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_results")))
    cli.add_argument("--budget", type=float, default=240.0, help="time limit in seconds")
    options = cli.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    results: dict[str, Any] = {"schema": 1, "environment": environment(), "timings": {}, "skipped": []}
    target = options.out / "gpu_torch.json"

    def save() -> None:
        results["seconds"] = round(time.perf_counter() - start, 1)
        target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    results["peaks"] = guarded(peaks)
    save()
    checkpoints = {name: CHECKPOINTS / f"{name}.safetensors" for name in MODELS}
    if (own := options.folder / "srresnet-x4.safetensors").exists():  # of a rehearsal
        checkpoints["srresnet-x4"] = own
    for name, mode, size in order():
        key, path, gone = f"{name}/{mode}/{size[1]}x{size[0]}", checkpoints[name], time.perf_counter() - start
        if not path.exists() or gone > options.budget:
            why = f"{gone:.0f} s were gone" if path.exists() else f"no {path.name}"
            results["skipped"].append({"what": key, "why": why})
            continue
        results["timings"][key] = guarded(partial(timing, path, mode, size))
        print(f"[{time.perf_counter() - start:6.1f}] {key}: {brief(results['timings'][key])}", flush=True)
        save()
    save()


def order() -> list[tuple[str, str, tuple[int, int]]]:
    """(model, mode, size), from the most to the least important."""
    first = [(name, mode, FIRST) for name in MODELS for mode in USUAL]
    others = [(name, mode, size) for name in MODELS for size in OTHERS for mode in USUAL]
    searched = [(name, SEARCHED, size) for size in (FIRST, *OTHERS) for name in MODELS]
    return [*first, *others, *searched]


def environment() -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "gpu": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "python": sys.version,
    }


def guarded(work: Callable[[], Any]) -> Any:
    """Result of `work`, or its error as text: one failure must not lose the other measurements."""
    try:
        return work()
    except Exception as error:
        print(traceback.format_exc(), flush=True)
        return {"error": repr(error), "traceback": traceback.format_exc()}


def brief(found: Any) -> str:
    """One line about a result."""
    if "seconds" not in found:
        return str(found.get("error"))
    return f"{statistics.median(found['seconds']) * 1e3:.3f} ms (warm-up {found['warm_up_seconds']:.1f} s)"


@torch.inference_mode()
def timing(checkpoint: Path, mode: str, size: tuple[int, int]) -> dict[str, Any]:
    """Seconds of warm-up, and samples of one net in one mode on one size (height, width)."""
    torch.backends.cudnn.benchmark = True
    torch._dynamo.reset()
    net, _ = load_net(checkpoint)
    net = fold(net).eval().half().cuda().to(memory_format=torch.channels_last)
    if mode != "eager":
        chosen = mode.removeprefix("compile").removeprefix("-") or None
        net = torch.compile(net, mode=chosen, fullgraph=True, dynamic=False)
    pixels = torch.rand(1, 3, *size, device="cuda", dtype=torch.half).to(memory_format=torch.channels_last)
    start = time.perf_counter()
    for _ in range(5):
        net(pixels)
    torch.cuda.synchronize()
    return {"warm_up_seconds": time.perf_counter() - start, "seconds": samples(lambda: net(pixels))}


def samples(work: Callable[[], object], most_seconds: float = 1.5) -> list[float]:
    """Seconds between two events around each call, 10 to 100 calls."""
    once = time.perf_counter()
    work()
    torch.cuda.synchronize()
    once = time.perf_counter() - once
    count = max(10, min(100, int(most_seconds / max(once, 1e-6))))
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for before, after in pairs:
        before.record()
        work()
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in pairs]


@torch.inference_mode()
def peaks(side: int = 8192) -> dict[str, Any]:
    """The fastest matrix product of `side` and the fastest copy within the device; reading and writing both
    count.
    """
    found: dict[str, Any] = {}
    kinds = {"fp16": torch.half, "bf16": torch.bfloat16, "fp32": torch.float32}
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, kind in kinds.items():
        a, b = (torch.randn(side, side, device="cuda", dtype=kind) for _ in range(2))
        for _ in range(3):
            torch.mm(a, b)
        seconds = samples(lambda a=a, b=b: torch.mm(a, b))
        found[f"matmul_{name}"] = {
            "seconds": seconds,
            "tera_operations_per_s": 2 * side**3 / min(seconds) / 1e12,
        }
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    seconds = samples(lambda: target.copy_(source))
    found["copy"] = {"seconds": seconds, "gb_per_s": 2 * source.numel() / min(seconds) / 1e9}
    for name, value in found.items():
        rate = value.get("tera_operations_per_s") or value.get("gb_per_s")
        print(f"peak {name}: {rate:.1f}", flush=True)
    return found


if __name__ == "__main__":
    main()
