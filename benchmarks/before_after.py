"""Make the picture at the top of the README: one crop by bicubic, by a model, and as photographed.

    python -m benchmarks.before_after --original PHOTO [--model rt-x4] [--top 120 --left 60 --side 80]

`PHOTO` is the CC0 photograph from which `examples/colosseum.png` was made, at four times its size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.pages import ROOT
from sr_deploy import Image, Upscaler, imresize, read_image, write_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", type=Path, required=True)
    parser.add_argument("--model", default="rt-x4")
    parser.add_argument("--top", type=int, default=120)
    parser.add_argument("--left", type=int, default=60)
    parser.add_argument("--side", type=int, default=80)
    args = parser.parse_args()
    small = read_image(ROOT / "examples" / "colosseum.png").pixels
    with Upscaler.open(args.model) as upscaler:
        scale, large = upscaler.spec.scale, upscaler.upscale_pixels(small)
    pictures = (imresize(small, float(scale)), large, read_image(args.original).pixels)
    top, left, side = (n * scale for n in (args.top, args.left, args.side))
    crops = [picture[top : top + side, left : left + side] for picture in pictures]
    gap = np.full((side, 6, 3), 255, np.uint8)
    joined = np.hstack([crops[0], gap, crops[1], gap, crops[2]])
    write_image(Image(pixels=np.ascontiguousarray(joined)), ROOT / "docs" / "images" / "before-after.png")


if __name__ == "__main__":
    main()
