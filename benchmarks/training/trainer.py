"""Compare the trainer's steps per second with a bare loop: same net, same batch size, data already on the device.

    python -m benchmarks.training.trainer export/rt-x4.toml --data PICTURES [--device cuda] [--rounds 10] [--out FILE]

The two alternate, a few steps each, so that other load on the machine affects both; the result is the median ratio of
the rounds. The trainer's side is the real loop: crops cut by its loader, schedule, clipping, moving average, running
means. The bare side is forward pass, loss, backward pass and optimiser.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from sr_deploy.training.data.loader import CropSampler, Loader, default_workers, to_float
from sr_deploy.training.data.pictures import PictureStore
from sr_deploy.training.nets import build_net
from sr_deploy.training.objective.losses import PIXEL, ComposedLoss
from sr_deploy.training.recipe import Phase, Recipe, read_recipe
from sr_deploy.training.run.loop import Loop
from sr_deploy.training.run.phase import AUTOCAST, PhaseRun
from sr_deploy.training.run.precision import NAMES, with_supported_precision
from sr_deploy.training.run.process_group import ProcessGroup, choose_device
from sr_deploy.training.run.schedule import TrainingClock
from sr_deploy.training.run.session import RunPosition, SilentListener, TrainingRun, TrainOptions, device_name
from sr_deploy.training.run.state import BestCheckpoints

_ENDLESS = 10**9


def finished(device: torch.device) -> float:
    """Wait until the device is idle and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Bare:
    """The simplest training loop, over one batch on the device."""

    def __init__(self, recipe: Recipe, phase: Phase, crops: CropSampler, device: torch.device) -> None:
        self.net = build_net(recipe.architecture, phase.scale, recipe.parameters)
        self.net.to(device=device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=1e-4, fused=True)
        self.small, self.large = (to_float(side.to(device)) for side in crops.batch(0))
        self.dtype, self.loss = AUTOCAST[recipe.precision], PIXEL["l1"]

    def steps(self, count: int) -> None:
        for _ in range(count):
            with torch.autocast(self.small.device.type, self.dtype, enabled=self.dtype is not None):
                got = self.net(self.small)
            loss = self.loss(got.float(), self.large)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()


def trainer_loop(recipe: Recipe, phase: Phase, options: TrainOptions, device: torch.device) -> Loop:
    session = TrainingRun(recipe, options, SilentListener(), ProcessGroup(), device, RunPosition())
    run = PhaseRun(recipe, phase, ComposedLoss({"l1": 1.0}), device=device)
    return Loop(session, run, [], TrainingClock(), BestCheckpoints(options.out, 1))


def compare(recipe: Recipe, data: Path, device: torch.device, rounds: int, steps: int) -> dict[str, Any]:
    recipe = with_supported_precision(recipe, device)
    phase = replace(recipe.phases[-1], steps=_ENDLESS, loss={"l1": 1.0})
    store = PictureStore(data, overflow=Path("pictures.tmp"))
    crops = CropSampler(
        store.pairs(phase.scale),
        scale=phase.scale,
        crop=phase.crop,
        batch=phase.batch,
        seed=0,
        busiest_of=phase.busiest_of,
    )
    bare = Bare(recipe, phase, crops, device)
    loop = trainer_loop(recipe, phase, TrainOptions(data=data, out=Path(), every=_ENDLESS), device)
    samples = []
    workers = default_workers(device.type)
    with Loader(crops, workers=workers, pin=device.type == "cuda") as batches:
        source = iter(batches)
        for number in range(rounds + 1):
            start = finished(device)
            bare.steps(steps)
            middle = finished(device)
            loop.go(islice(source, steps))
            end = finished(device)
            if number:  # the first round warms up
                samples.append((middle - start, end - middle))
    return {
        "device": device_name(device),
        "recipe": recipe.name,
        "batch": phase.batch,
        "crop": phase.crop,
        "precision": NAMES[recipe.precision],
        "steps_a_round": steps,
        "bare_s": [round(bare_s, 6) for bare_s, _ in samples],
        "trainer_s": [round(trainer_s, 6) for _, trainer_s in samples],
        "ratio": round(statistics.median(bare_s / trainer_s for bare_s, trainer_s in samples), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    record = compare(read_recipe(args.recipe), args.data, choose_device(args.device), args.rounds, args.steps)
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"trainer / bare loop, steps per second: {record['ratio']:.3f} (median of {args.rounds} rounds)")


if __name__ == "__main__":
    main()
