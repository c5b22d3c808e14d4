"""How good a net is on the pictures held out, and what it makes of them, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.quality.metrics import LUMA
from sr_deploy.training.data.loader import to_float
from sr_deploy.training.data.pictures import Pixels, TrainingPair
from sr_deploy.training.nets import size_rule_of
from sr_deploy.training.objective.losses import ComposedLoss

_SIDE = 512  # large pixels of each picture that are looked at, so that a look is soon over


@dataclass(frozen=True)
class HeldOutQuality:
    """Means over the pictures held out."""

    psnr: float
    """dB, on the Y of BT.601, border shaved by the scale."""
    loss: float
    """The phase's composed loss."""


def centre_crop(pair: TrainingPair, scale: int, side: int = _SIDE, multiple: int = 1) -> TrainingPair:
    """The middle of a pair, at most `side` large pixels tall and wide, its small sides multiples of `multiple`."""
    rows, columns = (_middle(n, side // scale, multiple) for n in pair.small.shape[:2])
    large = pair.large[rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale]
    return TrainingPair(pair.name, np.array(large), np.array(pair.small[rows, columns]))


def _middle(length: int, most: int, multiple: int) -> slice:
    kept = max(min(length, most) // multiple * multiple, min(length, multiple))
    return slice((length - kept) // 2, (length - kept) // 2 + kept)


def _tensor(pixels: Pixels, device: torch.device) -> Tensor:
    nchw = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device)
    return to_float(nchw).contiguous(memory_format=torch.channels_last)


def luma_psnr(got: Tensor, wanted: Tensor, scale: int) -> float:
    """PSNR in dB of [1, 3, H, W] in 0..1, rounded to 8 bits first, on Y, border shaved; infinite when equal."""
    error = ((got.clamp(0, 1) * 255).round() - (wanted * 255).round()) / 255
    luma = torch.einsum("nchw,c->nhw", error, error.new_tensor(LUMA.tolist()))
    squared = luma[:, scale:-scale, scale:-scale].square().mean()
    return float(10 * torch.log10(255**2 / squared))


@torch.no_grad()
def measure(net: nn.Module, loss: ComposedLoss, pairs: Sequence[TrainingPair], scale: int) -> HeldOutQuality:
    """The quality of `net` on `pairs`, at full precision."""
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
) -> Pixels:
    """RGB rows of (bicubic, net, original) for the middles of up to `most` pictures, split by white lines."""
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


def _framed(cell: Pixels, side: int) -> Pixels:
    frame = np.full((side + 4, side + 4, 3), 255, np.uint8)
    frame[2 : 2 + cell.shape[0], 2 : 2 + cell.shape[1]] = cell
    return frame
