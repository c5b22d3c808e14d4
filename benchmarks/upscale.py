"""Measure what sr-deploy adds to the bare runtime, as ratios that are each measured in one run, in turn.

    python -m benchmarks.upscale [--model rt-x4] [--photo FILE] [--out benchmarks/results/upscale.json]

Four ratios, in the order of the output:

    frame     Upscaler on a decoded 480x270 uint8 frame, against a bare ONNX Runtime session on a ready float
        tensor
    tiles     a 12-megapixel photograph with `tile="auto"`, per pixel, against one untiled 1-megapixel picture
    start     the command line on one 256x256 picture, against `python -c "import numpy, cv2, onnxruntime"`
    memory    peak resident memory of the command line on 12 megapixels, above the decoded input and output
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from sr_deploy import Upscaler, read_image
from sr_deploy.graph.onnx_file import load_model
from sr_deploy.models import find_model
from sr_deploy.system.cpu import describe_cpu

EXAMPLE = Path(__file__).parent.parent / "examples" / "colosseum.png"
_REST = 0.1  # seconds before a sample, until the idle threads of the other runtime have stopped spinning
TWELVE_MEGAPIXELS = (3000, 4000)


def median_ratio(
    first: Callable[[], object], second: Callable[[], object], rounds: int, warm_up: int = 2
) -> dict[str, Any]:
    """Call both in turn, `rounds` times after a warm-up. Return the ratio of their medians, and the raw
    seconds."""
    samples: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + warm_up):
        for which, call in enumerate((first, second)):
            time.sleep(_REST)
            start = time.perf_counter()
            call()
            if number >= warm_up:
                samples[which].append(time.perf_counter() - start)
    ratio = statistics.median(samples[0]) / statistics.median(samples[1])
    return {"ratio": ratio, "seconds": samples[0], "reference_seconds": samples[1]}


def bare_session(model: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    raw = load_model(find_model(model)).SerializeToString()
    return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])


def frame(model: str, pixels: np.ndarray, threads: int, rounds: int) -> dict[str, Any]:
    session = bare_session(model, threads)
    small = np.ascontiguousarray(pixels[:270, :480])
    tensor = np.ascontiguousarray(small.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    name = session.get_inputs()[0].name
    with Upscaler.open(model, threads=threads) as upscaler:
        return median_ratio(
            lambda: upscaler.upscale_pixels(small), lambda: session.run(None, {name: tensor}), rounds
        )


def tiles(model: str, photo: np.ndarray, threads: int, rounds: int) -> dict[str, Any]:
    small = np.ascontiguousarray(photo[:1000, :1000])
    with (
        Upscaler.open(model, threads=threads) as auto,
        Upscaler.open(model, threads=threads, tile=None) as whole,
    ):
        plan = auto.plan(*photo.shape[:2])
        result = median_ratio(
            lambda: auto.upscale_pixels(photo), lambda: whole.upscale_pixels(small), rounds, 1
        )
    pixels = photo.shape[0] * photo.shape[1] / (small.shape[0] * small.shape[1])
    result["ratio"] /= pixels
    return result | {"tiles": plan.count, "tile_reads": [plan.read_width, plan.read_height]}


def start(model: str, pixels: np.ndarray, rounds: int, folder: Path) -> dict[str, Any]:
    """Time the installed command as a user starts it, with byte code and the prepared graph in the cache."""
    source, target = folder / "small.png", folder / "large.png"
    cv2.imwrite(str(source), pixels[:256, :256, ::-1])
    program = shutil.which("sr-deploy", path=str(Path(sys.executable).parent)) or "sr-deploy"
    command = [program, "upscale", str(source), "-o", str(target), "--model", model, "--overwrite"]
    bare = [sys.executable, "-c", "import numpy, cv2, onnxruntime"]
    surroundings = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = partial(subprocess.run, check=True, capture_output=True)
    result = median_ratio(lambda: run(command, env=surroundings), lambda: run(bare, env=surroundings), rounds)
    unprepared = median_ratio(
        lambda: run(command, env=surroundings | {"SR_DEPLOY_CACHE": ""}),
        lambda: run(bare, env=surroundings),
        max(3, rounds // 3),
    )
    return result | {"unprepared_ratio": unprepared["ratio"]}


def memory(model: str, photo: np.ndarray, folder: Path) -> dict[str, Any]:
    """Measure the peak memory of the command, on a quarter of the picture and on all of it."""
    with Upscaler.open(model) as upscaler:
        scale = upscaler.spec.scale
    sizes = []
    for part in (2, 1):
        pixels = np.ascontiguousarray(photo[: photo.shape[0] // part, : photo.shape[1] // part])
        source, target = folder / f"photo-{part}.png", folder / f"photo-{part}-large.png"
        cv2.imwrite(str(source), pixels[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        command = [
            sys.executable,
            "-m",
            "sr_deploy",
            "upscale",
            str(source),
            "-o",
            str(target),
            "--model",
            model,
        ]
        peak = _peak_of([*command, "--overwrite", "--quiet"])
        pictures = pixels.nbytes * (1 + scale**2)
        sizes.append({"megapixels": pixels.size / 3e6, "peak_bytes": peak, "over_bytes": peak - pictures})
    return {"sizes": sizes, "over_bytes": sizes[-1]["over_bytes"]}


def _peak_of(command: list[str]) -> int:
    """Return the peak resident bytes of a command (Linux and macOS)."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *command], check=True, capture_output=True, text=True
    )
    return int(result.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


def environment() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": describe_cpu().name,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {m.__name__: m.__version__ for m in (np, cv2, onnxruntime)},
    }


def photograph(path: Path | None) -> np.ndarray:
    """A 12-megapixel picture: `path`, or the example mirrored until it is large enough."""
    height, width = TWELVE_MEGAPIXELS
    pixels = read_image(path or EXAMPLE).pixels
    down, across = (max(0, want - have) for want, have in zip((height, width), pixels.shape, strict=False))
    padded = np.pad(pixels, ((0, down), (0, across), (0, 0)), mode="symmetric")
    return np.ascontiguousarray(padded[:height, :width])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rt-x4")
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--threads", type=int, default=environment()["cores"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["frame", "tiles", "start", "memory"], action="append")
    args = parser.parse_args()
    photo = photograph(args.photo)
    results: dict[str, Any] = {"model": args.model, "threads": args.threads, "environment": environment()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work: dict[str, Callable[[], dict[str, Any]]] = {
            "frame": lambda: frame(args.model, photo, args.threads, args.rounds),
            "tiles": lambda: tiles(args.model, photo, args.threads, max(3, args.rounds // 10)),
            "start": lambda: start(args.model, photo, args.rounds, folder),
            "memory": lambda: memory(args.model, photo, folder),
        }
        for what, measure in work.items():
            if args.only and what not in args.only:
                continue
            results[what] = found = measure()
            print(what, {k: v for k, v in found.items() if "seconds" not in k}, flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
