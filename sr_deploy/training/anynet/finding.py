"""From what the user names to a `SourceNet`: the five ways in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from sr_deploy.errors import InputError
from sr_deploy.training.anynet.community import load_community
from sr_deploy.training.anynet.database import PREFIX, database_source
from sr_deploy.training.anynet.modules import (
    StatedFacts,
    exported_source,
    factory_source,
    is_reference,
    module_source,
    program_source,
)
from sr_deploy.training.anynet.source import SourceNet
from sr_deploy.training.anynet.suffixes import CHECKPOINT_SUFFIXES


def is_own_checkpoint(path: Path) -> bool:
    """True for what `sr-deploy train` wrote: the folder of a run, or a safetensors file with our metadata."""
    if path.is_dir():
        return True
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "sr_deploy" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def find_source(
    what: str | Path | nn.Module | Any,
    stated: StatedFacts,
    *,
    extra: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> SourceNet:
    """Return the source that `what` is: a module, a program, a factory's name, or a file with weights or a program.

    Raises InputError and UsageError with what to do.
    """
    if isinstance(what, nn.Module):
        return module_source(what, stated)
    if not isinstance(what, str | Path):
        return exported_source(what, stated, name=stated.name or "program")
    text, path = str(what), Path(what)
    if text.startswith(PREFIX):
        return database_source(text, extra=extra, say=say)
    if is_reference(text):
        return factory_source(text, stated)
    if path.suffix.lower() == ".pt2":
        return program_source(path, stated)
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        return load_community(path, extra=extra)
    raise InputError(
        f"{text}: expected a checkpoint ({', '.join(CHECKPOINT_SUFFIXES)}), a program (.pt2), openmodeldb:NAME, a Python file, package.module:factory or the folder of a run"
    )
