"""Time plain nets of many shapes in fp32, bf16 and int8 on every engine present, and train some for equal time.

    python -m benchmarks.training.shapes --out FILE [--shape 16x17 --shape 64x12u2] [--threads 1]
    python -m benchmarks.training.shapes --train MINUTES --data PICTURES --out FILE [--shape ...]
    python -m benchmarks.training.shapes --table   write the table of the results into docs/notes/training.md
    python -m benchmarks.training.shapes --check   check that the page has that table

FILE is usually benchmarks/results/training/shapes.json; what is in it already is kept. A shape is FEATURESxDEPTH: a first
convolution, DEPTH between, and a last one, with ReLU; u2 puts them behind a PixelUnshuffle of 2. Weights are fresh,
which costs as much time as trained ones. int8 has every convolution in integers, by ranges as a training learns them.
The picture is 320x180, with 8 bits in and out, at scale 4. Times are the least of all rounds: of the processor with one
thread, so that other work on the machine matters little, else of the clock. The shapes take turns.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto

from benchmarks.pages import ROOT, filled, settle
from sr_deploy.engines.registry import open_engine
from sr_deploy.errors import SrDeployError
from sr_deploy.models import find_model
from sr_deploy.precision.convert import convert
from sr_deploy.precision.learned import with_learned_ranges
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.spec import ModelSpec
from sr_deploy.system.cpu import describe_cpu
from sr_deploy.system.files import write_whole
from sr_deploy.training.export.to_onnx import core_model
from sr_deploy.training.nets import build_net, size_rule_of
from sr_deploy.training.nets.quantised import calibrate, learned_ranges, quantise

RESULTS, PAGE = (
    ROOT / "benchmarks" / "results" / "training" / "shapes.json",
    ROOT / "docs" / "notes" / "training.md",
)
BEGIN, END = "<!-- made by benchmarks/training/shapes.py --table -->\n", "<!-- end of shapes -->\n"
SCALE, HEIGHT, WIDTH = 4, 180, 320
SHAPES = (
    "16x17",
    "16x19",
    "24x17",
    "32x9",
    "32x17",
    "48x17u2",
    "64x6",
    "64x10u2",
    "64x12u2",
    "64x17u2",
    "96x6u2",
)
REFERENCE = "rt-x4"
"""The bundled model that stands in the first row."""
BACKENDS = ("onnxruntime", "openvino", "tensorrt")
FORMS = [
    ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"),
    ("tensorrt", "fp32"), ("tensorrt", "bf16"), ("tensorrt", "int8"),
]  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A plain net."""

    features: int
    depth: int
    unshuffle: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read FEATURESxDEPTH or FEATURESxDEPTHuN. SystemExit for anything else."""
        found = re.fullmatch(r"(\d+)x(\d+)(?:u(\d+))?", text)
        if not found:
            raise SystemExit(f"expected a shape such as 16x17 or 64x12u2, got {text!r}")
        return cls(int(found[1]), int(found[2]), int(found[3] or 1))

    @property
    def parameters(self) -> dict[str, Any]:
        """The net's part of a recipe."""
        return {
            "features": self.features,
            "depth": self.depth,
            "unshuffle": self.unshuffle,
            "activation": "relu",
            "foldable": False,
        }

    @property
    def multiplications(self) -> float:
        """Multiplications for each pixel of the small picture."""
        ends = 3 * self.unshuffle**2 * (1 + SCALE**2) * self.features
        return 9 * (self.depth * self.features**2 + ends) / self.unshuffle**2


def forms_of(shape: Shape) -> tuple[dict[str, ModelProto], int]:
    """Return the net as fp32, bf16 and int8 models, and the number of its weights."""
    torch.manual_seed(0)
    net = build_net("rt", SCALE, shape.parameters).eval()
    weights = sum(parameter.numel() for parameter in net.parameters())
    spec = ModelSpec(name="shape", scale=SCALE, halo=None, size_rule=size_rule_of(net))
    model = core_model(net, spec)
    quantise(net)
    calibrate(net, torch.from_numpy(dead_leaves(96, 96)).permute(2, 0, 1)[None] / 255)
    ranges = {f"{name}.weight": found for name, found in learned_ranges(net).items()}
    made = {"fp32": model, "bf16": convert(model, "bf16").model}
    made["int8"] = convert(with_learned_ranges(model, ranges), "int8").model
    return made, weights


def calls_of(models: dict[str, ModelProto], threads: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name of each backend and precision that works here, and a call that upscales one picture."""
    picture = np.ascontiguousarray(dead_leaves(HEIGHT, WIDTH)[None])
    for backend in BACKENDS:
        for precision, model in models.items():
            try:
                engine = open_engine(model, backend, threads=threads if backend != "tensorrt" else None)
                out = engine.run(picture)
            except SrDeployError:  # the backend is missing, or does not compute this precision here
                continue
            yield (
                f"{backend} {precision}",
                lambda engine=engine, picture=picture, out=out: engine.run(picture, out),
            )


def timed(
    calls: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the least milliseconds of each of `calls`, which take turns."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            call()  # the caches hold another net
            for _ in range(3):
                began = clock()
                call()
                least[name] = min(least[name], 1e3 * (clock() - began))
    return least


def measure(shapes: list[str], out: Path, threads: int, rounds: int) -> None:
    """Time `shapes` and the reference in one run, and keep the results in `out`."""
    import onnx

    calls: dict[str, Callable[[], object]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for text in (REFERENCE, *shapes):
        if text == REFERENCE:
            models = {"fp32": onnx.load(find_model(REFERENCE))}
        else:
            shape = Shape.parse(text)
            models, weights = forms_of(shape)
            facts[text] = {"weights": weights, "multiplications": round(shape.multiplications)}
        calls |= {f"{text} {name}": call for name, call in calls_of(models, threads)}
    least = timed(calls, rounds, time.process_time if threads == 1 else time.perf_counter)
    record = read(out)
    record["machine"] = {"cpu": describe_cpu().name, "features": sorted(describe_cpu().features)}
    record["threads"] = threads
    for text in (REFERENCE, *shapes):
        found = {
            name.removeprefix(f"{text} "): round(value, 2)
            for name, value in least.items()
            if name.startswith(f"{text} ")
        }
        record["shapes"].setdefault(text, {}).update(facts.get(text, {}), milliseconds=found)
        print(text, found, flush=True)
    write_whole(out, f"{json.dumps(record, indent=1)}\n".encode())


def read(path: Path) -> dict[str, Any]:
    """Return the results so far."""
    empty: dict[str, Any] = {"shapes": {}}
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def train(shapes: list[str], out: Path, data: Path, minutes: float) -> None:
    """Train each of `shapes` for `minutes` with the same crops and optimiser, and keep steps and PSNR in `out`."""
    from sr_deploy.training.recipe import parse_recipe
    from sr_deploy.training.run.session import TrainOptions
    from sr_deploy.training.run.trainer import Trainer

    cache = Path(tempfile.gettempdir()) / "sr-deploy-shapes"
    for text in shapes:
        net = "\n".join(f"{key} = {json.dumps(value)}" for key, value in Shape.parse(text).parameters.items())
        recipe = parse_recipe(
            f'name = "{text}"\nvalidation = 11\noptimiser = "muon"\nleaves = 24\n[net]\narchitecture = "rt"\n{net}\n'
            f"[[phase]]\nscale = {SCALE}\ncrop = 48\nbatch = 12\nsteps = 200000\nlearning_rate = 2e-3\n"
            "loss = { luma_l1 = 1.0, chroma_l1 = 0.5 }\n".encode()
        )
        with tempfile.TemporaryDirectory() as folder:
            options = TrainOptions(data=data, out=Path(folder), cache=cache, minutes=minutes, keep=1)
            trainer = Trainer(recipe, options)
            trainer.run()
        found = {
            "minutes": minutes,
            "steps": trainer.position.steps,
            "psnr": round(trainer.position.psnr or 0, 3),
        }
        record = read(out)
        record["shapes"].setdefault(text, {})["trained"] = found
        write_whole(out, f"{json.dumps(record, indent=1)}\n".encode())
        print(text, found, flush=True)


def table(record: dict[str, Any]) -> str:
    """Return the table: one row a shape; times as shares of the reference in ONNX Runtime and fp32."""
    rows = record["shapes"]
    whole = rows[REFERENCE]["milliseconds"]["onnxruntime fp32"]
    forms = [f"{b} {p}" for b, p in FORMS if any(f"{b} {p}" in row["milliseconds"] for row in rows.values())]
    trained = any("trained" in row for row in rows.values())
    spent = (
        "of the processor with one thread" if record["threads"] == 1 else f"with {record['threads']} threads"
    )
    lines = [
        f"320x180 to 1280x720, bytes in and out, on {record['machine']['cpu']} "
        f"({', '.join(record['machine']['features'])}): time {spent}, relative to `{REFERENCE}` in fp32 in ONNX Runtime "
        f"({whole:.1f} ms). `64x12u2` has 64 features and 12 convolutions between the first and the last one, behind a "
        "PixelUnshuffle of 2.",
        "",
        "| net | weights | multiply-adds per pixel | "
        + " | ".join(forms)
        + " |"
        + " held out, dB |" * trained,
        "|---|" + "---|" * (2 + len(forms) + trained),
    ]
    for text, row in rows.items():
        counts = [f"{row[key] / 1e3:.0f}k" if key in row else "" for key in ("weights", "multiplications")]
        times = [
            f"{row['milliseconds'][form] / whole:.2f}" if form in row["milliseconds"] else ""
            for form in forms
        ]
        psnr = [f"{row['trained']['psnr']:.2f}" if "trained" in row else ""] * trained
        lines.append(f"| {' | '.join([text, *counts, *times, *psnr])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", action="append", help="FEATURESxDEPTH, with u2 behind an unshuffle of 2")
    parser.add_argument("--out", type=Path, help="file to write or to add to")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU engines")
    parser.add_argument("--rounds", type=int, default=8, help="turns of every net")
    parser.add_argument("--train", type=float, metavar="MINUTES", help="train the shapes instead")
    parser.add_argument("--data", type=Path, help="folder of photographs to train on")
    parser.add_argument("--table", action="store_true", help="write the table into docs/notes/training.md")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is not up to date")
    args = parser.parse_args()
    shapes = args.shape or list(SHAPES)
    if args.table or args.check:
        made = filled(PAGE, BEGIN, END, f"\n{table(read(RESULTS))}\n")
        settle(PAGE, made, only_check=args.check, remedy="-m benchmarks.training.shapes --table")
    elif args.out is None or (args.train and args.data is None):
        parser.error("name a file with --out, and with --train also a folder with --data")
    elif args.train:
        train(shapes, args.out, args.data, args.train)
    else:
        measure(shapes, args.out, args.threads, args.rounds)


if __name__ == "__main__":
    main()
