"""Keep the outcome of `sr-deploy verify` beside the model file: `model.onnx.verify.json`.

A verdict holds for the bytes that were verified, which a checksum identifies, and for the backends that
were run. Nothing is verified here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sr_deploy.system.files import digest_of, read_bounded
from sr_deploy.system.json_values import LARGEST_JSON, from_plain, parse_json, to_plain
from sr_deploy.system.output_file import atomic_output, checked_target

SUFFIX = ".verify.json"
"""Added to the name of the model file."""
SCHEMA = 1
"""Version of the JSON file; another version is read as no verdict."""


class FailedVerdictWarning(UserWarning):
    """Warning that a model is opened which failed `sr-deploy verify`."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of `verify` for one model file."""

    passed: bool
    """True if everything that was checked passed."""
    against: str
    """Name of the reference that the model was compared with."""
    why: str = ""
    """The failure in one line; empty if the model passed."""
    backends: Mapping[str, str] = field(default_factory=dict)
    """Outcome by backend: "passed", "failed" or "not run". "graph" and "file" stand for the file itself."""

    def rejects(self, backend: str) -> bool:
        """Return True if the verdict speaks against running the model on `backend`.

        After a failure of the file itself that is every backend, else every one that did not pass.
        """
        wrong = any(self.backends.get(part) == "failed" for part in ("graph", "file"))
        return not self.passed and (wrong or self.backends.get(backend) != "passed")


def verdict_path(model: Path) -> Path:
    """Return the path of the verdict on the model file `model`."""
    return model.with_name(model.name + SUFFIX)


def store_verdict(model: Path, verdict: Verdict) -> Path:
    """Write `verdict` with the checksum of `model` beside that file; returns the path written.

    The file is written whole or not at all. Raises OutputError if it cannot be written.
    """
    path = verdict_path(model)
    record = {"schema": SCHEMA, "sha256": digest_of(model), **to_plain(verdict)}
    target = checked_target(path, overwrite=True)
    with atomic_output(path, target, overwrite=True, suffix=".json") as draft:
        draft.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


def read_verdict(model: Path) -> Verdict | None:
    """Return the verdict on `model` as the file is now; None if there is none, or it is damaged or for
    other bytes."""
    try:
        record: dict[str, Any] = parse_json(read_bounded(verdict_path(model), LARGEST_JSON))
        if record.pop("schema") != SCHEMA or record.pop("sha256") != digest_of(model):
            return None
        return from_plain(Verdict, record)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def warn_of_failure(model: Path, backend: str) -> None:
    """Warn (FailedVerdictWarning) if the verdict on `model` speaks against `backend`."""
    verdict = read_verdict(model)
    if verdict is not None and verdict.rejects(backend):
        warnings.warn(
            f"{model} failed `sr-deploy verify` against {verdict.against}: {verdict.why}; export or build it again",
            FailedVerdictWarning,
            stacklevel=3,  # the caller of `open_engine`
        )
