"""Plots of a run for people: `curves.png` from its log and `crops.png` from its net. No program reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sr_deploy.errors import MissingRuntimeError
from sr_deploy.system.arrays import Uint8Array
from sr_deploy.training.run.state import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
_LABEL_HEIGHT = 20
"""Height of the label above a cell in pixels."""
_GAP = 4
"""White pixels between two cells."""
_NOT_TERMS = {"phase", "step", "steps", "seconds", "learning_rate", "loss", "psnr", "validation_loss"}
"""Columns of the log that are no loss terms."""


def write_png(path: Path, pixels: Uint8Array) -> None:
    """Write RGB uint8 [H, W, 3] as PNG, atomically. Raises OutputError."""
    done, data = cv2.imencode(".png", pixels[..., ::-1])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a PNG of {pixels.shape}")
    write_atomically(path, data.tobytes())


def labelled_rows(rows: Sequence[Sequence[tuple[str, Uint8Array]]]) -> Uint8Array:
    """Draw rows of (label, picture RGB uint8 [H, W, 3]) on white, as RGB uint8. Cells are as large as the largest picture."""
    shapes = [picture.shape for row in rows for _, picture in row]
    height, width = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
    drawn = [[_cell(text, picture, height, width) for text, picture in row] for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in drawn], axis=0)


def _cell(text: str, picture: Uint8Array, height: int, width: int) -> Uint8Array:
    """Draw a picture with its label above it. A label that is too wide is cut off; OpenCV's letters are ASCII."""
    cell = np.full((height + _LABEL_HEIGHT + _GAP, width + 2 * _GAP, 3), 255, np.uint8)
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(
        cell, plain, (_GAP, _LABEL_HEIGHT - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA
    )
    cell[:, -_GAP:] = 255  # so that a long label does not touch the next one
    cell[_LABEL_HEIGHT : _LABEL_HEIGHT + picture.shape[0], _GAP : _GAP + picture.shape[1]] = picture
    return cell


def plot_curves(
    rows: Sequence[Row],
    path: Path,
    bicubic: Mapping[str, float] | None = None,
    rates: Mapping[int, Sequence[tuple[int, float]]] | None = None,
) -> None:
    """Plot the log: a column for each phase, with a panel for the loss, each of its terms, the PSNR and the rate.

    `bicubic` has the PSNR in dB that bicubic reaches on the pictures held out, by the number of the phase. `rates` has
    (step, learning rate) of a phase between the rows of the log, as far as this process knows them. The lower
    axis of a panel counts the steps of the phase, the upper one the minutes of training since the run began.

    Raises MissingRuntimeError without matplotlib, which the extra `train` installs.
    """
    try:
        from matplotlib.figure import Figure  # no pyplot: no windows, no global state
    except ImportError as error:
        raise MissingRuntimeError(
            'curves.png needs matplotlib; install it with: pip install "sr-deploy[train]"'
        ) from error
    phases = sorted({row["phase"] for row in rows})
    columns = [[row for row in rows if row["phase"] == phase] for phase in phases]
    terms = [_terms_of(column) for column in columns]
    panels = max(map(len, terms)) + 3
    figure = Figure(figsize=(1 + 4.5 * len(phases), 0.6 + 2.3 * panels))
    # Fixed distances in inches: matplotlib's own layout takes seconds for many panels.
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.8 / width,
        right=1 - 0.2 / width,
        bottom=0.6 / height,
        top=1 - 0.8 / height,
        hspace=0.55,
        wspace=0.3,
    )
    axes = figure.subplots(panels, len(phases), squeeze=False)
    for index, (phase, column) in enumerate(zip(phases, columns, strict=True)):
        names = ["loss", *terms[index], "psnr", "learning_rate"]
        for panel, name in zip(axes[:, index], names, strict=False):
            _draw_panel(panel, column, name)
        _draw_bicubic(axes[len(names) - 2, index], column, (bicubic or {}).get(str(phase)))
        _draw_rates(axes[len(names) - 1, index], column, (rates or {}).get(phase, ()))
        for unused in axes[len(names) :, index]:
            unused.set_axis_off()
        start = columns[index - 1][-1]["seconds"] if index else 0.0
        _count_minutes(axes[0, index], column, start, f"phase {phase}")
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=80)
    temporary.replace(path)


def _terms_of(rows: Sequence[Row]) -> list[str]:
    """Return the loss terms of a phase, in the order of the log; none where the loss is a single term."""
    terms = [key for key in rows[-1] if key not in _NOT_TERMS and rows[-1][key] is not None]
    return terms if len(terms) > 1 else []


def _draw_panel(axes: Axes, rows: Sequence[Row], name: str) -> None:
    """Draw one column of the log over the steps of its phase."""
    names = {"psnr": "PSNR, held out (dB)", "learning_rate": "learning rate"}
    if name != "learning_rate":
        _draw_line(axes, rows, name, "training")
    if name == "loss":
        _draw_line(axes, rows, "validation_loss", "held out")
        axes.legend(fontsize=8)
    axes.set_ylabel(names.get(name, name), fontsize=9)
    axes.set_xlabel("step of the phase", fontsize=8)
    axes.set_xlim(0, rows[-1]["step"] * 1.02)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _draw_bicubic(axes: Axes, rows: Sequence[Row], bicubic: float | None) -> None:
    """Add what bicubic reaches to the panel of the PSNR."""
    axes.lines[0].set_label(f"net {rows[-1]['psnr']:.2f} dB")
    if bicubic is not None:
        axes.axhline(bicubic, color="tab:grey", linestyle="--", label=f"bicubic {bicubic:.2f} dB")
    axes.legend(fontsize=8)


def _draw_rates(axes: Axes, rows: Sequence[Row], known: Sequence[tuple[int, float]]) -> None:
    """Draw the learning rate from the log and from what is `known` between its rows."""
    points = sorted({*((row["step"], row["learning_rate"]) for row in rows), *known})
    axes.plot([step for step, _ in points], [rate for _, rate in points])
    axes.set_ylim(bottom=0)


def _draw_line(axes: Axes, rows: Sequence[Row], name: str, label: str) -> None:
    """Draw the values of a column that are there."""
    known = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    axes.plot([step for step, _ in known], [value for _, value in known], marker=".", label=label)


def _count_minutes(axes: Axes, rows: Sequence[Row], start: float, title: str) -> None:
    """Add an upper axis with the minutes of training at some steps of the log. `start` has the seconds at the first step."""
    steps = [0, *(row["step"] for row in rows)]
    minutes = [seconds / 60 for seconds in (start, *(row["seconds"] for row in rows))]
    chosen = np.linspace(0, steps[-1], 5)
    above = axes.twiny()
    above.set_xlim(axes.get_xlim())
    above.set_xticks(chosen, [f"{np.interp(step, steps, minutes):.1f}" for step in chosen], fontsize=8)
    above.set_xlabel("minutes", fontsize=8)
    above.set_title(title, fontsize=11, fontweight="bold")
