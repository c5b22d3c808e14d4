"""Files of a run: its state, from which a resumed run continues, and the checkpoints that are kept.

- `state.safetensors`: weights, average, optimiser and counters; always replaced as a whole
- `last.safetensors`: averaged weights at the last evaluation
- `best.safetensors`: best averaged weights of the phase, judged on the pictures held out
- `phase1-step001000.safetensors`, ...: the few best of the phase
- `phase1.safetensors`, ...: averaged weights at the end of each phase
- `final.safetensors`: averaged weights at the end of the run
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sr_deploy.errors import InputError, OutputError
from sr_deploy.system.files import write_whole

STATE = "state.safetensors"
_KEY = "sr_deploy_state"
_SCHEMA = 1


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, or leave it as it was. Raises OutputError."""
    try:
        write_whole(path, data, synced=True)
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: Exception) -> OutputError:
    """Return the error for a file that could not be replaced."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error)
    what = "no space is left" if full else str(error)
    old = "the previous file is intact" if path.exists() else "no file was written before"
    return OutputError(f"{path}: cannot be written, {what}; {old}; make room, then run again with --resume")


def write_state(path: Path, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the whole state into one file, so that it is never half new. Raises OutputError."""
    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    text = json.dumps({"schema": _SCHEMA, **record}, sort_keys=True)
    write_atomically(path, save(whole, metadata={_KEY: text}))


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Return the record and the tensors that `write_state` wrote, or None where there is no file. Raises
    InputError for any other file."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: not the state of a run ({error}); start a new run in another folder"
        ) from error
    record = json.loads(text) if text else {}
    if record.get("schema") != _SCHEMA:
        raise InputError(
            f"{path}: has state schema {record.get('schema')}, but this version reads schema {_SCHEMA}; resume the run "
            "with the version that wrote it"
        )
    return record, tensors


class BestCheckpoints:
    """The best `most` checkpoints of a phase. Others are removed from the folder."""

    def __init__(self, folder: Path, most: int, ranked: list[list[Any]] | None = None) -> None:
        self._folder, self._most = folder, most
        self.ranked: list[tuple[float, str]] = [(float(q), str(n)) for q, n in ranked or []]
        """(quality, file name) of the checkpoints that are kept, best first."""

    def offer(self, quality: float, name: str, write: Callable[[Path], None]) -> None:
        """Keep a checkpoint of `quality` (higher is better) as `name`, if it is among the best.

        `write` is called with the path of each file to write.
        """
        ranked = sorted([*(r for r in self.ranked if r[1] != name), (quality, name)], reverse=True)
        kept, dropped = ranked[: self._most], ranked[self._most :]
        if (quality, name) in kept:
            write(self._folder / name)
            if ranked[0][1] == name:
                write(self._folder / "best.safetensors")
        self.ranked = kept
        for _, old in dropped:
            (self._folder / old).unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove the files that are kept, because another phase begins."""
        for _, name in self.ranked:
            (self._folder / name).unlink(missing_ok=True)
        self.ranked = []
