"""Adapt nets so that a graph can hold them: random numbers, and operations that depend on the values of a picture.

An ONNX file must give the same picture each time. So random numbers are replaced by their mean: 0 for a normal distribution, 0.5 for one of
0 to 1. A net whose pictures still differ, such as one with dropout in use, is refused.

torch leaves open how a sort orders equal values, and its order in 2.14 is none that a graph could repeat. So equal values keep their order,
in the check too.

Some published nets choose a layer, or pixels, by values. `use_tensor_operations` lets them compute the same by operations on whole tensors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from sr_deploy.errors import InputError

_NOTE = "The net draws random numbers when it runs; the export has their mean instead."
_SORT_NOTE = "The net sorts values; equal ones keep their order in the export, which torch leaves open."
_SORTS = ("sort(", "argsort(")
_CALLS = ("randn(", "randn_like(", ".normal_(", "torch.rand(", "rand_like(", ".uniform_(")
"""Calls that draw the numbers which `_Still` replaces."""


def steady_net(net: nn.Module, name: str, shape: tuple[int, int, int, int]) -> tuple[nn.Module, list[str]]:
    """Return a net that gives one picture for one picture: `net` itself, or with its random numbers replaced; and what was done.

    `shape` is that of an input that the net takes. Raises InputError for a net whose pictures differ in any case.
    """
    net, order = with_stable_sorts(net)
    found, notes = without_randomness(net)
    notes += order
    picture = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    if _is_steady(found, picture):
        return found, notes
    found = _Still(net)
    # a net that draws in a way of its own may fail with ours, which is the same to its user
    with suppress(TypeError, ValueError, RuntimeError):
        if _is_steady(found, picture):
            return found, [_NOTE, *order]
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
    if not calls_any(net, _CALLS):
        return net, []
    return _Still(net), [_NOTE]


def with_stable_sorts(net: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return `net` itself, or the net with sorts that keep the order of equal values, and what was done as sentences."""
    if not calls_any(net, _SORTS):
        return net, []
    return _Ordered(net), [_SORT_NOTE]


def calls_any(net: nn.Module, calls: Sequence[str]) -> bool:
    """True if the code of a module of `net` has one of `calls` in its `forward`.

    The source is searched, because running a net of unknown size rules may fail, and a run may make a call only for some sizes.
    """
    import inspect

    kinds = {type(module) for module in net.modules() if not type(module).__module__.startswith("torch.")}
    for kind in kinds:
        try:
            source = inspect.getsource(kind.forward)
        except (OSError, TypeError):  # no source: a compiled or generated module
            continue
        if any(call in source for call in calls):
            return True
    return False


class _Ordered(nn.Module):
    """A net whose sorts keep the order of equal values."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, H * scale, W * scale]."""
        with _stable_sorts():
            result: Tensor = self.net(x)
            return result


@contextmanager
def _stable_sorts() -> Iterator[None]:
    """Make torch's sorts keep the order of equal values."""
    own_sort, own_argsort = torch.sort, torch.argsort
    kept = [(place, name, getattr(place, name)) for place in (torch, Tensor) for name in ("sort", "argsort")]

    def sort(x: Tensor, dim: int = -1, descending: bool = False, **options: Any) -> Any:
        return own_sort(x, dim=dim, descending=descending, stable=True)

    def argsort(x: Tensor, dim: int = -1, descending: bool = False, **options: Any) -> Any:
        return own_argsort(x, dim=dim, descending=descending, stable=True)

    for place, name, _ in kept:
        setattr(place, name, sort if name == "sort" else argsort)
    try:
        yield
    finally:
        for place, name, function in kept:
            setattr(place, name, function)


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
        def make(*shape: Any, size: Any = None, generator: Any = None, **options: Any) -> Tensor:
            whole = len(shape) == 1 and not isinstance(shape[0], int | torch.SymInt)
            sizes = size if size is not None else shape[0] if whole else shape
            return torch.full(tuple(sizes), value, **options)

        return make

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


def use_tensor_operations(net: nn.Module) -> None:
    """Let the modules of SeemoRe and HVI-CIDNet that follow values compute the same on whole tensors.

    SeemoRe's mixtures of experts run only the chosen experts in evaluation. In training mode they run all, with the weight 0 for those not
    chosen, and nothing else in them depends on the mode.
    """
    for module in net.modules():
        kind = type(module).__name__
        if kind == "MoELayer" and hasattr(module, "experts") and hasattr(module, "num_expert"):
            module.training = True
        elif kind == "RGB_HVI" and hasattr(module, "density_k"):
            _replace_hvi(module)


_TINY = 1e-8
"""Number that keeps HVI-CIDNet's divisions and powers defined, as in its own code."""


def _replace_hvi(module: Any) -> None:
    """Replace both colour transforms of HVI-CIDNet, which write to the pixels that a mask selects, by choices between tensors."""
    module.this_k = float(module.density_k)
    module.HVIT = lambda picture: _to_hvi(picture, module.this_k)
    module.PHVIT = lambda picture: (
        _from_hvi(picture, module.this_k) * (module.alpha if module.gated2 else 1.0)
    )
    if module.gated:
        raise InputError(
            "this HVI-CIDNet has its gate open, which no published checkpoint has; export it from its own module"
        )


def _to_hvi(picture: Tensor, k: float) -> Tensor:
    """Map RGB [N, 3, H, W] to horizontal, vertical, intensity (Yan et al., HVI: A New Color Space, CVPR 2025)."""
    red, green, blue = picture[:, 0:1], picture[:, 1:2], picture[:, 2:3]
    value, least = picture.max(1, keepdim=True)[0], picture.min(1, keepdim=True)[0]
    spread = value - least + _TINY
    hue = torch.where(blue == value, 4.0 + (red - green) / spread, 0.0)
    hue = torch.where(green == value, 2.0 + (blue - red) / spread, hue)
    hue = torch.where(red == value, ((green - blue) / spread) % 6, hue)
    hue = torch.where(least == value, 0.0, hue) / 6.0
    saturation = torch.where(value == 0, 0.0, (value - least) / (value + _TINY))
    radius = ((value * 0.5 * math.pi).sin() + _TINY).pow(k) * saturation
    angle = 2.0 * math.pi * hue
    return torch.cat([radius * angle.cos(), radius * angle.sin(), value], dim=1)


def _from_hvi(picture: Tensor, k: float) -> Tensor:
    """Map the result of the net back to RGB [N, 3, H, W]."""
    across, up = (picture[:, axis : axis + 1].clamp(-1, 1) for axis in (0, 1))
    v = picture[:, 2:3].clamp(0, 1)
    strength = ((v * 0.5 * math.pi).sin() + _TINY).pow(k) + _TINY
    across, up = (across / strength).clamp(-1, 1), (up / strength).clamp(-1, 1)
    hue = (torch.atan2(up, across) / (2 * math.pi)) % 1 * 6.0
    s = torch.sqrt(across**2 + up**2).clamp(0, 1)
    sextant = torch.floor(hue)
    f = hue - sextant
    p, q, t = v * (1.0 - s), v * (1.0 - f * s), v * (1.0 - (1.0 - f) * s)
    # a hue that was rounded to a full turn is in no sextant, and black
    black = torch.zeros_like(v)
    colours = ((v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q))
    channels = [black, black, black]
    for number, colour in enumerate(colours):
        channels = [
            torch.where(sextant == number, new, old) for new, old in zip(colour, channels, strict=True)
        ]
    return torch.cat(channels, dim=1)
