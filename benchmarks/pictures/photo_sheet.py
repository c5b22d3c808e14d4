"""Draw the blind sheet: JPEG photographs as they are, enlarged by several models, in an order that the picture hides.

    python -m benchmarks.pictures.photo_sheet --pictures FOLDER --model bicubic --model rt-x4 ... [--out docs/images]

FOLDER holds JPEG photographs. Of each, the block of 64x64 pixels with the most detail is enlarged four times, so nobody
chose what is seen. A row is a photograph; the models stand in an order that is drawn for each row. Writes
`photo-sheet-1.webp` and so on, six rows each, at 100 %, and `photo-sheet.json` with the key: the order of every row, the
blocks, the quality of every JPEG, and the SHA-256 of every model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sr_deploy import Upscaler, imresize, read_image
from sr_deploy.models import find_model
from sr_deploy.quality.metrics import luma
from sr_deploy.system.files import digest_of, write_whole

Pixels = npt.NDArray[np.uint8]
SIDE, SCALE, GAP, ROWS = 64, 4, 6, 6
_EDGE = 16
"""Pixels around the block that are enlarged with it and cut off, so that its edges are as inside the photograph."""


def busiest(pixels: Pixels) -> tuple[int, int]:
    """Return the top and left of the block with the largest sum of luma gradients, on a grid of half blocks."""
    grey = luma(pixels).reshape(pixels.shape[:2]).astype(np.float32)
    energy = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    sums = cv2.integral(energy)
    best = (-1.0, 0, 0)
    for top in range(_EDGE, grey.shape[0] - SIDE - _EDGE, SIDE // 2):
        for left in range(_EDGE, grey.shape[1] - SIDE - _EDGE, SIDE // 2):
            found = (
                sums[top + SIDE, left + SIDE]
                - sums[top, left + SIDE]
                - sums[top + SIDE, left]
                + sums[top, left]
            )
            best = max(best, (float(found), top, left))
    return best[1:]


def open_models(stack: ExitStack, names: list[str]) -> dict[str, Callable[[Pixels], Pixels]]:
    """Return a function that enlarges for each model; they stay open until `stack` closes."""
    found: dict[str, Callable[[Pixels], Pixels]] = {}
    for name in names:
        if name == "bicubic":
            found[name] = lambda pixels: imresize(pixels, SCALE, round_once=True)
        else:
            found[Path(name).stem] = stack.enter_context(Upscaler.open(name)).upscale_pixels
    return found


def order_of(name: str, count: int) -> list[int]:
    """Return the order of the models in the row of a photograph, drawn from its name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return [int(place) for place in np.random.default_rng(seed).permutation(count)]


def draw(
    pictures: list[Path], models: dict[str, Callable[[Pixels], Pixels]]
) -> tuple[list[Pixels], list[dict[str, object]]]:
    """Return the rows as pictures, and what the key says of each."""
    rows, key = [], []
    for path in pictures:
        image = read_image(path)
        pixels = image.pixels if image.pixels.shape[2] == 3 else image.pixels.repeat(3, axis=2)
        if min(pixels.shape[:2]) < SIDE + 3 * _EDGE:
            raise SystemExit(f"{path}: expected at least {SIDE + 3 * _EDGE} pixels on each side")
        top, left = busiest(pixels)
        block = pixels[top - _EDGE : top + SIDE + _EDGE, left - _EDGE : left + SIDE + _EDGE]
        order = order_of(path.name, len(models))
        names = [list(models)[place] for place in order]
        edge, side = _EDGE * SCALE, SIDE * SCALE
        cells = [
            models[name](np.ascontiguousarray(block))[edge : edge + side, edge : edge + side]
            for name in names
        ]
        space = np.full((side, GAP, 3), 255, np.uint8)
        rows.append(np.hstack([part for cell in cells for part in (cell, space)][:-1]))
        key.append(
            {"photograph": path.name, "quality": image.quality, "top": top, "left": left, "order": names}
        )
        print(path.name, image.quality, top, left, flush=True)
    return rows, key


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="folder of JPEG photographs")
    parser.add_argument("--model", action="append", required=True, help='model, or "bicubic"')
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    pictures = sorted(path for path in args.pictures.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    with ExitStack() as stack:
        rows, key = draw(pictures, open_models(stack, args.model))
    space = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    for first in range(0, len(rows), ROWS):
        sheet = np.vstack([part for row in rows[first : first + ROWS] for part in (row, space)][:-1])
        encoded, data = cv2.imencode(".webp", sheet[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 92])
        assert encoded
        write_whole(args.out / f"photo-sheet-{first // ROWS + 1}.webp", data.tobytes())
    files = {Path(name).stem: digest_of(find_model(name)) for name in args.model if name != "bicubic"}
    write_whole(
        args.out / "photo-sheet.json", f"{json.dumps({'models': files, 'rows': key}, indent=1)}\n".encode()
    )


if __name__ == "__main__":
    main()
