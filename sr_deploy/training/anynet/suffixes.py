"""Suffixes of files with weights, and what reading them needs. Imports no torch, so that it can be asked without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
"""Suffixes of files with weights. Nets of `sr-deploy train` are .safetensors files, community checkpoints any of them."""


def install_line(net: Any) -> str:
    """Return the command that installs what reading `net` needs: only community checkpoints need spandrel."""
    foreign = Path(str(net)).suffix.lower() in {*CHECKPOINT_SUFFIXES} - {".safetensors"}
    return f'pip install "sr-deploy[{"community" if foreign else "train"}]"'
