"""Describe a checkpoint for `info`, without running or exporting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sr_deploy.system.files import digest_of
from sr_deploy.training.anynet.community import load_community
from sr_deploy.training.anynet.finding import is_own_checkpoint
from sr_deploy.training.checkpoint import find_checkpoint, read_checkpoint


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """Return facts of a checkpoint of our own, or of a community one, in the order to print them.

    Raises InputError for a file that is neither, MissingRuntimeError without spandrel.
    """
    if is_own_checkpoint(path):
        info, tensors = read_checkpoint(find_checkpoint(path))
        return {
            "name": info.name,
            "architecture": info.architecture,
            "scale": info.scale,
            **info.parameters,
            "weights": sum(tensor.numel() for tensor in tensors.values()),
            "sha256": digest_of(find_checkpoint(path)),
        }
    source = load_community(path)
    rule = source.rule
    return {
        "name": source.name,
        "architecture": source.architecture,
        "scale": source.scale,
        "channels": source.channels,
        "purpose": source.parameters["purpose"],
        "tags": source.parameters["tags"],
        "minimum": rule.minimum,
        "multiple_of": rule.multiple_of,
        "square": source.square,
        "tiling": source.tiling,
        "precisions": sorted(source.precisions),
        "weights": sum(weight.numel() for weight in source.net.parameters()),
        "sha256": source.sha256,
    }
