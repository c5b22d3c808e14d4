"""`srresnet`: the residual net for quality, which works at input resolution until its PixelShuffle stages.

It is SRResNet (Ledig et al. 2017, figure 4) without batch normalisation (Lim et al. 2017, EDSR, section 3.1)
and with 3x3 instead of 9x9 convolutions at both ends. Three differences serve deployment: activations may be
bounded to 0..6 for int8, residual weights fold into convolutions, and the skip connection around the net
carries the picture instead of the first features, so no wide tensor has to stay in memory.
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
    """Residual net: [N, channels, H, W] in 0..1 -> [N, channels, H * scale, W * scale], for any H and W.

    It consists of one convolution, `blocks` residual blocks of `features` channels, log2(scale) PixelShuffle
    stages (for x3 one stage of 3) and a last convolution. The halo is `2 * blocks + 3`.

    Args:
      scale: 2, 3, 4 or 8.
      channels: 3 for RGB, 1 for grey.
      features: width of the hidden layers.
      blocks: number of residual blocks.
      residual_weight: weight of the branch of each block.
      learn_residual_weight: make this weight a parameter of each block, which starts there.
      activation: "relu6", "relu" or "leaky_relu".
      residual: upsampling of the skip connection around the net: "nearest", "bilinear" or "bicubic".
      icnr: initialise the convolutions before a PixelShuffle by ICNR.

    Raises UsageError for a value outside its range.
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
        """Return the same function with the residual weights inside the convolutions."""
        return fold(self)
