"""`unet`: a contracting path, an expanding path with concatenated skips, then the scale head.

It is the U-Net of Ronneberger et al. 2015 with two changes. The way down uses 2x2 convolutions of stride 2,
which do not overlap and read every pixel once (Chen et al. 2022, NAFNet). The way up uses PixelShuffle with
ICNR. So neither path draws a checkerboard. The net has a large halo for its cost: a convolution `levels` down
covers 2**levels times the width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr_deploy.training.nets.blocks import (
    PixelShuffleHead,
    ScaleHead,
    activation_of,
    check_counts,
    check_scale,
    conv3x3,
    fold,
    residual_block,
)


def mirrored_index(length: int, multiple_of: int) -> Tensor:
    """Return the source index of every pixel of an axis of `length` that is padded at its end to a multiple.
    Padding mirrors without repeating the last pixel; where the mirror image ends, its last pixel is repeated.
    The runner pads the same way."""
    index = torch.arange(-(-length // multiple_of) * multiple_of)
    return torch.where(index < length, index, 2 * (length - 1) - index).clamp(min=0)


class Down(nn.Module):
    """Residual blocks, then half the size: [N, C, H, W] -> ([N, 2 C, H / 2, W / 2], skip [N, C, H, W])."""

    def __init__(self, blocks: nn.Module, features: int, activation: nn.Module) -> None:
        super().__init__()
        self.blocks, self.activation = blocks, activation
        self.shrink = nn.Conv2d(features, 2 * features, 2, stride=2)
        nn.init.kaiming_normal_(self.shrink.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smaller features and the skip."""
        skip = self.blocks(x)
        return self.activation(self.shrink(skip)), skip


class Up(nn.Module):
    """PixelShuffle to twice the size, concatenation of the skip, a merging convolution, residual blocks.

    ([N, 2 C, H, W], skip [N, C, 2 H, 2 W]) -> [N, C, 2 H, 2 W].
    """

    def __init__(self, blocks: nn.Module, features: int, activation: nn.Module, *, icnr: bool) -> None:
        super().__init__()
        self.grow = PixelShuffleHead(2 * features, features, 2, icnr=icnr, activation=activation)
        self.merge = conv3x3(2 * features, features, gain="relu")
        self.activation, self.blocks = activation, blocks

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return the larger features."""
        both = torch.cat([self.grow(x), skip], dim=1)
        result: Tensor = self.blocks(self.activation(self.merge(both)))
        return result


class UNet(nn.Module):
    """U-Net: [N, channels, H, W] in 0..1 -> [N, channels, H * scale, W * scale], for any H and W.

    Args:
      scale: 2, 3, 4 or 8.
      channels: 3 for RGB, 1 for grey.
      features: number of channels at the top; every level below has twice as many.
      levels: number of levels below the top; sizes are multiples of `2**levels`.
      blocks: number of weighted residual blocks on every level.
      residual_weight: weight of the branch of each block.
      learn_residual_weight: make this weight a parameter of each block, which starts there.
      activation: "relu6", "relu" or "leaky_relu".
      residual: upsampling of the skip connection around the net: "nearest", "bilinear" or "bicubic".
      icnr: initialise the convolutions before a PixelShuffle by ICNR.

    Sizes that are not multiples of `multiple_of` (2**levels) are padded by mirroring and cropped again. An
    exported net leaves that to its runner, and its size rule says so: the position of the padding decides how
    the strided convolutions align with the picture.

    Raises UsageError for a value outside its range.
    """

    def __init__(
        self,
        scale: int,
        channels: int = 3,
        features: int = 32,
        levels: int = 2,
        blocks: int = 1,
        *,
        residual_weight: float = 0.2,
        learn_residual_weight: bool = False,
        activation: str = "relu6",
        residual: str = "nearest",
        icnr: bool = True,
    ) -> None:
        super().__init__()
        check_counts(channels=channels, features=features, levels=levels, blocks=blocks)
        self.scale, self.channels, self.multiple_of = check_scale(scale), channels, 2**levels

        def stack(width: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    residual_block(width, activation, residual_weight, learned=learn_residual_weight)
                    for _ in range(blocks)
                )
            )

        widths = [features * 2**level for level in range(levels)]
        self.first = conv3x3(channels, features, gain="relu")
        self.activation = activation_of(activation)
        self.down = nn.ModuleList(Down(stack(width), width, activation_of(activation)) for width in widths)
        self.bottom = stack(features * 2**levels)
        self.up = nn.ModuleList(
            Up(stack(width), width, activation_of(activation), icnr=icnr) for width in reversed(widths)
        )
        self.head = ScaleHead(scale, channels, features, icnr=icnr, activation=activation, residual=residual)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale; pad and crop where the size needs it."""
        height, width = x.shape[2:]
        if height % self.multiple_of == 0 and width % self.multiple_of == 0:
            return self._forward(x)
        rows, columns = (mirrored_index(n, self.multiple_of).to(x.device) for n in (height, width))
        result = self._forward(x[:, :, rows][:, :, :, columns])
        return result[:, :, : height * self.scale, : width * self.scale]

    def _forward(self, x: Tensor) -> Tensor:
        """Upscale a picture whose height and width are multiples of `multiple_of`."""
        features, skips = self.activation(self.first(x)), []
        for down in self.down:
            features, skip = down(features)
            skips.append(skip)
        features = self.bottom(features)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            features = up(features, skip)
        large: Tensor = self.head(features, x)
        return large

    def fold(self) -> UNet:
        """Return the same function with the residual weights inside the convolutions."""
        return fold(self)
