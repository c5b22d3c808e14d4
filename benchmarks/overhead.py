"""What an engine adds to the bare runtime: a ratio, measured within one run, interleaved.

    python benchmarks/overhead.py MODEL.onnx [--size 480x270] [--rounds 40] [--threads N] [--json FILE]

`OnnxRuntimeEngine.run` on a uint8 frame [1, H, W, C], result included, against an ONNX Runtime session that runs
the same core model on a ready float tensor and leaves its result there. Whatever else the machine does hits
both alike; `cpu` is the processor time of this process, which it hits least.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from sr_deploy.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeOptions, session_options
from sr_deploy.graph.record import load_model

Call = Callable[[], object]


def interleaved(
    calls: dict[str, Call], rounds: int, warm_up: int = 3
) -> dict[str, list[tuple[float, float]]]:
    """(wall, processor) seconds of every call, `rounds` times each in an order that changes."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(rounds + warm_up):
        for name in random.sample(sorted(calls), len(calls)):
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            if number >= warm_up:
                samples[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return samples


def contestants(path: Path, height: int, width: int, options: OnnxRuntimeOptions) -> dict[str, Call]:
    """The engine in both pixel types, and the bare session with the engine's own session options."""
    model = load_model(path)
    engine = OnnxRuntimeEngine(model, options)
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, engine.spec.channels), np.uint8)
    floats = frame / np.float32(255)
    tensor = floats if engine.spec.layout == "NHWC" else np.ascontiguousarray(floats.transpose(0, 3, 1, 2))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(options), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return {
        "bare": lambda: session.run(None, {name: tensor}),
        "uint8": lambda: engine.run(frame),
        "float32": lambda: engine.run(floats),
    }


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--size", default="480x270", help="WIDTHxHEIGHT of the frame")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the raw samples here")
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    calls = contestants(args.model, height, width, OnnxRuntimeOptions(threads=args.threads))
    samples = interleaved(calls, args.rounds)
    medians = {
        name: [statistics.median(kind) for kind in zip(*s, strict=True)] for name, s in samples.items()
    }
    for name, (wall, cpu) in medians.items():
        print(f"{name:8} wall {wall * 1e3:8.2f} ms   cpu {cpu * 1e3:8.2f} ms", end="")
        print(f"   ratio {wall / medians['bare'][0]:.3f} wall, {cpu / medians['bare'][1]:.3f} cpu")
    if args.json:
        record = {"model": args.model.name, "size": [width, height], "onnxruntime": onnxruntime.__version__}
        args.json.write_text(json.dumps(record | {"seconds": samples}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
