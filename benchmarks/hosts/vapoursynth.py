"""Measure what VapourSynth costs beyond the engine, whether its frames are right, and whether memory stays constant.

    python -m benchmarks.hosts.vapoursynth [--model rt-x2] [--size 1280x720] [--frames 60] [--rounds 3] [--out FILE]
    python -m benchmarks.hosts.vapoursynth --same 300   compare so many frames with those of `sr-deploy upscale` and `video`
    python -m benchmarks.hosts.vapoursynth --table      write the table of the results into docs/vapoursynth.md
    python -m benchmarks.hosts.vapoursynth --check      check that docs/vapoursynth.md has it

FILE is usually benchmarks/results/vapoursynth.json. Needs Python 3.12 and `pip install ".[vapoursynth,openvino,cpu,video]"`;
`--same` needs vapoursynth-bestsource as well. The engine alone and the clip are measured in turn, with as many frames
computed at once, so that other work on the machine affects both.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frames import BACKEND, MANY, Work, in_turn, loop, photo, resident
from benchmarks.pages import ROOT, filled, settle
from sr_deploy import Upscaler
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.system.cpu import describe_cpu
from sr_deploy.vapoursynth import Upscale

RESULTS = ROOT / "benchmarks" / "results" / "vapoursynth.json"
PAGE = ROOT / "docs" / "vapoursynth.md"
BEGIN, END = "<!-- made by benchmarks/hosts/vapoursynth.py --table -->\n", "<!-- end of what was made -->\n"
FORMATS = ("RGB24", "YUV420P8", "YUV420P10", "RGB48")


def vapoursynth() -> Any:
    """Return the module `vapoursynth`, which only measuring needs."""
    import vapoursynth

    return vapoursynth


def still(format: str, pixels: np.ndarray, frames: int) -> Any:
    """Return a clip that shows one picture. The source costs nothing after its first frame."""
    vs = vapoursynth()
    height, width = pixels.shape[:2]
    blank = vs.core.std.BlankClip(format=vs.RGB24, width=width, height=height, length=1)
    clip = vs.core.std.ModifyFrame(blank, blank, lambda n, f: _drawn(f, pixels))
    if format != "RGB24":
        clip = vs.core.resize.Bicubic(clip, format=getattr(vs, format), **_matrix(format))
    clip.std.SetVideoCache(mode=1)
    return vs.core.std.Loop(clip, frames)


def _matrix(format: str) -> dict[str, str]:
    return {"matrix_s": "709"} if format.startswith("YUV") else {}


def _drawn(frame: Any, pixels: np.ndarray) -> Any:
    made = frame.copy()
    for plane in range(3):
        np.asarray(made[plane])[...] = pixels[:, :, plane]
    return made


def shown(source: Any, model: str, backend: str) -> Work:
    """Ask for all frames of an upscaled clip, as `vspipe` does. The clip is a new one, because VapourSynth keeps frames."""

    def work(done: Callable[[int], None]) -> int:
        clip = Upscale(source, model, backend=backend)
        for number, _ in enumerate(clip.frames(close=True), start=1):
            done(number)
        return int(clip.num_frames)

    return work


def measure(
    model: str, size: tuple[int, int], frames: int, rounds: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    pixels = photo(*size)
    with Upscaler.open(model, backend=BACKEND) as upscaler:
        for format in FORMATS:
            deep = format not in ("RGB24", "YUV420P8")
            picture = pixels / np.float32(255) if deep else pixels
            loop(upscaler, picture, 4)(lambda number: None)
            whole = shown(still(format, pixels, frames), model, upscaler.engine.backend)
            yield format, in_turn(loop(upscaler, picture, frames), whole, rounds)


def measure_memory() -> list[int]:
    """Return the resident bytes every 1000 frames of a clip of small frames, through the model."""
    vs, sizes = vapoursynth(), []
    source = vs.core.std.BlankClip(format=vs.YUV420P8, width=64, height=36, length=MANY, color=[90, 100, 140])
    for number, _ in enumerate(Upscale(source, "rt-x2", backend=BACKEND).frames(close=True), start=1):
        if number % 1000 == 0:
            sizes.append(resident())
    return sizes


def run(*words: str) -> None:
    """Run sr-deploy in a process of its own."""
    subprocess.run([sys.executable, "-m", "sr_deploy", *words], check=True, stdout=subprocess.DEVNULL)


def moving(size: tuple[int, int], frames: int) -> Iterator[np.ndarray]:
    """Yield different pictures: a photograph that moves, with noise of its own for each."""
    width, height = size
    large = photo(width + 2 * frames, height + frames)
    for number in range(frames):
        noise = np.random.default_rng(number).integers(-3, 4, (height, width, 3))
        part = large[number : number + height, 2 * number : 2 * number + width]
        yield np.clip(part + noise, 0, 255).astype(np.uint8)


def same_pictures(folder: Path, model: str, size: tuple[int, int], frames: int) -> int:
    """Return how many frames of RGB24 are, byte for byte, the pictures that `sr-deploy upscale` writes."""
    vs, small, large = vapoursynth(), folder / "small", folder / "large"
    small.mkdir()
    for number, pixels in enumerate(moving(size, frames)):
        write_image(Image(pixels=pixels), small / f"{number:05}.png")
    run("upscale", str(small), "-o", str(large), "--model", model, "--backend", BACKEND)
    blank = vs.core.std.BlankClip(format=vs.RGB24, width=size[0], height=size[1], length=frames)
    names = sorted(path.name for path in small.iterdir())
    clip = vs.core.std.ModifyFrame(blank, blank, lambda n, f: _drawn(f, read_image(small / names[n]).pixels))
    equal = 0
    for name, frame in zip(names, Upscale(clip, model, backend=BACKEND).frames(close=True), strict=True):
        pixels = np.stack([np.asarray(frame[plane]) for plane in range(3)], axis=2)
        equal += bool(np.array_equal(pixels, read_image(large / name).pixels))
    return equal


def same_video(folder: Path, model: str, size: tuple[int, int], frames: int, pixel_format: str) -> int:
    """Return how many frames of YUV are, byte for byte, those that `sr-deploy video` writes."""
    import av

    vs, film, large = vapoursynth(), folder / f"{pixel_format}.mkv", folder / f"{pixel_format}-large.mkv"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        for pixels in moving(size, frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    run("video", str(film), "-o", str(large), "--model", model, "--codec", "ffv1", "--backend", BACKEND)
    clip = Upscale(vs.core.bs.VideoSource(str(film), cachemode=0), model, backend=BACKEND)
    wanted = vs.core.bs.VideoSource(str(large), cachemode=0)
    equal = 0
    for one, other in zip(clip.frames(close=True), wanted.frames(close=True), strict=True):
        equal += all(np.array_equal(np.asarray(one[i]), np.asarray(other[i])) for i in range(3))
    return equal


def same(model: str, size: tuple[int, int], frames: int) -> dict[str, Any]:
    """Compare frames with those of the commands. The videos have a fifth of the frames."""
    found: dict[str, Any] = {"size": f"{size[0]}x{size[1]}"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found["RGB24"] = [same_pictures(folder, model, size, frames), frames]
        print(found, flush=True)
        for pixel_format in ("yuv420p", "yuv420p10le"):
            some = max(frames // 5, 2)
            found[pixel_format] = [same_video(folder, model, size, some, pixel_format), some]
            print(found, flush=True)
    return found


def table(record: dict[str, Any]) -> str:
    """Return the figures of docs/vapoursynth.md, all from the record."""
    command, cpu = record["command"], record["environment"]["cpu"]
    shares = [one["others"] for one in record["rates"].values() if one["others"] is not None]
    beside = (
        f". Other programs took {max(shares):.0%} of them meanwhile, so the processor times say more than the rates"
        if shares and max(shares) > 0.1
        else ""
    )
    lines = [
        f"`{command['model']}` on frames of {command['size']}, 2 at once, on {cpu['name']} with {cpu['usable_cores']} cores{beside}.",
        "",
        "| format | of the bare engine's rate | processor time of a frame, ms | of the bare engine, ms | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, one in record["rates"].items():
        lines.append(
            f"| {name} | {one['wall']['ratio']:.2f} | {1000 * one['cpu']['whole']:.1f} | {1000 * one['cpu']['bare']:.1f} | "
            f"{one['cpu']['ratio']:.2f} |"
        )
    sizes = [size / 1e6 for size in record["memory"]]
    lines += [
        "",
        f"Memory of a process that upscales {MANY} small frames: {sizes[0]:.1f} MB after 1000 of them, {sizes[-1]:.1f} MB after "
        "the last.",
    ]
    if compared := record.get("same"):
        pairs = [(name, *counts) for name, counts in compared.items() if name != "size"]
        counted = ", ".join(f"{equal} of {all} frames of {name}" for name, equal, all in pairs)
        lines += [
            "",
            f"Equal to the results of `sr-deploy upscale` and `sr-deploy video`, byte for byte, at {compared['size']}: {counted}.",
        ]
    return "\n".join(lines) + "\n"


def write_table(*, only_check: bool) -> None:
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    wanted = filled(PAGE, BEGIN, END, f"\n{table(record)}\n")
    settle(PAGE, wanted, only_check=only_check, remedy="-m benchmarks.hosts.vapoursynth --table")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="rt-x2")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--same", type=int, metavar="FRAMES")
    parser.add_argument("--out", type=Path, help="record to write, or to add to")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.table or arguments.check:
        write_table(only_check=arguments.check)
        return
    width, height = (int(side) for side in arguments.size.split("x"))
    record: dict[str, Any] = {}
    if arguments.out and arguments.out.exists():
        record = json.loads(arguments.out.read_text(encoding="utf-8"))
    if arguments.same:
        record["same"] = same(arguments.model, (width, height), arguments.same)
    else:
        record["command"] = {
            "model": arguments.model,
            "size": arguments.size,
            "frames": arguments.frames,
            "rounds": arguments.rounds,
        }
        record["environment"] = {
            "cpu": asdict(describe_cpu()),
            "python": platform.python_version(),
            "vapoursynth": vapoursynth().__version__.release_major,
        }
        record["rates"] = {}
        for name, one in measure(arguments.model, (width, height), arguments.frames, arguments.rounds):
            record["rates"][name] = one
            print(name, f"{one['wall']['ratio']:.3f} of the bare engine's rate", flush=True)
        record["memory"] = measure_memory()
        print("memory, MB:", [size // 1_000_000 for size in record["memory"]])
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
