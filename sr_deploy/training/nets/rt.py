"""`rt`: the net for real time, a stack of plain 3x3 convolutions and one PixelShuffle.

Plain 3x3 convolutions use hardware best in every precision. The activations are leaky: with ReLU6 most of a
layer's 32 features were dead after a few thousand steps, and the net stayed a decibel below what it can
reach. A skip connection adds the picture itself, upsampled by nearest neighbour, bilinearly or bicubically,
so that the net learns only the difference.
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
from sr_deploy.training.nets.unshuffled import UnshuffledConv, unshuffled_conv


class RT(nn.Module):
    """Real-time net: [N, channels, H, W] in 0..1 -> [N, channels, H * scale, W * scale], for any H and W.

    Args:
      scale: 2, 3, 4 or 8.
      channels: 3 for RGB, 1 for grey.
      features: width of the hidden layers.
      depth: number of convolutions between the first and the last one; the halo is `depth + 2`.
      activation: "leaky_relu", "relu" or "relu6".
      unshuffle: 2 moves every block of 2x2 pixels into channels first, so that the convolutions see a quarter of the pixels; 1 leaves the picture as it is. Height and width must be multiples of it, and `foldable` must be off. The halo is about `unshuffle` times as large.
      residual: upsampling of the skip connection. "nearest" costs a 1x1 convolution, "bilinear" a 3x3 one, "bicubic" a 5x5 one. The later ones start closer to the target, and colours need little more.
      foldable: train with parallel branches; `fold()` gives the plain net that is exported.
      back_projection: with "bicubic", make the large picture, shrunk again, nearly equal to the small one (see `nets.back_projection`). It costs five small fixed convolutions, which grow with `scale**2`, and 4 pixels of halo.
      icnr: initialise the last convolution by ICNR.

    Raises UsageError for a value outside its range.
    """

    def __init__(
        self,
        scale: int,
        channels: int = 3,
        features: int = 32,
        depth: int = 8,
        *,
        unshuffle: int = 1,
        activation: str = "leaky_relu",
        residual: str = "nearest",
        foldable: bool = True,
        back_projection: bool = False,
        icnr: bool = True,
    ) -> None:
        super().__init__()
        check_counts(channels=channels, features=features, depth=depth, unshuffle=unshuffle)
        check_scale(scale)
        if unshuffle > 1 and back_projection:
            raise UsageError(
                f"unshuffle = {unshuffle} cannot be combined with back_projection; leave one of them out"
            )
        self.scale, self.channels, self.residual = scale, channels, residual
        self.multiple_of = unshuffle
        if unshuffle > 1 and foldable:
            raise UsageError(f"unshuffle = {unshuffle} has no branches to fold; set foldable = false")
        factor = scale * unshuffle
        widths = [channels] + [features] * (depth + 1)
        self.body = nn.ModuleList(
            FoldableConv(a, b) if foldable else near_identity(a, b) for a, b in pairwise(widths)
        )
        if unshuffle > 1:
            self.body[0] = UnshuffledConv(channels, features, unshuffle)
        self.activation = activation_of(activation)
        self.around = (
            BackProjectedChannels(channels, scale, residual)
            if back_projection
            else upsampled_channels(residual, channels, scale, unshuffle)
        )
        self.unseen = NullSpaceProjection(channels, scale) if back_projection else nn.Identity()
        self.head = nn.Conv2d(features, channels * factor**2, 3, padding=1)
        if icnr:
            icnr_(self.head.weight, scale, unshuffle)
        with torch.no_grad():
            self.head.weight.mul_(0.1)  # so that the net starts close to the upsampled picture
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale."""
        features = x
        for conv in self.body:
            features = self.activation(conv(features))
        detail = self.unseen(self.head(features))
        # Added before the shuffle, so that one shuffle serves both.
        return F.pixel_shuffle(detail + self.around(x), self.scale * self.multiple_of)

    def fold(self) -> RT:
        """Return the same function with one plain convolution in place of every set of branches."""
        return fold(self)

    @property
    def depth(self) -> int:
        """Number of convolutions between the first and the last one."""
        return len(self.body) - 1

    @torch.no_grad()
    def deepened(self, depth: int) -> RT:
        """Return a copy with `depth` convolutions, for a net without branches.

        The new convolutions start near the identity and stand three quarters of the way through, so that
        training continues nearly where it was. The idea is from Chen et al. 2016, "Net2Net", section 2.2. The
        copy is not exact, because each new activation weakens negative features.

        Raises UsageError for a net that is deeper already, or that has branches.
        """
        added = depth - self.depth
        if added < 0 or any(isinstance(conv, FoldableConv) for conv in self.body):
            raise UsageError(
                f"only a net without branches and of at most {depth} convolutions can be deepened to {depth}; this one "
                f"has {self.depth}"
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

    @torch.no_grad()
    def widened(self, features: int) -> RT:
        """Return a net with `features` features that computes the same, for a net without branches.

        Every hidden convolution gets new channels, which see the old ones and one another. The old channels and the
        last convolution do not see them at first: those weights are zeros, which training can use. The idea is
        from Chen et al. 2016, "Net2Net", section 2.1; there, new channels are copies of old ones.

        Raises UsageError for a net that is wider already, or that has branches or a PixelUnshuffle.
        """
        width = self.head.in_channels
        convs = [conv for conv in self.body if isinstance(conv, nn.Conv2d)]
        if features < width or self.multiple_of > 1 or len(convs) < len(self.body):
            raise UsageError(
                f"only a net without branches, without an unshuffle and of at most {features} features can be widened "
                f"to {features}; this one has {width}"
            )
        net = copy.deepcopy(self)
        for index, conv in enumerate(convs):
            wide = near_identity(self.channels if index == 0 else features, features)
            if index:
                wide.weight[:width, width:] = 0
            _put(conv, wide)
            net.body[index] = wide
        net.head = nn.Conv2d(features, self.head.out_channels, 3, padding=1)
        nn.init.zeros_(net.head.weight)
        _put(self.head, net.head)
        return net

    @torch.no_grad()
    def behind_unshuffle(self, unshuffle: int) -> RT:
        """Return a net that computes the same behind a PixelUnshuffle, with `unshuffle**2` times the features.

        Three quarters or more of its weights are zeros, which training can use. The picture is added by nearest
        neighbour. Raises UsageError for a net that has branches, back-projection or a PixelUnshuffle already.
        """
        convs = [conv for conv in self.body if isinstance(conv, nn.Conv2d)]
        if self.multiple_of > 1 or len(convs) < len(self.body) or not isinstance(self.unseen, nn.Identity):
            raise UsageError("only a plain net without an unshuffle can be put behind one")
        net = RT(
            self.scale,
            self.channels,
            self.head.in_channels * unshuffle**2,
            self.depth,
            unshuffle=unshuffle,
            foldable=False,
        )
        for mine, conv in zip(net.body, convs, strict=True):
            mine.load_state_dict(unshuffled_conv(conv, unshuffle).state_dict())
        net.head.load_state_dict(unshuffled_conv(self.head, unshuffle, factor=self.scale).state_dict())
        net.activation = copy.deepcopy(self.activation)
        return net


def _put(conv: nn.Conv2d, wide: nn.Conv2d) -> None:
    """Copy the weights of `conv` into the first channels of `wide`."""
    wide.weight[: conv.out_channels, : conv.in_channels] = conv.weight
    assert conv.bias is not None
    assert wide.bias is not None
    wide.bias[: conv.out_channels] = conv.bias
