"""Measure what the GStreamer element costs beyond the engine, and whether memory stays constant.

python -m benchmarks.hosts.gstreamer --out benchmarks/results/gstreamer.json [--model rt-x2] [--size 480x270] [--rounds 5]
python -m benchmarks.hosts.gstreamer --table   write the table of the results into docs/gstreamer.md
python -m benchmarks.hosts.gstreamer --check   check that docs/gstreamer.md has it

rate      a pipeline of videotestsrc, sruscale and fakesink in several formats, against the engine with ready frames and
as many calls in flight; both in turn, so that other work on the machine affects both. The time of a frame is the
difference of two streams of different length, so that starting does not count
memory    resident memory of a pipeline of 10,000 small frames, several times a second
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import ROOT, filled, settle
from sr_deploy import Upscaler
from sr_deploy.system.cpu import describe_cpu

PAGE = ROOT / "docs" / "gstreamer.md"
RESULTS = ROOT / "benchmarks" / "results" / "gstreamer.json"
BEGIN, END = (
    "<!-- made by benchmarks/hosts/gstreamer.py --table -->\n",
    "<!-- end of what was made -->\n",
)
FORMATS = ("RGB", "I420", "NV12", "P010_10LE")
STREAMS = 2
SHORT, LONG = 6, 22
"""Frames of the two streams whose difference is measured."""
MANY = 10_000
BACKEND = "onnxruntime"
_ENDED = re.compile(r"Execution ended after (\d+):(\d+):([\d.]+)")


def environment() -> dict[str, str]:
    """Return the environment in which GStreamer finds the plugin."""
    command = [sys.executable, "-m", "sr_deploy", "gstreamer", "--plugin-path"]
    made = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return {**os.environ, "GST_PLUGIN_PATH": made.stdout.strip()}


def pipeline(frames: int, size: tuple[int, int], name: str, element: str) -> list[str]:
    caps = f"video/x-raw,format={name},width={size[0]},height={size[1]},framerate=30/1"
    return ["gst-launch-1.0", *f"videotestsrc num-buffers={frames} ! {caps} ! {element} ! fakesink".split()]


def streamed(frames: int, size: tuple[int, int], name: str, element: str) -> float:
    """Return the seconds between the first frame of a pipeline and its end, as GStreamer tells them."""
    done = subprocess.run(
        pipeline(frames, size, name, element),
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    found = _ENDED.search(done.stdout)
    assert found, done.stdout
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def bare(upscaler: Upscaler, pixels: np.ndarray, frames: int) -> float:
    """Return the seconds for `frames` calls of the engine, with as many in flight as the element has."""
    began = time.perf_counter()
    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(lambda _: upscaler.upscale_pixels(pixels).shape, range(frames)))
    return time.perf_counter() - began


def measure_rate(model: str, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Return for each format the time of a frame in seconds, bare and in the element, and the share of the rate."""
    element = f"sruscale model={model} backend={BACKEND} streams={STREAMS}"
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    results: dict[str, Any] = {}
    with Upscaler.open(model, backend=BACKEND) as upscaler:
        for name in FORMATS:
            given = pixels if name != "P010_10LE" else pixels / np.float32(255)
            bare(upscaler, given, 4)
            samples = []
            for _ in range(rounds):
                alone = (bare(upscaler, given, LONG) - bare(upscaler, given, SHORT)) / (LONG - SHORT)
                times = [streamed(frames, size, name, element) for frames in (SHORT, LONG)]
                samples.append((alone, (times[1] - times[0]) / (LONG - SHORT)))
            results[name] = {
                "samples": samples,
                "bare": statistics.median(alone for alone, _ in samples),
                "whole": statistics.median(whole for _, whole in samples),
                "ratio": statistics.median(alone / whole for alone, whole in samples),
            }
            print(name, f"{results[name]['ratio']:.3f}", flush=True)
    return results


def measure_memory() -> dict[str, Any]:
    """Return the resident bytes of a pipeline of small frames, several times a second."""
    sizes = []
    element = "sruscale model=rt-x2 backend=nearest"
    with subprocess.Popen(
        pipeline(MANY, (64, 36), "I420", element), env=environment(), stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            time.sleep(0.25)
            status = Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()
            if len(status) > 1 and int(status[1]):
                sizes.append(int(status[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert process.returncode == 0
    return {"frames": MANY, "resident_bytes": sizes}


def table(record: dict[str, Any]) -> str:
    """Return the figures of the page, all from the record."""
    command, cpu, sizes = (
        record["command"],
        record["environment"]["cpu"],
        record["memory"]["resident_bytes"],
    )
    lines = [
        f"`{command['model']}` in ONNX Runtime on frames of {command['size']}, {command['streams']} at once, on {cpu['name']} "
        f"with {cpu['usable_cores']} cores, {record['environment']['gstreamer']}; the median of {command['rounds']} rounds.",
        "",
        "| format | of the bare engine's rate | time of a frame, ms | of the bare engine, ms |",
        "|---|---|---|---|",
    ]
    for name, one in record["rate"].items():
        lines.append(
            f"| {name} | {one['ratio']:.2f} | {1000 * one['whole']:.1f} | {1000 * one['bare']:.1f} |"
        )
    lines += [
        "",
        f"Memory of a pipeline that doubles the pixels of {record['memory']['frames']} small frames: {sizes[len(sizes) // 2] / 1e6:.1f} MB "
        f"after half of the time, {sizes[-1] / 1e6:.1f} MB at the end, at most {max(sizes) / 1e6:.1f} MB.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="rt-x2")
    parser.add_argument("--size", default="480x270")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", action="store_true", help="write the figures into docs/gstreamer.md")
    parser.add_argument("--check", action="store_true", help="check that docs/gstreamer.md has the figures")
    arguments = parser.parse_args()
    if arguments.table or arguments.check:
        record = json.loads(RESULTS.read_text(encoding="utf-8"))
        made = filled(PAGE, BEGIN, END, f"\n{table(record)}\n")
        settle(PAGE, made, only_check=arguments.check, remedy="-m benchmarks.hosts.gstreamer --table")
        return
    width, _, height = arguments.size.partition("x")
    version = subprocess.run(
        ["gst-launch-1.0", "--version"], capture_output=True, encoding="utf-8", check=True
    )
    record = {
        "environment": {
            "cpu": asdict(describe_cpu()),
            "system": platform.platform(),
            "python": platform.python_version(),
            "gstreamer": version.stdout.splitlines()[1],
        },
        "command": {
            "model": arguments.model,
            "size": arguments.size,
            "streams": STREAMS,
            "rounds": arguments.rounds,
        },
        "memory": measure_memory(),
        "rate": measure_rate(arguments.model, (int(width), int(height)), arguments.rounds),
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
