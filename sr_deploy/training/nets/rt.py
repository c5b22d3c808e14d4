"""`rt`: the net for real time. Plain 3x3 convolutions, leaky activations, one PixelShuffle.

Plain 3x3 convolutions reach the hardware's limit in every precision. The activations leak: with ReLU6 most of
a layer's 32 features were dead after a few thousand steps, and the net stayed a decibel short of what it
can do. The picture itself goes around the net, upsampled by nearest neighbour, bilinearly or
bicubically, so the net only learns what that lacks.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.errors import UsageError
from sr_deploy.training.nets.back_projection import BackProjectedChannels, NullSpaceProjection
from sr_deploy.training.nets.blocks import (
    FoldableConv,
    activation_of,
    check_counts,
    check_scale,
    fold,
    icnr_,
    near_identity,
    upsampled_channels,
)


class RT(nn.Module):
    """[N, channels, H, W] in 0..1 -> [N, channels, H * scale, W * scale], for any H and W.

    `features` wide, `depth` convolutions between the first and the last one, so the receptive field's radius
    is `depth + 2`. `residual` is what goes around the net: "nearest" costs a 1x1 convolution, "bilinear" a 3x3
    one, "bicubic" a 5x5 one; each starts closer to the picture, and colours need little more. `foldable` trains with parallel
    branches; `fold()` gives the plain net that is exported. `back_projection`, with "bicubic": the large
    picture, shrunk again, is nearly the small one (`nets.back_projection`). That costs five small fixed convolutions, which
    grow with `scale**2`, and a radius of 4 more.
    Raises UsageError for a value that makes no sense.
    """

    def __init__(
        self,
        scale: int,
        channels: int = 3,
        features: int = 32,
        depth: int = 8,
        *,
        activation: str = "leaky_relu",
        residual: str = "nearest",
        foldable: bool = True,
        back_projection: bool = False,
        icnr: bool = True,
    ) -> None:
        super().__init__()
        check_counts(channels=channels, features=features, depth=depth)
        self.scale, self.channels, self.residual = check_scale(scale), channels, residual
        widths = [channels] + [features] * (depth + 1)
        self.body = nn.ModuleList(
            FoldableConv(a, b) if foldable else near_identity(a, b) for a, b in pairwise(widths)
        )
        self.activation = activation_of(activation)
        self.around = (
            BackProjectedChannels(channels, scale, residual)
            if back_projection
            else upsampled_channels(residual, channels, scale)
        )
        self.unseen = NullSpaceProjection(channels, scale) if back_projection else nn.Identity()
        self.head = nn.Conv2d(features, channels * scale**2, 3, padding=1)
        if icnr:
            icnr_(self.head.weight, scale)
        with torch.no_grad():
            self.head.weight.mul_(0.1)  # starts near what goes around
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale."""
        features = x
        for conv in self.body:
            features = self.activation(conv(features))
        detail = self.unseen(self.head(features))
        # added before the shuffle, which then moves both at once
        return F.pixel_shuffle(detail + self.around(x), self.scale)

    def fold(self) -> RT:
        """The same function with one plain convolution in place of every set of branches."""
        return fold(self)

    @property
    def depth(self) -> int:
        """Convolutions between the first and the last one."""
        return len(self.body) - 1

    @torch.no_grad()
    def deepened(self, depth: int) -> RT:
        """A copy of `depth`, for a net without branches: the new convolutions are near-identities, three quarters of
        the way through, so that training goes on nearly where it was (the idea: Chen et al. 2016, "Net2Net",
        section 2.2; the activation that each brings along lets less of the negative features through).

        Raises UsageError for a net that is deeper already, or has branches.
        """
        added = depth - self.depth
        if added < 0 or any(isinstance(conv, FoldableConv) for conv in self.body):
            raise UsageError(
                f"only a net without branches, and no deeper than {depth}, can be made {depth} deep"
            )
        net = copy.deepcopy(self)
        for _ in range(added):
            place = 3 * len(net.body) // 4
            width = net.head.in_channels
            conv = nn.Conv2d(width, width, 3, padding=1)
            nn.init.dirac_(conv.weight).add_(0.01 * torch.randn_like(conv.weight))
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            net.body.insert(place, conv)
        return net
