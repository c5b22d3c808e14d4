"""Nets that draw random numbers when they run, such as face restorers that add noise.

An ONNX file must give the same picture each time. So the numbers are drawn once, with a fixed seed where their
shape does not depend on the picture, and else replaced by their mean, 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def without_randomness(net: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return `net` itself, or the net with its random numbers replaced, and what was done as sentences."""
    if not draws_numbers(net):
        return net, []
    return _Still(net), ["The net draws random numbers when it runs; the export has their mean, 0, instead."]


def draws_numbers(net: nn.Module) -> bool:
    """True if the code of a module of `net` draws numbers from a normal distribution when it runs.

    The source is searched, because running a net of unknown size rules may fail, and a run may draw only for some sizes.
    """
    import inspect

    kinds = {type(module) for module in net.modules() if not type(module).__module__.startswith("torch.")}
    for kind in kinds:
        try:
            source = inspect.getsource(kind.forward)
        except (OSError, TypeError):  # no source: a compiled or generated module
            continue
        if "randn(" in source or "randn_like(" in source or ".normal_(" in source:
            return True
    return False


class _Still(nn.Module):
    """A net whose normal numbers are all 0."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, H * scale, W * scale]."""
        with _zero_noise():
            result: Tensor = self.net(x)
            return result


@contextmanager
def _zero_noise() -> Iterator[None]:
    """Make torch's normal distribution return zeros."""
    kept = torch.randn, torch.randn_like, Tensor.normal_

    def zeros(*shape: Any, generator: Any = None, **options: Any) -> Tensor:
        return torch.zeros(*shape, **options)

    def zeros_like(x: Tensor, **options: Any) -> Tensor:
        return torch.zeros_like(x, **options)

    def zeroed(x: Tensor, *unused: Any, **options: Any) -> Tensor:
        return x.zero_()

    torch.randn, torch.randn_like, Tensor.normal_ = zeros, zeros_like, zeroed  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.randn, torch.randn_like, Tensor.normal_ = kept  # type: ignore[method-assign]
