"""Compare a net trained on pixels with the same net after further training with VGG features.

    python -m benchmarks.training.perceptual --data PICTURES --hr SET5_HR --vgg FILE     measure, and draw the crops
    python -m benchmarks.training.perceptual --table   write the table of results/training/perceptual.json into docs/notes/training.md
    python -m benchmarks.training.perceptual --check   check that docs/notes/training.md has that table

Both are measured on the photographs held out of training and on another set of pictures. Besides PSNR and SSIM this
measures the distance between activations of a VGG-19, one layer of which the loss used with L1: as L1, as the mean
squared distance of Johnson et al. 2016 (eq. 2) and as its root, on pictures rounded to 8 bits. It also measures the
energy that repeats every 2 and 4 pixels, where such a loss tends to draw a grid. Only measuring needs torch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.icnr.checkerboard import blocking, checkerboard_energy
from benchmarks.pages import ROOT, filled, settle
from sr_deploy import Image, imresize, read_image, write_image
from sr_deploy.quality.evaluate import bicubic_baseline, compare
from sr_deploy.system.files import digest_of

if TYPE_CHECKING:
    from sr_deploy.training.objective.vgg import VGGFeatures

CHECKPOINTS = ROOT / "export" / "checkpoints"
RESULTS, PAGE = (
    ROOT / "benchmarks" / "results" / "training" / "perceptual.json",
    ROOT / "docs" / "notes" / "training.md",
)
CROPS = ROOT / "docs" / "images" / "perceptual.png"
BEGIN, END = (
    "<!-- made by benchmarks/training/perceptual.py --table -->\n",
    "<!-- end of pixel against perceptual -->\n",
)
PIXEL, PERCEPTUAL, ORIGINAL = "srresnet-x4", "srresnet-x4-perceptual", "the original"
SCALE, HELD_OUT, SIDE = 4, 11, 512
LAYERS = ("relu1_2", "relu2_2", "relu3_1")

Pixels = Any
"""uint8 [H, W, 3]."""
Upscale = Callable[[Pixels], Pixels]


def upscaler(checkpoint: Path) -> Upscale:
    """Return the net of a checkpoint as a function from 8-bit pictures to 8-bit pictures."""
    from benchmarks.icnr.runs import upscaler as of_net
    from sr_deploy.training.checkpoint import load_net

    return of_net(load_net(checkpoint)[0])


def measured(upscale: Upscale, cases: list[tuple[str, Pixels, Pixels]], vgg: VGGFeatures) -> dict[str, float]:
    """Return the means over `cases`, which are (name, small, large)."""
    import torch

    def seen(pixels: Pixels) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return vgg(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255)

    rows: list[dict[str, float]] = []
    for _, small, large in cases:
        got = np.ascontiguousarray(upscale(small))
        quality = compare(got, large, SCALE)
        row = {"psnr_y": quality.psnr_y, "ssim_y": quality.ssim_y}
        ours, theirs = seen(got), seen(large)
        for layer in LAYERS:
            row[f"l1 {layer}"] = float((ours[layer] - theirs[layer]).abs().mean())
            row[f"squared {layer}"] = float((ours[layer] - theirs[layer]).square().mean())
        for period in (2, 4):
            row[f"period {period}"] = checkerboard_energy(got, period) - checkerboard_energy(large, period)
        row["blocking"] = blocking(got, SCALE)
        rows.append(row)
    return {key: fmean(row[key] for row in rows) for key in rows[0]}


def held_out(data: Path) -> list[tuple[str, Pixels, Pixels]]:
    """Return the centres of the photographs held out of training, as (name, small, large)."""
    from sr_deploy.training.data.pictures import PictureStore, split_validation
    from sr_deploy.training.run.validate import centre_crop

    with tempfile.TemporaryDirectory() as folder:
        store = PictureStore(data, overflow=Path(folder))
        _, apart = split_validation(store.pairs(SCALE), HELD_OUT)
        middles = [centre_crop(pair, SCALE, SIDE, SCALE) for pair in apart]
        return [(pair.name, np.array(pair.small), np.array(pair.large)) for pair in middles]


def shrunk(folder: Path) -> list[tuple[str, Pixels, Pixels]]:
    """Return the pictures of a folder, cropped to multiples of the scale, as (name, small, large)."""
    cases = []
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        large = read_image(path).pixels
        height, width = (n // SCALE * SCALE for n in large.shape[:2])
        large = np.ascontiguousarray(np.broadcast_to(large[:height, :width], (height, width, 3)))
        cases.append((path.name, imresize(large, 1 / SCALE), large))
    return cases


def measure(args: argparse.Namespace) -> None:
    from sr_deploy.training.checkpoint import read_checkpoint
    from sr_deploy.training.objective.vgg import load_vgg

    vgg, _ = load_vgg("vgg19", list(LAYERS), args.vgg)
    nets = {PIXEL: args.pixel, PERCEPTUAL: args.perceptual}
    makers: dict[str, Upscale] = {"bicubic": bicubic_baseline(SCALE)}
    makers |= {name: upscaler(path) for name, path in nets.items()}
    photographs = held_out(args.data)
    record: dict[str, Any] = {
        "checkpoints": {n: digest_of(p) for n, p in nets.items()},
        "training": {n: read_checkpoint(p)[0].training for n, p in nets.items()},
        "vgg": digest_of(args.vgg) if args.vgg else "torchvision",
        "sets": {},
    }
    for name, cases in (("held out", photographs), (args.name, shrunk(args.hr))):
        means = {net: measured(upscale, cases, vgg) for net, upscale in makers.items()}
        means[ORIGINAL] = {"blocking": fmean(blocking(large, SCALE) for _, _, large in cases)}
        record["sets"][name] = {"pictures": [case[0] for case in cases], "means": means}
    print(table(record))
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")
        draw(photographs, makers)


def draw(cases: list[tuple[str, Pixels, Pixels]], makers: dict[str, Upscale], side: int = 144) -> None:
    """Draw rows of bicubic, pixel, perceptual and original: the centres of the pictures with the most detail."""

    def detail(case: tuple[str, Pixels, Pixels]) -> float:
        return float(np.abs(np.diff(middle(case[2]).astype(np.float32), axis=0)).mean())

    def middle(pixels: Pixels) -> Pixels:
        top, left = ((n - side) // 2 for n in pixels.shape[:2])
        return pixels[top : top + side, left : left + side]

    rows = []
    for _, small, large in sorted(cases, key=detail, reverse=True)[:3]:
        cells = [middle(p) for p in (*(upscale(small) for upscale in makers.values()), large)]
        rows.append(np.hstack([np.pad(c, ((2, 2), (2, 2), (0, 0)), constant_values=255) for c in cells]))
    write_image(Image(pixels=np.vstack(rows)), CROPS, overwrite=True)


def table(record: dict[str, Any]) -> str:
    """Return the table: one row per set and net."""
    lines = [
        f"`{PERCEPTUAL}` was trained for {_history(record['training'][PERCEPTUAL])}. VGG distances are relative to those of `{PIXEL}`. "
        "Period 2 and 4 are the energy that repeats every 2 and 4 pixels, minus that of the photographs, in millionths of the picture's energy. "
        "Blocking is the size of steps at the borders of the small picture's pixels, divided by the size of the steps between them.",
        "",
        "| pictures | net | PSNR Y | SSIM Y | VGG relu3_1, L1 | root of squares | squares | period 2 | period 4 | blocking |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in record["sets"].items():
        twin = one["means"][PIXEL]
        for net, mean in one["means"].items():
            if net == ORIGINAL:
                continue
            l1, squares = (mean[f"{kind} relu3_1"] / twin[f"{kind} relu3_1"] for kind in ("l1", "squared"))
            lines.append(
                f"| {name} ({len(one['pictures'])}) | {net} | {mean['psnr_y']:.2f} | {mean['ssim_y']:.4f} | "
                f"{l1 - 1:+.0%} | {squares**0.5 - 1:+.0%} | {squares - 1:+.0%} | "
                f"{mean['period 2'] * 1e6:+.2f} | {mean['period 4'] * 1e6:+.2f} | {mean['blocking']:.2f} |"
            )
        blocks = one["means"][ORIGINAL]["blocking"]
        lines.append(f"| {name} ({len(one['pictures'])}) | {ORIGINAL} | | | | | | | | {blocks:.2f} |")
    return "\n".join(lines) + "\n"


def _history(training: dict[str, Any]) -> str:
    """Describe the runs that made a checkpoint, the last run first."""
    text = f"{training['steps']:,} steps in {training['minutes']:g} minutes on {training['device']}"
    before = training.get("init")
    return f"{text}, starting from `{before['name']}` ({_history(before['training'])})" if before else text


def page() -> str:
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    return filled(PAGE, BEGIN, END, f"\n{table(record)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the photographs that the nets were trained on")
    parser.add_argument("--hr", type=Path, help="folder of another set of large pictures")
    parser.add_argument("--name", default="Set5", help="name of that set in the table")
    parser.add_argument("--vgg", type=Path, help="file of VGG-19 weights instead of torchvision's")
    parser.add_argument("--pixel", type=Path, default=CHECKPOINTS / f"{PIXEL}.safetensors")
    parser.add_argument("--perceptual", type=Path, default=CHECKPOINTS / f"{PERCEPTUAL}.safetensors")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.table or args.check:
        settle(PAGE, page(), only_check=args.check, remedy="-m benchmarks.training.perceptual --table")
    elif args.data and args.hr:
        measure(args)
    else:
        parser.error("give --data and --hr, or --table, or --check")


if __name__ == "__main__":
    main()
