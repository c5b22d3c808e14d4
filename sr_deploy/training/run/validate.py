"""Measure a net on the pictures held out, and draw its results beside bicubic and the originals."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.metrics import LUMA
from sr_deploy.system.arrays import Uint8Array
from sr_deploy.training.data.loader import to_float
from sr_deploy.training.data.pictures import TrainingPair
from sr_deploy.training.nets import size_rule_of
from sr_deploy.training.objective.losses import ComposedLoss
from sr_deploy.training.run.plots import labelled_rows

SIDE = 512
"""Side of the crops that quality is measured on, in large pixels, so that an evaluation is short."""
_SMALLEST_SIDE = 96
"""Smallest side of these crops, in large pixels; smaller ones say little about a picture."""


@dataclass(frozen=True)
class HeldOutQuality:
    """Means over the pictures held out."""

    psnr: float
    """PSNR in dB on BT.601's Y; a border as wide as the scale is left out."""
    loss: float
    """Composed loss of the phase."""


def centre_crop(pair: TrainingPair, scale: int, side: int = SIDE, multiple: int = 1) -> TrainingPair:
    """Return the centre of a pair, at most `side` large pixels in height and width. The sides of its small
    picture are multiples of `multiple`."""
    rows, columns = (_middle(n, side // scale, multiple) for n in pair.small.shape[:2])
    large = pair.large[rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale]
    return TrainingPair(pair.name, np.array(large), np.array(pair.small[rows, columns]))


def _middle(length: int, most: int, multiple: int) -> slice:
    """Return the slice of the middle `most` of `length` pixels, a multiple of `multiple` long."""
    kept = max(min(length, most) // multiple * multiple, min(length, multiple))
    return slice((length - kept) // 2, (length - kept) // 2 + kept)


def _tensor(pixels: Uint8Array, device: torch.device) -> Tensor:
    """Convert uint8 [H, W, 3] to float32 [1, 3, H, W] in 0..1, channels-last in memory."""
    nchw = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device)
    return to_float(nchw).contiguous(memory_format=torch.channels_last)


def luma_psnr(got: Tensor, wanted: Tensor, scale: int) -> float:
    """Return the PSNR in dB on Y of [1, 3, H, W] in 0..1, rounded to 8 bits first. It is infinite for equal
    pictures. A border as wide as the scale is left out."""
    error = ((got.clamp(0, 1) * 255).round() - (wanted * 255).round()) / 255
    luma = torch.einsum("nchw,c->nhw", error, error.new_tensor(LUMA.tolist()))
    squared = luma[:, scale:-scale, scale:-scale].square().mean()
    return float(10 * torch.log10(255**2 / squared))


def bicubic_psnr(pairs: Sequence[TrainingPair], scale: int) -> float:
    """Return the mean PSNR in dB on Y of bicubic upsampling: what a net has to be better than."""
    cpu = torch.device("cpu")
    large = (imresize(pair.small, size=pair.large.shape[:2]) for pair in pairs)
    found = [
        luma_psnr(_tensor(got, cpu), _tensor(pair.large, cpu), scale)
        for got, pair in zip(large, pairs, strict=True)
    ]
    return float(np.mean(found))


@torch.no_grad()
def measure(
    net: nn.Module,
    loss: ComposedLoss,
    pairs: Sequence[TrainingPair],
    scale: int,
    progress: Callable[[int], None] = lambda done: None,
) -> HeldOutQuality:
    """Measure `net` on `pairs` in fp32. `progress` is called with the number of pairs that are done."""
    device = next(net.parameters()).device
    psnr, losses = [], []
    for pair in pairs:
        wanted = _tensor(pair.large, device)
        got = net(_tensor(pair.small, device))
        psnr.append(luma_psnr(got, wanted, scale))
        losses.append(float(loss(got, wanted).total))
        progress(len(psnr))
    return HeldOutQuality(float(np.mean(psnr)), float(np.mean(losses)))


def affordable_side(
    net: nn.Module, loss: ComposedLoss, held_out: Sequence[TrainingPair], scale: int, seconds: float
) -> int:
    """Return the side of crops, in large pixels, on which `measure` takes about `seconds` in all.

    It is found by measuring one small crop four times; the fastest time counts, because the first one does what is
    done only once, and other programs may interrupt. The result is 96 to 512, and a multiple of 8 times the scale.
    """
    multiple = size_rule_of(net).multiple_of
    crop = centre_crop(held_out[0], scale, _SMALLEST_SIDE, multiple)
    fastest = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        measure(net, loss, [crop], scale)
        fastest = min(fastest, time.perf_counter() - start)
    a_pixel = fastest / (crop.large.shape[0] * crop.large.shape[1])
    side = int((seconds / (max(a_pixel, 1e-12) * len(held_out))) ** 0.5) if seconds > 0 else 0
    step = 8 * scale
    return SIDE if side >= SIDE else max(side // step * step, _SMALLEST_SIDE)


@torch.no_grad()
def crop_sheet(net: nn.Module, pairs: Sequence[TrainingPair], scale: int, name: str = "net") -> Uint8Array:
    """Draw rows of (small picture, bicubic, net, original), as RGB uint8.

    Every cell has a label above it: its size, or its PSNR of Y in dB. `name` is the label of the net. The small picture
    is enlarged by repeating its pixels.
    """
    device = next(net.parameters()).device
    rows = []
    for pair in pairs:
        wanted = _tensor(pair.large, device)
        result = net(_tensor(pair.small, device))
        bicubic = np.asarray(imresize(pair.small, size=pair.large.shape[:2]))
        large = result[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        rows.append(
            [
                (
                    f"small {pair.small.shape[1]}x{pair.small.shape[0]}",
                    pair.small.repeat(scale, 0).repeat(scale, 1),
                ),
                (f"bicubic {luma_psnr(_tensor(bicubic, device), wanted, scale):.2f} dB", bicubic),
                (f"{name} {luma_psnr(result, wanted, scale):.2f} dB", large),
                (f"original {pair.name}", pair.large),
            ]
        )
    return labelled_rows(rows)
