"""The losses: pixel terms, VGG features, Gram matrices, total variation, periodic errors; their weighted sum.

Every term takes the net's picture (`got`) and the target (`wanted`), both [N, 3, H, W] in 0..1, and returns a
scalar. The weighted sum also returns its terms without their weights, so that each can be logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.errors import UsageError
from sr_deploy.quality.metrics import FULL_RANGE_LUMA, LUMA
from sr_deploy.training.objective.vgg import VGGFeatures

_GRID_WINDOW = 4  # cells per side
_DETAIL_WINDOW = 8  # cells per side; sizes vary more than errors, so their mean needs more of them
_MSE_FLOOR = (0.4 / 255) ** 2  # added to a crop's mean squared error, so that no crop counts beyond 56 dB
_JPEG_BLOCK = 8  # small pixels, the side of a block of JPEG
_STEP_FLOOR = 0.5 / 255  # added to the sizes of steps, so that flat crops do not count by their rounding
_EPSILON = 1e-3  # Charbonnier's constant, as in Lai et al. 2017


def charbonnier(got: Tensor, wanted: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + 1e-6): an L1 that is smooth at 0. Source: Lai et al. 2017 (LapSRN), section 3.3."""
    return torch.sqrt((got - wanted) ** 2 + _EPSILON**2).mean()


def luma(got: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of BT.601's Y, in 0..1.

    It is the error that PSNR on Y counts, and most of what is visible. It ignores colour, so it needs another
    pixel term beside it. Source: ITU-R BT.601-7, section 2.5.1.
    """
    return _luma_error(got, wanted).square().mean()


def luma_l1(got: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error of BT.601's Y, in 0..1.

    It ignores colour like `luma`, and depends less on the few places where the detail cannot be known.
    """
    return _luma_error(got, wanted).abs().mean()


def chroma_l1(got: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error of BT.601's Cb and Cr, in 0..1.

    Where luma is wrong, the absolute errors of R, G and B all take the sign of the luma error, and colour
    gets no gradient of its own. Nets trained on them were seen to leave colour to the skip connection. This
    term measures it separately. Source: ITU-R BT.601-7, section 2.5.1, full swing.
    """
    error = got - wanted
    grey = _weighted(error, FULL_RANGE_LUMA)
    blue, red = (error[:, 2] - grey) / 1.772, (error[:, 0] - grey) / 1.402
    return (blue.abs() + red.abs()).mean() / 2


def luma_psnr(got: Tensor, wanted: Tensor) -> Tensor:
    """Negative PSNR on Y in dB, averaged over the crops.

    Benchmarks average PSNR over pictures, so a crop counts by the factor by which its error shrinks, and a
    smooth crop counts as much as a busy one. Colour is ignored, as in `luma`. Values go from about -25 down
    to -56.1, the value of crops without an error. At 35 dB a weight of 2e-3 gives the gradient of `luma_l1`
    with weight 1, and twice that for every 6 dB more. Source: Chen et al. 2022 ("Simple Baselines for Image
    Restoration"), whose code has this loss on all colours or on Y.
    """
    squared = _luma_error(got, wanted).square().mean(dim=(1, 2))
    return 10 * torch.log10(squared + _MSE_FLOOR).mean()


def _luma_error(got: Tensor, wanted: Tensor) -> Tensor:
    """Return the error of BT.601's Y, [N, H, W], where 1 is full scale."""
    return _weighted(got - wanted, (LUMA / 255).tolist())


def _weighted(error: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum the channels with weights: [N, 3, H, W] -> [N, H, W]. The weights are numbers and not a tensor,
    because a step recorded as a CUDA graph must not copy from the host."""
    red, green, blue = weights
    summed: Tensor = error[:, 0] * red + error[:, 1] * green + error[:, 2] * blue
    return summed


PIXEL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "charbonnier": charbonnier,
    "luma": luma,
    "luma_l1": luma_l1,
    "luma_psnr": luma_psnr,
    "chroma_l1": chroma_l1,
}
"""Name of a pixel term -> function of (got, wanted)."""


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrices of features: [N, C, H, W] -> [N, C, C].

    They are the inner products of the channels, divided by C * H * W. Sources: Gatys et al. 2016, eq. 3
    (without the division); Johnson et al. 2016, eq. 3 (with it). They are computed in at least float32,
    because sums over a whole layer overflow half precision.
    """
    n, c, h, w = features.shape
    with torch.autocast(features.device.type, enabled=False):
        flat = features.reshape(n, c, h * w)
        flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
        return flat @ flat.transpose(1, 2) / (c * h * w)


def gram_distance(got: Tensor, wanted: Tensor) -> Tensor:
    """Squared Frobenius norm of the difference of two layers' Gram matrices, averaged over the batch.

    Source: Johnson et al. 2016, eq. 4. Gatys et al. 2016, eq. 4, is a quarter of it.
    """
    return (gram(got) - gram(wanted)).square().sum(dim=(1, 2)).mean()


def total_variation(got: Tensor) -> Tensor:
    """Mean absolute difference of vertical neighbours plus that of horizontal ones (anisotropic).

    Source of the idea: Rudin et al. 1992.
    """
    down = (got[..., 1:, :] - got[..., :-1, :]).abs().mean()
    return down + (got[..., :, 1:] - got[..., :, :-1]).abs().mean()


def grid(got: Tensor, wanted: Tensor, period: int) -> Tensor:
    """Mean absolute error that repeats every `period` pixels.

    The picture is divided into cells of `period` x `period` pixels. Over windows of 4 x 4 cells, the mean
    error at each place in a cell is taken, minus the mean over all places; the result is the mean of its
    absolute value. A picture smaller than a window counts as one window.

    A net that ends in PixelShuffle computes each place with its own kernels, and feature losses were seen to
    reward a grid of them. No photograph has such a grid, so every error that repeats is wrong.
    """
    error = got - wanted
    height, width = (n // period for n in error.shape[2:])
    window = min(_GRID_WINDOW, height, width)
    if not window:
        return error.sum() * 0
    tall, wide = (n // window * window * period for n in (height, width))
    phases = F.avg_pool2d(F.pixel_unshuffle(error[..., :tall, :wide], period), window)
    phases = phases.reshape(len(error), -1, period**2, *phases.shape[2:])
    return (phases - phases.mean(dim=2, keepdim=True)).abs().mean()


def lattice(got: Tensor, wanted: Tensor, period: int) -> Tensor:
    """Difference between the pictures in where detail lies within cells of `period` x `period` pixels.

    Detail is the size of vertical steps, of horizontal steps and of the Laplacian. For each of them the mean
    at every place in a cell is taken over windows of about 8 x 8 cells (for steps also over all rows or
    columns of the cell), minus the mean over all places. The loss is the mean absolute difference between the
    pictures, summed over the three. A picture smaller than a window counts as one window.

    Where the target has texture that the small picture does not determine, a net aligns it with the small
    picture's pixels: as blocks with steps between them or, where steps are penalised, as dots. Their errors
    cancel in every mean, so `grid` does not see them. A photograph prefers no place. The idea comes from
    measures of JPEG blocking: Wang, Bovik and Evans 2000, "Blind measurement of blocking artifacts in
    images".
    """
    if min(got.shape[2:]) < period + 2:
        return (got - wanted).sum() * 0
    differences = [
        (a - b).abs().mean()
        for a, b in zip(_detail_by_place(got, period), _detail_by_place(wanted, period), strict=True)
    ]
    return torch.stack(differences).sum()


def _detail_by_place(pictures: Tensor, period: int) -> list[Tensor]:
    """Return the size of steps down, of steps across and of the Laplacian, by place in a cell.

    The mean over all places is subtracted from each.
    """
    down = pictures[..., 1:, :] - pictures[..., :-1, :]
    across = pictures[..., :, 1:] - pictures[..., :, :-1]
    inner = pictures[..., 1:-1, 1:-1]
    around = (
        pictures[..., :-2, 1:-1]
        + pictures[..., 2:, 1:-1]
        + pictures[..., 1:-1, :-2]
        + pictures[..., 1:-1, 2:]
    )
    by_place = [
        _mean_by_place(down, period).mean(dim=-1),
        _mean_by_place(across, period).mean(dim=-2),
        _mean_by_place(inner - around / 4, period).flatten(-2),
    ]
    return [sizes - sizes.mean(dim=-1, keepdim=True) for sizes in by_place]


def _mean_by_place(detail: Tensor, period: int) -> Tensor:
    """Average |detail| by place, in windows of about 8 x 8 cells: [N, C, windows, period, period]."""
    cells = [n // period for n in detail.shape[2:]]
    height, width = (n // max(1, round(n / _DETAIL_WINDOW)) for n in cells)
    detail = detail[..., : cells[0] * period, : cells[1] * period].abs()
    places = F.avg_pool2d(F.pixel_unshuffle(detail, period), (height, width))
    return places.reshape(len(detail), -1, period, period, *places.shape[2:]).flatten(4).movedim(-1, 2)


def blocks(got: Tensor, wanted: Tensor, scale: int) -> Tensor:
    """Difference between the pictures in how steps are distributed over the places of 8 x 8 blocks of small pixels.

    Both are shrunk by `scale` first. A step is the part of a difference of neighbours on Y that their own neighbours do not
    explain, as in `quality.damage.blockiness`. The mean at each of 8 rows and columns is divided by the mean of the crop,
    and averaged over the crops of the batch, whose blocks begin at one place, wherever that is: the trainer's crops do. A
    JPEG whose blocks are left in the picture has larger steps at one of the 8; an undamaged picture prefers none. The loss
    is the mean absolute difference, summed over rows and columns. Crops of less than 11 small pixels count as 0. The idea
    comes from Wang, Bovik and Evans 2000.
    """
    if min(got.shape[2:]) // scale < _JPEG_BLOCK + 3:
        return (got - wanted).sum() * 0
    ours, theirs = (_steps_by_place(pictures, scale) for pictures in (got, wanted))
    return torch.stack([(a - b).abs().mean() for a, b in zip(ours, theirs, strict=True)]).sum()


def _steps_by_place(pictures: Tensor, scale: int) -> list[Tensor]:
    """Return the relative size of steps across and down by their place in blocks, [8] each."""
    small = F.avg_pool2d(_weighted(pictures, (LUMA / 255).tolist()), scale)
    found = []
    for plane in (small, small.transpose(1, 2)):
        across = plane[..., 1:] - plane[..., :-1]
        steps = (across[..., 1:-1] - (across[..., :-2] + across[..., 2:]) / 2).abs().mean(dim=1)
        whole = steps[:, : steps.shape[1] // _JPEG_BLOCK * _JPEG_BLOCK]
        places = whole.reshape(len(whole), -1, _JPEG_BLOCK).mean(dim=1)
        places = places + _STEP_FLOOR
        found.append((places / places.mean(dim=1, keepdim=True)).mean(dim=0))
    return found


PERIODIC: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "grid": grid,
    "lattice": lattice,
    "blocks": blocks,
}
"""Name of a periodic term -> function of (got, wanted, period)."""


def random_shift(got: Tensor, wanted: Tensor, period: int = 4) -> tuple[Tensor, Tensor]:
    """Crop both pictures by `period` - 1 rows and columns, split at random between the two sides.

    The first pixel of `wanted` decides the split, so every batch has its own and a resumed run repeats them.

    A VGG pools at fixed places, every second and fourth pixel. A net that always has them at the same places
    of its pixels could learn a grid that only these places do not see. The shift removes that reason, but not
    the grid: it appeared in runs with and without the shift.
    """
    if min(got.shape[2:]) < 2 * period:
        return got, wanted
    first = (wanted[0, :2, 0, 0] * 255).round().long() % period
    for axis in (2, 3):
        kept = first[axis - 2] + torch.arange(got.shape[axis] - period + 1, device=got.device)
        got, wanted = got.index_select(axis, kept), wanted.index_select(axis, kept)
    return got, wanted


@dataclass(frozen=True)
class LossValue:
    """A weighted sum and its terms without their weights, by name."""

    total: Tensor
    terms: Mapping[str, Tensor]


class ComposedLoss(nn.Module):
    """Sum of `weights[term] * term`.

    The terms are those of `PIXEL` and `PERIODIC` (whose period is the scale) and these:

    - feature: L1 between VGG activations (Johnson et al. 2016, eq. 2, with L1 in place of the squared distance)
    - gram: `gram_distance` (Gatys et al. 2016, eq. 5, sums it over layers)
    - tv: `total_variation` of the net's picture

    `feature` and `gram` are themselves sums over the VGG's layers, weighted by `layers`. Pixel terms are
    computed in float32 even under autocast. Raises UsageError where a term needs a VGG and there is none.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        vgg: VGGFeatures | None = None,
        layers: Mapping[str, float] | None = None,
        period: int = 4,
    ) -> None:
        super().__init__()
        self.period = period
        self.weights = {term: weight for term, weight in weights.items() if weight}
        self.vgg, self.layers = vgg, dict(layers or {})
        if vgg is None and {"feature", "gram"} & set(self.weights):
            raise UsageError("the feature and Gram losses need a VGG; load one with load_vgg")

    @property
    def names(self) -> list[str]:
        """Names of the terms, in the order they are logged."""
        return list(self.weights)

    def forward(self, got: Tensor, wanted: Tensor) -> LossValue:
        """Return the weighted sum, which is differentiable, and its terms."""
        got = got.float() if got.dtype in (torch.float16, torch.bfloat16) else got
        activations = self._activations(got, wanted)
        terms = {name: self._term(name, got, wanted, activations) for name in self.weights}
        total = torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()
        return LossValue(total, terms)

    def _activations(self, got: Tensor, wanted: Tensor) -> list[tuple[float, Tensor, Tensor]]:
        """Return (weight, activations of `got`, activations of `wanted`) for every layer.

        The activations of `wanted` carry no gradient. The list is empty where no term needs it.
        """
        if self.vgg is None or not {"feature", "gram"} & set(self.weights):
            return []
        got, wanted = random_shift(got, wanted)
        ours = self.vgg(got)
        with torch.no_grad():
            theirs = self.vgg(wanted)
        return [(weight, ours[layer], theirs[layer]) for layer, weight in self.layers.items()]

    def _term(
        self, name: str, got: Tensor, wanted: Tensor, activations: list[tuple[float, Tensor, Tensor]]
    ) -> Tensor:
        """Return one term without its weight."""
        if name in PIXEL:
            return PIXEL[name](got, wanted)
        if name == "tv":
            return total_variation(got)
        if name in PERIODIC:
            return PERIODIC[name](got, wanted, self.period)
        distance = gram_distance if name == "gram" else _l1
        return torch.stack([weight * distance(a, b) for weight, a, b in activations]).sum()


def _l1(got: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference, in at least float32 like the other terms."""
    difference = (got - wanted).abs()
    return difference.mean(dtype=torch.float32 if difference.dtype.itemsize < 4 else None)
