"""Nets that draw random numbers when they run, such as face restorers that add noise.

An ONNX file must give the same picture each time. So the numbers are replaced by their mean: 0 for a normal distribution, 0.5 for one of
0 to 1. A net whose pictures still differ, such as one with dropout in use, is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sr_deploy.errors import InputError

_NOTE = "The net draws random numbers when it runs; the export has their mean instead."
_CALLS = ("randn(", "randn_like(", ".normal_(", "torch.rand(", "rand_like(", ".uniform_(")
"""Calls that draw the numbers which `_Still` replaces."""


def steady_net(net: nn.Module, name: str, shape: tuple[int, int, int, int]) -> tuple[nn.Module, list[str]]:
    """Return a net that gives one picture for one picture: `net` itself, or with its random numbers replaced; and what was done.

    `shape` is that of an input that the net takes. Raises InputError for a net whose pictures differ in any case.
    """
    found, notes = without_randomness(net)
    picture = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    if _is_steady(found, picture):
        return found, notes
    found = _Still(net)
    if _is_steady(found, picture):
        return found, [_NOTE]
    raise InputError(
        f"{name}: gives another picture each time it runs, so no file can be checked against it; it draws random numbers, or has "
        "dropout in use: leave that out, or let `self.training` decide about it"
    )


def _is_steady(net: nn.Module, picture: Tensor) -> bool:
    """True if two runs on one picture give the same result."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated calls in the net
        first, second = net(picture), net(picture)
    return bool(torch.allclose(first, second, rtol=0, atol=1e-6, equal_nan=True))


def without_randomness(net: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return `net` itself, or the net with its random numbers replaced, and what was done as sentences."""
    if not draws_numbers(net):
        return net, []
    return _Still(net), [_NOTE]


def draws_numbers(net: nn.Module) -> bool:
    """True if the code of a module of `net` draws numbers when it runs.

    The source is searched, because running a net of unknown size rules may fail, and a run may draw only for some sizes.
    """
    import inspect

    kinds = {type(module) for module in net.modules() if not type(module).__module__.startswith("torch.")}
    for kind in kinds:
        try:
            source = inspect.getsource(kind.forward)
        except (OSError, TypeError):  # no source: a compiled or generated module
            continue
        if any(call in source for call in _CALLS):
            return True
    return False


class _Still(nn.Module):
    """A net whose random numbers are all their mean."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, H * scale, W * scale]."""
        with _mean_numbers():
            result: Tensor = self.net(x)
            return result


@contextmanager
def _mean_numbers() -> Iterator[None]:
    """Make torch's normal and uniform distributions return their mean."""
    places = (
        (torch, "randn"),
        (torch, "randn_like"),
        (Tensor, "normal_"),
        (torch, "rand"),
        (torch, "rand_like"),
        (Tensor, "uniform_"),
    )
    kept = [(place, name, getattr(place, name)) for place, name in places]

    def filled(value: float) -> Any:
        return lambda *shape, generator=None, **options: torch.full(
            tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int | torch.SymInt) else shape,
            value,
            **options,
        )

    def filled_like(value: float) -> Any:
        return lambda x, generator=None, **options: torch.full_like(x, value, **options)

    means: tuple[Any, ...] = (
        *(filled(0.0), filled_like(0.0), lambda x, mean=0.0, std=1.0, **options: x.fill_(mean)),
        *(filled(0.5), filled_like(0.5), lambda x, low=0.0, high=1.0, **options: x.fill_((low + high) / 2)),
    )
    for (place, name), mean in zip(places, means, strict=True):
        setattr(place, name, mean)
    try:
        yield
    finally:
        for place, name, function in kept:
            setattr(place, name, function)
