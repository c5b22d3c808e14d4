"""Measure the halo of a net in torch: the receptive-field radius, in input pixels.

A tile must read that many pixels around those it keeps. The support of a gradient is measured, not its size.
Weights are replaced by indicators of being non-zero, biases by zeros, and every activation passes a gradient
of 1 wherever a gradient arrives. So no contribution can cancel, vanish in a dead activation, or underflow.
ONNX files of other origin are measured in `sr_deploy.graph`, by perturbing pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sr_deploy.training.nets import size_rule_of
from sr_deploy.training.nets.blocks import fold

_FIRST_PROBE = 32  # input pixels; doubled until the halo fits
_LARGEST_PROBE = 1024  # a net whose halo exceeds half of this counts as global


def measure_halo(net: nn.Module) -> int | None:
    """Return the halo of `net` in input pixels, or None for a net that depends on the whole picture.

    `net` maps [N, channels, H, W] to [N, channels, H * scale, W * scale]. It has the attributes `scale` and
    `channels`, and `multiple_of` where its sizes must be multiples. An output pixel belongs to the input
    pixel it lies in. The halo is the largest over both axes and over all phases of the strides. The net is
    folded first, as at export, so a branch of weight zero does not count.
    """
    halos = [_axis_halo(net, axis) for axis in (2, 3)]
    known = [halo for halo in halos if halo is not None]
    return max(known) if len(known) == len(halos) else None


def _axis_halo(net: nn.Module, axis: int) -> int | None:
    """Return the halo along one axis (2: rows, 3: columns), or None where it exceeds the largest probe.

    The probe is a strip as narrow as the net allows; its length doubles until the halo fits.
    """
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
    """Return the largest distance between a row in the middle and the rows it depends on, over `step` phases.
    Along axis 2 the probe is [step, channels, length, step], with one picture for each phase."""
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
    """Identity whose gradient is 1 wherever any gradient arrives, and 0 elsewhere."""

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
    """Return a folded double-precision copy of `net` whose gradients show dependence only.

    In each row of a kernel along the axis `across`, one non-zero tap sets all of them. In a wide picture the
    row is reached wherever its non-zero taps are; a narrow strip would miss some of them.
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
