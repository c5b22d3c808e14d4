"""Choose the precision of a training: the recipe's, or fp32 where the device has no instructions for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from sr_deploy.system.cpu import describe_cpu
from sr_deploy.training.recipe import Recipe

NAMES = {"bf16": "bf16", "fp16": "fp16", "off": "fp32"}
"""Precision of a recipe -> name of the precision of the forward pass."""
_CPU_BF16 = {"AVX-512 BF16", "AMX BF16", "BF16"}
"""Names of CPU features with bf16 instructions, on x86 and ARM."""


def has_precision(wanted: str, device: torch.device, features: Collection[str] | None = None) -> bool:
    """Return whether `device` has instructions for a recipe's precision. `features` are those of a CPU; None stands
    for this machine's. Only bf16 on CPUs is checked: without instructions PyTorch emulates it, which took
    many times as long as fp32 on a CPU with AVX2. fp16 on a CPU is not checked."""
    if wanted != "bf16" or device.type != "cpu":
        return True
    return not _CPU_BF16.isdisjoint(describe_cpu().features if features is None else features)


def with_supported_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """Return `recipe`, changed to fp32 where `device` has no instructions for its precision."""
    return recipe if has_precision(recipe.precision, device) else replace(recipe, precision="off")
