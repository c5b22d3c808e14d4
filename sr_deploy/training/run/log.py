"""The log of a run: one row per interval, as CSV for people and JSON lines for programs.

TensorBoard's format is written too where it is installed. A resumed run first removes the rows of steps it
will repeat.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sr_deploy.training.run.state import write_atomically

LogRow = Mapping[str, float | int | None]
"""Column -> value. None and missing columns are empty in the CSV file."""
_FIRST_COLUMNS = ("phase", "step", "steps", "seconds", "learning_rate", "loss")
_LAST_COLUMNS = ("psnr", "validation_loss")


class TrainingLog:
    """Writer of `log.csv` and `log.jsonl` in `folder`.

    `terms` are the columns of the loss terms. Rows after step `upto`, counted over all phases, are removed.
    """

    def __init__(self, folder: Path, terms: Sequence[str], *, upto: int = 0) -> None:
        self._folder, self._columns = folder, (*_FIRST_COLUMNS, *terms, *_LAST_COLUMNS)
        self.rows = [row for row in read_log(folder) if row["steps"] <= upto]
        self._write_all()
        self._writer = self._tensorboard()

    def _write_all(self) -> None:
        """Write both files anew, atomically, from the rows that are kept."""
        lines = io.StringIO(newline="")
        writer = csv.DictWriter(lines, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self._folder / "log.csv", lines.getvalue().encode())
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(self._folder / "log.jsonl", text.encode())

    def _tensorboard(self) -> Any:
        """Return a SummaryWriter, or None where TensorBoard is not installed."""
        if importlib.util.find_spec("tensorboard") is None:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder / "tensorboard"))

    def append(self, row: LogRow) -> None:
        """Add one row. It is in the files when this returns."""
        ordered = {key: row[key] for key in self._columns if key in row}
        self.rows.append(ordered)
        with (self._folder / "log.csv").open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns, restval="", lineterminator="\n").writerow(ordered)
        with (self._folder / "log.jsonl").open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(ordered) + "\n")
        if self._writer:
            for key in ordered.keys() - {"phase", "step", "steps"}:
                self._writer.add_scalar(key, ordered[key], ordered["steps"])
            self._writer.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._writer:
            self._writer.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of `log.jsonl`. A last line that a kill cut short is left out."""
    path = folder / "log.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return rows
