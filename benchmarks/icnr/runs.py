"""The training runs whose results `benchmarks/icnr/page.py` shows. Start that one.

Two runs of one seed differ in the initial weights of the convolutions before PixelShuffle (and, in `srresnet`, in the
random numbers of the convolutions after the first of them). They train on the same crops in the same order. A run is
written when it is finished, so an interrupted benchmark continues with the next run.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.icnr.checkerboard import checkerboard_energy
from sr_deploy.quality.evaluate import BASELINES, compare
from sr_deploy.system.arrays import Uint8Array
from sr_deploy.system.cpu import describe_cpu
from sr_deploy.system.files import write_whole
from sr_deploy.training.data.loader import CropSampler, to_float
from sr_deploy.training.data.pictures import PictureStore, TrainingPair, split_validation
from sr_deploy.training.nets import build_net
from sr_deploy.training.objective.losses import PIXEL
from sr_deploy.training.run.schedule import one_cycle

NETS: dict[str, dict[str, Any]] = {
    "rt": {"features": 32, "depth": 4, "activation": "relu6"},
    "srresnet": {"features": 32, "blocks": 2, "activation": "relu6"},
}
SETTINGS: dict[str, Any] = {
    "nets": NETS,
    "seeds": [0, 1, 2],
    "steps": [0, 10, 30, 100, 300, 1000],
    "scale": 4,
    "crop": 16,
    "batch": 8,
    "loss": "l1",
    "learning_rate": 1e-3,  # the peak; schedule, optimiser and clipping are the trainer's
    "clip": 1.0,
    "held_out": 11,
    "cut": 96,  # side in pixels of the centre of each held-out small picture
}
SCALE: int = SETTINGS["scale"]


def middle(pair: TrainingPair) -> tuple[Uint8Array, Uint8Array]:
    """Return the small and the large pixels of the centre of a held-out picture."""
    side = SETTINGS["cut"]
    top, left = ((n - side) // 2 for n in pair.small.shape[:2])
    large = pair.large[top * SCALE : (top + side) * SCALE, left * SCALE : (left + side) * SCALE]
    return pair.small[top : top + side, left : left + side], large


def upscaler(net: nn.Module) -> Callable[[Uint8Array], Uint8Array]:
    """Return `net` as a function on 8-bit pixels, with the result rounded as users get it."""

    @torch.no_grad()
    def upscale(small: Uint8Array) -> Uint8Array:
        picture = torch.from_numpy(small.astype(np.float32) / 255).permute(2, 0, 1)[None]
        large = net(picture)[0].permute(1, 2, 0).clamp(0, 1) * 255
        pixels: Uint8Array = large.round().byte().numpy()
        return pixels

    return upscale


def measured(
    upscale: Callable[[Uint8Array], Uint8Array], cases: list[tuple[Uint8Array, Uint8Array]]
) -> dict[str, list[float]]:
    """Return the checkerboard energy and the PSNR of Y of every held-out picture."""
    results = [upscale(small) for small, _ in cases]
    quality = [compare(got, large, SCALE) for got, (_, large) in zip(results, cases, strict=True)]
    return {
        "energy": [energy_of(got) for got in results],
        "psnr_y": [round(q.psnr_y or 0.0, 4) for q in quality],
    }


def energy_of(pixels: Uint8Array) -> float:
    return float(f"{checkerboard_energy(pixels, SCALE):.6g}")


def train(name: str, icnr: bool, seed: int, training: list[TrainingPair]) -> Iterator[tuple[int, nn.Module]]:
    """Train, and yield (steps done, net) at every number of steps that is measured."""
    torch.manual_seed(seed)
    net = build_net(name, SCALE, {**NETS[name], "icnr": icnr})
    optimiser = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    steps = SETTINGS["steps"][-1]
    crops = CropSampler(training, scale=SCALE, crop=SETTINGS["crop"], batch=SETTINGS["batch"], seed=seed)
    for step in range(steps + 1):
        if step in SETTINGS["steps"]:
            yield step, net
        if step == steps:
            return
        small, large = (to_float(side) for side in crops.batch(step))
        optimiser.param_groups[0]["lr"] = SETTINGS["learning_rate"] * one_cycle(step / steps)
        optimiser.zero_grad()
        torch.autograd.backward(PIXEL[SETTINGS["loss"]](net(small), large))
        torch.nn.utils.clip_grad_norm_(net.parameters(), SETTINGS["clip"])
        optimiser.step()


def split(data: Path) -> tuple[list[TrainingPair], list[TrainingPair]]:
    """Return the pictures to train on and those held out, the same as in the trainer."""
    torch.set_num_threads(1)
    store = PictureStore(data, overflow=Path(tempfile.gettempdir()) / "sr-deploy-pictures")
    return split_validation(store.pairs(SCALE), SETTINGS["held_out"])


def measure(data: Path, results: Path) -> None:
    """Do the runs that are missing in the results."""
    training, held_out = split(data)
    cases = [middle(pair) for pair in held_out]
    record: dict[str, Any] = {"settings": SETTINGS, "runs": []}
    if results.exists():
        record = json.loads(results.read_text(encoding="utf-8"))
    if record["settings"] != SETTINGS:
        sys.exit(f"{results} was made with other settings; delete it to start again")
    record["environment"] = environment(len(training), held_out)
    record["baselines"] = {name: measured(make(SCALE), cases) for name, make in BASELINES.items()}
    record["baselines"]["photographs"] = {"energy": [energy_of(large) for _, large in cases]}
    done = {(run["net"], run["icnr"], run["seed"]) for run in record["runs"]}
    for seed, name, icnr in product(SETTINGS["seeds"], NETS, (False, True)):
        if (name, icnr, seed) not in done:
            states = train(name, icnr, seed, training)
            points = [{"step": step, **measured(upscaler(net), cases)} for step, net in states]
            record["runs"].append({"net": name, "icnr": icnr, "seed": seed, "points": points})
            write(record, results)
            print(f"{name} icnr={icnr} seed {seed}: done", flush=True)


def environment(trained_on: int, held_out: list[TrainingPair]) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": describe_cpu().name,
        "threads": 1,
        "packages": {name: version(name) for name in ("torch", "numpy", "opencv-python-headless")},
        "trained_on": trained_on,
        "held_out": {p.name: hashlib.sha256(np.asarray(p.large).tobytes()).hexdigest() for p in held_out},
    }


def write(record: dict[str, Any], results: Path) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    write_whole(results, f"{json.dumps(record, indent=1)}\n".encode())
