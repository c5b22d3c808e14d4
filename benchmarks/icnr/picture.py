"""Draw docs/images/icnr.png: a crop of the example picture, upscaled by `rt` with and without ICNR.

    python -m benchmarks.icnr.picture --data PICTURES

It shows the nets before the first step and after the first ones, from the runs of the first seed in
`benchmarks/icnr/runs.py`.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from benchmarks.icnr.runs import SETTINGS, split, train, upscaler
from benchmarks.pages import ROOT
from sr_deploy.images.image import read_image
from sr_deploy.system.arrays import Uint8Array

TOP, LEFT, HEIGHT, WIDTH = 106, 177, 16, 25  # place of the crop, in pixels of the example
ENLARGED = 4


def draw(data: Path) -> None:
    training, _ = split(data)
    cut = read_image(ROOT / "examples" / "colosseum.png").pixels[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    columns = []
    for icnr in (False, True):
        states = islice(train("rt", icnr, SETTINGS["seeds"][0], training), 2)
        columns.append([labelled(upscaler(net)(cut.astype(np.uint8)), icnr, step) for step, net in states])
    rows = [np.hstack(row) for row in zip(*columns, strict=True)]
    smallest = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    _, encoded = cv2.imencode(".png", np.vstack(rows)[..., ::-1], smallest)
    (ROOT / "docs" / "images" / "icnr.png").write_bytes(encoded.tobytes())


def labelled(pixels: Uint8Array, icnr: bool, step: int) -> Uint8Array:
    """Return `pixels` enlarged by repetition, under a line that says what they show."""
    large = pixels.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    canvas = np.pad(large, ((24, 4), (2, 2), (0, 0)), constant_values=255)
    text = f"{'with' if icnr else 'without'} ICNR, after {step} steps"
    cv2.putText(canvas, text, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs to train on")
    draw(parser.parse_args().data)
