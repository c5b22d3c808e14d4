"""Measure nets on damaged photographs: PSNR, blocks and, with the weights of a VGG, the distance in its features.

    python -m benchmarks.pictures.photo_nets --data PHOTOGRAPHS [--vgg FILE] [--model NAME|FILE]...
    python -m benchmarks.pictures.photo_nets --table    write the table into docs/pictures/nets.md
    python -m benchmarks.pictures.photo_nets --check    check that the page has that table

PHOTOGRAPHS is a folder of photographs that no net was trained on. Models are compared with those of the same scale; a baseline
such as bicubic is measured at every scale. Results that are there already are kept.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.pages import ROOT, filled, settle
from sr_deploy import Upscaler
from sr_deploy.models import find_model
from sr_deploy.quality.evaluate import BASELINES, evaluate
from sr_deploy.quality.pairs import find_pictures
from sr_deploy.quality.results import Protocol
from sr_deploy.system.cpu import describe_cpu
from sr_deploy.system.files import digest_of, write_whole

RESULTS = ROOT / "benchmarks" / "results" / "photo-nets.json"
PAGE = ROOT / "docs" / "pictures" / "nets.md"
BEGIN, END = "<!-- made by benchmarks/pictures/photo_nets.py --table -->\n", "<!-- end of photo nets -->\n"
DAMAGES = {
    "clean": "",
    "JPEG 90": "jpeg:90",
    "JPEG 75": "jpeg:75",
    "JPEG 50": "jpeg:50",
    "noise 5, JPEG 75": "noise:5,jpeg:75",
}
MODELS = ("rt-x2", "photo-x2", "rt-x4", "photo-x4", "photo-x4-perceptual")
VGG_AT, BLOCKS_AT = "JPEG 75", "JPEG 75"


def measure(data: Path, names: list[str], vgg: Path | None) -> None:
    """Measure every model under every damage, and keep the results."""
    pictures, _ = find_pictures(data, None)
    distance = None
    if vgg is not None:
        from sr_deploy.training.objective.distance import VggDistance

        distance = VggDistance(vgg)
    record = read()
    record["pictures"], record["cpu"] = len(pictures), describe_cpu().name
    with ExitStack() as stack:
        jobs = []
        for name in names:
            upscaler = stack.enter_context(Upscaler.open(name))
            jobs.append(
                (Path(name).stem, upscaler.spec.scale, upscaler.upscale_pixels, digest_of(find_model(name)))
            )
        for scale in sorted({scale for _, scale, _, _ in jobs}):
            jobs.append((f"bicubic x{scale}", scale, BASELINES["bicubic"](scale), None))
        for name, scale, upscale, digest in jobs:
            row: dict[str, Any] = {"scale": scale, "sha256": digest}
            for damage, steps in DAMAGES.items():
                vgg_here = distance if damage == VGG_AT else None
                result = evaluate(
                    name, upscale, pictures, Protocol(scale, scale, False, steps), None, vgg_here
                )
                row[damage] = {key: value and round(value, 4) for key, value in result.mean.record().items()}
            record["models"][name] = row
            print(name, {damage: row[damage]["psnr_y"] for damage in DAMAGES}, flush=True)
            write_whole(RESULTS, f"{json.dumps(record, indent=1)}\n".encode())


def read() -> dict[str, Any]:
    """Return the results so far."""
    empty: dict[str, Any] = {"models": {}}
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else empty


def table(record: dict[str, Any]) -> str:
    """Return the table: rows by scale, baselines first."""
    rows = sorted(
        record["models"].items(), key=lambda item: (item[1]["scale"], not item[0].startswith("bicubic"))
    )
    vgg = any(row[VGG_AT].get("vgg") is not None for _, row in rows)
    lines = [
        f"Mean PSNR of Y in dB on {record['pictures']} photographs held out, made small by bicubic and then damaged; at {BLOCKS_AT} "
        "also the strength of 8x8 blocks as a multiple of the original's"
        + (", and the distance to the original in the features of VGG-19." if vgg else "."),
        "",
        "| net | " + " | ".join(DAMAGES) + " | blocks |" + " VGG |" * vgg,
        "|---|" + "---:|" * (len(DAMAGES) + 1 + vgg),
    ]
    for name, row in rows:
        cells = [f"{row[damage]['psnr_y']:.2f}" for damage in DAMAGES] + [f"{row[BLOCKS_AT]['blocks']:.2f}"]
        found = row[VGG_AT].get("vgg")
        cells += [f"{found:.3f}" if found is not None else ""] * vgg
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of photographs")
    parser.add_argument("--model", action="append", help="model to measure")
    parser.add_argument("--vgg", type=Path, help="file with VGG-19 weights")
    parser.add_argument("--table", action="store_true", help="write the table into docs/pictures/nets.md")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is not up to date")
    args = parser.parse_args()
    if args.table or args.check:
        made = filled(PAGE, BEGIN, END, f"\n{table(read())}\n")
        settle(PAGE, made, only_check=args.check, remedy="-m benchmarks.pictures.photo_nets --table")
    elif args.data is None:
        parser.error("name a folder with --data")
    else:
        measure(args.data, args.model or list(MODELS), args.vgg)


if __name__ == "__main__":
    main()
