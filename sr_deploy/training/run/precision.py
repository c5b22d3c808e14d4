"""What a recipe's precision comes to on the device at hand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from sr_deploy.system.cpu import describe_cpu
from sr_deploy.training.recipe import Recipe

NAMES = {"bf16": "bf16", "fp16": "fp16", "off": "fp32"}
"""Precision of a recipe -> what the forward pass is computed in."""
_CPU_BF16 = {"AVX-512 BF16", "AMX BF16", "BF16"}


def has_precision(wanted: str, device: torch.device, features: Collection[str] | None = None) -> bool:
    """Whether `device` has instructions for a recipe's precision; `features` are a CPU's, else those of this machine.

    Asked of CPUs and bf16 only: without instructions PyTorch emulates it, which on a CPU of AVX2 took many times
    as long as fp32. fp16 on a CPU is left to whoever writes it.
    """
    if wanted != "bf16" or device.type != "cpu":
        return True
    return not _CPU_BF16.isdisjoint(describe_cpu().features if features is None else features)


def with_supported_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """`recipe`, in fp32 where `device` has no instructions for its precision."""
    return recipe if has_precision(recipe.precision, device) else replace(recipe, precision="off")
