"""Distance of two pictures in the features of a VGG, as a measure of looks beside PSNR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sr_deploy.system.arrays import AnyArray
from sr_deploy.training.objective.vgg import load_vgg

_LAYERS = ("relu2_2", "relu3_1")
"""Layers that are compared: those of the perceptual recipes. They see edges and texture, not objects."""


class VggDistance:
    """Mean absolute difference of VGG-19 activations as a share of the original's mean activation.

    It is 0 for equal pictures; the shares of `relu2_2` and `relu3_1` are averaged. `file` holds the weights; None takes
    those of torchvision. Raises the errors of `load_vgg`. Source: Johnson et al. 2016, "Perceptual losses for real-time
    style transfer and super-resolution", eq. 2, with absolute differences and the pooling as the VGG was trained.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._vgg, self.source = load_vgg("vgg19", list(_LAYERS), file)

    @torch.no_grad()
    def __call__(self, result: AnyArray, original: AnyArray) -> float:
        """Return the distance of two pictures [H, W, 1 or 3] of one type. Raises UsageError for a tiny picture."""
        ours, theirs = (self._vgg(_tensor(np.ascontiguousarray(pixels))) for pixels in (result, original))
        shares = [
            float((ours[layer] - theirs[layer]).abs().mean() / theirs[layer].abs().mean().clamp_min(1e-12))
            for layer in _LAYERS
        ]
        return float(np.mean(shares))


def _tensor(pixels: AnyArray) -> torch.Tensor:
    """Return pixels [H, W, 1 or 3] as [1, 3, H, W] in 0..1."""
    values = np.ascontiguousarray(np.moveaxis(pixels, 2, 0)).astype(np.float32) / np.iinfo(pixels.dtype).max
    return torch.from_numpy(values)[None].expand(1, 3, -1, -1)
