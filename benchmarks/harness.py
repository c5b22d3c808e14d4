"""Measure the harness itself: how accurate the figures of `sr-deploy bench` are.

python -m benchmarks.harness --out benchmarks/results/harness.json   # half an hour
python -m benchmarks.harness --only sleep --only overhead            # a minute
python -m benchmarks.harness --judge --out FILE                      # judge the samples in FILE again

sleep       a call of known duration: the time by the harness, against the time by the call itself
overhead    what the harness adds to a sample
stopwatch   `sr-deploy bench` against a ten-line loop in a fresh process, in turn
verdicts    two equal runs, and a run against one slowed down by 5 %: how often the verdict is right
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sr_deploy.bench.compare import MIN_PACE_TIMES, compare_times
from sr_deploy.bench.doubts import BUSY
from sr_deploy.bench.frames import load_photographs
from sr_deploy.bench.result import BenchCase, BenchRun, BenchSubject, FailedRun, read_result
from sr_deploy.bench.run.environment import describe_environment
from sr_deploy.bench.run.measure import Effort, measure
from sr_deploy.bench.run.runner import SubjectRunner
from sr_deploy.bench.run.session import BenchSession, WorkerStart
from sr_deploy.bench.run.stages import TimedEngine
from sr_deploy.bench.run.sweep import merge_rounds
from sr_deploy.bench.run.worker import Measurer, Opening, serve
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.models import find_model
from sr_deploy.system.arrays import BatchArray
from sr_deploy.system.json_values import to_plain
from sr_deploy.upscale import Upscaler

SLOWDOWN = 0.05


def sleep() -> dict[str, Any]:
    """Time calls that sleep, then spin until the exact microsecond, and that measure themselves."""
    found = {}
    for milliseconds in (1, 10, 100):
        own: list[float] = []

        def call(seconds: float = milliseconds / 1000, own: list[float] = own) -> None:
            start = time.perf_counter()
            time.sleep(max(0.0, seconds - 0.0005))
            while time.perf_counter() - start < seconds:
                pass
            own.append(time.perf_counter() - start)

        count = 2000 // milliseconds + 100
        timing = measure(call, Effort(samples=count, seconds=0, most_seconds=60), own.clear)
        found[f"{milliseconds} ms"] = {
            "samples": len(own),
            **{
                f"p{share}_error": float(np.percentile(timing.samples, share) / np.percentile(own, share) - 1)
                for share in (50, 99)
            },
            "p50_error_from_nominal": statistics.median(timing.samples) / (milliseconds / 1000) - 1,
        }
    return found


def overhead() -> dict[str, Any]:
    """Measure the overhead of the stopwatch on an empty call, and that of the stages on a timed Upscaler."""
    timing = measure(lambda: None, Effort(samples=200_000, seconds=0, warm_up_least=0.2))
    frame = np.zeros((8, 8, 3), np.uint8)
    plain, timed = Upscaler(NearestEngine(2)), TimedEngine(NearestEngine(2))
    upscaler = Upscaler(timed)
    stages: dict[str, list[float]] = {"prepare": [], "compute": [], "finish": []}

    def watch() -> None:
        timed.begin()
        upscaler.upscale_pixels(frame, progress=timed.tile_done)
        timed.note(stages)

    effort = Effort(samples=2_000, seconds=0)
    turns = [  # in turn, so that a change of the processor's clock affects both
        [
            statistics.median(measure(call, effort).samples)
            for call in (lambda: plain.upscale_pixels(frame), watch)
        ]
        for _ in range(30)
    ]
    return {
        "stopwatch_microseconds": timing.wall / len(timing.samples) * 1e6,
        "stages_microseconds": statistics.median(seen - bare for bare, seen in turns) * 1e6,
    }


_LOOP = """
import json, time
from sr_deploy import Upscaler
from sr_deploy.bench.frames import load_photographs
frame = load_photographs().frame({width}, {height})
with Upscaler.open("{model}", backend="onnxruntime") as upscaler:
    end, times = time.perf_counter() + {seconds}, []
    while time.perf_counter() < end:
        start, busy = time.perf_counter(), time.process_time()
        upscaler.upscale_pixels(frame)
        times.append((time.perf_counter() - start, time.process_time() - busy))
print(json.dumps(times[5:]))
"""


def stopwatch(model: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure both in turn; return the medians of the ratios of their median times and mean processor times."""
    width, height = 160, 90
    code = _LOOP.format(width=width, height=height, model=model, seconds=seconds)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "result.json"
        command = [sys.executable, "-m", "sr_deploy", "bench", "--model", model, "--backend", "onnxruntime"]
        command += ["--sizes", f"{width}x{height}", "--seconds", str(seconds), "--max-seconds", str(seconds)]
        for _ in range(rounds):
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            times, busy = zip(*json.loads(done.stdout), strict=True)
            subprocess.run([*command, "-o", str(target), "--overwrite"], check=True, capture_output=True)
            run = read_result(target).runs[0]
            rows.append(
                {
                    "loop_seconds": statistics.median(times),
                    "bench_seconds": statistics.median(run.samples),
                    "loop_processor": statistics.mean(busy),
                    "bench_processor": statistics.mean(run.cpu),
                    "others": run.others,
                }
            )
    return {
        "ratio": statistics.median(row["bench_seconds"] / row["loop_seconds"] for row in rows),
        "processor_ratio": statistics.median(row["bench_processor"] / row["loop_processor"] for row in rows),
        "turns": rows,
    }


class _Slowed:
    """An engine that takes `share` longer, and keeps its cores as busy as before."""

    def __init__(self, engine: Any, share: float) -> None:
        self._engine, self._share = engine, share

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, batch: BatchArray, out: BatchArray | None = None) -> BatchArray:
        start = time.perf_counter()
        result = self._engine.run(batch, out)
        end = time.perf_counter() + (time.perf_counter() - start) * self._share
        while time.perf_counter() < end:
            pass
        return result


def open_slowed(opening: Opening) -> Measurer:
    runner = SubjectRunner(opening.subject, Path(opening.model), load_photographs())
    runner.engine = _Slowed(runner.engine, SLOWDOWN)
    return runner


def verdicts(model: str, pairs: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Judge pairs of runs of `rounds` processes each. The raw samples are kept, to try other methods of
    judging."""
    subject = BenchSubject(model=model, backend="onnxruntime", precision="fp32", scale=4)
    slowed = (sys.executable, "-m", "benchmarks.harness", "--worker")
    entries = {
        "same": WorkerStart(subject=subject, path=find_model(model)),
        "slowed": WorkerStart(subject=subject, path=find_model(model), command=slowed),
    }
    case = BenchCase(label="90p", width=160, height=90)
    effort = Effort(seconds=seconds, most_seconds=seconds)
    rows: list[dict[str, Any]] = []
    for _ in range(pairs):
        row: dict[str, Any] = {}
        for name in ("before", "same", "slowed"):
            entry = entries["same" if name == "before" else name]
            row[name] = _raw(merge_rounds([_alone(entry, case, effort) for _ in range(rounds)]))
        rows.append(row)
        print("verdicts", len(rows), judged(rows), flush=True)
    return judged(rows) | {"pairs": pairs, "rounds": rounds, "seconds": seconds, "samples": rows}


def _alone(entry: WorkerStart, case: BenchCase, effort: Effort) -> BenchRun:
    """Run in a fresh process, as an older baseline would have."""
    with BenchSession() as session:
        run = session.measure(entry, case, mode="end-to-end", throughput=False, effort=effort)
    if isinstance(run, FailedRun):
        raise SystemExit(run.error)
    return run


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Count the verdicts of `sr-deploy bench compare`. SystemExit if the machine was too busy for valid
    figures."""
    if max(run["others"] or 0.0 for row in rows for run in row.values()) > BUSY:
        raise SystemExit("other processes took too much of the cores; measure on an idle machine")
    changes = {
        name: [
            compare_times(row["before"]["samples"], row[name]["samples"], paces=_paces(row, name))
            for row in rows
        ]
        for name in ("same", "slowed")
    }
    return {
        "no_change_of_same": sum(change.verdict == "no change" for change in changes["same"]),
        "slower_of_slowed": sum(change.verdict == "slower" for change in changes["slowed"]),
        "ratios_of_same": [round(change.ratio, 4) for change in changes["same"]],
        "ratios_of_slowed": [round(change.ratio, 4) for change in changes["slowed"]],
    }


def _paces(row: dict[str, Any], name: str) -> tuple[list[float], list[float]]:
    paces = (row["before"]["pace"], row[name]["pace"])
    if min(map(len, paces)) < MIN_PACE_TIMES:
        raise SystemExit("too few measurements of the pace; use more --rounds or --seconds")
    return paces


def _raw(run: BenchRun) -> dict[str, Any]:
    times = {"samples": run.samples, "pace": run.pace}
    return {n: [float(f"{s:.6g}") for s in seconds] for n, seconds in times.items()} | {"others": run.others}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="rt-x4")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6, help="processes of each judged run")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per process")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["sleep", "overhead", "stopwatch", "verdicts"], action="append")
    parser.add_argument(
        "--judge", action="store_true", help="do not measure; judge the samples in --out again"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(open_slowed)
        return
    if args.judge:
        record = json.loads(args.out.read_text(encoding="utf-8"))
        record["verdicts"] |= judged(record["verdicts"]["samples"])
        print({k: v for k, v in record["verdicts"].items() if k != "samples"})
        args.out.write_text(json.dumps(record) + "\n", encoding="utf-8", newline="\n")
        return
    results: dict[str, Any] = {"model": args.model, "environment": to_plain(describe_environment())}
    if args.only and args.out and args.out.exists():
        before = json.loads(args.out.read_text(encoding="utf-8"))
        parts = [(one["environment"]["machine"], one["environment"]["versions"]) for one in (before, results)]
        if parts[0] != parts[1]:
            raise SystemExit(
                f"{args.out} was measured on another machine or with other versions; measure all"
            )
        results = before
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "sleep": sleep,
        "overhead": overhead,
        "stopwatch": lambda: stopwatch(args.model, 5, args.seconds),
        "verdicts": lambda: verdicts(args.model, args.pairs, args.rounds, args.seconds),
    }
    for what, call in work.items():
        if args.only and what not in args.only:
            continue
        results[what] = found = call()
        print(what, json.dumps({k: v for k, v in found.items() if k != "samples"}, indent=1), flush=True)
    if args.out:
        args.out.write_text(json.dumps(results) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
