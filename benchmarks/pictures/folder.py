"""Time a folder of pictures with this checkout and with an older one, in turn.

python -m benchmarks.pictures.folder OLD_CHECKOUT                          # 200 small pictures, 3 minutes
python -m benchmarks.pictures.folder OLD_CHECKOUT --megapixels 3 --count 12

Each round runs both checkouts once on the same pictures, the first one by turns, so that a machine that slows down
slows both. The ratio of each round is new by old; the line at the end has the median of these ratios. Both run in the
Python of this process unless `--old-python` names another one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from tests.paths import ROOT


def make_pictures(folder: Path, count: int, megapixels: float) -> None:
    """Write `count` pictures of 4:3 that look like photographs: PNG below a megapixel, else JPEG."""
    rng = np.random.default_rng(0)
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    size = (width, round(width * 3 / 4))
    folder.mkdir()
    for number in range(count):
        rough = rng.integers(0, 256, (size[1] // 10 + 1, size[0] // 10 + 1, 3), np.uint8)
        picture = cv2.resize(rough, size, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:03}.{'png' if megapixels < 1 else 'jpg'}"), picture)


def timed(checkout: Path, python: str, folder: Path, model: str) -> tuple[float, float]:
    """Wall and processor seconds of one run on the folder."""
    out, cache = folder.parent / "out", folder.parent / f"cache-{checkout.name}"
    shutil.rmtree(out, ignore_errors=True)
    command = [python, "-m", "sr_deploy", "upscale", str(folder), "-o", str(out), "--model", model, "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "SR_DEPLOY_CACHE": str(cache)}
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        [*command, "--backend", "onnxruntime"], env=environment, cwd=folder.parent, check=True, timeout=3600
    )
    seconds, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    assert len([path for path in out.iterdir() if path.is_file()]) == len(list(folder.iterdir()))
    return seconds, cpu


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="Checkout of an older version.")
    parser.add_argument("--old-python", default=sys.executable, help="Python for the older version.")
    parser.add_argument("--count", type=int, default=200, help="Number of pictures.")
    parser.add_argument("--megapixels", type=float, default=0.0192, help="Pixels of a picture, in millions.")
    parser.add_argument("--model", default="rt-x2", help="Model.")
    parser.add_argument("--rounds", type=int, default=7, help="Number of rounds.")
    asked = parser.parse_args()
    sides = ((asked.old.resolve(), asked.old_python), (ROOT, sys.executable))
    ratios: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        make_pictures(folder, asked.count, asked.megapixels)
        for number in range(asked.rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            found = {side: timed(sides[side][0], sides[side][1], folder, asked.model) for side in order}
            (old, old_cpu), (new, new_cpu) = found[0], found[1]
            ratios.append((new / old, new_cpu / old_cpu))
            print(f"old {old:.2f} s, {old_cpu:.2f} s CPU; new {new:.2f} s, {new_cpu:.2f} s CPU", flush=True)
    wall, cpu = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"{asked.count} pictures: new by old {wall:.3f} in time, {cpu:.3f} in processor time")


if __name__ == "__main__":
    main()
