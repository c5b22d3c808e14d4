"""Back-projection, as fixed convolutions before PixelShuffle.

It makes the large picture, shrunk again, nearly equal to the small one. The part of the large picture that
follows from the small one is added directly, and that part is removed from what the net draws. It is one step
with the transpose of bicubic shrinking in place of its inverse. Detail coarser than about four small pixels
is kept; of the finest detail about half is kept. Shrinking repeats the border of the large picture. Here the
border of the small picture is repeated and the net draws nothing beyond it, so the outermost pixels are kept
less well.

Sources: Irani and Peleg 1991, "Improving resolution by image registration" (which iterates); Wang et al.
2023, "GAN prior based null-space learning for consistent super-resolution" (which uses averages and their
exact inverse).
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

_SHRINK_RADIUS = 2
"""Small pixels on either side that bicubic shrinking uses; its kernel is 4 small pixels wide."""
_KERNEL_RADIUS = 4
"""Radius in small pixels of the fixed kernel. The exact one has 6, with less than 1e-3 of its weight beyond 4."""


def shrinking_taps(factor: int) -> Tensor:
    """Return the weights of bicubic shrinking of a line by `factor`: [5, factor], float64.

    Row: the small pixel in which a large pixel lies, relative to the result. Column: the place of the large
    pixel inside it. The weights are those of `quality.bicubic` without rounding.
    """
    side = 2 * _SHRINK_RADIUS + 1
    far = side + 2 * _SHRINK_RADIUS  # so many small pixels that the middle one is far from any border
    line = torch.from_numpy(imresize(np.eye(far * factor), size=(far, far * factor)))[far // 2]
    return line[_SHRINK_RADIUS * factor : -_SHRINK_RADIUS * factor].reshape(side, factor)


def shrinking_kernels(channels: int, factor: int) -> tuple[Tensor, Tensor]:
    """Return the kernels that shrink a picture before PixelShuffle, first down and then across.

    Shapes: [C * factor, C * factor**2, 5, 1] and [C, C * factor, 1, 5], float64.
    """
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
    """Return the transposes of `shrinking_kernels`, first across and then down.

    Each is multiplied by `factor`, so that a constant picture keeps its value.
    """
    down, across = (factor * k.transpose(0, 1).flip(2, 3) for k in shrinking_kernels(channels, factor))
    return across, down


class NullSpaceProjection(Folding):
    """`x - up(down(x))`: remove the part of the detail that would still be visible in the picture shrunk
    again.

    What remains lies approximately in the null space of shrinking. It has no trainable parameters.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        first, last = enlarging_kernels(channels, factor)
        # The last kernel is negated, so that the sum is x + block(x) and folds to a plain residual.
        for number, kernel in enumerate((*shrinking_kernels(channels, factor), first, -last)):
            self.register_buffer(f"kernel_{number}", kernel.float(), persistent=False)

    def _kernels(self) -> list[Tensor]:
        """Return the four kernels in the order they are applied."""
        return [self.get_buffer(f"kernel_{number}") for number in range(4)]

    def forward(self, x: Tensor) -> Tensor:
        """Project [N, C * factor**2, H, W] -> same shape. The result is float32, also under autocast."""
        kernels = self._kernels()
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(kernels[0].dtype)
            return x + _apply_kernels(x, kernels)

    def fold(self) -> Residual:
        """Return the same function as four convolutions without trainable parameters."""
        return Residual(nn.Sequential(*map(fixed_conv, self._kernels())))


class BackProjectedChannels(Folding):
    """Channels that PixelShuffle turns into the upsampled picture with one step of back-projection.

    The result is the picture upsampled by `mode`, plus the upsampled difference between the picture and that
    result shrunk again. Borders are repeated. All of it is one fixed 9x9 kernel.
    """

    def __init__(self, channels: int, factor: int, mode: str) -> None:
        super().__init__()
        self.kernel: Tensor
        base = upsampled_channels(mode, channels, factor)
        shrink, enlarge = shrinking_kernels(channels, factor), enlarging_kernels(channels, factor)

        def back_projected(x: Tensor) -> Tensor:
            large: Tensor = base(x)
            return large + _apply_kernels(x - _apply_kernels(large, shrink), enlarge)

        kernel = kernel_of(back_projected, impulses(channels, _KERNEL_RADIUS).double(), _KERNEL_RADIUS)
        # Normalised, because the radius cuts off some weight and a constant picture has to keep its value.
        kernel = kernel / kernel.sum(dim=(1, 2, 3), keepdim=True)
        self.register_buffer("kernel", kernel.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [N, C, H, W] -> [N, C * factor**2, H, W]. The result is float32, also under autocast, so
        that the picture is not rounded."""
        with torch.autocast(x.device.type, enabled=False):
            framed = F.pad(x.to(self.kernel.dtype), (_KERNEL_RADIUS,) * 4, mode="replicate")
            return F.conv2d(framed, self.kernel)

    def fold(self) -> nn.Sequential:
        """Return the same function as replication padding and one convolution."""
        return nn.Sequential(nn.ReplicationPad2d(_KERNEL_RADIUS), fixed_conv(self.kernel, padded=False))


def _apply_kernels(x: Tensor, kernels: Iterable[Tensor]) -> Tensor:
    """Convolve `x` with each of `kernels` in turn, with zero padding that keeps the size."""
    for kernel in kernels:
        x = F.conv2d(x, kernel, padding="same")
    return x
