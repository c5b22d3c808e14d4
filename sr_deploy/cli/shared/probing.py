"""Probing a model with a line of progress, for `info` and `stamp`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

    from sr_deploy.probe.probe import Examination


def examined(model: onnx.ModelProto, file: Path, given: dict[str, Any] | None = None) -> Examination:
    """Probe `model`, with a line of progress. `given` are fields of `KnownFacts`."""
    from sr_deploy.cli.shared.progress import ProgressDisplay
    from sr_deploy.probe.probe import KnownFacts, examine

    with ProgressDisplay("{task.fields[step]}", mark="spinner", elapsed=True) as display:

        def show(step: str) -> None:
            display.show(0, None, f"probing {file.name}", step=step, line=f"probing {file.name}: {step}")

        return examine(model, name=file.stem, given=KnownFacts(**(given or {})), say=show)
