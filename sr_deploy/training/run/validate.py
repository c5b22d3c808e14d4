"""Measure a net on the pictures held out, and draw its results beside bicubic and the originals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
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

_SIDE = 512  # large pixels per side that are measured of each picture, so that an evaluation is short


@dataclass(frozen=True)
class HeldOutQuality:
    """Means over the pictures held out."""

    psnr: float
    """PSNR in dB on BT.601's Y; a border as wide as the scale is left out."""
    loss: float
    """Composed loss of the phase."""


def centre_crop(pair: TrainingPair, scale: int, side: int = _SIDE, multiple: int = 1) -> TrainingPair:
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
def measure(net: nn.Module, loss: ComposedLoss, pairs: Sequence[TrainingPair], scale: int) -> HeldOutQuality:
    """Measure `net` on `pairs` in fp32."""
    device = next(net.parameters()).device
    psnr, losses = [], []
    for pair in pairs:
        wanted = _tensor(pair.large, device)
        got = net(_tensor(pair.small, device))
        psnr.append(luma_psnr(got, wanted, scale))
        losses.append(float(loss(got, wanted).total))
    return HeldOutQuality(float(np.mean(psnr)), float(np.mean(losses)))


@torch.no_grad()
def crop_sheet(
    net: nn.Module, pairs: Sequence[TrainingPair], scale: int, side: int = 192, most: int = 6
) -> Uint8Array:
    """Draw rows of (bicubic, net, original) for the centres of up to `most` pictures, as RGB uint8.

    White lines separate the cells, each of which is `side` large pixels wide at most.
    """
    device = next(net.parameters()).device
    rows = []
    multiple = size_rule_of(net).multiple_of
    for pair in (centre_crop(p, scale, side, multiple) for p in pairs[:most]):
        result = net(_tensor(pair.small, device))[0].clamp(0, 1).mul(255).round().byte()
        size = (pair.large.shape[1], pair.large.shape[0])
        bicubic = cv2.resize(pair.small, size, interpolation=cv2.INTER_CUBIC)
        cells = [bicubic, result.permute(1, 2, 0).cpu().numpy(), pair.large]
        rows.append(np.concatenate([_framed(cell, side) for cell in cells], axis=1))
    return np.concatenate(rows, axis=0)


def _framed(cell: Uint8Array, side: int) -> Uint8Array:
    """Draw a white frame around a cell, and fill it up to `side` pixels."""
    frame = np.full((side + 4, side + 4, 3), 255, np.uint8)
    frame[2 : 2 + cell.shape[0], 2 : 2 + cell.shape[1]] = cell
    return frame
