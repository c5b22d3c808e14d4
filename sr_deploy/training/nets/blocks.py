"""Building blocks of the nets: foldable convolutions, ICNR, PixelShuffle heads, weighted residuals.

`fold` turns a net made of them into the plain net that is deployed. No net is defined here. Attribute names
of all modules are part of the file format: checkpoints and exported models name their weights by them.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.errors import UsageError

Net = TypeVar("Net", bound=nn.Module)

SCALES = (2, 3, 4, 8)
"""Scales that the nets can have."""
RESIDUALS = ("nearest", "bilinear", "bicubic")
"""Ways to upsample the picture in the skip connection around a net."""
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),
}
"""Name in a recipe -> constructor."""


def activation_of(name: str) -> nn.Module:
    """Return a new activation module. "relu6" is bounded, which suits int8 (Berger et al. 2023). "leaky_relu"
    has slope 0.1 and so a gradient everywhere: no feature of a narrow net can die (Maas et al. 2013). Raises
    UsageError for another name."""
    if name not in ACTIVATIONS:
        raise UsageError(f"unknown activation {name!r}; known: {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]()


def check_scale(scale: int) -> int:
    """Return `scale`. Raises UsageError where the nets do not have it."""
    if scale not in SCALES:
        raise UsageError(f"scale must be one of {', '.join(map(str, SCALES))}, got {scale!r}")
    return scale


def check_counts(**counts: int) -> None:
    """Raise UsageError for the first of `counts` that is not a whole number of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{name} must be a whole number of at least 1, got {value!r}")


def stages_of(scale: int) -> list[int]:
    """Return the PixelShuffle factors of a scale: 2 -> [2], 3 -> [3], 4 -> [2, 2], 8 -> [2, 2, 2].

    Raises UsageError for another scale.
    """
    check_scale(scale)
    return [3] if scale == 3 else [2] * (scale.bit_length() - 1)


def conv3x3(in_channels: int, out_channels: int, *, gain: Literal["linear", "relu"] = "linear") -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size, with He initialisation and a bias of zero.

    `gain` is "relu" where an activation follows, else "linear". Source: He et al. 2015, eq. 10.
    """
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity=gain)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def near_identity(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 3x3 convolution for a plain stack; the stack nearly passes its input through at first.

    Where input and output have as many channels, the kernel is a Dirac of 0.8 plus half of He's
    initialisation. The mean square of the features then stays level over tens of layers; with PyTorch's
    default, each layer keeps a sixth of it. Elsewhere the initialisation is He's. Sources: He et al. 2015,
    eq. 10; Zagoruyko and Komodakis 2017 ("DiracNets"), section 3.
    """
    conv = conv3x3(in_channels, out_channels, gain="relu")
    if in_channels == out_channels:
        with torch.no_grad():
            conv.weight.mul_(0.5).add_(nn.init.dirac_(torch.empty_like(conv.weight)), alpha=0.8)
    return conv


def nearest_index(channels: int, factor: int, unshuffle: int = 1) -> Tensor:
    """Return the source of every channel of nearest-neighbour upsampling before PixelShuffle.

    The sources are the `channels * unshuffle**2` channels of a picture after PixelUnshuffle by `unshuffle`; the
    results are the `channels * (factor * unshuffle)**2` channels that PixelShuffle turns into the picture upsampled
    by `factor`. Shape: [channels * (factor * unshuffle)**2], int64.
    """
    sources = torch.arange(channels * unshuffle**2, dtype=torch.float32)
    small = F.pixel_shuffle(sources[:, None, None], unshuffle)
    large = small.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    return F.pixel_unshuffle(large, factor * unshuffle).flatten().long()


def icnr_(weight: Tensor, factor: int, unshuffle: int = 1) -> Tensor:
    """Initialise a PixelShuffle convolution's `weight` [C * (factor * unshuffle)**2, C_in, k, k] by ICNR, in place.

    Every group of `factor**2` output channels starts with the same kernel. The shuffled output then equals
    nearest-neighbour upsampling of one convolution, so the net does not start with a checkerboard. Source:
    Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution", section 3. Behind a PixelUnshuffle by
    `unshuffle` every small pixel of a block has a group of its own.

    Returns `weight`. Raises UsageError where the output channels do not divide by `(factor * unshuffle)**2`.
    """
    channels, rest = divmod(weight.shape[0], (factor * unshuffle) ** 2)
    if rest:
        raise UsageError(
            f"ICNR needs a multiple of {(factor * unshuffle) ** 2} output channels, got {weight.shape[0]}"
        )
    kernel = torch.empty(channels * unshuffle**2, *weight.shape[1:], dtype=weight.dtype)
    nn.init.kaiming_normal_(kernel, nonlinearity="linear")
    with torch.no_grad():
        return weight.copy_(kernel[nearest_index(channels, factor, unshuffle)])


class Folding(nn.Module, ABC):
    """A module that is trained in another form than it is deployed in."""

    @abstractmethod
    def fold(self) -> nn.Module:
        """Return the deployed form, which computes the same function."""


class PixelShuffleHead(nn.Module):
    """One upsampling stage: convolution, activation, PixelShuffle by `factor`.

    [N, C_in, H, W] -> [N, C, H * factor, W * factor]. The activation is before the shuffle, where runtimes
    fuse it with the convolution. It is pointwise, so the result is the same.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        factor: int,
        *,
        icnr: bool = True,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.conv = conv3x3(in_channels, channels * factor**2)
        self.activation = activation or nn.Identity()
        if icnr:
            icnr_(self.conv.weight, factor)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample by `factor`."""
        return F.pixel_shuffle(self.activation(self.conv(x)), self.factor)


class Residual(nn.Module):
    """`x + block(x)`: a residual connection whose weight is inside its block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of the block to `x`."""
        result: Tensor = x + self.block(x)
        return result


class WeightedResidual(Folding):
    """`x + weight * block(x)`: a residual connection with a weighted branch. `block` ends in a convolution.

    A small weight (0.1 to 0.2) keeps deep stacks stable (Szegedy et al. 2016, section 3.3; Lim et al. 2017,
    section 4.3). With `learned` it is one parameter per block, initialised to `weight` (Bachlechner et al.
    2020, "ReZero", start from 0). `fold()` multiplies it into the block's last convolution, so it costs
    nothing when deployed.
    """

    def __init__(self, block: nn.Sequential, weight: float = 1.0, *, learned: bool = False) -> None:
        super().__init__()
        self.block = block
        self.weight: Tensor
        value = torch.tensor(float(weight))
        if learned:
            self.weight = nn.Parameter(value)
        else:  # a setting of the recipe, not a weight: checkpoints do not contain it
            self.register_buffer("weight", value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add the weighted output of the block to `x`."""
        result: Tensor = x + self.weight * self.block(x)
        return result

    @torch.no_grad()
    def fold(self) -> Residual:
        """Return the same function, with the weight inside the block's last convolution."""
        block = copy.deepcopy(self.block)
        last = block[-1]
        for tensor in last.parameters():
            tensor.mul_(self.weight)
        return Residual(block)


def residual_block(features: int, activation: str, weight: float, *, learned: bool) -> WeightedResidual:
    """Return conv - activation - conv in a weighted residual. There is no normalisation (Lim et al. 2017,
    fig. 2)."""
    block = nn.Sequential(
        conv3x3(features, features, gain="relu"), activation_of(activation), conv3x3(features, features)
    )
    return WeightedResidual(block, weight, learned=learned)


def impulses(channels: int, radius: int) -> Tensor:
    """Return one picture per colour, [C, C, H, W], that is black except for its middle pixel. The pictures
    are so large that a filter of `radius` pixels applied to the middle does not reach the border."""
    middle = 2 * radius + 1
    pictures = torch.zeros(channels, channels, 2 * middle + 1, 2 * middle + 1)
    pictures[range(channels), range(channels), middle, middle] = 1
    return pictures


@torch.no_grad()
def kernel_of(linear: Callable[[Tensor], Tensor], impulses: Tensor, radius: int) -> Tensor:
    """Return the kernel [C_out, C, k, k] of the linear function `linear`, with k = 2 * radius + 1. The kernel
    is read off the answers to `impulses`, mirrored because a convolution module correlates."""
    middle = impulses.shape[-1] // 2
    near = slice(middle - radius, middle + radius + 1)
    return linear(impulses)[..., near, near].flip(2, 3).transpose(0, 1)


@torch.no_grad()
def fixed_conv(kernel: Tensor, *, padded: bool = True) -> nn.Conv2d:
    """Return a convolution with `kernel` [C_out, C_in, k, l] and no trainable parameters.

    `padded` keeps the size by zero padding; without it the result is smaller.
    """
    size = (kernel.shape[2], kernel.shape[3])
    padding = (size[0] // 2, size[1] // 2) if padded else (0, 0)
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], size, padding=padding, bias=False)
    conv.weight.copy_(kernel)
    return conv.requires_grad_(False)


def strided_kernel(kernel: Tensor, unshuffle: int) -> Tensor:
    """Return the kernel with stride `unshuffle` that does to a picture what `kernel` does behind a PixelUnshuffle.

    [C_out, C * unshuffle**2, k, k] -> [C_out, C, k * unshuffle, k * unshuffle]. The two are the same multiplications.
    """
    return F.pixel_shuffle(kernel, unshuffle)


class NearestChannels(Folding):
    """The picture's channels, repeated so that PixelShuffle turns them into nearest-neighbour upsampling.

    Training uses a copy, so that autocast does not round the picture. `fold()` gives a 1x1 convolution with
    ones, which is as exact and which runtimes fuse with the addition that follows. With `unshuffle` above 1 the result
    has the size of a picture behind a PixelUnshuffle, for PixelShuffle by `factor * unshuffle`; the convolution has
    that stride then.
    """

    def __init__(self, channels: int, factor: int, unshuffle: int = 1) -> None:
        super().__init__()
        self.index: Tensor
        self.channels, self.factor, self.unshuffle = channels, factor, unshuffle
        self.register_buffer("index", nearest_index(channels, factor, unshuffle), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Repeat the channels: [N, C, H, W] -> [N, C * (factor * unshuffle)**2, H / unshuffle, W / unshuffle]."""
        return F.pixel_unshuffle(x, self.unshuffle)[:, self.index]

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        """Return the same function as a convolution with one 1 for each channel of its result, not trainable."""
        ones = torch.eye(self.channels * self.unshuffle**2, device=self.index.device)[self.index]
        conv = fixed_conv(strided_kernel(ones[:, :, None, None], self.unshuffle), padded=False)
        conv.stride = (self.unshuffle, self.unshuffle)
        return conv


class InterpolatedChannels(Folding):
    """Channels that PixelShuffle turns into "bilinear" or "bicubic" upsampling with repeated borders.

    The interpolation is PyTorch's, with a = -0.75 in the cubic kernel. Training interpolates, so that
    autocast does not round the picture. `fold()` gives a convolution of 3x3 (bilinear) or 5x5 (bicubic).
    Added to the net's own channels before the shuffle it costs next to nothing; a resized picture would be
    large.
    """

    def __init__(self, channels: int, factor: int, mode: str) -> None:
        super().__init__()
        self.channels, self.factor, self.mode = channels, factor, mode

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate: [N, C, H, W] -> [N, C * factor**2, H, W]."""
        large = F.interpolate(x, scale_factor=float(self.factor), mode=self.mode, align_corners=False)
        return F.pixel_unshuffle(large, self.factor)

    @torch.no_grad()
    def fold(self) -> nn.Sequential:
        """Return the same function as replication padding and a convolution [C * factor**2, C, k, k]."""
        radius = {"bilinear": 1, "bicubic": 2}[self.mode]
        kernel = kernel_of(self, impulses(self.channels, radius), radius)
        return nn.Sequential(nn.ReplicationPad2d(radius), fixed_conv(kernel, padded=False))


def upsampled_channels(residual: str, channels: int, factor: int, unshuffle: int = 1) -> nn.Module:
    """Return the skip connection around a net, before PixelShuffle: [N, C, H, W] -> [N, C * factor**2, H, W].

    With `unshuffle` above 1 the result is smaller by that, with the channels of PixelShuffle by `factor * unshuffle`.
    Raises UsageError for a `residual` that is not in `RESIDUALS` or, with `unshuffle`, is not
    "nearest".
    """
    if residual not in RESIDUALS:
        raise UsageError(f"residual must be one of {', '.join(RESIDUALS)}, got {residual!r}")
    if residual == "nearest":
        return NearestChannels(channels, factor, unshuffle)
    if unshuffle > 1:
        # Interpolation repeats the last pixel at the border, but padding an unshuffled picture repeats whole blocks.
        raise UsageError(
            f'residual = {residual!r} does not work with unshuffle = {unshuffle}; use residual = "nearest"'
        )
    return InterpolatedChannels(channels, factor, residual)


class Upsample(nn.Module):
    """Upsample by `factor`, as PixelShuffle of `upsampled_channels`."""

    def __init__(self, residual: str, channels: int, factor: int) -> None:
        super().__init__()
        self.channels = upsampled_channels(residual, channels, factor)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Upsample [N, C, H, W] -> [N, C, H * factor, W * factor]."""
        return F.pixel_shuffle(self.channels(x), self.factor)


class ScaleHead(nn.Module):
    """Turn features into the large picture: PixelShuffle stages, a last convolution, and the skip connection.

    The skip connection adds the small picture, upsampled as `residual` says, so that the net learns only the
    difference and starts close to the target. Stages are numbered from the small end. The first stage of x4
    therefore has the name of the one of x2, and training at x4 takes over its weights.
    """

    def __init__(
        self,
        scale: int,
        channels: int,
        features: int,
        *,
        icnr: bool = True,
        activation: str = "relu6",
        residual: str = "nearest",
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            *(
                PixelShuffleHead(features, features, factor, icnr=icnr, activation=activation_of(activation))
                for factor in stages_of(scale)
            )
        )
        self.last = conv3x3(features, channels)
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # so that the net starts close to the upsampled picture
        self.around = Upsample(residual, channels, scale)

    def forward(self, features: Tensor, picture: Tensor) -> Tensor:
        """Combine [N, features, H, W] and [N, channels, H, W] into [N, channels, H * scale, W * scale]."""
        large: Tensor = self.last(self.stages(features)) + self.around(picture)
        return large


class FoldableConv(Folding):
    """A 3x3 convolution trained as a sum of parallel linear branches and deployed as one kernel.

    The branches are a 3x3 convolution, a 1x1 convolution, a 1x1 expansion followed by a 3x3 squeeze, and an
    identity where the channel counts agree. They are linear and share their zero padding (no bias inside), so
    their sum is exactly one 3x3 kernel. It is summed in weight space on every call; training then costs as
    much as with a plain convolution, and folding is exact.

    Sources of the idea: Ding et al. 2021 (RepVGG); Zhang et al. 2021 (ECBSR), section 3.2.
    """

    def __init__(self, in_channels: int, out_channels: int, expand: int = 2) -> None:
        super().__init__()
        inner = max(in_channels, out_channels) * expand
        self.full = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.point = nn.Parameter(torch.empty(out_channels, in_channels))
        self.expand = nn.Parameter(torch.empty(inner, in_channels))
        self.squeeze = nn.Parameter(torch.empty(out_channels, inner, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.identity = (
            nn.Parameter(torch.full((out_channels,), 0.5)) if in_channels == out_channels else None
        )
        for weight in (self.full, self.point, self.expand, self.squeeze):
            nn.init.kaiming_normal_(weight, nonlinearity="linear")
        with torch.no_grad():  # the branches are added, so each of them starts smaller
            self.full.mul_(0.5)
            self.point.mul_(0.5)
            self.squeeze.mul_(0.5)

    def kernel(self) -> Tensor:
        """Return the sum of all branches as one kernel [C_out, C_in, 3, 3]."""
        kernel = self.full + torch.einsum("oikl,ic->ockl", self.squeeze, self.expand)
        centre: Tensor = self.point
        if self.identity is not None:
            centre = centre + torch.diag(self.identity)
        return kernel + F.pad(centre[:, :, None, None], (1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [N, C_in, H, W] -> [N, C_out, H, W]."""
        return F.conv2d(x, self.kernel(), self.bias, padding=1)

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        """Return the plain convolution that computes the same function."""
        kernel = self.kernel()
        conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
        conv.weight.copy_(kernel)
        assert conv.bias is not None
        conv.bias.copy_(self.bias)
        return conv


def fold(net: Net) -> Net:
    """Return a copy of `net` in its deployed form: every `Folding` inside it is folded. The result is exact
    up to rounding of the weights. `net` itself is not changed. Folding a folded net changes nothing."""
    plain = copy.deepcopy(net)
    _fold_children(plain)
    return plain


def _fold_children(module: nn.Module) -> None:
    """Fold the modules inside `module` in place, innermost first."""
    for name, child in module.named_children():
        _fold_children(child)
        if isinstance(child, Folding):
            setattr(module, name, child.fold().train(child.training))
