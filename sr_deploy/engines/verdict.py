"""What `sr-deploy verify` found, kept beside the model file: `model.onnx.verify.json`.

A verdict counts for the bytes it was passed on, by their checksum, and for the backends that were run.
Nothing is verified here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sr_deploy.system.files import digest_of
from sr_deploy.system.output_file import atomic_output, checked_target

SUFFIX = ".verify.json"
SCHEMA = 1


class FailedVerdictWarning(UserWarning):
    """A model is opened that `sr-deploy verify` found wrong."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome for one model file."""

    passed: bool
    against: str
    """The name of what it was held to."""
    why: str = ""
    """What failed, in one line."""
    backends: Mapping[str, str] = field(default_factory=dict)
    """Backend -> "passed", "failed" or "not run"; "graph" and "file" are the file itself."""

    def speaks_against(self, backend: str) -> bool:
        """Whether running the model on `backend` was found wrong, or the model itself was."""
        wrong = any(self.backends.get(part) == "failed" for part in ("graph", "file"))
        return not self.passed and (wrong or self.backends.get(backend) != "passed")


def verdict_path(model: Path) -> Path:
    """Where the verdict on the file `model` is kept."""
    return model.with_name(model.name + SUFFIX)


def store_verdict(model: Path, verdict: Verdict) -> Path:
    """Write `verdict` beside the file `model`, under its checksum; the file that was written.

    Raises OutputError where that cannot be written.
    """
    path = verdict_path(model)
    record = {"schema": SCHEMA, "sha256": digest_of(model), **asdict(verdict)}
    target = checked_target(path, overwrite=True)
    with atomic_output(path, target, overwrite=True, suffix=".json") as draft:
        draft.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


def read_verdict(model: Path) -> Verdict | None:
    """The verdict on the file `model` as it is now; None where there is none, or it was passed on other bytes."""
    try:
        record: dict[str, Any] = json.loads(verdict_path(model).read_text(encoding="utf-8"))
        if record.pop("schema") != SCHEMA or record.pop("sha256") != digest_of(model):
            return None
        return Verdict(**record)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def warn_of_failure(model: Path, backend: str) -> None:
    """Warn where `sr-deploy verify` found the file `model` wrong on `backend`. Looks at no file that is not there."""
    verdict = read_verdict(model)
    if verdict is not None and verdict.speaks_against(backend):
        warnings.warn(
            f"{model} failed `sr-deploy verify` against {verdict.against}: {verdict.why}; export or build it again",
            FailedVerdictWarning,
            stacklevel=3,
        )
