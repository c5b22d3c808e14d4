"""Measure how fast each CPU engine runs a model, and what it adds to its bare runtime. Ratios within one run.

    python -m benchmarks.engines --data PHOTOGRAPHS [--model rt-x4 --model srresnet-x4] [--out FILE]
    python -m benchmarks.engines --table   write the table of the results into docs/precision.md
    python -m benchmarks.engines --check   check that docs/precision.md has that table

FILE is usually benchmarks/results/engines.json. The picture is 320x180, with 8 bits in and out. The int8 and
bf16 files are made by `sr-deploy convert` with --data, which also measures their loss of PSNR. Times are
tenth percentiles of the samples. The ratios are:

    speed      time of plain ONNX Runtime (fp32 file, ready float tensor), over the time of the engine on
        bytes
    overhead   time of the engine over its own runtime on the same graph with bound arrays, minus one
    core       the same, over its runtime on the file's own float graph
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino

from benchmarks.pages import ROOT, filled, settle
from sr_deploy import SrDeployError, read_image
from sr_deploy.engines.openvino.engine import OpenVinoEngine
from sr_deploy.engines.registry import open_engine
from sr_deploy.graph.onnx_file import load_model, save_model
from sr_deploy.graph.runnable import RunnableModel, exact_int8_settings
from sr_deploy.models import find_model, read_metadata
from sr_deploy.precision.convert import NOTES_KEY, convert
from sr_deploy.system.cpu import describe_cpu

EXAMPLE = ROOT / "examples" / "colosseum.png"
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "engines.json", ROOT / "docs" / "precision.md"
BEGIN, END = "<!-- made by benchmarks/engines.py --table -->\n", "<!-- end of what was made -->\n"
Call = Callable[[], object]
REFERENCE = "onnxruntime fp32 core"
REST, TIMED = 0.05, 3  # seconds of rest, and timed calls after it


def files_of(model: str, data: Path, folder: Path, only: list[str]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the fp32 file and the converted ones: precision -> file, and what the conversion measured."""
    source = find_model(model)
    files: dict[str, tuple[Path, dict[str, Any]]] = {"fp32": (source, {})}
    for precision in (p for p in ("bf16", "int8") if not only or any(p in name for name in only)):
        path = folder / f"{source.stem}-{precision}.onnx"
        if not path.exists():
            made = convert(
                load_model(source), precision, data=data, say=lambda line: print(" ", line, flush=True)
            )
            save_model(made.model, path)
        notes = json.loads(read_metadata(path)[NOTES_KEY])
        files[precision] = (
            path,
            {name: notes[name] for name in ("psnr_change", "fidelity", "kept", "method")},
        )
    return files


def bare_onnxruntime(graph: bytes, feed: np.ndarray, threads: int) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    for key, value in exact_int8_settings().items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: feed})


def bare_openvino(engine: OpenVinoEngine, graph: bytes, feed: np.ndarray, *, compiled: Any = None) -> Call:
    """Return a call of OpenVINO with the engine's own settings, on `compiled` if it is given."""
    core = openvino.Core()
    made = compiled or core.compile_model(core.read_model(graph), "CPU", engine._settings())
    request = made.create_infer_request()
    request.set_input_tensor(openvino.Tensor(feed, shared_memory=True))
    return request.infer


def measured(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Measure all calls in turn, `rounds` times, in a random order.

    Before each there is a rest, because the threads of the previous runtime spin for a while, and an untimed
    call, because its own threads are asleep.
    """
    random = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in random.permutation(list(calls)):
            call = calls[name]
            time.sleep(REST)
            call()
            for _ in range(TIMED):
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def calls_of(
    files: dict[str, tuple[Path, dict[str, Any]]], picture: np.ndarray, threads: int
) -> tuple[dict[str, Call], list[Any]]:
    """Return the calls to measure, and the engines to close.

    They are every engine on every file that it can run, its runtime on the same graph, and its runtime on the
    file's float graph.
    """
    tensor = np.ascontiguousarray(picture.transpose(0, 3, 1, 2) / np.float32(255), np.float32)
    calls: dict[str, Call] = {}
    engines: list[Any] = []
    for precision, (path, _) in files.items():
        core, graph = load_model(path).SerializeToString(), RunnableModel(path).graph(picture.dtype)
        for backend in ("onnxruntime", "openvino"):
            engine = open_engine(path, backend, threads=threads)
            try:
                out = engine.run(picture)
            except SrDeployError:  # ONNX Runtime computes no bf16 on the CPU
                engine.close()
                continue
            engines.append(engine)
            name = f"{backend} {precision}"
            calls[name] = lambda engine=engine, out=out: engine.run(picture, out)
            if isinstance(engine, OpenVinoEngine):
                # OpenVINO cannot run a QuantizeLinear behind a bf16 convolution, so bytes are made by arithmetic
                compiled = engine._compiled_with(graph, engine._settings(), "arithmetic")
                calls[f"{name} bare"] = bare_openvino(engine, graph, picture, compiled=compiled)
                calls[f"{name} core"] = bare_openvino(engine, core, tensor)
            else:
                calls[f"{name} bare"] = bare_onnxruntime(graph, picture, threads)
                calls[f"{name} core"] = bare_onnxruntime(core, tensor, threads)
    return calls, engines


def compare(args: argparse.Namespace, model: str) -> dict[str, Any]:
    """Measure in several processes and join their samples.

    The memory layout of a single process costs or saves up to a sixth of the time.
    """
    with tempfile.TemporaryDirectory() as folder:
        kept = args.folder or Path(folder)
        files = files_of(model, args.data, kept, args.only or [])
        seconds: dict[str, list[float]] = {}
        command = [
            sys.executable,
            "-m",
            "benchmarks.engines",
            "--worker",
            "--model",
            model,
            "--data",
            args.data,
        ]
        command += ["--folder", kept, "--threads", str(args.threads), "--rounds", str(args.rounds)]
        command += [part for name in args.only or [] for part in ("--only", name)]
        for _ in range(args.processes):
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
            for name, times in json.loads(done.stdout.splitlines()[-1]).items():
                seconds.setdefault(name, []).extend(times)
    return {"engines": _table(seconds, files), "seconds": seconds}


def work(args: argparse.Namespace) -> dict[str, list[float]]:
    """Measure in this process."""
    picture = np.ascontiguousarray(read_image(EXAMPLE).pixels[None, :180, :320])
    (model,), only = args.model, args.only or []
    calls, engines = calls_of(files_of(model, args.data, args.folder, only), picture, args.threads)
    if only:
        wanted = [REFERENCE, *(f"{name}{form}" for name in only for form in ("", " bare", " core"))]
        calls = {name: calls[name] for name in wanted}
    seconds = measured(calls, args.rounds)
    for engine in engines:
        engine.close()
    return seconds


def _table(
    seconds: dict[str, list[float]], files: dict[str, tuple[Path, dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Compute the ratios of tenth percentiles, because other work on the machine only adds to a time."""

    def ratio(first: str, second: str) -> float:
        return _undisturbed(seconds[first]) / _undisturbed(seconds[second])

    table = {}
    for name in (n for n in seconds if not n.endswith((" bare", " core"))):
        backend, precision = name.split()
        table[name] = {
            "backend": backend,
            "precision": precision,
            "milliseconds": 1000 * _undisturbed(seconds[name]),
            "speed": ratio(REFERENCE, name),
            "overhead": ratio(name, f"{name} bare") - 1,
            "core": ratio(name, f"{name} core") - 1,
            **files[precision][1],
        }
    return table


def _undisturbed(samples: list[float]) -> float:
    """The tenth percentile of the samples."""
    return float(np.quantile(samples, 0.1))


def environment(threads: int) -> dict[str, Any]:
    return {
        "cpu": describe_cpu().name,
        "features": describe_cpu().features,
        "threads": threads,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {"onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__},
    }


def page() -> str:
    """Return docs/precision.md with the table of the results in place."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    (where,) = {(e["cpu"], e["threads"]) for e in (one["environment"] for one in results.values())}
    lines = [
        f"320x180 pixels, {where[1]} threads of {where[0]}, 8 bits in and out.",
        "",
        "| model | runtime | precision | time | of plain ONNX Runtime's speed | over its bare runtime | PSNR |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, one in sorted(results.items()):
        for row in one["engines"].values():
            change = f"{row['psnr_change']:+.2f} dB" if row.get("psnr_change") is not None else ""
            lines.append(
                f"| {model} | {row['backend']} | {row['precision']} | {row['milliseconds']:.0f} ms | "
                f"{row['speed']:.2f}x | {row['overhead']:+.1%} | {change} |"
            )
    return filled(PAGE, BEGIN, END, "\n".join(["", *lines, "", ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append")
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--folder", type=Path, help="folder for converted files; existing files are used again"
    )
    parser.add_argument("--only", action="append", help='an engine, such as "openvino int8"; default: all')
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10, help="rounds per process")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.table or args.check:
        settle(PAGE, page(), only_check=args.check, remedy="-m benchmarks.engines --table")
        return
    if args.data is None:
        parser.error("--data is missing: a folder of photographs to calibrate on")
    if args.worker:
        print(json.dumps(work(args)))
        return
    results: dict[str, Any] = {}
    if args.out and args.out.exists():  # of other models
        results = json.loads(args.out.read_text(encoding="utf-8"))
    for model in args.model or ["rt-x4", "srresnet-x4"]:
        found = compare(args, model)
        results[model] = {"environment": environment(args.threads), **found}
        for name, row in found["engines"].items():
            print(
                f"{model} {name:18s} {row['milliseconds']:8.1f} ms  speed {row['speed']:.2f}  "
                f"overhead {row['overhead']:+.1%}  over the float graph {row['core']:+.1%}  "
                f"PSNR {row.get('psnr_change') or 0:+.3f} dB",
                flush=True,
            )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
