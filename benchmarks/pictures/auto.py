"""Measure how often `--model auto` takes the right net, on held-out photographs and drawings that are damaged as files are.

    python -m benchmarks.pictures.auto --data PHOTOGRAPHS   # measure, write results/auto.json and the table
    python -m benchmarks.pictures.auto --table              # write the table of the results into docs/pictures/nets.md
    python -m benchmarks.pictures.auto --check              # check that the page has that table

The photographs are those that the recipes hold out of the same folder, chosen by the hash of their names. Each is cut to
its middle, shrunk by the nets' scale, damaged, written to a file and read again. Both nets upscale it, and PSNR of Y tells
which is better. The rule is right where its net is within 0.05 dB of the better one. `--wrong` prints every picture for
which it is not, which is what to look at when the limits in `sr_deploy/images/condition.py` are set.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import cv2
import numpy as np

from benchmarks.pages import ROOT, filled, settle
from sr_deploy.images.condition import condition_of
from sr_deploy.images.image import Image, decode_image, encode_image, read_image
from sr_deploy.images.listing import list_picture_files
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.degradations.chain import parse
from sr_deploy.quality.drawings import drawing
from sr_deploy.quality.metrics import luma, psnr, shave
from sr_deploy.system.arrays import Uint8Array
from sr_deploy.system.cpu import describe_cpu
from sr_deploy.training.data.pictures import SUFFIXES, TrainingPair, split_validation
from sr_deploy.upscale import Upscaler

RESULTS = ROOT / "benchmarks" / "results" / "auto.json"
PAGE = ROOT / "docs" / "pictures" / "nets.md"
BEGIN, END = "<!-- made by benchmarks/pictures/auto.py --table -->\n", "<!-- end of what was made -->\n"
HELD_OUT = 11
"""`validation` of the recipes."""
TOLERANCE = 0.05
"""Difference in dB up to which two nets count as equally good."""
GOAL = 0.95
"""Share of the pictures for which the rule has to be right."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A way in which a small picture was damaged and stored."""

    steps: str = ""
    """Steps before the file is written, for `quality.degradations`; empty for none."""
    suffix: str = ".png"
    """Format of the file."""
    quality: int | None = None
    """Quality of the file, if it is lossy."""
    cut: bool = False
    """True to cut rows and columns off, so that the grid of an earlier JPEG does not begin at the corner."""
    drawn: bool = False
    """True for drawings in place of photographs."""


KINDS = {
    "PNG, clean": Kind(),
    "PNG, noise of 2": Kind(steps="noise:2"),
    "PNG, noise of 5": Kind(steps="noise:5"),
    "PNG of a JPEG of quality 90": Kind(steps="jpeg:90", cut=True),
    "PNG of a JPEG of quality 75": Kind(steps="jpeg:75", cut=True),
    "JPEG 98": Kind(suffix=".jpg", quality=98),
    "JPEG 95": Kind(suffix=".jpg", quality=95),
    "JPEG 90": Kind(suffix=".jpg", quality=90),
    "JPEG 75": Kind(suffix=".jpg", quality=75),
    "JPEG 50": Kind(suffix=".jpg", quality=50),
    "noise of 5, JPEG 75": Kind(steps="noise:5", suffix=".jpg", quality=75),
    "camera noise of 6, JPEG 90": Kind(steps="camera:6", suffix=".jpg", quality=90),
    "WebP 80": Kind(suffix=".webp", quality=80),
    "AVIF 60": Kind(suffix=".avif", quality=60),
    "drawings, PNG": Kind(drawn=True),
    "drawings, JPEG 75": Kind(drawn=True, suffix=".jpg", quality=75),
}
"""Title -> kind, in the order of the table."""
DRAWINGS = 28
"""Number of drawings of each kind; with 11 photographs the kinds make 210 pictures."""
_ENCODER = {
    ".jpg": cv2.IMWRITE_JPEG_QUALITY,
    ".webp": cv2.IMWRITE_WEBP_QUALITY,
    ".avif": cv2.IMWRITE_AVIF_QUALITY,
}


def held_out(folder: Path, count: int) -> list[Path]:
    """Return the `count` photographs of `folder` that a training with this `validation` holds out."""
    files = {
        path.relative_to(folder).as_posix(): path
        for path in list_picture_files(folder, recursive=True, suffixes=SUFFIXES)
    }
    nothing = np.zeros((1, 1, 3), np.uint8)
    _, kept = split_validation([TrainingPair(name, nothing, nothing) for name in files], count)
    return [files[pair.name] for pair in kept]


def middle(pixels: Uint8Array, side: int, scale: int) -> Uint8Array:
    """Return the middle [h, w, 3] of a picture [H, W, 1 or 3], at most `side` pixels a side, in multiples of `scale`."""
    height, width = (min(n, side) // scale * scale for n in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    cut = pixels[top : top + height, left : left + width]
    return np.ascontiguousarray(cut if cut.shape[2] == 3 else cut.repeat(3, axis=2))


def stored(large: Uint8Array, kind: Kind, scale: int, name: str) -> tuple[Image, Uint8Array]:
    """Return the damaged small picture as it is read from its file, and what of `large` belongs to it."""
    small = parse(kind.steps).small(large, scale, name) if kind.steps else imresize(large, 1 / scale)
    if kind.cut:
        small, large = small[3:, 5:], large[3 * scale :, 5 * scale :]
    if kind.quality is None:
        data = encode_image(np.ascontiguousarray(small), "png")
    else:
        done, encoded = cv2.imencode(kind.suffix, small[..., ::-1], [_ENCODER[kind.suffix], kind.quality])
        if not done:
            raise SystemExit(f"OpenCV could not write {name} as {kind.suffix}")
        data = encoded.tobytes()
    return decode_image(data, name=name), large


def subjects(folder: Path, count: int, side: int, scale: int) -> Iterator[tuple[str, Uint8Array, bool]]:
    """Yield name and pixels of every large picture, and whether it is a drawing."""
    for path in held_out(folder, count):
        yield path.name, middle(np.asarray(read_image(path).pixels, np.uint8), side, scale), False
    for number in range(DRAWINGS):
        # seeds beyond those of a training's drawings
        yield f"drawing {number}", drawing(side // 2, side // 2, seed=10_000 + number), True


def measure(folder: Path, names: list[str], count: int, side: int) -> dict[str, Any]:
    """Upscale every picture of every kind with both nets."""
    kinds: dict[str, list[dict[str, Any]]] = {title: [] for title in KINDS}
    with Upscaler.open(names[0]) as clean, Upscaler.open(names[1]) as photo:
        scale = clean.spec.scale
        if photo.spec.scale != scale:
            raise SystemExit(
                f"{names[0]} has scale {scale} and {names[1]} has {photo.spec.scale}; name two of one scale"
            )
        for name, large, drawn in subjects(folder, count, side, scale):
            for title, kind in KINDS.items():
                if kind.drawn == drawn:
                    image, original = stored(large, kind, scale, name)
                    kinds[title].append({"picture": name, **one(image, original, clean, photo)})
    return {
        "nets": names,
        "photographs": count,
        "side": side,
        "cpu": describe_cpu().name,
        "python": platform.python_version(),
        "kinds": kinds,
    }


def one(image: Image, original: Uint8Array, clean: Upscaler, photo: Upscaler) -> dict[str, Any]:
    """Return the decision about one picture, its processor time in ms, and PSNR of Y of both nets in dB."""
    began = time.thread_time()  # of this thread alone: other programs may keep the cores busy
    found = condition_of(image)
    taken = time.thread_time() - began
    border, y = clean.spec.scale, luma(original)
    values = {
        kind: psnr(shave(luma(net.upscale_pixels(image.pixels)), border), shave(y, border))
        for kind, net in (("clean", clean), ("photo", photo))
    }
    return {
        **{kind: round(value, 3) for kind, value in values.items()},
        "rule": found.kind,
        "reason": found.reason,
        "ms": round(1000 * taken, 3),
    }


def is_right(entry: dict[str, Any]) -> bool:
    """True if the rule's net is within the tolerance of the better one."""
    return bool(entry[entry["rule"]] >= max(entry["clean"], entry["photo"]) - TOLERANCE)


def table(record: dict[str, Any] | None) -> str:
    """Return the table of the results, or a line that says that there are none."""
    if record is None:
        return "Not measured yet.\n"
    entries = [entry for kind in record["kinds"].values() for entry in kind]
    clean, photo = record["nets"]
    lines = [
        f"{len(entries)} small pictures of {record['photographs']} photographs that no training has seen and of drawings "
        f"(`python -m benchmarks.pictures.auto`), PSNR of Y in dB. The rule is right where its net is within {TOLERANCE:g} dB of "
        "the better one.",
        "",
        f"| kind | pictures | {clean} | {photo} | rule takes {photo} | right |",
        "|---|---|---|---|---|---|",
    ]
    for title, kind in record["kinds"].items():
        cells = [
            title,
            str(len(kind)),
            *(f"{mean(entry[net] for entry in kind):.2f}" for net in ("clean", "photo")),
        ]
        cells += [
            f"{mean(entry['rule'] == 'photo' for entry in kind):.0%}",
            f"{mean(map(is_right, kind)):.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    right = mean(map(is_right, entries))
    times = [entry["ms"] for entry in entries]
    lines.append(
        f"\nRight for {right:.1%} of all. A decision takes {median(times):.2f} ms of processor time (median; at most "
        f"{max(times):.2f}) on {record['cpu']}."
    )
    return "\n".join(lines) + "\n"


def wrong(record: dict[str, Any]) -> Iterator[str]:
    """Yield a line for every picture for which the rule is wrong, the worst of a kind first."""
    for title, kind in record["kinds"].items():
        for entry in sorted(
            kind, key=lambda entry: entry[entry["rule"]] - max(entry["clean"], entry["photo"])
        ):
            if not is_right(entry):
                loss = max(entry["clean"], entry["photo"]) - entry[entry["rule"]]
                yield f"{title}: {entry['picture']}: {entry['rule']} ({entry['reason']}) loses {loss:.2f} dB"


def main() -> None:
    """Measure, or make or check the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="folder of photographs that the nets were trained on")
    what.add_argument("--table", action="store_true", help="write the table of the results into the page")
    what.add_argument("--check", action="store_true", help="exit with 1 if the page is not up to date")
    parser.add_argument("--clean", default="rt-x4", help="clean net")
    parser.add_argument("--photo", default="photo-x4", help="photo net of the same scale")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="number of photographs")
    parser.add_argument("--side", type=int, default=768, help="side of their middle in pixels")
    parser.add_argument("--wrong", action="store_true", help="print the pictures for which the rule is wrong")
    parser.add_argument("--dry", action="store_true", help="print the table and write nothing")
    asked = parser.parse_args()
    if asked.data is not None:
        record = measure(asked.data, [asked.clean, asked.photo], asked.held_out, asked.side)
        print(table(record))
        print("\n".join(wrong(record)) if asked.wrong else "")
        entries = [entry for kind in record["kinds"].values() for entry in kind]
        if mean(map(is_right, entries)) < GOAL:
            print(f"below the goal of {GOAL:.0%}: set the limits in sr_deploy/images/condition.py")
        if asked.dry:
            return
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None
    made = filled(PAGE, BEGIN, END, table(found))
    settle(PAGE, made, only_check=asked.check, remedy="-m benchmarks.pictures.auto --table")


if __name__ == "__main__":
    main()
