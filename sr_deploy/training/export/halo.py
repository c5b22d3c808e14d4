"""The receptive-field halo of a net, measured in torch: what a tile must read around what it keeps.

The support of a gradient is measured, not its size: weights become their indicators, biases go, and
activations pass 1 wherever any gradient arrives, so that nothing cancels, dies or underflows. Foreign ONNX
files are measured elsewhere (`sr_deploy.graph`), by perturbing pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sr_deploy.training.nets import size_rule_of
from sr_deploy.training.nets.blocks import fold

_FIRST_PROBE = 32
_LARGEST_PROBE = 1024  # a net that sees farther than half of this is called global


def measure_halo(net: nn.Module) -> int | None:
    """Radius in input pixels beyond which no input changes an output pixel of `net`; None where it is global.

    `net` maps [N, channels, H, W] to [N, channels, H * scale, W * scale] and has the attributes `scale` and
    `channels`, and `multiple_of` where sizes must divide. An output pixel belongs to the input pixel it lies
    in; the halo is the largest over both axes and every phase of the strides. What is folded at export
    is folded here too, so a branch whose weight is zero counts for nothing.
    """
    halos = [_axis_halo(net, axis) for axis in (2, 3)]
    known = [halo for halo in halos if halo is not None]
    return max(known) if len(known) == len(halos) else None


def _axis_halo(net: nn.Module, axis: int) -> int | None:
    """The halo along one axis, on strips as narrow as the net allows, longer until it fits in."""
    step = size_rule_of(net).multiple_of
    indicator = _indicator_net(net, across=5 - axis)
    length = -(-_FIRST_PROBE // step) * step
    while length <= _LARGEST_PROBE:
        halo = _halo_in_probe(indicator, axis, length, step)
        if halo < length // 2 - step:
            return halo
        length *= 2
    return None


def _halo_in_probe(net: Any, axis: int, length: int, step: int) -> int:
    """How far the rows that a row in the middle depends on lie from it, at most, over `step` phases.

    Along axis 2 the probe is [step, channels, length, step]: one picture for each phase.
    """
    shape = [step, net.channels, length, step] if axis == 2 else [step, net.channels, step, length]
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()
    result = net(probe)
    middle = length // 2 // step * step
    selected = torch.zeros_like(result)
    for phase in range(step):
        start = (middle + phase) * net.scale
        selected[phase].narrow(axis - 1, start, net.scale).fill_(1.0)
    (gradient,) = torch.autograd.grad(result, probe, selected)
    halo = 0
    for phase in range(step):
        touched = gradient[phase].abs().amax(dim=(0, 4 - axis)).nonzero()
        if len(touched):
            halo = max(halo, int((touched - middle - phase).abs().max()))
    return halo


class _UnitGradient(torch.autograd.Function):
    """Identity forwards; backwards 1 wherever any gradient arrives."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return (gradient != 0).to(gradient.dtype)


_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardtanh, nn.Sigmoid, nn.Tanh,
)  # fmt: skip


def _indicator_net(net: nn.Module, *, across: int) -> nn.Module:
    """A copy of `net`, folded, in double precision, through which support travels and nothing else.

    Along the axis `across` every tap of a row of a kernel counts for the whole row: in a wide picture
    the row would be reached whatever its taps' places, and this makes it so in a strip.
    """
    indicator = fold(net).double().eval().requires_grad_(False)
    for module in indicator.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            used = (module.weight != 0).amax(dim=across, keepdim=True)
            module.weight.copy_(used.expand_as(module.weight))
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, _ACTIVATIONS):
            module.forward = _UnitGradient.apply  # type: ignore[method-assign]
        elif isinstance(module, nn.MaxPool2d):
            pool = nn.AvgPool2d(module.kernel_size, module.stride, module.padding)
            module.forward = pool.forward  # type: ignore[method-assign]
    return indicator
