"""Files of a run: its state, from which a resumed run continues, and the checkpoints that are kept.

- `state.safetensors`: weights, average, optimiser and counters; always replaced as a whole
- `last.safetensors`: averaged weights at the last evaluation
- `best.safetensors`: best averaged weights of the phase, judged on the pictures held out
- `phase1-step001000.safetensors`, ...: the few best of the phase
- `phase1.safetensors`, ...: averaged weights at the end of each phase
- `final.safetensors`: averaged weights at the end of the run
- `recipe.toml`: the recipe of the run
- `commands.txt`: the command lines that started and resumed it
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sr_deploy.errors import InputError, OutputError, SrDeployError, one_line
from sr_deploy.system.files import write_whole
from sr_deploy.system.json_values import parse_json
from sr_deploy.version import __version__

STATE = "state.safetensors"
RECIPE = "recipe.toml"
_COMMANDS = "commands.txt"
_KEY = "sr_deploy_state"
_SCHEMA = 1
_LARGEST_RECORD = 16 << 20
"""Most characters of a state's record that are parsed; it has some thousand."""


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, or leave it as it was. Raises OutputError."""
    try:
        write_whole(path, data, synced=True)
    except OSError as error:
        raise write_error(path, error) from error


def keep_command(folder: Path, command: str) -> None:
    """Add a command line, with the present time and version, to those that started and resumed the run. Raises OutputError."""
    path = folder / _COMMANDS
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}, sr-deploy {__version__}: {command}\n")
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
    try:
        record = parse_json(text, _LARGEST_RECORD) if text else {}
        if not isinstance(record, dict):
            raise ValueError(f"it is a {type(record).__name__}, expected an object")
    except ValueError as error:
        raise _damaged(path, error) from error
    if record.get("schema") != _SCHEMA:
        raise InputError(
            f"{path}: has state schema {record.get('schema')}, but this version reads schema {_SCHEMA}; resume the run "
            "with the version that wrote it"
        )
    return record, tensors


@contextmanager
def reading_state(path: Path) -> Iterator[None]:
    """Context in which values of a state are used: wrong types and missing values raise InputError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, SrDeployError):
            raise
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    """The error for a state whose record is not one that we wrote."""
    reason = f"{type(error).__name__}: {one_line(error)}" if isinstance(error, KeyError) else one_line(error)
    return InputError(
        f"{path}: the state of the run is damaged ({reason}); start a new run in another folder"
    )


class BestCheckpoints:
    """The best `most` checkpoints of a phase. Others are removed from the folder."""

    def __init__(self, folder: Path, most: int, ranked: list[list[Any]] | None = None) -> None:
        self._folder, self._most = folder, most
        self.ranked: list[tuple[float, str]] = [(float(q), str(n)) for q, n in ranked or []]
        for _, name in self.ranked:  # they are deleted later
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise InputError(
                    f"{folder}: the state of the run names {name!r} as a checkpoint, which is not one of this folder; start a "
                    "new run in another folder"
                )
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
