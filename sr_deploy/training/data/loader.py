"""Pictures in, batches out: random aligned crops of photographs and their small versions.

The k-th batch depends on the seed and k only, so a run is resumed by starting at k, with no generator state
to keep, and every process of a distributed run cuts its own share of the same batch. Decoding is
`pictures`' work, spoiling `degrade`'s.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sr_deploy.errors import UsageError
from sr_deploy.system.cores import usable_cores
from sr_deploy.training.data.degrade import Degradation, degraded
from sr_deploy.training.data.pictures import Pixels, TrainingPair

Batch = tuple[Tensor, Tensor]
_ORIENTATIONS = 8  # flips and quarter turns of a square


_TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}


def orient(pixels: Pixels, which: int, out: Pixels) -> None:
    """Write one of the eight flips and quarter turns of a square [S, S, 3] into `out`, contiguous and as large.

    `which` of 0 to 3 are so many quarter turns; 4 to 7 the same, mirrored. OpenCV turns twelve times as fast as
    a copy from a turned NumPy view, and lets other threads run meanwhile.
    """
    mirrored, turns = divmod(which, 4)
    if mirrored:  # a mirror before a turn is the other mirror after it
        pixels = cast(Pixels, cv2.flip(pixels, 0 if turns % 2 else 1, dst=None if turns else out))
    if turns:
        cv2.rotate(pixels, _TURNS[turns], dst=out)
    elif not mirrored:
        out[:] = pixels


def to_float(batch: Tensor) -> Tensor:
    """uint8 0..255 -> float32 0..1, memory layout kept."""
    return batch.float().div_(255.0)


class CropSampler:
    """Random aligned crops of `pairs`: `batch(k)` is a pure function of the arguments and k.

    Pictures are drawn with probability proportional to the square root of their pixels. With `busiest_of` above 1 so many
    places are drawn in each, and the one with the largest mean step between neighbours is cut. Raises UsageError
    where no picture is as large as a crop; smaller ones are left out and counted in `too_small`.
    """

    def __init__(
        self,
        pairs: list[TrainingPair],
        *,
        scale: int,
        crop: int,
        batch: int,
        seed: int,
        degrade: Degradation | None = None,
        share: tuple[int, int] = (0, 1),
        busiest_of: int = 1,
    ) -> None:
        fitting = [p for p in pairs if min(p.small.shape[:2]) >= crop]
        if not fitting:
            raise UsageError(
                f"none of {len(pairs)} pictures is at least {crop * scale} pixels on both sides, which a crop "
                f"of {crop} at scale {scale} needs; use larger pictures or a smaller crop"
            )
        rank, world = share
        if batch % world:
            raise UsageError(
                f"a batch of {batch} cannot be shared by {world} processes; use a multiple of {world}"
            )
        self.pairs, self.scale, self.crop, self.size = fitting, scale, crop, batch
        self.too_small = len(pairs) - len(fitting)
        self._mine = range(rank * batch // world, (rank + 1) * batch // world)
        self._seed, self._degrade, self._candidates = seed, degrade, busiest_of
        weight = np.sqrt([p.small.shape[0] * p.small.shape[1] for p in fitting])
        self._upto = np.cumsum(weight / weight.sum())

    def batch(self, k: int) -> Batch:
        """The share of the k-th batch that is ours: uint8 [N, 3, crop, crop] and [N, 3, crop * scale, ...].

        Channels-last in memory. `to_float` makes what a net takes, on the device, where it costs nothing.
        """
        draws = np.random.default_rng([self._seed, k]).random((self.size, self._candidates, 4))
        small = np.empty((len(self._mine), self.crop, self.crop, 3), np.uint8)
        side = self.crop * self.scale
        large = np.empty((len(self._mine), side, side, 3), np.uint8)
        for row, i in enumerate(self._mine):
            self._cut(draws[i], (self._seed, k, i), small[row], large[row])
        return torch.from_numpy(small).permute(0, 3, 1, 2), torch.from_numpy(large).permute(0, 3, 1, 2)

    def _cut(
        self, draws: npt.NDArray[np.float64], seed: tuple[int, int, int], small: Pixels, large: Pixels
    ) -> None:
        """Fill one row of a batch from draws [N, 4] of 0..1: picture, row, column and orientation, of which all but the
        places are the first row's."""
        index = int(np.searchsorted(self._upto, draws[0, 0], side="right"))
        pair = self.pairs[min(index, len(self.pairs) - 1)]
        which = int(draws[0, 3] * _ORIENTATIONS)
        top, left = self._place(pair.small, draws[:, 1:3])
        n = self.crop
        orient(_window(pair.large, top, left, n, self.scale), which, large)
        if self._degrade:
            cut = _spoilt(pair, top, left, n, self.scale, self._degrade, np.random.default_rng(seed))
        else:
            cut = _window(pair.small, top, left, n)
        orient(cut, which, small)

    def _place(self, small: Pixels, draws: npt.NDArray[np.float64]) -> tuple[int, int]:
        """Row and column of the crop: of the places that `draws` [N, 2] of 0..1 name, the busiest."""
        free = np.array(small.shape[:2]) - self.crop + 1
        places = [(int(top), int(left)) for top, left in draws * free]
        if len(places) == 1:
            return places[0]
        return max(places, key=lambda place: _busyness(_window(small, place[0], place[1], self.crop)))


def _busyness(pixels: Pixels) -> float:
    """Mean size of the steps down and across in green."""
    green = pixels[..., 1].astype(np.int16)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())


def _window(pixels: Pixels, top: int, left: int, size: int, scale: int = 1) -> Pixels:
    """The square of `size` small pixels at (top, left), in a picture that is `scale` times as large."""
    return pixels[top * scale : (top + size) * scale, left * scale : (left + size) * scale]


def _spoilt(
    pair: TrainingPair,
    top: int,
    left: int,
    size: int,
    scale: int,
    how: Degradation,
    random: np.random.Generator,
) -> Pixels:
    """A degraded small crop, made from its surroundings too, so that its border is not a picture's border."""
    above, before = min(top, how.margin), min(left, how.margin)
    below = min(pair.small.shape[0] - top - size, how.margin)
    after = min(pair.small.shape[1] - left - size, how.margin)
    rows = slice((top - above) * scale, (top + size + below) * scale)
    columns = slice((left - before) * scale, (left + size + after) * scale)
    small = degraded(pair.large[rows, columns], scale, how, random)
    return small[above : above + size, before : before + size]


class Loader:
    """Iterates over `crops` from batch `first` on, without end; threads cut the next ones meanwhile."""

    def __init__(
        self, crops: CropSampler, *, first: int = 0, workers: int = 1, ahead: int = 4, pin: bool = False
    ) -> None:
        self._crops, self._next, self._pin = crops, first, pin
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="crops")
        self._waiting: deque[Future[Batch]] = deque()
        for _ in range(max(ahead, workers)):
            self._order()

    def _order(self) -> None:
        self._waiting.append(self._pool.submit(self._make, self._next))
        self._next += 1

    def _make(self, k: int) -> Batch:
        small, large = self._crops.batch(k)
        return (small.pin_memory(), large.pin_memory()) if self._pin else (small, large)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self._waiting.popleft().result()
            self._order()
            yield batch

    def close(self) -> None:
        """Stop the threads. The batches cut ahead are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def default_workers(device: str) -> int:
    """Loader threads: one beside a CPU that trains, a few for a GPU that must not wait."""
    return 1 if device == "cpu" else min(8, usable_cores() or os.cpu_count() or 1)
