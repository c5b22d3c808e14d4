"""What weighted residuals and progressive training are worth: small runs of equal length, several seeds each.

    python benchmarks/ablations.py --data PICTURES [--device cuda]   do the runs that the results lack
    python benchmarks/ablations.py --table   write the tables of results/ablations.json into docs/training.md
    python benchmarks/ablations.py --check   say whether docs/training.md has those tables

Every run is one of `sr-deploy train`'s, with its schedule, averaging and held-out pictures; what is kept of it is
its log. A run is written when it is done, so an interrupted benchmark goes on with the next one. Only `--data`
needs torch.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from pages import filled, settle

from sr_deploy.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "ablations.json", ROOT / "docs" / "training.md"
BEGIN, END = "<!-- made by benchmarks/ablations.py --table -->\n", "<!-- end of the ablations -->\n"

STEPS = 1500
NET = {"architecture": "srresnet", "features": 32, "blocks": 8, "activation": "leaky_relu"}
PHASE = {"crop": 24, "batch": 8, "learning_rate": 6e-4, "loss": "l1"}
VARIANTS: dict[str, dict[str, Any]] = {
    "weight 1.0": {"net": {"residual_weight": 1.0}, "phases": [(4, STEPS)]},
    "weight 0.2": {"net": {"residual_weight": 0.2}, "phases": [(4, STEPS)]},
    "learned, from 0.2": {
        "net": {"residual_weight": 0.2, "learn_residual_weight": True},
        "phases": [(4, STEPS)],
    },
    "x2, then x4": {"net": {"residual_weight": 0.2}, "phases": [(2, STEPS // 3), (4, STEPS - STEPS // 3)]},
}
SETTINGS: dict[str, Any] = {
    "net": NET,
    "phase": PHASE,
    "variants": VARIANTS,
    "seeds": [0, 1, 2],
    "every": 250,
    "held_out": 11,
}


def toml_of(value: Any) -> str:
    return json.dumps(value)  # the same for the numbers, strings and booleans here


def recipe_text(variant: str, seed: int) -> str:
    """The recipe of one run."""
    how = VARIANTS[variant]
    lines = [
        f'name = "ablation"\nseed = {seed}\nvalidation = {SETTINGS["held_out"]}\nprecision = "bf16"',
        "[net]",
    ]
    lines += [f"{key} = {toml_of(value)}" for key, value in {**NET, **how["net"]}.items()]
    for scale, steps in how["phases"]:
        lines += ["[[phase]]", f"scale = {scale}", f"steps = {steps}"]
        lines += [f"{key} = {toml_of(value)}" for key, value in PHASE.items()]
    return "\n".join(lines) + "\n"


def run(variant: str, seed: int, data: Path, device: str) -> list[dict[str, Any]]:
    """The log of one run: a row every so many steps."""
    from sr_deploy.training.log import read_log
    from sr_deploy.training.recipe import parse_recipe
    from sr_deploy.training.session import Options
    from sr_deploy.training.trainer import Trainer

    cache = Path(tempfile.gettempdir()) / "sr-deploy-ablations"
    with tempfile.TemporaryDirectory() as out:
        options = Options(
            data=data, out=Path(out), cache=cache, device=device, every=SETTINGS["every"], keep=1
        )
        Trainer(parse_recipe(recipe_text(variant, seed).encode()), options).run()
        rows = read_log(Path(out))
    return [{key: row[key] for key in ("phase", "steps", "seconds", "loss", "psnr")} for row in rows]


def measure(data: Path, device: str) -> None:
    """Do the runs that the results lack."""
    record: dict[str, Any] = {"settings": json.loads(json.dumps(SETTINGS)), "runs": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text(encoding="utf-8"))
    if record["settings"] != json.loads(json.dumps(SETTINGS)):
        sys.exit(f"{RESULTS} was made with other settings; remove it to start again")
    done = {(row["variant"], row["seed"]) for row in record["runs"]}
    for seed, variant in product(SETTINGS["seeds"], VARIANTS):
        if (variant, seed) not in done:
            rows = run(variant, seed, data, device)
            record["runs"].append({"variant": variant, "seed": seed, "where": where(device), "log": rows})
            write(record)
            print(f"{variant}, seed {seed}: {rows[-1]['psnr']:.3f} dB", flush=True)


def where(device: str) -> dict[str, str]:
    from sr_deploy.training.session import name_of
    from sr_deploy.training.team import choose_device

    return {
        "device": name_of(choose_device(device)),
        "torch": version("torch"),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def write(record: dict[str, Any]) -> None:
    write_whole(RESULTS, f"{json.dumps(record, indent=1)}\n".encode())


def table(record: dict[str, Any]) -> str:
    """A row a variant: PSNR at the end, over the seeds."""
    settings = record["settings"]
    devices = sorted({row["where"]["device"] for row in record["runs"]})
    lines = [
        f"{settings['phase']['batch']} crops of {settings['phase']['crop']} small pixels a step, {STEPS:,} steps, "
        f"{len(settings['seeds'])} seeds, on {' and '.join(devices)}; PSNR of Y on {settings['held_out']} "
        "photographs held out, in dB: the mean over the seeds, the least and the most.",
        "",
        "| run | PSNR after half of the steps | PSNR at the end |",
        "|---|---|---|",
    ]
    for variant in settings["variants"]:
        logs = [row["log"] for row in record["runs"] if row["variant"] == variant]
        if len(logs) != len(settings["seeds"]):
            sys.exit(f"{RESULTS} is not complete; run with --data to go on")
        half = [next(p["psnr"] for p in log if p["steps"] >= STEPS // 2) for log in logs]
        lines.append(f"| {variant} | {spread(half)} | {spread([log[-1]['psnr'] for log in logs])} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def page() -> str:
    """docs/training.md with the table of the results in its place."""
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    return filled(PAGE, BEGIN, END, f"\n{table(record)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="a folder of photographs to train on")
    what.add_argument("--table", action="store_true", help="write the table into docs/training.md")
    what.add_argument("--check", action="store_true", help="exit with 1 where the page is not up to date")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.data:
        measure(args.data, args.device)
    else:
        settle(PAGE, page(), only_check=args.check, remedy="benchmarks/ablations.py --table")


if __name__ == "__main__":
    main()
