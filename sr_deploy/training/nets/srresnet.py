"""`srresnet`: the residual net for quality, at input resolution until its PixelShuffle stages.

Ledig et al. 2017 (SRResNet, figure 4), without batch normalisation (Lim et al. 2017, EDSR, section 3.1),
with 3x3 instead of 9x9 convolutions at both ends. Differences that serve deployment: activations are
bounded to 0..6 for int8, residual weights fold into convolutions, and the skip around the whole net is the
picture itself rather than its first features, which needs no wide tensor kept alive.
"""

from __future__ import annotations

from torch import Tensor, nn

from sr_deploy.training.nets.blocks import (
    ScaleHead,
    activation_of,
    check_counts,
    check_scale,
    conv3x3,
    fold,
    residual_block,
)


class SRResNet(nn.Module):
    """[N, channels, H, W] in 0..1 -> [N, channels, H * scale, W * scale], for any H and W.

    One convolution, `blocks` residual blocks of `features` channels, log2(scale) PixelShuffle stages (x3 is
    one of 3), a last convolution. Each block's branch is weighted by `residual_weight`, a fixed factor, or
    where it starts when `learn_residual_weight` makes it a parameter a block. `residual` is how the picture that goes
    around the net is upsampled: "nearest", "bilinear" or "bicubic". The receptive field's radius
    is `2 * blocks + 3`. Raises UsageError for a value that makes no sense.
    """

    def __init__(
        self,
        scale: int,
        channels: int = 3,
        features: int = 64,
        blocks: int = 8,
        *,
        residual_weight: float = 0.2,
        learn_residual_weight: bool = False,
        activation: str = "relu6",
        residual: str = "nearest",
        icnr: bool = True,
    ) -> None:
        super().__init__()
        check_counts(channels=channels, features=features, blocks=blocks)
        self.scale, self.channels = check_scale(scale), channels
        self.first = conv3x3(channels, features, gain="relu")
        self.activation = activation_of(activation)
        self.body = nn.Sequential(
            *(
                residual_block(features, activation, residual_weight, learned=learn_residual_weight)
                for _ in range(blocks)
            )
        )
        self.head = ScaleHead(scale, channels, features, icnr=icnr, activation=activation, residual=residual)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale."""
        large: Tensor = self.head(self.body(self.activation(self.first(x))), x)
        return large

    def fold(self) -> SRResNet:
        """The same function with the residual weights inside the convolutions."""
        return fold(self)
