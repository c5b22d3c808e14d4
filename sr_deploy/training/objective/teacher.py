"""Knowledge distillation: a net learns what a finished net, the teacher, makes of the small pictures.

A photograph has texture that its small version does not determine. Next to it a small net's own errors are
small, so most of every gradient comes from detail that cannot be known. A teacher's pictures have none of
that. Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", with regression in place of
classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sr_deploy.errors import InputError, UsageError
from sr_deploy.system.arrays import Uint8Array
from sr_deploy.system.files import digest_of
from sr_deploy.tiles import Plan, Span, plan_tiles, plan_whole
from sr_deploy.training.checkpoint import load_net
from sr_deploy.training.data.loader import to_float
from sr_deploy.training.export.halo import measure_halo
from sr_deploy.training.nets import size_rule_of
from sr_deploy.training.nets.blocks import fold
from sr_deploy.verify.plain import mirrored

_TILE = 192  # side in small pixels of the tiles in which large pictures are drawn


class Teacher:
    """The net of a checkpoint, which draws the mean of its results for all eight flips and quarter turns.

    The mean is closer to the original than any of the eight. Source: Lim et al. 2017 (EDSR), section 4.3,
    "Geometric Self-ensemble". Raises InputError for a file that is not a checkpoint.
    """

    def __init__(self, path: Path, device: torch.device | None = None) -> None:
        # Building the net draws random numbers; the first weights of the run must not depend on that.
        with torch.random.fork_rng(devices=[]):
            net, self.info = load_net(path)
        self.sha256 = digest_of(path)
        self._halo = measure_halo(net)
        self._rule = size_rule_of(net)
        self._device = device or torch.device("cpu")
        self._net = fold(net).eval().requires_grad_(False)
        self._net.to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def key(self) -> str:
        """Identifier of the pictures it draws: it changes with the checkpoint and with the method of drawing."""
        return f"{self.sha256[:16]}-8"

    def check_scale(self, scale: int) -> None:
        """Raise InputError where the teacher has another scale."""
        if self.info.scale != scale:
            raise InputError(
                f"the teacher {self.info.name} enlarges {self.info.scale} times, but the phase that learns from it "
                f"enlarges {scale} times; name a --teacher of that scale"
            )

    @property
    def record(self) -> dict[str, Any]:
        """Name, SHA-256 and training of the checkpoint, as JSON values.

        It is written into the state and the checkpoints of the run that learns from it.
        """
        return {"name": self.info.name, "sha256": self.sha256, "training": dict(self.info.training)}

    def check_same(self, before: Mapping[str, Any] | None) -> None:
        """Raise UsageError where the run used another teacher before. `before` is the record of that one."""
        if before and before["sha256"] != self.sha256:
            raise UsageError(
                f"the run learnt from {before['name']}, SHA-256 {before['sha256'][:12]}, but this teacher has SHA-256 "
                f"{self.sha256[:12]}; name the same --teacher, or another --out"
            )

    def draw(self, small: Uint8Array) -> Uint8Array:
        """Return the large picture to learn: uint8 [H, W, 3] -> uint8 [H * scale, W * scale, 3]."""
        height, width = small.shape[:2]
        scale, plan = self.info.scale, self._plan(height, width)
        padded = mirrored(small, self._rule)
        large = np.empty((height * scale, width * scale, 3), np.uint8)
        for row, column in plan:
            tile = padded[
                row.start : row.start + plan.read_height, column.start : column.start + plan.read_width
            ]
            got = self._ensemble(tile).mul_(255).round_().byte().permute(1, 2, 0).cpu().numpy()
            large[_kept_pixels(row, 0, scale), _kept_pixels(column, 0, scale)] = got[
                _kept_pixels(row, row.start, scale), _kept_pixels(column, column.start, scale)
            ]
        return large

    def _plan(self, height: int, width: int) -> Plan:
        """Return the plan: one tile for a small picture or a net without a halo, else tiles of `_TILE`."""
        if self._halo is None or max(height, width) <= _TILE:
            return plan_whole(height, width, self._rule)
        return plan_tiles(height, width, tile=_TILE, halo=self._halo, rule=self._rule)

    @torch.no_grad()
    def _ensemble(self, tile: Uint8Array) -> Tensor:
        """Return the mean over flips and turns: [H, W, 3] -> [3, H * scale, W * scale] in 0..1."""
        picture = to_float(torch.from_numpy(tile).to(self._device).permute(2, 0, 1)[None])
        summed = torch.zeros((), device=self._device)
        for view in (picture, picture.mT):
            for axes in ((), (2,), (3,), (2, 3)):
                result: Tensor = self._net(
                    view.flip(axes).contiguous(memory_format=torch.channels_last)
                ).flip(axes)
                summed = summed + (result if view is picture else result.mT)
        return (summed[0] / 8).clamp_(0, 1)


def _kept_pixels(span: Span, origin: int, scale: int) -> slice:
    """Return the slice of large pixels that a tile keeps, counted from the small pixel `origin`."""
    return slice((span.keep_from - origin) * scale, (span.keep_to - origin) * scale)
