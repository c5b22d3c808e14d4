"""Shrink soft originals before training: read `train.tsv` beside the pictures and write PNGs to a folder.

`train.tsv` contains the name of each picture's file and the factor (`down`) by which it is shrunk, because a large
picture that is not sharp at its own size teaches a net to blur.

    python export/prepare_photos.py PICTURES/train.tsv -o PREPARED
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cv2

from sr_deploy.quality.bicubic import imresize


def prepare(table: Path, out: Path) -> int:
    """Write every picture of `table`, shrunk by its factor, into `out`. Returns the number of pictures."""
    out.mkdir(parents=True, exist_ok=True)
    with table.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    for row in rows:
        source = table.parent / ("train" if (table.parent / "train").is_dir() else ".") / row["file"]
        pixels = cv2.imread(str(source), cv2.IMREAD_COLOR)
        if pixels is None:
            raise SystemExit(f"{source}: cannot be read as a picture")
        down = int(row["down"])
        if down > 1:
            pixels = imresize(pixels, 1 / down)
        cv2.imwrite(str(out / f"{source.stem}.png"), pixels)
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    print(f"{prepare(args.table, args.out)} pictures in {args.out}")


if __name__ == "__main__":
    main()
