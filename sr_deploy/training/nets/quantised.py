"""Quantisation-aware training: convolutions that compute in float what int8 will compute.

Weights are rounded to 8 bits per output channel, as `precision.quantise` stores them: symmetric, with the largest
magnitude at 127. Inputs are rounded to 8 bits per tensor, with zero point 0: to 0..255 where no value is negative
(after ReLU, and for pixels), else to -127..127. The range of an input is learnt with the weights. Gradients pass
through the rounding as if it were not there, and reach a range as in LSQ.

A convolution keeps the names of its weights, and those are the weights before rounding. So a checkpoint is that of a
plain net, and the ranges stand beside the weights, in its metadata.

Sources: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", section 3; Esser et al. 2020, "Learned step size quantization", section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.training.nets.blocks import FoldableConv
from sr_deploy.training.nets.unshuffled import UnshuffledConv

WEIGHT_LEVELS = 127.0
"""Steps on each side of zero for weights, and for inputs that may be negative."""
INPUT_LEVELS = 255.0
"""Steps above zero for inputs that are never negative."""
_STATE = ("log_range", "low", "high")
"""Names of the tensors that a quantised convolution has beside its weights."""
_SMALLEST = 1e-8
"""Smallest step: a channel of zeros needs one above 0 too."""
_SHARES = torch.linspace(0.2, 1.0, 81)
"""Shares of the largest magnitude that are tried as the first range, in steps of 0.01."""
_SAMPLES = 20_000
"""Values on which first ranges are tried."""


class QuantisedInput(nn.Module):
    """Parts of a convolution with a quantised input beside its weights. `quantise` makes it out of a convolution."""

    log_range: nn.Parameter
    """Logarithm of the range. A step of the optimiser then changes a range by a share of itself."""
    low: Tensor
    """Smallest step: 0, or -127."""
    high: Tensor
    """Largest step: 255, or 127; it stands for the range."""
    seen: list[Tensor] | None
    """Inputs that are collected to find the first range; None when computing as int8 does."""

    def add_state(self) -> None:
        """Add the range, which stands at 1 until `set_range`."""
        self.log_range = nn.Parameter(torch.zeros(()))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.tensor(INPUT_LEVELS))
        self.seen = None

    def rounded(self, x: Tensor) -> Tensor:
        """Return `x` in steps of the learned range, clipped to it."""
        if self.seen is not None:
            self.seen.append(x.detach())
            return x
        # A range of exactly 1 is that of pixels. It rounds nothing, so its gradient is 0 and it stays.
        # LSQ scales the gradient down. Both optimisers update a range by Adam, for which its size is no matter, and
        # scaled down it would vanish in Adam's epsilon.
        known = self.log_range.detach()
        step = (known + (self.log_range - known) * (known != 0)).exp() / self.high
        steps = torch.clamp(x / step, self.low, self.high)
        return (steps + (steps.round() - steps).detach()) * step

    @torch.no_grad()
    def set_range(self) -> None:
        """Choose the range with the least squared error on the inputs seen, and begin to round."""
        values = torch.cat([x.flatten() for x in self.seen or []]).float()
        self.seen = None
        lowest, largest = float(values.min()), float(values.abs().max())
        signed = lowest < 0
        self.low.fill_(-WEIGHT_LEVELS if signed else 0.0)
        self.high.fill_(WEIGHT_LEVELS if signed else INPUT_LEVELS)
        some = values[:: max(len(values) // _SAMPLES, 1)]
        ranges = (_SHARES * max(largest, _SMALLEST)).tolist()
        if largest <= 1:
            ranges.append(
                1.0
            )  # pixels of 8 bits are exact with this range, whether or not one of them is white
        errors = [float(_error(some, value / self.high, self.low, self.high)) for value in ranges]
        self.log_range.fill_(ranges[errors.index(min(errors))]).log_()


def _error(values: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the mean squared error of `values` in steps of `step`."""
    return (torch.clamp((values / step).round(), low, high) * step - values).square().mean()


def rounded_weight(weight: Tensor) -> Tensor:
    """Return `weight` [C_out, ...] in steps of a 127th of the largest magnitude of each output channel."""
    largest = weight.detach().abs().flatten(1).amax(dim=1)
    step = (largest / WEIGHT_LEVELS).clamp_min(_SMALLEST).view(-1, *[1] * (weight.ndim - 1))
    return weight + ((weight.detach() / step).round() * step - weight.detach())


class QuantisedConv2d(nn.Conv2d, QuantisedInput):
    """A convolution that rounds its input and its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve as int8 does."""
        result: Tensor = self._conv_forward(self.rounded(x), rounded_weight(self.weight), self.bias)
        return result


class QuantisedUnshuffledConv(UnshuffledConv, QuantisedInput):
    """A convolution behind a PixelUnshuffle that rounds its input and its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Unshuffle and convolve as int8 does."""
        small = F.pixel_unshuffle(self.rounded(x), self.unshuffle)
        result: Tensor = self._conv_forward(small, rounded_weight(self.weight), self.bias)
        return result


class QuantisedFoldableConv(FoldableConv, QuantisedInput):
    """A convolution with branches, that rounds its input and the sum of its branches."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve as int8 does after folding."""
        return F.conv2d(self.rounded(x), rounded_weight(self.kernel()), self.bias, padding=1)


_FORMS: dict[type[nn.Module], type[QuantisedInput]] = {
    nn.Conv2d: QuantisedConv2d,
    UnshuffledConv: QuantisedUnshuffledConv,
    FoldableConv: QuantisedFoldableConv,
}
"""Trained convolution -> its quantised form."""


def quantise(net: nn.Module) -> list[str]:
    """Make every trained convolution of `net` a quantised one, in place. Returns their names.

    Their ranges are unknown until `calibrated`, or until a state is loaded.
    """
    names = []
    for name, module in net.named_modules():
        form = _FORMS.get(type(module))
        if form is None or not any(parameter.requires_grad for parameter in module.parameters()):
            continue
        # The class alone changes, so that weights keep their names and optimisers their parameters.
        module.__class__ = form
        assert isinstance(module, QuantisedInput)
        module.add_state()
        names.append(name)
    return names


def _quantised(net: nn.Module) -> dict[str, QuantisedInput]:
    return {name: module for name, module in net.named_modules() if isinstance(module, QuantisedInput)}


@torch.no_grad()
def calibrate(net: nn.Module, small: Tensor) -> None:
    """Choose the first ranges of a quantised `net` on small pictures [N, C, H, W] in 0..1."""
    modules = _quantised(net).values()
    for module in modules:
        module.seen = []
    net(small)
    for module in modules:
        module.set_range()


def learned_ranges(net: nn.Module) -> dict[str, Any]:
    """Return the ranges of a quantised net: name of a convolution -> {"range", "signed"}; empty for a plain net.

    A value that is not signed lies in 0..range, in 255 steps; a signed one in -range..range, in 127 on each side.
    """
    return {
        name: {"range": float(module.log_range.detach().exp()), "signed": float(module.low) < 0}
        for name, module in _quantised(net).items()
    }


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a net's state without those that quantising added."""
    return {key: value for key, value in tensors.items() if key.rpartition(".")[2] not in _STATE}
