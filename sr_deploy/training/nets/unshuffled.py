"""Convolutions behind a PixelUnshuffle: the first one, and such that do what convolutions of the whole picture do.

With the latter a net can so start with all that another one has learnt and has the square of `unshuffle` times as many weights.
Source of the idea: Chen et al. 2016, "Net2Net: Accelerating learning via knowledge transfer", section 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.training.nets.blocks import Folding, near_identity, strided_kernel


class UnshuffledConv(nn.Conv2d, Folding):
    """A PixelUnshuffle and a 3x3 convolution of its result, trained with those weights.

    `fold()` gives one convolution with a stride, because runtimes have no operator of the order of PyTorch's
    PixelUnshuffle, and moving bytes costs more than the multiplications. [N, C, H, W] -> [N, C_out, H / unshuffle, W /
    unshuffle].
    """

    def __init__(self, channels: int, out_channels: int, unshuffle: int) -> None:
        super().__init__(channels * unshuffle**2, out_channels, 3, padding=1)
        self.unshuffle = unshuffle
        self.load_state_dict(near_identity(self.in_channels, out_channels).state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Unshuffle and convolve."""
        return super().forward(F.pixel_unshuffle(x, self.unshuffle))

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        """Return the same function as a convolution with kernel `3 * unshuffle` and stride `unshuffle`."""
        kernel = strided_kernel(self.weight, self.unshuffle)
        side, step = kernel.shape[-1], self.unshuffle
        conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], side, stride=step, padding=step)
        conv.weight.copy_(kernel)
        assert conv.bias is not None
        assert self.bias is not None
        conv.bias.copy_(self.bias)
        return conv


@torch.no_grad()
def unshuffled_conv(conv: nn.Conv2d, unshuffle: int, *, factor: int = 1) -> nn.Conv2d:
    """Return the 3x3 convolution that does behind a PixelUnshuffle what the 3x3 convolution `conv` does to the
    whole picture, also at its borders.

    It has `unshuffle**2` times as many channels at both ends, in the order of PixelUnshuffle. Where PixelShuffle by
    `factor` follows `conv`, PixelShuffle by `factor * unshuffle` follows the result.
    """
    kernel = _unshuffled_kernel(conv.weight, unshuffle, factor)
    result = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
    assert conv.bias is not None
    assert result.bias is not None
    result.weight.copy_(kernel)
    level = conv.bias[:, None, None].expand(-1, unshuffle, unshuffle)
    result.bias.copy_(F.pixel_unshuffle(F.pixel_shuffle(level, factor), unshuffle * factor).flatten())
    return result


def _unshuffled_kernel(kernel: Tensor, unshuffle: int, factor: int) -> Tensor:
    """Return the kernel [C_out * unshuffle**2, C_in * unshuffle**2, 3, 3] of `unshuffled_conv`, read off its answers
    to single bright pixels."""
    count, middle = kernel.shape[1] * unshuffle**2, 2
    impulses = torch.zeros(count, count, 2 * middle + 1, 2 * middle + 1, dtype=kernel.dtype)
    impulses[range(count), range(count), middle, middle] = 1
    answers = F.conv2d(F.pixel_shuffle(impulses, unshuffle), kernel, padding=1)
    blocks = F.pixel_unshuffle(F.pixel_shuffle(answers, factor), unshuffle * factor)
    # Mirrored, because a convolution module correlates.
    return blocks[..., middle - 1 : middle + 2, middle - 1 : middle + 2].flip(2, 3).transpose(0, 1)
