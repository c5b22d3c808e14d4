"""The losses: pixel terms, VGG features, Gram matrices, total variation, what repeats as a grid; their weighted sum.

Every term takes what the net gave and what was wanted, [N, 3, H, W] in 0..1, and returns a scalar. The sum
returns its terms too, unweighted, so that each can be logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.errors import UsageError
from sr_deploy.quality.metrics import LUMA
from sr_deploy.training.objective.vgg import VGGFeatures

_FULL_SWING = (0.299, 0.587, 0.114)  # weights of R, G and B in BT.601's Y, 0 to 255
_WINDOW = 4  # cells
_DETAIL_WINDOW = 8  # cells; sizes vary more than errors, and want more of them for a mean
_CROP_FLOOR = (0.4 / 255) ** 2  # of a crop's mean squared error: none counts beyond 56 dB
_EPSILON = 1e-3  # of Charbonnier, as in Lai et al. 2017


def charbonnier(got: Tensor, wanted: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + 1e-6): L1 that is smooth at 0. Source: Lai et al. 2017 (LapSRN), section 3.3."""
    return torch.sqrt((got - wanted) ** 2 + _EPSILON**2).mean()


def luma(got: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of BT.601's Y alone, in 0..1: what PSNR on Y counts, and most of what is seen.

    Blind to colour, so it needs another pixel term beside it. Source: ITU-R BT.601-7, section 2.5.1.
    """
    return _luma_error(got, wanted).square().mean()


def luma_l1(got: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error of BT.601's Y alone, in 0..1; as blind to colour as `luma`, and less ruled by
    the few places that cannot be known."""
    return _luma_error(got, wanted).abs().mean()


def chroma_l1(got: Tensor, wanted: Tensor) -> Tensor:
    """Mean of the absolute errors of BT.601's Cb and Cr, in 0..1.

    Where a net errs in luma, the absolute errors of R, G and B have the sign of that, and colour gets no gradient of its
    own: nets trained on them were seen to leave it to what goes around the net. This says it apart.
    Source: ITU-R BT.601-7, section 2.5.1, full swing.
    """
    error = got - wanted
    grey = _weighted(error, _FULL_SWING)
    blue, red = (error[:, 2] - grey) / 1.772, (error[:, 0] - grey) / 1.402
    return (blue.abs() + red.abs()).mean() / 2


def luma_psnr(got: Tensor, wanted: Tensor) -> Tensor:
    """Minus the PSNR on Y in dB, mean over the crops: what benchmarks count, where a crop counts by how many times
    its error shrinks, and a calm one as much as a busy one. Blind to colour, like `luma`.

    From some -25 down to -56.1, of crops without an error. A weight of 2e-3 pulls like `luma_l1` with 1 at 35 dB, twice
    as much with every 6 dB more. Source: Chen et al. 2022 ("Simple Baselines for Image Restoration"), in whose code it is
    the loss, on all colours or on Y.
    """
    squared = _luma_error(got, wanted).square().mean(dim=(1, 2))
    return 10 * torch.log10(squared + _CROP_FLOOR).mean()


def _luma_error(got: Tensor, wanted: Tensor) -> Tensor:
    return _weighted(got - wanted, (LUMA / 255).tolist())


def _weighted(error: Tensor, weights: Sequence[float]) -> Tensor:
    """[N, 3, H, W] -> [N, H, W]. Weights are numbers, not a tensor: a step that is recorded may fetch nothing."""
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


def gram(features: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, C]: inner products of the channels' activations, over C * H * W.

    Source: Gatys et al. 2016, eq. 3 (without the norm); Johnson et al. 2016, eq. 3 (with it). Computed in
    at least float32, because sums over a whole layer overflow half precision.
    """
    n, c, h, w = features.shape
    with torch.autocast(features.device.type, enabled=False):
        flat = features.reshape(n, c, h * w)
        flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
        return flat @ flat.transpose(1, 2) / (c * h * w)


def gram_distance(got: Tensor, wanted: Tensor) -> Tensor:
    """Squared Frobenius norm of the difference of two layers' Gram matrices, mean over the batch.

    Source: Johnson et al. 2016, eq. 4. Gatys et al. 2016, eq. 4, is a quarter of it.
    """
    return (gram(got) - gram(wanted)).square().sum(dim=(1, 2)).mean()


def total_variation(got: Tensor) -> Tensor:
    """Mean |difference| of neighbours, down plus across (anisotropic; Rudin et al. 1992 is the idea's source)."""
    down = (got[..., 1:, :] - got[..., :-1, :]).abs().mean()
    return down + (got[..., :, 1:] - got[..., :, :-1]).abs().mean()


def grid(got: Tensor, wanted: Tensor, period: int) -> Tensor:
    """What of the error repeats every `period` pixels: the mean error of each phase of a cell of `period` x `period`
    pixels, over windows of 4 x 4 cells, without that of all phases; the mean of its absolute value.

    A net that ends in PixelShuffle writes every phase with kernels of its own, and feature losses were seen to reward
    a grid of them. No photograph has one, so whatever repeats is error. Pictures of less than a window count as one.
    """
    error = got - wanted
    height, width = (n // period for n in error.shape[2:])
    window = min(_WINDOW, height, width)
    if not window:
        return error.sum() * 0
    tall, wide = (n // window * window * period for n in (height, width))
    phases = F.avg_pool2d(F.pixel_unshuffle(error[..., :tall, :wide], period), window)
    phases = phases.reshape(len(error), -1, period**2, *phases.shape[2:])
    return (phases - phases.mean(dim=2, keepdim=True)).abs().mean()


def lattice(got: Tensor, wanted: Tensor, period: int) -> Tensor:
    """How unlike the two are in where in a cell of `period` x `period` pixels their detail lies.

    Detail is the size of the steps down, across, and of the Laplacian. Of each, the mean at every place of a cell over
    windows of some 8 x 8 cells, over all rows or columns for steps, less the mean of all places; the mean absolute
    difference, the three summed. Pictures of less than a window count as one.

    Where texture is wanted that the small picture does not tell, a net lays it out by the small picture's pixels: blocks
    with steps between them, or where these are held down, dots. Their errors cancel in every mean, so `grid`
    does not see them; a photograph has no place that it prefers. The idea is that of measures of blocking in JPEG:
    Wang, Bovik and Evans 2000, "Blind measurement of blocking artifacts in images".
    """
    if min(got.shape[2:]) < period + 2:
        return (got - wanted).sum() * 0
    unlike = [
        (a - b).abs().mean() for a, b in zip(_detail(got, period), _detail(wanted, period), strict=True)
    ]
    return torch.stack(unlike).sum()


def _detail(pictures: Tensor, period: int) -> list[Tensor]:
    """Of steps down, steps across and the Laplacian: their size by place in a cell, less that of all places."""
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
        _by_place(down, period).mean(dim=-1),
        _by_place(across, period).mean(dim=-2),
        _by_place(inner - around / 4, period).flatten(-2),
    ]
    return [sizes - sizes.mean(dim=-1, keepdim=True) for sizes in by_place]


def _by_place(detail: Tensor, period: int) -> Tensor:
    """[N, C, H, W] -> mean sizes [N, C, windows, period, period] at each place, in windows of some 8 x 8 cells."""
    cells = [n // period for n in detail.shape[2:]]
    height, width = (n // max(1, round(n / _DETAIL_WINDOW)) for n in cells)
    detail = detail[..., : cells[0] * period, : cells[1] * period].abs()
    places = F.avg_pool2d(F.pixel_unshuffle(detail, period), (height, width))
    return places.reshape(len(detail), -1, period, period, *places.shape[2:]).flatten(4).movedim(-1, 2)


PERIODIC: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"grid": grid, "lattice": lattice}


def shifted(got: Tensor, wanted: Tensor, period: int = 4) -> tuple[Tensor, Tensor]:
    """Both without `period` - 1 rows and columns, of which some are cut off at the top and left: how many, the
    first pixel of `wanted` decides, so every batch has its own shift and a resumed run the same ones.

    A VGG pools at fixed places, every second and fourth pixel. A net that always has them at the same places
    of its own pixels may learn to draw a grid that only these do not see. This takes that reason away, not the
    grid: it was there in runs with and without.
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
    """A weighted sum and its unweighted terms, by name."""

    total: Tensor
    terms: Mapping[str, Tensor]


class ComposedLoss(nn.Module):
    """Sum of `weights[term] * term`; `feature` and `gram` are themselves sums weighted by layer.

    Terms: l1, l2, charbonnier, `luma`, `luma_l1`, `luma_psnr`, `chroma_l1`; feature: L1 between VGG activations, Johnson et al. 2016, eq. 2, with L1 in
    place of the squared distance; gram: `gram_distance`; Gatys et al. 2016, eq. 5, sums its layers; tv:
    `total_variation` of the net's picture alone; `grid` and `lattice`, whose period is the scale. Pixel terms are computed in
    float32 even under autocast.
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
        """The terms, in the order they are logged."""
        return list(self.weights)

    def forward(self, got: Tensor, wanted: Tensor) -> LossValue:
        """The weighted sum, of which gradients are taken, and its terms."""
        got = got.float() if got.dtype in (torch.float16, torch.bfloat16) else got
        seen = self._seen(got, wanted)
        terms = {name: self._term(name, got, wanted, seen) for name in self.weights}
        total = torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()
        return LossValue(total, terms)

    def _seen(self, got: Tensor, wanted: Tensor) -> list[tuple[float, Tensor, Tensor]]:
        """(weight, activations of `got`, activations of `wanted`) of every layer; the latter cost no gradient."""
        if self.vgg is None or not {"feature", "gram"} & set(self.weights):
            return []
        got, wanted = shifted(got, wanted)
        ours = self.vgg(got)
        with torch.no_grad():
            theirs = self.vgg(wanted)
        return [(weight, ours[layer], theirs[layer]) for layer, weight in self.layers.items()]

    def _term(
        self, name: str, got: Tensor, wanted: Tensor, seen: list[tuple[float, Tensor, Tensor]]
    ) -> Tensor:
        if name in PIXEL:
            return PIXEL[name](got, wanted)
        if name == "tv":
            return total_variation(got)
        if name in PERIODIC:
            return PERIODIC[name](got, wanted, self.period)
        distance = gram_distance if name == "gram" else _l1
        return torch.stack([weight * distance(a, b) for weight, a, b in seen]).sum()


def _l1(got: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference, in at least float32 as the other terms."""
    difference = (got - wanted).abs()
    return difference.mean(dtype=torch.float32 if difference.dtype.itemsize < 4 else None)
