"""Measure the effect of choices in training: small runs of equal length, several seeds each.

    python -m benchmarks.training.ablations --data PICTURES [--device cuda] [--only ablations-recipe] [--seeds 0,1]
                                             do the runs that are missing in the results
    python -m benchmarks.training.ablations --table   write the tables of results/training/ablations*.json into docs/notes/training.md
    python -m benchmarks.training.ablations --check   check that docs/notes/training.md has those tables

Every run is a run of `sr-deploy train`, with its schedule, averaging and held-out pictures; its log is the result. A
run is written when it is finished, so an interrupted benchmark continues with the next run, and two processes may work
on different seeds at once. Only `--data` needs torch.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.pages import ROOT, filled, settle
from sr_deploy.system.files import write_whole

PAGE = ROOT / "docs" / "notes" / "training.md"


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in one setting at a time, with the places of their results and their table."""

    name: str
    net: dict[str, Any]
    phase: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    """Name of a row -> its `phases`, (scale, steps) each, and its changes to `recipe`, `net` and `phase`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    every: int = 250
    held_out: int = 11

    @property
    def results(self) -> Path:
        return ROOT / "benchmarks" / "results" / "training" / f"{self.name}.json"

    @property
    def begin(self) -> str:
        return f"<!-- made by benchmarks/training/ablations.py --table: {self.name} -->\n"

    @property
    def end(self) -> str:
        return f"<!-- end of {self.name} -->\n"

    @property
    def steps(self) -> int:
        return sum(steps for _, steps in next(iter(self.variants.values()))["phases"])

    @property
    def settings(self) -> dict[str, Any]:
        keys = ("net", "phase", "variants", "seeds", "every", "held_out")
        settings: dict[str, Any] = json.loads(json.dumps({key: getattr(self, key) for key in keys}))
        return settings


_LENGTH = [(4, 1500)]
RESIDUALS = Experiment(
    name="ablations",
    net={"architecture": "srresnet", "features": 32, "blocks": 8, "activation": "leaky_relu"},
    phase={"crop": 24, "batch": 8, "learning_rate": 6e-4, "loss": "l1"},
    variants={
        "weight 1.0": {"net": {"residual_weight": 1.0}, "phases": _LENGTH},
        "weight 0.2": {"net": {"residual_weight": 0.2}, "phases": _LENGTH},
        "learned, from 0.2": {
            "net": {"residual_weight": 0.2, "learn_residual_weight": True},
            "phases": _LENGTH,
        },
        "x2, then x4": {"net": {"residual_weight": 0.2}, "phases": [(2, 500), (4, 1000)]},
    },
)

_ADAMW: dict[str, Any] = {"learning_rate": 2e-3}  # for each optimiser the best learning rate of those tried
_MUON: dict[str, Any] = {"learning_rate": 5e-3}
_SQUARED, _ABSOLUTE = {"loss": {"l2": 0.2, "luma": 1.0}}, {"loss": {"luma_l1": 1.0, "chroma_l1": 0.5}}
RECIPE = Experiment(
    name="ablations-recipe",
    net={"architecture": "rt", "features": 32, "depth": 8, "activation": "leaky_relu"},
    phase={"crop": 40, "batch": 16},
    variants={
        "AdamW, branches, `luma`": {"phase": {**_ADAMW, **_SQUARED}, "phases": _LENGTH},
        "AdamW, branches, `luma_l1`": {"phase": {**_ADAMW, **_ABSOLUTE}, "phases": _LENGTH},
        "Muon, branches, `luma_l1`": {
            "recipe": {"optimiser": "muon"},
            "phase": {**_MUON, **_ABSOLUTE},
            "phases": _LENGTH,
        },
        "Muon, plain, `luma_l1`": {
            "recipe": {"optimiser": "muon"},
            "net": {"foldable": False},
            "phase": {**_MUON, **_ABSOLUTE},
            "phases": _LENGTH,
        },
        "Muon, plain, `luma_l1`, leaves": {
            "recipe": {"optimiser": "muon", "leaves": 24},
            "net": {"foldable": False},
            "phase": {**_MUON, **_ABSOLUTE},
            "phases": _LENGTH,
        },
    },
    seeds=(0, 1),
)
EXPERIMENTS = (RESIDUALS, RECIPE)


def toml_of(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_of(v)}" for key, v in value.items()) + " }"
    return json.dumps(value)  # equal to TOML for the numbers, strings and booleans used here


def lines_of(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {toml_of(value)}" for key, value in table.items()]


def recipe_text(experiment: Experiment, variant: str, seed: int) -> str:
    """Return the recipe of one run."""
    how = experiment.variants[variant]
    shared = {"name": "ablation", "seed": seed, "validation": experiment.held_out, "precision": "bf16"}
    lines = [*lines_of({**shared, **how.get("recipe", {})}), "[net]"]
    lines += lines_of({**experiment.net, **how.get("net", {})})
    for scale, steps in how["phases"]:
        lines += ["[[phase]]", f"scale = {scale}", f"steps = {steps}"]
        lines += lines_of({**experiment.phase, **how.get("phase", {})})
    return "\n".join(lines) + "\n"


def run(experiment: Experiment, variant: str, seed: int, data: Path, device: str) -> list[dict[str, Any]]:
    """Do one run and return its log, with a row every `experiment.every` steps."""
    from sr_deploy.training.recipe import parse_recipe
    from sr_deploy.training.run.log import read_log
    from sr_deploy.training.run.session import TrainOptions
    from sr_deploy.training.run.trainer import Trainer

    cache = Path(tempfile.gettempdir()) / "sr-deploy-ablations"
    with tempfile.TemporaryDirectory() as out:
        options = TrainOptions(
            data=data, out=Path(out), cache=cache, device=device, every=experiment.every, keep=1
        )
        Trainer(parse_recipe(recipe_text(experiment, variant, seed).encode()), options).run()
        rows = read_log(Path(out))
    return [{key: row[key] for key in ("phase", "steps", "seconds", "loss", "psnr")} for row in rows]


def read(experiment: Experiment) -> dict[str, Any]:
    """Return the results so far. Raises SystemExit where they were made with other settings."""
    if not experiment.results.exists():
        return {"settings": experiment.settings, "runs": []}
    record: dict[str, Any] = json.loads(experiment.results.read_text(encoding="utf-8"))
    if record["settings"] != experiment.settings:
        sys.exit(f"{experiment.results} was made with other settings; delete it to start again")
    return record


def measure(experiment: Experiment, data: Path, device: str, seeds: Iterable[int]) -> None:
    """Do the runs of `seeds` that are missing in the results."""
    for seed, variant in product(seeds, experiment.variants):
        if any((row["variant"], row["seed"]) == (variant, seed) for row in read(experiment)["runs"]):
            continue
        rows = run(experiment, variant, seed, data, device)
        record = read(experiment)  # read again, because another process may have added a run
        record["runs"].append({"variant": variant, "seed": seed, "where": where(device), "log": rows})
        record["runs"].sort(key=lambda row: (row["seed"], list(experiment.variants).index(row["variant"])))
        write_whole(experiment.results, f"{json.dumps(record, indent=1)}\n".encode())
        print(f"{variant}, seed {seed}: {rows[-1]['psnr']:.3f} dB", flush=True)


def where(device: str) -> dict[str, str]:
    from sr_deploy.training.run.process_group import choose_device
    from sr_deploy.training.run.session import device_name

    return {
        "device": device_name(choose_device(device)),
        "torch": version("torch"),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def table(experiment: Experiment) -> str:
    """Return the table: one row per variant, with PSNR over the seeds."""
    record = read(experiment)
    devices = sorted({row["where"]["device"] for row in record["runs"]})
    phase, steps = experiment.phase, experiment.steps
    lines = [
        f"Each run takes {steps:,} steps of {phase['batch']} crops of {phase['crop']} small pixels, with "
        f"{len(experiment.seeds)} seeds, on {' and '.join(devices)}. PSNR is that of Y in dB on {experiment.held_out} "
        "photographs held out: the mean over the seeds (lowest to highest).",
        "",
        "| run | PSNR after half of the steps | PSNR at the end | minutes |",
        "|---|---|---|---|",
    ]
    for variant in experiment.variants:
        logs = [row["log"] for row in record["runs"] if row["variant"] == variant]
        if len(logs) != len(experiment.seeds):
            sys.exit(f"{experiment.results} is not complete; run with --data to continue")
        half = [next(p["psnr"] for p in log if p["steps"] >= steps // 2) for log in logs]
        end, minutes = [log[-1]["psnr"] for log in logs], fmean(log[-1]["seconds"] / 60 for log in logs)
        lines.append(f"| {variant} | {spread(half)} | {spread(end)} | {minutes:.1f} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="folder of photographs to train on")
    what.add_argument("--table", action="store_true", help="write the tables into docs/notes/training.md")
    what.add_argument("--check", action="store_true", help="exit with 1 if the page is not up to date")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--only", choices=[e.name for e in EXPERIMENTS], help="run this experiment only")
    parser.add_argument("--seeds", help="seeds to run, such as 0,1; default: all")
    args = parser.parse_args()
    for experiment in EXPERIMENTS:
        if not args.data and experiment.results.exists():  # an experiment that was not run has no table
            made = filled(PAGE, experiment.begin, experiment.end, f"\n{table(experiment)}\n")
            settle(PAGE, made, only_check=args.check, remedy="-m benchmarks.training.ablations --table")
        elif args.data and args.only in (None, experiment.name):
            seeds = [int(n) for n in args.seeds.split(",")] if args.seeds else experiment.seeds
            measure(experiment, args.data, args.device, seeds)


if __name__ == "__main__":
    main()
