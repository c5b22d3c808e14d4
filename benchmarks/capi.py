"""Measure the C library against the Python API: time of a call, and whether memory stays constant.

    python -m benchmarks.capi --measure   write benchmarks/results/capi.json and the table of docs/capi.md
    python -m benchmarks.capi --table     write the table of that file into docs/capi.md
    python -m benchmarks.capi --check     check that docs/capi.md has the table of that file

Both sides use ONNX Runtime with one thread and a fixed memory limit for tiles. They run in separate processes
that take turns; the figure of a round is the median of its calls. Needs a C compiler and Linux, whose /proc
shows the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.pages import ROOT, filled, settle
from sr_deploy.capi.build import BuiltLibrary, build_library, find_compiler
from sr_deploy.system.cpu import describe_cpu

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "capi.json", ROOT / "docs" / "capi.md"
BEGIN, END = "<!-- made by benchmarks/capi.py -->\n", "<!-- end of what was made -->\n"
MODEL, ROUNDS, FLAT_CALLS = "rt-x2", 15, 10_000
SIZES = {"8x8": 2000, "480x270": 6}
"""Size of a picture -> number of calls in a round."""
PYTHON = """
import sys, time
from sr_deploy import Upscaler
import numpy as np
model, width, height, calls = sys.argv[1], *map(int, sys.argv[2:])
begun = time.perf_counter()
upscaler = Upscaler.open(model, backend="onnxruntime", threads=1, memory=1 << 28)
print(time.perf_counter() - begun)
scale = upscaler.spec.scale
pixels = np.zeros((height, width, 3), np.uint8)
out = np.zeros((height * scale, width * scale, 3), np.uint8)
seconds = []
for _ in range(calls):
    begun = time.perf_counter()
    upscaler.upscale_pixels(pixels, out)
    seconds.append(time.perf_counter() - begun)
print(*seconds, sep="\\n")
"""


def compiled(library: BuiltLibrary, source: Path, folder: Path) -> str:
    place, target = library.library.parent, folder / source.stem
    link = [f"-L{place}", "-lsr_deploy", f"-Wl,-rpath,{place}"]
    options = [
        "-std=c11",
        "-O2",
        "-D_GNU_SOURCE",
        f"-I{library.header.parent}",
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run([*find_compiler(), *options, *link], check=True)
    return str(target)


def one_round(command: list[str], size: str, calls: int) -> dict[str, float]:
    """Measure the seconds to open the model, and the median seconds of a call.

    The first tenth of the calls is warm-up and is left out.
    """
    said = subprocess.check_output([*command, MODEL, *size.split("x"), str(calls)], encoding="utf-8")
    opened, *seconds = map(float, said.split())
    return {"open": opened, "call": median(seconds[calls // 10 :])}


def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = build_library(folder / "library")
        program = compiled(library, ROOT / "benchmarks" / "capi.c", folder)
        flat = compiled(library, ROOT / "tests" / "capi" / "flat.c", folder)
        sides = {"c": [program], "python": [sys.executable, "-c", PYTHON]}
        rounds: dict[str, dict[str, list[dict[str, float]]]] = {}
        for size, calls in SIZES.items():
            rounds[size] = {side: [] for side in sides}
            for number in range(ROUNDS):
                order = list(sides) if number % 2 else list(sides)[::-1]
                for side in order:
                    rounds[size][side].append(one_round(sides[side], size, calls))
        grown = subprocess.check_output([flat, MODEL, "onnxruntime", str(FLAT_CALLS)], encoding="utf-8")
    return {
        "model": MODEL,
        "calls": SIZES,
        "rounds": rounds,
        "flat": {"calls": FLAT_CALLS, "grown_kib": int(grown)},
        "environment": {
            "cpu": describe_cpu().name,
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "load": os.getloadavg()[0],
        },
    }


def table(record: dict[str, Any]) -> str:
    lines = [
        f"`{record['model']}` in ONNX Runtime, one thread of {record['environment']['cpu']}; the sides took turns, "
        f"{len(record['rounds']['8x8']['c'])} rounds each, medians.",
        "",
        "| what | from C | from Python | more in C, median of rounds |",
        "|---|---|---|---|",
    ]
    for size, sides in record["rounds"].items():
        both = [[entry["call"] * 1e6 for entry in sides[side]] for side in ("c", "python")]
        more = median(c - p for c, p in zip(*both, strict=True))
        of_all = more / median(both[1])
        cells = [f"a call on {size} pixels", *(f"{median(side):,.0f} µs" for side in both)]
        lines.append(f"| {' | '.join(cells)} | {more:+,.0f} µs ({of_all:+.1%}) |")
    flat = record["flat"]
    lines.append(
        f"\nOver {flat['calls']:,} good calls of all layouts, as many wrong ones and a hundredth as many handles the "
        f"process grew by {flat['grown_kib']} KiB (after the first fifth)."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--measure", action="store_true", help="measure, write the results and the table")
    what.add_argument("--table", action="store_true", help="write the table of the results into docs/capi.md")
    what.add_argument("--check", action="store_true", help="exit with 1 if docs/capi.md is not up to date")
    asked = parser.parse_args()
    if asked.measure:
        RESULTS.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8", newline="\n")
    made = filled(PAGE, BEGIN, END, table(json.loads(RESULTS.read_text(encoding="utf-8"))))
    settle(PAGE, made, only_check=asked.check, remedy="-m benchmarks.capi --table")


if __name__ == "__main__":
    main()
