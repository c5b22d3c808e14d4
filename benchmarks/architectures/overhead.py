"""Measure what `upscale` adds to the fastest bare runtime on exported nets, as ratios that are each measured in one run.

    python -m benchmarks.architectures.overhead FILE.onnx... [--size 160x90] [--rounds 12] [--processes 2] [--out FILE]

Each round calls, in a random order: `Upscaler` as a user opens it (`auto`, on uint8 pixels), and ONNX Runtime and OpenVINO on the
float graph of the file with a ready tensor, with their default threads. OpenVINO gets the graph at this one size, its fastest form. The ratio is
that of the medians: `Upscaler` over the faster of the two. It is to be at most 1.05.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sr_deploy.quality.dead_leaves import dead_leaves

_LIMIT = 1.05
_REST = 0.05
"""Seconds of rest before a call, until the idle threads of the other runtime have stopped spinning."""
_TIMED = 3
"""Timed calls after one that wakes the threads."""


def bare_onnxruntime(path: Path, tensor: Any) -> Callable[[], object]:
    """Return a call of ONNX Runtime on the file as it is."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: tensor})


def bare_openvino(path: Path, tensor: Any) -> Callable[[], object]:
    """Return a call of OpenVINO on the file, compiled in fp32 for the size of `tensor`."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(tensor.shape))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(tensor, shared_memory=True))
    return lambda: request.infer()


def samples_of(path: Path, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Measure all three in this process; the seconds of each, and the backend that `auto` took."""
    from sr_deploy.upscale import Upscaler

    width, height = size
    pixels = np.ascontiguousarray(dead_leaves(height, width, seed=7))
    tensor = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None] / np.float32(255), np.float32)
    random = np.random.default_rng(0)
    with Upscaler.open(path) as upscaler:
        calls: dict[str, Callable[[], object]] = {
            "upscale": lambda: upscaler.upscale_pixels(pixels),
            "onnxruntime": bare_onnxruntime(path, tensor),
            "openvino": bare_openvino(path, tensor),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name in random.permutation(list(calls)):
                time.sleep(_REST)
                calls[name]()
                for _ in range(_TIMED):
                    start = time.perf_counter()
                    calls[name]()
                    seconds[name].append(time.perf_counter() - start)
        return {"backend": upscaler.engine.backend, "seconds": seconds}


def compared(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure in several processes, because the memory layout of one changes times by some percent; the ratio."""
    joined: dict[str, list[float]] = {}
    command = [sys.executable, "-m", "benchmarks.architectures.overhead", str(path), "--worker"]
    command += ["--size", arguments.size, "--rounds", str(arguments.rounds)]
    for _ in range(arguments.processes):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
        found = json.loads(done.stdout.splitlines()[-1])
        for name, seconds in found["seconds"].items():
            joined.setdefault(name, []).extend(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in joined.items()}
    bare = min(medians["onnxruntime"], medians["openvino"])
    return {
        "file": path.name,
        "size": arguments.size,
        "backend": found["backend"],
        "ratio": medians["upscale"] / bare,
        "medians": medians,
        "seconds": joined,
    }


def main() -> int:
    """Measure the files of the command line; 1 if a ratio is over the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--size", default="160x90", help="width x height of the picture")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        width, height = map(int, arguments.size.split("x"))
        print(json.dumps(samples_of(arguments.files[0], (width, height), arguments.rounds)))
        return 0
    results = [compared(path, arguments) for path in arguments.files]
    for result in results:
        times = ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in result["medians"].items())
        print(f"{result['file']} at {result['size']}: {result['ratio']:.3f} ({result['backend']}; {times})")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return int(any(result["ratio"] > _LIMIT for result in results))


if __name__ == "__main__":
    sys.exit(main())
