"""Measure the quality of the bundled models: PSNR and SSIM of each, and of bicubic, on a folder of pictures.

    python -m benchmarks.quality HR_DIR --set set5 [--model NAME|FILE]... [--out benchmarks/results]
    python -m benchmarks.quality --table FILE     print the table of such a JSON file

Writes `quality-<set>.json` (the values of every picture, versions, SHA-256 of models and pictures) and
`quality-<set>.md` (the table for the documentation, made from that JSON file alone), and prints the table.

Two baselines show whether the numbers are comparable with published ones. `bicubic` has the same 8-bit RGB
input and output as the models. `bicubic of Y` follows the method behind the figures for bicubic in papers:
only the 8-bit Y is scaled down and up again, in floating point, and rounded at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from sr_deploy import ModelSpec, Upscaler, __version__, imresize, read_image
from sr_deploy.models import find_model, list_models, read_spec
from sr_deploy.quality.evaluate import bicubic_baseline, compare, evaluate
from sr_deploy.quality.metrics import luma
from sr_deploy.quality.pairs import EvalPicture, find_pictures
from sr_deploy.quality.results import Evaluation, Protocol, Score
from sr_deploy.quality.set5 import set5_warning
from sr_deploy.system.cpu import describe_cpu

SCHEMA = 1
PACKAGES = ("numpy", "opencv-python-headless", "onnx", "onnxruntime")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measure_model(name: str, pictures: list[EvalPicture], backend: str) -> dict[str, Any]:
    path = find_model(name)
    told = {entry.name: entry.parameters for entry in list_models()}  # without the constants of the residual
    with Upscaler.open(path, backend=backend) as upscaler:
        spec = upscaler.spec
        full = spec.precision == "fp32"
        name = spec.name if full else f"{spec.name} in {spec.precision}"
        result = evaluate(name, upscaler.upscale_pixels, pictures, Protocol(spec.scale, spec.scale))
        model = {
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "parameters": told.get(path.stem if full else spec.name) or parameters_of(path),
            "precision": spec.precision,
            "backend": upscaler.engine.backend,
        }
    return {**result.record(), **model}


def parameters_of(path: Path) -> int:
    """Count the weights and biases of an ONNX file, without integers and scalars such as constants of shapes."""
    import onnx

    floating = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    weights = [w for w in onnx.load(path).graph.initializer if w.data_type in floating]
    return sum(int(np.prod(w.dims)) for w in weights if w.dims and np.prod(w.dims) > 1)


def measure_bicubic(scale: int, pictures: list[EvalPicture]) -> dict[str, Any]:
    result = evaluate("bicubic", bicubic_baseline(scale), pictures, Protocol(scale, scale))
    return {**result.record(), "warning": set5_warning(result)}


def measure_bicubic_of_y(scale: int, pictures: list[EvalPicture]) -> dict[str, Any]:
    scores = []
    for picture in pictures:
        pixels = read_image(picture.hr).pixels
        height, width = (n // scale * scale for n in pixels.shape[:2])
        y = luma(pixels[:height, :width]) if pixels.shape[2] == 3 else pixels[:height, :width, 0]
        white = np.iinfo(y.dtype).max
        again = imresize(imresize(y / white, 1 / scale), scale)
        rounded = np.floor(np.clip(again, 0, 1) * white + 0.5).astype(y.dtype)
        scores.append(Score(picture.name, height, width, compare(rounded[..., None], y[..., None], scale)))
    return Evaluation("bicubic of Y", Protocol(scale, scale), tuple(scores)).record()


def environment(pictures: list[EvalPicture]) -> dict[str, Any]:
    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "sr_deploy": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": describe_cpu().name,
        "packages": {package: installed(package) for package in PACKAGES},
        "pictures": {picture.name: sha256(picture.hr) for picture in pictures},
    }


def scale_of(name: str) -> int:
    spec: ModelSpec | None = read_spec(find_model(name))
    if spec is None:
        raise SystemExit(f"{name} has no sr-deploy spec; write one with: sr-deploy stamp {name}")
    return spec.scale


def measure(folder: Path, names: list[str], backend: str) -> dict[str, Any]:
    pictures, _ = find_pictures(folder)
    results: list[dict[str, Any]] = []
    for scale in sorted({2, 4} | {scale_of(name) for name in names}):
        results += [measure_bicubic_of_y(scale, pictures), measure_bicubic(scale, pictures)]
        results += [measure_model(name, pictures, backend) for name in names if scale_of(name) == scale]
    return {"schema": SCHEMA, "environment": environment(pictures), "results": results}


def table(record: dict[str, Any]) -> str:
    """Return a Markdown table of the means, with the command that made them."""
    lines = [
        f"`python -m benchmarks.quality HR_DIR --set {record['set']}`",
        "",
        "| model | scale | parameters | PSNR Y | SSIM Y | PSNR RGB | SSIM RGB |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in record["results"]:
        mean, parameters = result["mean"], result.get("parameters")
        cells = [result["model"], f"x{result['scale']}", f"{parameters:,}" if parameters else ""]
        cells += [
            number(mean[f"{m}_{c}"], digits) for c in ("y", "rgb") for m, digits in (("psnr", 2), ("ssim", 4))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write(record: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"quality-{record['set']}"
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / f"{name}.md").write_text(table(record), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hr_dir", type=Path, nargs="?")
    parser.add_argument("--set", default="set5", help="name of the set of pictures (default: set5)")
    parser.add_argument("--model", action="append", help="model to measure (default: every bundled model)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", type=Path, help="print the table of an existing JSON file")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text(encoding="utf-8"))), end="")
        return
    if args.hr_dir is None:
        parser.error("give the folder of high-resolution pictures, or --table")
    names = args.model or [entry.name for entry in list_models()]
    record = {"set": args.set, **measure(args.hr_dir, names, args.backend)}
    write(record, args.out)
    for result in record["results"]:
        if result.get("warning"):
            print(f"warning: {result['warning']}")
    print(table(record), end="")


if __name__ == "__main__":
    main()
