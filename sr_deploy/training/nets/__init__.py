"""The nets, by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from sr_deploy.errors import UsageError
from sr_deploy.spec import SizeRule
from sr_deploy.training.nets.rt import RT
from sr_deploy.training.nets.srresnet import SRResNet
from sr_deploy.training.nets.unet import UNet

NETS: dict[str, type[nn.Module]] = {"rt": RT, "srresnet": SRResNet, "unet": UNet}
"""Name of an architecture in a recipe -> class. Every class takes the scale first."""


def build_net(architecture: str, scale: int, parameters: Mapping[str, Any]) -> nn.Module:
    """Return a net with fresh weights on the CPU.

    Raises UsageError for an unknown architecture, or for a parameter that it does not take.
    """
    if architecture not in NETS:
        raise UsageError(f"unknown architecture {architecture!r}; known: {', '.join(sorted(NETS))}")
    known = [name for name in inspect.signature(NETS[architecture]).parameters if name != "scale"]
    for name in parameters:
        if name not in known:
            raise UsageError(
                f"{architecture} does not take the parameter {name!r}; it takes {', '.join(known)}"
            )
    try:
        return NETS[architecture](scale, **parameters)
    except TypeError as error:
        raise UsageError(
            f"{architecture} does not take these parameters {dict(parameters)}: {error}"
        ) from error


def size_rule_of(net: nn.Module) -> SizeRule:
    """Return the rule for the input sizes that `net` takes without padding them itself."""
    return SizeRule(multiple_of=int(getattr(net, "multiple_of", 1)))
