"""Back-projection: its kernels against the test protocol's bicubic shrinking, and the detail it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sr_deploy.images.image import read_image
from sr_deploy.quality.bicubic import imresize
from sr_deploy.training.nets import build_net
from sr_deploy.training.nets.back_projection import (
    BackProjectedChannels,
    NullSpaceProjection,
    enlarging_kernels,
    shrinking_kernels,
)
from sr_deploy.training.nets.blocks import RESIDUALS, SCALES
from tests.paths import EXAMPLE


def noise(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shrunk(large: Tensor, factor: int) -> Tensor:
    """Shrink [C, H, W] by the protocol's bicubic, without rounding."""
    return torch.from_numpy(imresize(large.permute(1, 2, 0).double().numpy(), 1 / factor)).permute(2, 0, 1)


def convolved(x: Tensor, kernels: tuple[Tensor, ...]) -> Tensor:
    for kernel in kernels:
        x = functional.conv2d(x, kernel, padding=(kernel.shape[2] // 2, kernel.shape[3] // 2))
    return x


@pytest.mark.parametrize("scale", SCALES)
def test_the_kernels_are_bicubic_shrinking_and_its_transpose(scale: int) -> None:
    large = noise(3, 11 * scale, 9 * scale, seed=4)
    phases = functional.pixel_unshuffle(large, scale)[None]
    down, across = shrinking_kernels(3, scale)
    inside = functional.conv2d(functional.conv2d(phases, down), across)[0]
    assert torch.allclose(inside, shrunk(large, scale)[:, 2:-2, 2:-2], atol=1e-12)
    small = noise(1, 3, 11, 9, seed=5)
    there = (convolved(phases, (down, across)) * small).sum()
    back = (convolved(small, enlarging_kernels(3, scale)) * phases).sum() / scale**2
    assert torch.isclose(there, back)


@pytest.mark.parametrize("mode", RESIDUALS)
@pytest.mark.parametrize("scale", SCALES)
def test_around_the_net_goes_the_enlarged_picture_and_what_it_lacks(scale: int, mode: str) -> None:
    small = noise(1, 3, 26, 24, seed=6)
    align = {} if mode == "nearest" else {"align_corners": False}
    base = functional.interpolate(small, scale_factor=float(scale), mode=mode, **align)[0]
    lacking = convolved((small[0] - shrunk(base, scale))[None], enlarging_kernels(3, scale))
    expected = base + functional.pixel_shuffle(lacking, scale)[0]
    got = functional.pixel_shuffle(BackProjectedChannels(3, scale, mode)(small), scale)[0]
    inside = slice(7 * scale, -7 * scale)
    assert (got - expected)[:, inside, inside].abs().max() < 5e-4  # the kernel is cut off at radius 4 of 6
    assert (BackProjectedChannels(3, scale, mode)(torch.full((1, 3, 5, 5), 0.7)) - 0.7).abs().max() < 1e-5


@pytest.mark.parametrize("scale", SCALES)
def test_of_what_a_net_draws_little_is_seen_in_the_picture_shrunk_again(scale: int) -> None:
    drawn = noise(1, 3 * scale**2, 30, 30, seed=7).float() - 0.5
    left = NullSpaceProjection(3, scale)(drawn)
    seen = [shrunk(functional.pixel_shuffle(d, scale)[0], scale)[:, 4:-4, 4:-4] for d in (drawn, left)]
    coarse = [functional.avg_pool2d(picture, 4).square().mean().sqrt() for picture in seen]
    assert (
        seen[1].square().mean().sqrt() < 0.6 * seen[0].square().mean().sqrt()
    )  # about half of the finest detail
    assert coarse[1] < 0.2 * coarse[0]
    assert (left - drawn).abs().max() > 0.1


@pytest.mark.parametrize("scale", [2, 4])
def test_a_photograph_enlarged_and_shrunk_again_is_nearer_to_itself(scale: int) -> None:
    pixels = read_image(EXAMPLE).pixels[40:104, 60:124].astype(np.float32) / 255
    small = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    lacking = {}
    for kept in (False, True):
        torch.manual_seed(1)
        net = build_net(
            "rt", scale, {"features": 6, "depth": 2, "residual": "bicubic", "back_projection": kept}
        )
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            again = shrunk(net.eval()(small)[0], scale)
        lacking[kept] = (again - small[0])[:, 9:-9, 9:-9].abs().mean().item()
    assert lacking[True] < 0.5 * lacking[False]


def test_a_net_with_back_projection_has_the_weights_of_one_without() -> None:
    nets = [
        build_net("rt", 2, {"features": 6, "depth": 2, "back_projection": kept}) for kept in (False, True)
    ]
    assert nets[0].state_dict().keys() == nets[1].state_dict().keys()
    folded = [net.fold() for net in nets]  # type: ignore[operator]
    trained = [sum(p.numel() for p in net.parameters() if p.requires_grad) for net in folded]
    assert trained[0] == trained[1]
