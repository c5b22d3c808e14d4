"""Random aligned crops of photographs and their small versions, in batches.

The k-th batch depends only on the seed and k. A run is therefore resumed by starting at k, without a stored
generator state, and every process of a distributed run cuts its own share of the same batch. `pictures`
decodes, `degrade` degrades.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor

from sr_deploy.errors import UsageError
from sr_deploy.system.arrays import DoubleArray, Uint8Array
from sr_deploy.system.cores import usable_cores
from sr_deploy.training.data.degrade import Degradation, degraded
from sr_deploy.training.data.pictures import TrainingPair

Batch = tuple[Tensor, Tensor]
"""Small and large crops, uint8 [N, 3, H, W] each."""

_ORIENTATIONS = 8  # flips and quarter turns of a square
_ROTATIONS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
"""Number of anticlockwise quarter turns -> OpenCV's constant."""


def orient(pixels: Uint8Array, which: int, out: Uint8Array) -> None:
    """Write one of the eight flips and quarter turns of a square [S, S, 3] into `out`.

    `which` of 0 to 3 is the number of quarter turns; 4 to 7 are the same, mirrored. `out` is contiguous and
    as large as `pixels`. OpenCV is twelve times as fast here as a copy from a rotated NumPy view, and it
    releases the GIL.
    """
    mirrored, turns = divmod(which, 4)
    if mirrored:  # mirroring top to bottom before a quarter turn equals mirroring left to right after it
        pixels = cast(Uint8Array, cv2.flip(pixels, 0 if turns % 2 else 1, dst=None if turns else out))
    if turns:
        cv2.rotate(pixels, _ROTATIONS[turns], dst=out)
    elif not mirrored:
        out[:] = pixels


def to_float(batch: Tensor) -> Tensor:
    """Convert uint8 0..255 to float32 0..1 and keep the memory layout."""
    return batch.float().div_(255.0)


class CropSampler:
    """Random aligned crops of `pairs`; `batch(k)` is a pure function of the arguments and k.

    A picture is drawn with probability proportional to the square root of its number of pixels. With
    `busiest_of` above 1, that many places are drawn in each picture, and the one with the largest mean
    difference between neighbours is cut. `share` is (rank, world size) in a distributed run.

    Pictures smaller than a crop are left out and counted in `too_small`. Raises UsageError where no picture
    is as large as a crop, or where the batch does not divide by the number of processes.
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
        fitting = [p for p in pairs if min(p.small_shape[:2]) >= crop]
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
        self._rows = range(rank * batch // world, (rank + 1) * batch // world)
        self._seed, self._degrade, self._candidates = seed, degrade, busiest_of
        weight = np.sqrt([p.small_shape[0] * p.small_shape[1] for p in fitting])
        self._cumulative_weight = np.cumsum(weight / weight.sum())

    def batch(self, k: int) -> Batch:
        """Return this process's share of the k-th batch.

        The result is uint8 [N, 3, crop, crop] and uint8 [N, 3, crop * scale, crop * scale], both
        channels-last in memory. Convert it with `to_float` on the device: bytes are a quarter of the data to
        transfer.
        """
        draws = np.random.default_rng([self._seed, k]).random((self.size, self._candidates, 4))
        small = np.empty((len(self._rows), self.crop, self.crop, 3), np.uint8)
        side = self.crop * self.scale
        large = np.empty((len(self._rows), side, side, 3), np.uint8)
        for row, i in enumerate(self._rows):
            self._cut(draws[i], (self._seed, k, i), small[row], large[row])
        return torch.from_numpy(small).permute(0, 3, 1, 2), torch.from_numpy(large).permute(0, 3, 1, 2)

    def _cut(
        self, draws: DoubleArray, seed: tuple[int, int, int], small: Uint8Array, large: Uint8Array
    ) -> None:
        """Fill one row of a batch.

        `draws` [N, 4] in 0..1 holds picture, row, column and orientation for each of N candidate places.
        Picture and orientation are taken from the first row only.
        """
        index = int(np.searchsorted(self._cumulative_weight, draws[0, 0], side="right"))
        pair = self.pairs[min(index, len(self.pairs) - 1)]
        which = int(draws[0, 3] * _ORIENTATIONS)
        top, left = self._choose_place(pair.small, draws[:, 1:3])
        n = self.crop
        orient(_window(pair.large, top, left, n, self.scale), which, large)
        if self._degrade:
            cut = _degraded_crop(pair, top, left, n, self.scale, self._degrade, np.random.default_rng(seed))
        else:
            cut = _window(pair.small, top, left, n)
        orient(cut, which, small)

    def _choose_place(self, small: Uint8Array, draws: DoubleArray) -> tuple[int, int]:
        """Return row and column of the crop: the busiest of the places that `draws` [N, 2] in 0..1 select."""
        free = np.array(small.shape[:2]) - self.crop + 1
        places = [(int(top), int(left)) for top, left in draws * free]
        if len(places) == 1:
            return places[0]
        return max(places, key=lambda place: _busyness(_window(small, place[0], place[1], self.crop)))


def _busyness(pixels: Uint8Array) -> float:
    """Return the mean absolute difference of vertical plus horizontal neighbours in the green channel."""
    green = pixels[..., 1].astype(np.int16)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())


def _window(pixels: Uint8Array, top: int, left: int, size: int, scale: int = 1) -> Uint8Array:
    """Return the square of `size` small pixels at (top, left), from a picture that is `scale` times as large."""
    return pixels[top * scale : (top + size) * scale, left * scale : (left + size) * scale]


def _degraded_crop(
    pair: TrainingPair,
    top: int,
    left: int,
    size: int,
    scale: int,
    how: Degradation,
    random: np.random.Generator,
) -> Uint8Array:
    """Return a degraded small crop. It is made from the crop and a margin around it, where the picture has
    one, so that the border of the crop is not degraded like the border of a picture."""
    above, before = min(top, how.margin), min(left, how.margin)
    below = min(pair.small_shape[0] - top - size, how.margin)
    after = min(pair.small_shape[1] - left - size, how.margin)
    rows = slice((top - above) * scale, (top + size + below) * scale)
    columns = slice((left - before) * scale, (left + size + after) * scale)
    small = degraded(pair.large[rows, columns], scale, how, random)
    return small[above : above + size, before : before + size]


def degraded_pairs(
    pairs: list[TrainingPair], scale: int, how: Degradation, *, copies: int = 2
) -> list[TrainingPair]:
    """Return `pairs` with degraded small pictures, `copies` of each. They are the same on every call."""
    return [
        TrainingPair(
            pair.name, pair.large, degraded(pair.large, scale, how, np.random.default_rng([number, copy]))
        )
        for number, pair in enumerate(pairs)
        for copy in range(copies)
    ]


class Loader:
    """Endless iterator over the batches of `crops` from batch `first` on.

    `workers` threads cut the next `ahead` batches meanwhile; `pin` puts them into page-locked memory for
    faster copies to a GPU. Use it as a context manager, or call `close`.
    """

    def __init__(
        self, crops: CropSampler, *, first: int = 0, workers: int = 1, ahead: int = 4, pin: bool = False
    ) -> None:
        self._crops, self._next, self._pin = crops, first, pin
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="crops")
        self._pending: deque[Future[Batch]] = deque()
        for _ in range(max(ahead, workers)):
            self._submit()

    def _submit(self) -> None:
        """Let a thread cut the next batch."""
        self._pending.append(self._pool.submit(self._cut_batch, self._next))
        self._next += 1

    def _cut_batch(self, k: int) -> Batch:
        """Cut batch k and pin its memory if wanted; runs in a worker thread."""
        small, large = self._crops.batch(k)
        return (small.pin_memory(), large.pin_memory()) if self._pin else (small, large)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self._pending.popleft().result()
            self._submit()
            yield batch

    def close(self) -> None:
        """Stop the threads and drop the batches that were cut ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def default_workers(device: str) -> int:
    """Return the number of loader threads for `device`.

    It is one for a CPU, which needs its cores for training, and up to eight for a GPU, which must not wait.
    """
    return 1 if device == "cpu" else min(8, usable_cores() or os.cpu_count() or 1)
