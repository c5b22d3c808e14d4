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
from sr_deploy.training.nets.blocks import (
    Folding,
    Residual,
    fixed_conv,
    impulses,
    kernel_of,
    upsampled_channels,
)

_SHRINK_RADIUS = 2  # small pixels that bicubic shrinking reaches to either side, at every factor
_KERNEL_RADIUS = 4  # of what goes around the net: beyond lies less than 1e-3 of its weight


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


class NullSpaceProjection(Folding):
    """`x - up(down(x))`: takes out of the detail that a net draws what would still be seen in the picture shrunk again.

    Nothing in it is trained.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        first, last = enlarging_kernels(channels, factor)
        # the last one negated: so it folds to a plain residual
        for number, kernel in enumerate((*shrinking_kernels(channels, factor), first, -last)):
            self.register_buffer(f"kernel_{number}", kernel.float(), persistent=False)

    def _kernels(self) -> list[Tensor]:
        return [self.get_buffer(f"kernel_{number}") for number in range(4)]

    def forward(self, x: Tensor) -> Tensor:
        """[N, C * factor**2, H, W] -> the same, not in half precision under autocast either."""
        kernels = self._kernels()
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(kernels[0].dtype)
            return x + _apply_kernels(x, kernels)

    def fold(self) -> Residual:
        """The same as four convolutions without parameters to train."""
        return Residual(nn.Sequential(*map(fixed_conv, self._kernels())))


class BackProjectedChannels(Folding):
    """What PixelShuffle turns into the picture upsampled by `mode`, plus what that lacks to be the picture again when
    shrunk, upsampled; borders repeated. One fixed kernel of 9x9."""

    def __init__(self, channels: int, factor: int, mode: str) -> None:
        super().__init__()
        self.kernel: Tensor
        base = upsampled_channels(mode, channels, factor)
        shrink, enlarge = shrinking_kernels(channels, factor), enlarging_kernels(channels, factor)

        def back_projected(x: Tensor) -> Tensor:
            large: Tensor = base(x)
            return large + _apply_kernels(x - _apply_kernels(large, shrink), enlarge)

        kernel = kernel_of(back_projected, impulses(channels, _KERNEL_RADIUS).double(), _KERNEL_RADIUS)
        kernel = kernel / kernel.sum(dim=(1, 2, 3), keepdim=True)  # a level picture stays level
        self.register_buffer("kernel", kernel.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C * factor**2, H, W], not in half precision under autocast either."""
        with torch.autocast(x.device.type, enabled=False):
            framed = F.pad(x.to(self.kernel.dtype), (_KERNEL_RADIUS,) * 4, mode="replicate")
            return F.conv2d(framed, self.kernel)

    def fold(self) -> nn.Sequential:
        """The same as a convolution of the picture with repeated borders."""
        return nn.Sequential(nn.ReplicationPad2d(_KERNEL_RADIUS), fixed_conv(self.kernel, padded=False))


def _apply_kernels(x: Tensor, kernels: Iterable[Tensor]) -> Tensor:
    for kernel in kernels:
        x = F.conv2d(x, kernel, padding="same")
    return x
