"""Compare the samples per second that the loader cuts with those that a training step needs.

    python -m benchmarks.training.loader export/rt-x4.toml --data PICTURES [--device cuda] [--workers 1 2 4] [--out FILE]

Both are measured separately: the loader without training, the step on one batch that is on the device already. On a
CPU they share the cores, so the loader has to be several times as fast there; `benchmarks/training/trainer.py` measures
the loss when both run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.trainer import finished
from sr_deploy.training.data.degrade import Degradation
from sr_deploy.training.data.loader import CropSampler, Loader, default_workers
from sr_deploy.training.data.pictures import PictureStore
from sr_deploy.training.objective.losses import ComposedLoss
from sr_deploy.training.recipe import Phase, Recipe, read_recipe
from sr_deploy.training.run.phase import PhaseRun
from sr_deploy.training.run.precision import with_supported_precision
from sr_deploy.training.run.process_group import choose_device
from sr_deploy.training.run.session import device_name

SPOILT = Degradation(blur=(0.2, 2.0), noise=(0.0, 10.0), jpeg=(40.0, 95.0), second=0.5)


def step_needs(recipe: Recipe, phase: Phase, crops: CropSampler, device: torch.device, rounds: int) -> float:
    """Return the samples per second that training needs."""
    run = PhaseRun(with_supported_precision(recipe, device), phase, ComposedLoss({"l1": 1.0}), device=device)
    small, large = (side.to(device) for side in crops.batch(0))
    times = []
    for number in range(rounds + 2):
        start = finished(device)
        run.step(small, large, 1e-5)
        times += [finished(device) - start] if number >= 2 else []
    return phase.batch / statistics.median(times)


def loader_gives(crops: CropSampler, workers: int, batches: int) -> float:
    """Return the samples per second that the loader cuts without training."""
    with Loader(crops, workers=workers) as loader:
        source = iter(loader)
        next(source)
        start = finished(torch.device("cpu"))
        for _ in islice(source, batches):
            pass
        return batches * crops.size / (finished(torch.device("cpu")) - start)


def measure(
    recipe: Recipe, data: Path, device: torch.device, workers: list[int], batches: int
) -> dict[str, Any]:
    phase = recipe.phases[-1]
    pairs = PictureStore(data, overflow=Path("pictures.tmp")).pairs(phase.scale)
    make = {
        "scale": phase.scale,
        "crop": phase.crop,
        "batch": phase.batch,
        "seed": 0,
        "busiest_of": phase.busiest_of,
    }
    plain, spoilt = CropSampler(pairs, **make), CropSampler(pairs, **make, degrade=SPOILT)
    return {
        "device": device_name(device),
        "recipe": recipe.name,
        "batch": phase.batch,
        "crop": phase.crop,
        "step_needs": round(step_needs(recipe, phase, plain, device, 10), 1),
        "loader_gives": {n: round(loader_gives(plain, n, batches), 1) for n in workers},
        "loader_gives_degraded": {n: round(loader_gives(spoilt, n, batches), 1) for n in workers},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, nargs="+")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = choose_device(args.device)
    workers = args.workers or [default_workers(device.type)]
    record = measure(read_recipe(args.recipe), args.data, device, workers, args.batches)
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"the step needs {record['step_needs']:.0f} samples/s ({record['device']})")
    for key, what in (("loader_gives", "bicubic"), ("loader_gives_degraded", "degraded")):
        for count, rate in record[key].items():
            print(
                f"{what}, {count} threads: {rate:.0f} samples/s, {rate / record['step_needs']:.1f} times that"
            )


if __name__ == "__main__":
    main()
