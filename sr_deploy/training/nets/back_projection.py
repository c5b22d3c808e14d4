"""Back-projection, as fixed convolutions before PixelShuffle: a large picture that shrinks to the small one, nearly.

What the small picture tells of the large one by itself is put in, and what a net draws loses that part. One step, with
the transpose of bicubic shrinking in place of its inverse: what is coarser than some four small pixels is kept, of the
finest detail about half. Shrinking repeats the large picture's border; here the small picture's is repeated and nothing
is drawn beyond it, so the outermost pixels are kept less well.

Sources: Irani and Peleg 1991, "Improving resolution by image registration" (iterated there); Wang et al. 2023, "GAN
prior based null-space learning for consistent super-resolution" (averages and their exact inverse there).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.quality.bicubic import imresize
from sr_deploy.training.nets.blocks import Folding, Residual, way_around

_SHRINK_RADIUS = 2  # small pixels that bicubic shrinking reaches to either side, at every factor
_BASE_RADIUS = 4  # of what goes around the net: beyond lies less than 1e-3 of its weight


def shrinking_taps(factor: int) -> Tensor:
    """Bicubic shrinking of a line by `factor`, as `quality.bicubic` does it without rounding: [5, factor], float64, the
    weights of the large pixels by the small pixel they lie in and their place there."""
    side = 2 * _SHRINK_RADIUS + 1
    far = side + 2 * _SHRINK_RADIUS  # no border near
    line = torch.from_numpy(imresize(np.eye(far * factor), size=(far, far * factor)))[far // 2]
    return line[_SHRINK_RADIUS * factor : -_SHRINK_RADIUS * factor].reshape(side, factor)


def shrinking_kernels(channels: int, factor: int) -> tuple[Tensor, Tensor]:
    """Bicubic shrinking of a picture that is still to be shuffled, down and then across, in float64:
    [C * factor, C * factor**2, 5, 1] and [C, C * factor, 1, 5]."""
    taps = shrinking_taps(factor)
    place = torch.eye(factor, dtype=taps.dtype)
    colour = torch.eye(channels, dtype=taps.dtype)
    down = torch.einsum("cd,qr,yp->cqdpry", colour, place, taps)
    across = torch.einsum("cd,xq->cdqx", colour, taps)
    side = len(taps)
    return (
        down.reshape(channels * factor, channels * factor**2, side, 1),
        across.reshape(channels, channels * factor, 1, side),
    )


def enlarging_kernels(channels: int, factor: int) -> tuple[Tensor, Tensor]:
    """`shrinking_kernels` transposed, the last first, each times `factor`, so that a level picture stays level."""
    down, across = (factor * k.transpose(0, 1).flip(2, 3) for k in shrinking_kernels(channels, factor))
    return across, down


class UnseenDetail(Folding):
    """`x - up(down(x))`: takes out of the detail that a net draws what would still be seen in the picture shrunk again.

    Nothing in it is trained.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        first, last = enlarging_kernels(channels, factor)
        kernels = (
            *shrinking_kernels(channels, factor),
            first,
            -last,
        )  # minus: so that it folds to a plain residual
        for number, kernel in enumerate(kernels):
            self.register_buffer(f"kernel_{number}", kernel.float(), persistent=False)

    def _kernels(self) -> list[Tensor]:
        return [self.get_buffer(f"kernel_{number}") for number in range(4)]

    def forward(self, x: Tensor) -> Tensor:
        """[N, C * factor**2, H, W] -> the same, not in half precision under autocast either."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self._kernels()[0].dtype)
            return x + _convolved(x, self._kernels())

    @torch.no_grad()
    def fold(self) -> Residual:
        """The same as four convolutions without parameters to train."""
        return Residual(nn.Sequential(*(_fixed(kernel, keep_size=True) for kernel in self._kernels())))


class BackProjectedChannels(Folding):
    """What PixelShuffle turns into the picture upsampled by `mode`, plus what that lacks to be the picture again when
    shrunk, upsampled; borders repeated. One fixed kernel of 9x9."""

    def __init__(self, channels: int, factor: int, mode: str) -> None:
        super().__init__()
        self.kernel: Tensor
        self.register_buffer("kernel", self._kernel_of(channels, factor, mode), persistent=False)

    @staticmethod
    @torch.no_grad()
    def _kernel_of(channels: int, factor: int, mode: str) -> Tensor:
        """[C * factor**2, C, 9, 9]: the answers to an impulse in each of the colours, turned round."""
        middle = 3 * _BASE_RADIUS
        side = 2 * middle + 1
        impulses = torch.zeros(channels, channels, side, side, dtype=torch.float64)
        impulses[range(channels), range(channels), middle, middle] = 1
        base = way_around(mode, channels, factor)(impulses)
        lacking = impulses - _convolved(base, shrinking_kernels(channels, factor))
        answers = base + _convolved(lacking, enlarging_kernels(channels, factor))
        near = slice(middle - _BASE_RADIUS, middle + _BASE_RADIUS + 1)
        kernel = answers[..., near, near].flip(2, 3).transpose(0, 1)
        level: Tensor = kernel / kernel.sum(dim=(1, 2, 3), keepdim=True)  # a level picture stays level
        return level.float()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C * factor**2, H, W], not in half precision under autocast either."""
        with torch.autocast(x.device.type, enabled=False):
            framed = F.pad(x.to(self.kernel.dtype), (_BASE_RADIUS,) * 4, mode="replicate")
            return F.conv2d(framed, self.kernel)

    @torch.no_grad()
    def fold(self) -> nn.Sequential:
        """The same as a convolution of the picture with repeated borders."""
        return nn.Sequential(nn.ReplicationPad2d(_BASE_RADIUS), _fixed(self.kernel, keep_size=False))


def _convolved(x: Tensor, kernels: Iterable[Tensor]) -> Tensor:
    for kernel in kernels:
        x = F.conv2d(x, kernel, padding="same")
    return x


def _fixed(kernel: Tensor, *, keep_size: bool) -> nn.Conv2d:
    """A convolution whose kernel is no parameter to train."""
    size = (kernel.shape[2], kernel.shape[3])
    padding = (size[0] // 2, size[1] // 2) if keep_size else (0, 0)
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], size, padding=padding, bias=False)
    conv.weight.copy_(kernel)
    return conv.requires_grad_(False)
