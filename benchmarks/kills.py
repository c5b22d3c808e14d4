"""Kill `upscale` on a folder and `video` at random moments, resume, and compare with an undisturbed run.

    python -m benchmarks.kills [--kills 30] [--seed 1] [--out benchmarks/results/kills.json]

A run is killed (SIGKILL) after a random part of its usual time, up to three times, and then left to end. The
results count the kills, the outputs that equal those of the undisturbed run (pictures byte for byte, videos
by decoded frames, packet times and packet sizes), and the pictures that were incomplete after a kill, of
which there must be none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.frames import make_clip
from sr_deploy.images.image import Image, write_image

PICTURES, FRAMES, SIZE = 60, 240, (160, 90)
STUBBORN = 3


def command(name: str, source: Path, target: Path) -> list[str]:
    common = [sys.executable, "-m", "sr_deploy", name, str(source), "-o", str(target)]
    common += ["--scale", "2", "--threads", "1", "--quiet"]
    return common + (["--part-frames", "20", "--preset", "ultrafast"] if name == "video" else [])


def of_folder(folder: Path) -> Any:
    """Return name and digest of every picture."""
    found = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in found]


def of_video(path: Path) -> Any:
    """Return the digest of every decoded frame, and (stream, time, size) of every packet."""
    with av.open(str(path)) as container:
        frames = [
            (frame.pts, hashlib.sha256(frame.to_ndarray()).hexdigest()) for frame in container.decode(video=0)
        ]
    with av.open(str(path)) as container:
        return frames, [
            (packet.stream_index, packet.pts, packet.dts, packet.size) for packet in container.demux()
        ]


def disturbed(
    name: str,
    source: Path,
    target: Path,
    whole: float,
    kills: int,
    rng: random.Random,
    look: Callable[[], None],
) -> int:
    """Run until the program ends by itself, killing it at most `kills` times; return the number of kills."""
    killed = 0
    while True:
        process = subprocess.Popen(command(name, source, target))
        try:
            patience = rng.uniform(0.2, 1.0) * whole if killed < min(kills, STUBBORN) else None
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            look()
            continue
        if code:
            raise SystemExit(f"{name} ended with {code}")
        return killed


def measure(
    name: str, source: Path, suffix: str, digest: Callable[[Path], Any], kills: int, rng: random.Random
) -> dict[str, int]:
    place = source.parent
    reference = place / f"whole{suffix}"
    start = time.monotonic()
    subprocess.run(command(name, source, reference), check=True)
    whole, expected = time.monotonic() - start, digest(reference)
    counts = {"kills": 0, "runs": 0, "equal": 0, "half_written": 0}
    target = place / f"broken{suffix}"

    def look() -> None:
        if target.exists() and name == "upscale":
            counts["half_written"] += any(one not in expected for one in digest(target))
        elif target.exists():
            counts["half_written"] += digest(target) != expected

    while counts["kills"] < kills:
        counts["kills"] += disturbed(name, source, target, whole, kills - counts["kills"], rng, look)
        counts["runs"] += 1
        counts["equal"] += digest(target) == expected
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        print(name, counts, flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    record: dict[str, Any] = {"seed": arguments.seed}
    with tempfile.TemporaryDirectory() as folder:
        pictures, clip = Path(folder, "in"), Path(folder, "clip.mp4")
        pictures.mkdir()
        for i in range(PICTURES):
            noise = np.random.default_rng(i).integers(0, 256, (120, 160, 3), np.uint8)
            write_image(Image(pixels=noise), pictures / f"{i:02}.{'png' if i % 2 else 'jpg'}")
        make_clip(clip, SIZE, FRAMES)
        record["folder"] = measure("upscale", pictures, "", of_folder, arguments.kills, rng)
        record["video"] = measure("video", clip, ".mp4", of_video, arguments.kills, rng)
    print(json.dumps(record))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
