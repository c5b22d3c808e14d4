"""Measure what frames cost in `pipe` and `video` beyond the engine, and whether memory stays constant.

    python -m benchmarks.frames [--model rt-x2] [--size 480x270] [--frames 150] [--rounds 5] [--out FILE]
    python -m benchmarks.frames --table   write the tables of the results into docs/video.md
    python -m benchmarks.frames --check   check that docs/video.md has them

FILE is usually benchmarks/results/frames.json. Three things are measured:

    pipe      frames through real pipes (`cat` on both ends) in several formats, against the engine with ready
        frames
              and as many calls in flight; both in turn, so that other work on the machine affects both
    video     `upscale_video` of a generated H.264 file, against the same; most of the difference is encoding
    memory    resident memory of a process, every 1000 frames of a video of 10,000 small frames
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.pages import filled, settle
from sr_deploy import Upscaler
from sr_deploy.bench.run.usage import OtherProcesses
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.frames.layout import LAYOUTS
from sr_deploy.frames.pipe import PipeOptions, run_pipe
from sr_deploy.images.image import read_image
from sr_deploy.models import find_model
from sr_deploy.system.cpu import describe_cpu
from sr_deploy.video.encoder import EncodeOptions
from sr_deploy.video.job import VideoOptions, upscale_video

EXAMPLE = Path(__file__).parent.parent / "examples" / "colosseum.png"
RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "video.md"
BEGIN, END = "<!-- made by benchmarks/frames.py --table -->\n", "<!-- end of what was made -->\n"
FORMATS = ("rgb24", "yuv420p", "nv12", "p010le")
WARM_UP = 10
FILLED = 6
STREAMS = PipeOptions(format="rgb24").streams
MANY = 10_000
BACKEND = os.environ.get("SR_DEPLOY_BACKEND", "auto")


Work = Callable[[Callable[[int], None]], int]
"""Processes frames, reports the number after each, and returns how many there were."""


def timed(work: Work) -> dict[str, float]:
    """Measure elapsed and processor time per frame. Elapsed time counts from frame `FILLED`, when the queues
    are full."""
    times: list[float] = []
    cpu = time.process_time()
    count = work(lambda number: times.append(time.perf_counter()))
    return {
        "wall": (times[-1] - times[FILLED - 1]) / (len(times) - FILLED),
        "cpu": (time.process_time() - cpu) / count,
    }


def photo(width: int, height: int) -> np.ndarray:
    pixels = read_image(EXAMPLE).pixels
    across, down = -(-width // pixels.shape[1]), -(-height // pixels.shape[0])
    return np.ascontiguousarray(np.tile(pixels, (down, across, 1))[:height, :width])


def loop(upscaler: Upscaler, pixels: np.ndarray, frames: int) -> Work:
    """Keep the engine busy as `bench --throughput` does, with as many calls in flight as `pipe` and `video`
    have."""

    def work(done: Callable[[int], None]) -> int:
        with ThreadPoolExecutor(STREAMS) as pool:
            for _ in pool.map(lambda _: upscaler.upscale_pixels(pixels).shape, range(frames)):
                done(0)
        return frames

    return work


def piped(upscaler: Upscaler, data: Path, size: tuple[int, int], name: str) -> Work:
    def work(done: Callable[[int], None]) -> int:
        options = PipeOptions(format=name, size=size)
        with (
            subprocess.Popen(["cat", data], stdout=subprocess.PIPE, bufsize=0) as source,
            subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0) as target,
        ):
            assert source.stdout is not None
            assert target.stdin is not None
            count = run_pipe(source.stdout, target.stdin, upscaler, options, done=done)  # type: ignore[arg-type]
            target.stdin.close()
        return count

    return work


def in_turn(first: Work, second: Work, rounds: int) -> dict[str, Any]:
    """Measure both, `rounds` times in turn. Return medians, and the share of the first one's rate that the
    second keeps."""
    others = OtherProcesses()
    samples = [(timed(first), timed(second)) for _ in range(rounds)]
    result: dict[str, Any] = {"samples": samples, "others": others.share()}
    for what in ("wall", "cpu"):
        bare, whole = (statistics.median(pair[i][what] for pair in samples) for i in (0, 1))
        ratio = statistics.median(pair[0][what] / pair[1][what] for pair in samples)
        result[what] = {"bare": bare, "whole": whole, "ratio": ratio}
    return result


def measure_pipe(
    model: str, size: tuple[int, int], frames: int, rounds: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    width, height = size
    pixels = photo(width, height)
    with tempfile.TemporaryDirectory() as folder, Upscaler.open(model, backend=BACKEND) as upscaler:
        for name in FORMATS:
            layout = LAYOUTS[name]
            deep = layout.depth > 8
            picture = pixels / np.float32(255) if deep else pixels
            loop(upscaler, picture, WARM_UP)(lambda number: None)
            frame = np.random.default_rng(0).integers(0, 64, layout.frame_bytes(height, width), np.uint8)
            data = Path(folder) / name
            with open(data, "wb") as file:
                for _ in range(frames):
                    file.write(pixels.tobytes() if name == "rgb24" else frame.tobytes())
            piping = piped(upscaler, data, size, name)
            yield name, in_turn(loop(upscaler, picture, frames), piping, rounds)


def make_clip(path: Path, size: tuple[int, int], frames: int, picture: np.ndarray | None = None) -> None:
    pixels = photo(*size) if picture is None else picture
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(pixels, i % size[0], 1), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def measure_video(
    model: str, size: tuple[int, int], frames: int, rounds: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder, Upscaler.open(model, backend=BACKEND) as upscaler:
        clip, target = Path(folder, "clip.mp4"), Path(folder, "large.mp4")
        make_clip(clip, size, frames)
        pixels = photo(*size)
        loop(upscaler, pixels, WARM_UP)(lambda number: None)
        for preset in ("medium", "ultrafast"):

            def whole(done: Callable[[int], None], preset: str = preset) -> int:
                options = VideoOptions(encode=EncodeOptions(preset=preset), overwrite=True)
                watching = Watching(done)
                upscale_video(
                    clip, target, upscaler, model=find_model(model), options=options, watcher=watching
                )
                done(0)  # joined and checked
                return frames

            yield preset, in_turn(loop(upscaler, pixels, frames), whole, rounds)


def measure_memory() -> dict[str, Any]:
    """Return the resident bytes every 1000 frames of a small video, measured in a process of its own."""
    if sys.platform != "linux":
        return {}
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.frames", "--only-memory"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    sizes: dict[str, Any] = json.loads(result.stdout)
    return sizes


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Watching:
    """Follows a video that is being made and records the resident memory of the process."""

    def __init__(self, done: Callable[[int], None] = lambda number: None) -> None:
        self.sizes: list[int] = []
        self._done = done

    def say(self, message: str) -> None:
        pass

    def begin(self, total: int | None, first: int = 0) -> None:
        pass

    def frame(self, count: int) -> None:
        self._done(count)
        if count % 1000 == 0:
            self.sizes.append(resident())


def print_memory() -> None:
    watching = Watching()
    with tempfile.TemporaryDirectory() as folder:
        clip, model = Path(folder, "clip.mp4"), Path(folder, "model")
        model.write_bytes(b"repeats pixels")
        make_clip(clip, (64, 36), MANY)
        upscaler = Upscaler(NearestEngine(2))
        options = VideoOptions(encode=EncodeOptions(preset="ultrafast"))
        upscale_video(
            clip, Path(folder, "large.mp4"), upscaler, model=model, options=options, watcher=watching
        )
    print(json.dumps({"frames": MANY, "every": 1000, "resident_bytes": watching.sizes}))


def shown(what: str, measured: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    results = {}
    for name, one in measured:
        wall, cpu = one["wall"], one["cpu"]
        print(
            f"{what} {name}: {1 / wall['whole']:.1f} frames/s, {wall['ratio']:.3f} of the bare engine's "
            f"{1 / wall['bare']:.1f}; {1000 * cpu['whole']:.1f} ms of processor time a frame, bare {1000 * cpu['bare']:.1f}",
            flush=True,
        )
        results[name] = one
    return results


def table(record: dict[str, Any], kills: dict[str, Any]) -> str:
    """Return the figures of docs/video.md, all from the records."""
    command, cpu = record["command"], record["environment"]["cpu"]
    others = [one.get("others") for part in ("pipe", "video") for one in record[part].values()]
    known = [share for share in others if share is not None]
    beside = f", of which others took at most {max(known):.0%}" if known else ""
    lines = [
        f"`{command['model']}` on frames of {command['size']}, {command['streams']} at once, on {cpu['name']} with {cpu['usable_cores']} "
        f"cores{beside}.",
        "",
        "| | of the bare engine's rate | processor time of a frame, ms | of the bare engine, ms |",
        "|---|---|---|---|",
    ]
    for what, names in (("pipe", record["pipe"]), ("video, x264", record["video"])):
        for name, one in names.items():
            spent = one["cpu"]
            lines.append(
                f"| {what} {name} | {one['wall']['ratio']:.2f} | {1000 * spent['whole']:.1f} | {1000 * spent['bare']:.1f} |"
            )
    sizes = [size / 1e6 for size in record["memory"]["resident_bytes"]]
    lines += [
        "",
        f"Memory of a process that doubles the pixels of {record['memory']['frames']} small frames: {sizes[0]:.1f} MB after "
        f"{record['memory']['every']} of them, {sizes[-1]:.1f} MB after the last.",
        "",
        "Killed with SIGKILL at random moments and run again (`benchmarks/kills.py`):",
        "",
        "| | kills | results | the same as of an undisturbed run | half-written after a kill |",
        "|---|---|---|---|---|",
    ]
    for name in ("folder", "video"):
        one = kills[name]
        lines.append(f"| {name} | {one['kills']} | {one['runs']} | {one['equal']} | {one['half_written']} |")
    return "\n".join(lines) + "\n"


def write_table(*, only_check: bool) -> None:
    record, kills = (
        json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in ("frames.json", "kills.json")
    )
    wanted = filled(PAGE, BEGIN, END, f"\n{table(record, kills)}\n")
    settle(PAGE, wanted, only_check=only_check, remedy="-m benchmarks.frames --table")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="rt-x2")
    parser.add_argument("--size", default="480x270")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="write the figures into docs/video.md")
    parser.add_argument("--check", action="store_true", help="check that docs/video.md has the figures")
    arguments = parser.parse_args()
    if arguments.table or arguments.check:
        write_table(only_check=arguments.check)
        return
    if arguments.only_memory:
        print_memory()
        return
    width, _, height = arguments.size.partition("x")
    size = (int(width), int(height))
    common = (arguments.model, size, arguments.frames, arguments.rounds)
    record: dict[str, Any] = {
        "environment": {
            "cpu": asdict(describe_cpu()),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "command": {
            "model": arguments.model,
            "size": arguments.size,
            "frames": arguments.frames,
            "streams": STREAMS,
        },
        "pipe": shown("pipe", measure_pipe(*common)),
        "video": shown("video", measure_video(*common)),
        "memory": measure_memory(),
    }
    print("memory, MiB:", [size >> 20 for size in record["memory"].get("resident_bytes", [])])
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
