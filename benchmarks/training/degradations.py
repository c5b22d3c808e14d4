"""Draw the contact sheet of the degradations that recipes can use, for docs/images/degradations.png.

    python -m benchmarks.training.degradations [--picture FILE] [-o docs/images/degradations.png]

Without --picture the sheet shows a dead-leaves picture beside text, which everybody can make again. The sheet in the
documentation shows a photograph in the public domain (CC0), of the wallpapers of the Budgie desktop.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.quality.degradations.compress import avif, jpeg, on_shifted_grid, to_uint8, webp
from sr_deploy.quality.degradations.filters import blur, sharpen, shift_chroma
from sr_deploy.quality.degradations.noise import add_camera_noise, add_noise, dither
from sr_deploy.quality.degradations.resample import shrink
from sr_deploy.quality.drawings import drawing
from sr_deploy.system.arrays import Uint8Array

SIDE, SCALE, COLUMNS = 320, 4, 5


def subject(path: Path | None) -> Uint8Array:
    """Return the large picture [320, 320, 3] of the sheet."""
    if path:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None or min(pixels.shape[:2]) < SIDE:
            raise SystemExit(f"{path}: expected a picture of at least {SIDE} pixels a side")
        top, left = ((n - SIDE) // 2 for n in pixels.shape[:2])
        return np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE, ::-1])
    smooth = cv2.GaussianBlur(dead_leaves(SIDE, SIDE // 2, seed=5), (0, 0), 2)
    return np.concatenate([smooth, drawing(SIDE, SIDE // 2, seed=3)], axis=1)


def main() -> None:
    """Draw and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/degradations.png"))
    arguments = parser.parse_args()
    large = subject(arguments.picture)
    random = np.random.default_rng(0)
    small = shrink(large, SCALE)
    twice = jpeg(on_shifted_grid(jpeg(small, 50), 3, 5), 70)[3:, 5:]
    cells = {
        "bicubic (clean)": small,
        "area": shrink(large, SCALE, "area"),
        "bilinear-aliased": shrink(large, SCALE, "bilinear-aliased"),
        "lanczos": shrink(large, SCALE, "lanczos"),
        "blur 4 (large pixels)": shrink(blur(large.astype(np.float32), 4, 4), SCALE),
        "noise 8": add_noise(small, 8, random),
        "noise 8, grey": add_noise(small, 8, random, grey=True),
        "camera 8": add_camera_noise(small, 8, random, demosaic=True),
        "sharpen 1": sharpen(small, 1, 1),
        "chroma_shift 1": shift_chroma(small, 1, 1),
        "jpeg 90": jpeg(small, 90),
        "jpeg 50": jpeg(small, 50),
        "jpeg 50, 4:4:4": jpeg(small, 50, chroma="444"),
        "jpeg 50, mozjpeg": jpeg(small, 50, tables="imagemagick"),
        "jpeg 50, then 70": twice,
        "webp 50": webp(small, 50),
        "avif 40": avif(small, 40),
        "dither 2": dither(small, 2),
        "dither 4": dither(small, 4, grey=False),
        "noise 5, jpeg 75": jpeg(add_noise(small, 5, random), 75),
    }
    tiles = [labelled(to_uint8(pixels), text) for text, pixels in cells.items()]
    rows = [np.concatenate(tiles[n : n + COLUMNS], axis=1) for n in range(0, len(tiles), COLUMNS)]
    cv2.imwrite(str(arguments.output), np.concatenate(rows, axis=0)[..., ::-1])


def labelled(small: Uint8Array, text: str) -> Uint8Array:
    """Return `small` with every pixel doubled, a frame, and its name below."""
    cell = np.full((2 * small.shape[0] + 26, 2 * small.shape[1] + 8, 3), 255, np.uint8)
    cell[4 : 4 + 2 * small.shape[0], 4 : 4 + 2 * small.shape[1]] = small.repeat(2, 0).repeat(2, 1)
    place = (6, cell.shape[0] - 7)
    cv2.putText(cell, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


if __name__ == "__main__":
    main()
