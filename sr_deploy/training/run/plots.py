"""Plots of a run for people: `curves.png` from its log and `crops.png` from its net. No program reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from sr_deploy.errors import MissingRuntimeError
from sr_deploy.system.arrays import Uint8Array
from sr_deploy.training.run.state import write_atomically


def write_png(path: Path, pixels: Uint8Array) -> None:
    """Write RGB uint8 [H, W, 3] as PNG, atomically. Raises OutputError."""
    done, data = cv2.imencode(".png", pixels[..., ::-1])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a PNG of {pixels.shape}")
    write_atomically(path, data.tobytes())


def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the loss, the PSNR on the pictures held out and the learning rate over the steps of all phases.

    Raises MissingRuntimeError without matplotlib, which the extra `train` installs.
    """
    try:
        from matplotlib.figure import Figure  # no pyplot: no windows, no global state
    except ImportError as error:
        raise MissingRuntimeError(
            'curves.png needs matplotlib; install it with: pip install "sr-deploy[train]"'
        ) from error
    figure = Figure(figsize=(8, 9), layout="constrained")
    titles = {"loss": "training loss", "psnr": "PSNR, held out (dB)", "learning_rate": "learning rate"}
    for axes, (key, title) in zip(figure.subplots(3, 1, sharex=True), titles.items(), strict=True):
        for phase in sorted({row["phase"] for row in rows}):
            mine = [row for row in rows if row["phase"] == phase]
            axes.plot([r["steps"] for r in mine], [r[key] for r in mine], marker=".", label=f"phase {phase}")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    axes.legend()
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=100)
    temporary.replace(path)
