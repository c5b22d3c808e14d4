"""ICNR: a freshly initialised PixelShuffle convolution is nearest-neighbour upsampling of one convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.errors import UsageError
from sr_deploy.training.nets import build_net
from sr_deploy.training.nets.blocks import PixelShuffleHead, icnr_

SMALL = {"rt": {"features": 6, "depth": 2}, "srresnet": {"features": 6, "blocks": 1}, "unet": {"features": 4}}


def nearest(x: Tensor, factor: int) -> Tensor:
    return x.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def shuffling_convolutions(net: nn.Module) -> dict[str, tuple[nn.Conv2d, int]]:
    """Return every convolution of `net` whose output is shuffled, with its factor, by name."""
    found = {
        name: (module.conv, module.factor)
        for name, module in net.named_modules()
        if isinstance(module, PixelShuffleHead)
    }
    if hasattr(net, "head") and isinstance(net.head, nn.Conv2d):
        found["head"] = (net.head, net.scale)
    return found  # type: ignore[return-value]


def checkered(conv: nn.Conv2d, factor: int) -> float:
    """Return the largest difference between the shuffled convolution and nearest-neighbour upsampling of the
    convolution made of the first kernel of every group."""
    x = torch.rand(2, conv.in_channels, 7, 9, dtype=torch.float64)
    weight, bias = conv.weight.detach().double(), conv.bias.detach().double()  # type: ignore[union-attr]
    one = F.conv2d(x, weight[:: factor**2], bias[:: factor**2], padding=1)
    shuffled = F.pixel_shuffle(F.conv2d(x, weight, bias, padding=1), factor)
    return float((shuffled - nearest(one, factor)).abs().max())


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_every_head_of_every_net_starts_as_nearest_neighbour_upsampling(
    architecture: str, scale: int
) -> None:
    torch.manual_seed(0)
    heads = shuffling_convolutions(build_net(architecture, scale, SMALL[architecture]))
    stages = {"rt": 1, "srresnet": 1 if scale == 3 else scale.bit_length() - 1}
    assert len(heads) == stages.get(architecture, stages["srresnet"] + 2)
    for conv, factor in heads.values():
        assert checkered(conv, factor) < 1e-12


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_without_icnr_every_head_starts_as_a_checkerboard(architecture: str) -> None:
    torch.manual_seed(0)
    net = build_net(architecture, 4, SMALL[architecture] | {"icnr": False})
    for conv, factor in shuffling_convolutions(net).values():
        assert checkered(conv, factor) > 1e-2


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_a_fresh_head_gives_one_value_a_cell_to_the_bit(factor: int) -> None:
    torch.manual_seed(0)
    head = PixelShuffleHead(5, 4, factor, activation=nn.ReLU6())
    with torch.no_grad():
        large = head(torch.randn(1, 5, 11, 6))
    assert large.shape == (1, 4, 11 * factor, 6 * factor)
    assert torch.equal(large, nearest(large[:, :, ::factor, ::factor], factor))


@pytest.mark.parametrize("scale", [2, 4])
def test_the_whole_real_time_net_starts_without_a_checkerboard(scale: int) -> None:
    torch.manual_seed(0)
    net = build_net("rt", scale, SMALL["rt"])
    with torch.no_grad():
        large = net(torch.rand(1, 3, 8, 8))
    assert torch.equal(large, nearest(large[:, :, ::scale, ::scale], scale))


def test_icnr_kernels_differ_between_channels_and_have_the_variance_of_he_initialisation() -> None:
    torch.manual_seed(0)
    weight = icnr_(torch.empty(64 * 4, 64, 3, 3), 2)
    assert not torch.equal(weight[0], weight[4])
    assert float(weight.var()) == pytest.approx(1 / (64 * 9), rel=0.05)


def test_channels_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 9"):
        icnr_(torch.empty(16, 3, 3, 3), 3)
