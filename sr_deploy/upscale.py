"""`Upscaler`: a picture of any size through an engine, whole or in tiles without visible seams.

Pixels are uint8, uint16 or float32. It knows the `Engine` protocol and no concrete engine. It reads and
writes no files. No call leaves state behind, so several threads may share one Upscaler.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from sr_deploy.engines.base import Engine
from sr_deploy.errors import OutOfMemoryError, UsageError, check_choice, check_function, check_whole
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import AnyArray, BatchArray, check_array, check_float_range
from sr_deploy.system.cores import usable_cores
from sr_deploy.system.memory import available_memory, parse_memory
from sr_deploy.tiles import Plan, Span, plan_tiles, plan_whole

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from sr_deploy.images.image import Image

_P = TypeVar("_P", bound=AnyArray)
_Frame = TypeVar("_Frame", "Image", AnyArray)
Progress = Callable[[int, int], None]
"""Callback with the number of finished tiles and of all tiles."""

# Working memory of a tile in bytes: enough for about 1000 pixels a side with rt-x4, 250 with srresnet-x4.
_BUDGET = 1 << 30
# For engines that do not report it: four activations of 64 channels in fp32 (4 bytes) exist at once.
_DEFAULT_BYTES_PER_PIXEL = 1024.0
_SMALLEST_TILE = 16  # side in pixels
_PARALLEL_BYTES = 4 << 20  # size in bytes from which a tile's result is copied by several threads
_MAX_WRITERS = 4  # threads
_STRIP = 64  # rows of the small picture that are processed at a time


class Upscaler:
    """Upscales pictures of any size with one engine.

    `tile`: side in input pixels of the region that a tile keeps. "auto" uses tiles only for pictures
    that need more than `memory` bytes of working memory, which may also be a text such as "512M" or "1G". The default
    of `memory` is 1 GiB, or a quarter of the free memory if that is less. None never uses tiles.

    `overlap`: input pixels read around a tile. The default is the model's measured halo, with which the
    tiled result equals the whole one. A smaller overlap is allowed; a warning goes to `say`.

    `say`: receives warnings, one line each; default: they are dropped.

    `engine`: an engine of `open_engine`. `Upscaler.open` opens one by the name of a model.

    Raises UsageError for a wrong argument, or for a tile or overlap that the model cannot serve. Several threads may
    use one Upscaler.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tile: int | Literal["auto"] | None = "auto",
        overlap: int | None = None,
        memory: int | str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        _check_arguments(engine, overlap, say)
        self.engine = engine
        self.tile, self.overlap = tile, overlap
        self.memory = None if memory is None else parse_memory(memory)
        self._say = say or (lambda message: None)
        self._preparing: threading.Thread | None = None
        self._threads: int | None = None  # limit for copying results; None: the number of cores
        self._check_options()

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        backend: str = "auto",
        fast: bool = False,
        threads: int | None = None,
        tile: int | Literal["auto"] | None = "auto",
        overlap: int | None = None,
        memory: int | str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Upscaler:
        """An Upscaler for a bundled model or a model file, on the given backend.

        `model` is a name or a path; `threads` limits the CPU threads (default: all usable cores). With `fast`, the bf16
        or int8 form of the model is used where it is faster here, at a loss of at most 0.1 dB. The
        Upscaler owns the engine: close it, or use it in a `with` statement. Raises the errors of
        `find_model` and `open_engine`.
        """
        from sr_deploy.models.open import open_engine

        if fast:
            from sr_deploy.models.fast import fast_form

            found = fast_form(model, backend, threads=threads, say=say)
            model, backend = found.path, found.backend
        engine = open_engine(model, backend=backend, threads=threads, say=say)
        try:
            upscaler = cls(engine, tile=tile, overlap=overlap, memory=memory, say=say)
        except BaseException:
            engine.close()
            raise
        upscaler._threads = threads
        return upscaler

    @property
    def spec(self) -> ModelSpec:
        """The spec of the engine's model."""
        return self.engine.spec

    def prepare(self) -> None:
        """Prepare the engine for 8-bit pictures in a background thread, while the caller reads the
        first picture.

        Returns at once. Does nothing if the engine has no `prepare`. Errors are ignored here: the same
        error occurs again, and is raised, when a picture is upscaled.
        """
        prepare = getattr(self.engine, "prepare", None)
        if self._preparing is not None or prepare is None:
            return

        def work() -> None:
            with suppress(Exception):
                prepare(np.uint8)

        self._preparing = threading.Thread(target=work, daemon=True)
        with suppress(RuntimeError):  # no more threads available: the first picture prepares the engine
            self._preparing.start()

    def close(self) -> None:
        """Close the engine. Calling it again does nothing."""
        # an engine must not be closed while the background thread still uses it
        if self._preparing is not None and self._preparing.is_alive():
            self._preparing.join()
        self.engine.close()

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def upscale(
        self, image: Image, progress: Progress | None = None, alpha: Literal["cutout", "straight"] = "cutout"
    ) -> Image: ...

    @overload
    def upscale(
        self, image: _P, progress: Progress | None = None, alpha: Literal["cutout", "straight"] = "cutout"
    ) -> _P: ...

    def upscale(
        self,
        image: Image | AnyArray,
        progress: Progress | None = None,
        alpha: Literal["cutout", "straight"] = "cutout",
    ) -> Image | AnyArray:
        """Enlarge `image` by the model's scale. An array of pixels gives an array, as `upscale_pixels` does.

        Colours go through the net, opacity through bicubic interpolation. A net sharpens edges and may
        exceed the values on both sides. This is wanted for colour; in opacity it would draw a rim of
        half-transparent pixels inside an opaque shape. The colour of fully transparent pixels is first
        replaced by that of visible neighbours, because it would bleed into the edges. With `alpha`
        "straight", opacity is a channel of its own (a mask, or a value for a game), and colours are
        upscaled as they are. Metadata and notes are carried over.

        Raises the errors of `upscale_pixels`.
        """
        check_choice("alpha", alpha, ("cutout", "straight"))
        if isinstance(image, np.ndarray):
            return self.upscale_pixels(image, progress=progress)
        _check_image(image)
        if image.alpha is None:
            return replace(image, pixels=self.upscale_pixels(image.pixels, progress=progress))
        pixels = image.pixels
        if alpha == "cutout":
            from sr_deploy.images.codecs.pixels import fill_hidden_colour

            pixels = fill_hidden_colour(pixels, image.alpha)
        colour = self.upscale_pixels(pixels, progress=progress)
        return replace(image, pixels=colour, alpha=_upscaled_alpha(image.alpha, self.spec.scale))

    def stream(self, frames: Iterable[_Frame], *, ahead: int = 2) -> Iterator[_Frame]:
        """Upscale frames (arrays or images) one after the other: an iterator of the results, in the order of `frames`.

        `frames` may be endless: at most `ahead` frames beyond the one that is waited for are taken from it and
        computed in advance, in threads, so that the engine always has work. `frames` itself is read in the thread
        that asks for results. An error of a frame is raised in its place, and ends the iteration.

        An array of frames [N, H, W, C] is taken too. Raises UsageError at once if `frames` cannot be iterated or is a
        single picture, or `ahead` is below 1.
        """
        check_whole("ahead", ahead)
        if isinstance(frames, np.ndarray) and frames.ndim == 4:
            frames = list(frames)
        if isinstance(frames, (np.ndarray, str, bytes)) or not hasattr(frames, "__iter__"):
            raise UsageError(
                f"frames must be an iterable of pictures, such as a list or a generator, got {type(frames).__name__}; "
                "upscale takes a single picture"
            )
        return self._stream(frames, ahead)

    def _stream(self, frames: Iterable[_Frame], ahead: int) -> Iterator[_Frame]:
        """The iterator of `stream`. Frames that are not begun are dropped when it is closed."""
        from collections import deque
        from concurrent.futures import Future, ThreadPoolExecutor

        waiting: deque[Future[Any]] = deque()
        pool = ThreadPoolExecutor(ahead)
        try:
            for frame in frames:
                waiting.append(pool.submit(self.upscale, frame))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    @property
    def works_in_bands(self) -> bool:
        """True if a picture can be upscaled in bands of rows with the same result as a whole."""
        return self.tile is not None and self._halo is not None and self.spec.size_rule.fixed is None

    def upscale_bands(self, image: Image, progress: Progress | None = None) -> Image:
        """Enlarge a picture of `images.large.open_large` by the model's scale, band by band while it is written.

        Returns at once. Errors of `upscale_pixels` are raised when the rows are read. Needs `works_in_bands`.
        """
        from sr_deploy.images.large import enlarged

        halo, multiple = self._halo or 0, self.spec.size_rule.multiple_of
        return enlarged(
            image, self.upscale_pixels, scale=self.spec.scale, halo=halo, multiple=multiple, progress=progress
        )

    def upscale_pixels(self, pixels: _P, out: _P | None = None, progress: Progress | None = None) -> _P:
        """Enlarge pixels [H, W, C] to [H*scale, W*scale, C] of the same type: uint8, uint16 or float32
        (0..1).

        C is 3 (RGB) or 1 (grey), whatever the channels of the model. `out` receives the result if
        given; it must be C-contiguous. `progress(done, total)` is called after every tile. If the
        engine runs out of memory, the tiles are halved and the work starts again, unless `tile` is
        None.

        Raises UsageError for another shape or type, OutOfMemoryError if not even a small tile fits.
        """
        _check_pixels(pixels)
        check_function("progress", progress)
        result = self._result_array(pixels, out)
        plan = self.plan(*pixels.shape[:2])
        while True:
            try:
                self._run(plan, pixels, result, progress)
                return result
            except MemoryError:
                plan = self._smaller_plan(plan, *pixels.shape[:2])

    def plan(self, height: int, width: int) -> Plan:
        """The tiles for a picture of `height` x `width` pixels.

        Raises UsageError if the model cannot take the size.
        """
        check_whole("height", height)
        check_whole("width", width)
        if self.tile is None:
            return plan_whole(height, width, self.spec.size_rule)
        if self.tile != "auto":
            return self._tiled_plan(height, width, self.tile)
        if self._fits(height, width):
            return plan_whole(height, width, self.spec.size_rule)
        if self._halo is None:  # tiles would change the result; try the whole picture and see if memory lasts
            return plan_whole(height, width, self.spec.size_rule)
        return self._tiled_plan(height, width, self._auto_tile())

    def _check_options(self) -> None:
        """Raise UsageError for an invalid tile or overlap; warn if the overlap is smaller than the halo."""
        overlap, halo = self.overlap, self.spec.halo
        check_tile(self.spec, self.tile, overlap)
        if overlap is not None and (halo is None or overlap < halo):
            needed = "the whole picture" if halo is None else f"{halo} pixels"
            self._say(f"overlap {overlap}: {self.spec.name} sees {needed} around a pixel, so tiles may show")

    @property
    def _halo(self) -> int | None:
        """Pixels to read around a tile: the user's overlap or else the halo. None: the whole picture."""
        return self.spec.halo if self.overlap is None else self.overlap

    def _tiled_plan(self, height: int, width: int, tile: int) -> Plan:
        """A plan with tiles of at most `tile` pixels that also respects the size limits of the engine."""
        overlap = self._halo or 0
        limits, rule = self.engine.limits, self.spec.size_rule
        for limit in (limits.max_height, limits.max_width):
            if limit is not None and rule.fixed is None:
                # a tile may read up to one step more than asked for, so that it ends with the picture
                most = limit - rule.step + 1 if rule.tile_step else limit // rule.step * rule.step
                tile = min(tile, most - 2 * overlap)
        if tile < 1:
            raise UsageError(
                f"{self.spec.name} on {self.engine.backend} takes at most {limits.max_width}x{limits.max_height} pixels, "
                f"and an overlap of {overlap} on both sides leaves none of them; give a smaller overlap"
            )
        return plan_tiles(height, width, tile=tile, halo=overlap, rule=rule)

    def _budget_pixels(self) -> float:
        """Number of input pixels whose computation fits into the memory budget."""
        budget = _default_budget() if self.memory is None else self.memory
        return budget / (self.engine.limits.bytes_per_pixel or _DEFAULT_BYTES_PER_PIXEL)

    def _fits(self, height: int, width: int) -> bool:
        """True if the model accepts the whole picture and its computation fits into the memory budget."""
        rule, limits = self.spec.size_rule, self.engine.limits
        if rule.fixed is not None and (height > rule.fixed[0] or width > rule.fixed[1]):
            return False
        tall, wide = rule.padded(height, width)
        if tall > (limits.max_height or tall) or wide > (limits.max_width or wide):
            return False
        return tall * wide <= self._budget_pixels()

    def _auto_tile(self) -> int:
        """The side in pixels of a square tile that fits into the memory budget together with its halo."""
        overlap = self._halo or 0
        limits = self.engine.limits
        side = int(math.sqrt(self._budget_pixels()))
        side = min(side, limits.max_height or side, limits.max_width or side)
        return max(side - 2 * overlap, _SMALLEST_TILE)

    def _smaller_plan(self, plan: Plan, height: int, width: int) -> Plan:
        """A plan with tiles of half the side, for use after `plan` ran out of memory.

        Raises OutOfMemoryError if tiles are not allowed or cannot get smaller.
        """
        overlap = self._halo
        if self.tile is None:
            raise OutOfMemoryError(
                f"{width}x{height} pixels at once do not fit into memory; allow tiles, which give the same result"
            )
        if overlap is None:
            raise OutOfMemoryError(
                f"{width}x{height} pixels at once do not fit into memory, and {self.spec.name} sees the whole picture; "
                "give a tile and an overlap to accept a different result, or use a smaller model"
            )
        side = (max(plan.read_height, plan.read_width) - 2 * overlap) // 2
        if side < _SMALLEST_TILE or self.spec.size_rule.fixed is not None:
            raise OutOfMemoryError(
                f"not even a tile of {plan.read_width}x{plan.read_height} pixels fits into memory; close other "
                "programs or use a smaller model"
            )
        self._say(
            f"out of memory with tiles of {plan.read_width}x{plan.read_height} pixels; going on with {side}x{side}"
        )
        return self._tiled_plan(height, width, side)

    def _result_array(self, pixels: _P, out: _P | None) -> _P:
        """The array for the result: `out` after a check, or a new one.

        Raises UsageError if `out` does not fit, OutOfMemoryError if there is too little memory.
        """
        scale = self.spec.scale
        shape = (pixels.shape[0] * scale, pixels.shape[1] * scale, pixels.shape[2])
        if out is not None:
            check_array("out", out)
            if out.shape != shape or out.dtype != pixels.dtype or not out.flags.c_contiguous:
                raise UsageError(
                    f"out must be a C-contiguous {pixels.dtype} array {shape}, got {out.dtype} {out.shape}"
                )
            return out
        # Linux promises memory that it does not have and kills the process later, so look beforehand
        needed, free = math.prod(shape) * pixels.itemsize, available_memory()
        message = f"the result of {shape[1]}x{shape[0]} pixels takes {needed >> 20} MiB"
        if free is not None and needed > free:
            raise OutOfMemoryError(
                f"{message}, but only {free >> 20} MiB are free; upscale a part of the picture, or use a smaller scale"
            )
        try:
            made: Any = np.empty(shape, pixels.dtype)
            return cast(_P, made)
        except MemoryError as error:
            raise OutOfMemoryError(f"{message}, which could not be allocated; use a smaller scale") from error

    def _run(self, plan: Plan, pixels: AnyArray, result: AnyArray, progress: Progress | None) -> None:
        """Compute all tiles of `plan` and put them into `result`."""
        same = pixels.dtype != np.uint16 and pixels.shape[2] == self.spec.channels
        exact = (plan.read_height, plan.read_width) == pixels.shape[:2]
        if plan.whole and same and exact:  # no conversion needed: the engine writes into the result itself
            self.engine.run(np.ascontiguousarray(pixels)[None], result[None])
            if progress:
                progress(1, 1)
            return
        scratch: BatchArray | None = None
        with _ResultWriter(self._threads) as write:
            for done, (row, column) in enumerate(plan, start=1):
                tile = _read_tile(pixels, row, column, plan)
                scratch = self._run_engine(_to_engine(tile, self.spec.channels), scratch)
                kept = _crop_kept(scratch, row, column, self.spec.scale)
                top, left = row.keep_from * self.spec.scale, column.keep_from * self.spec.scale
                write(kept, result[top : top + kept.shape[1], left : left + kept.shape[2]])
                if progress:
                    progress(done, plan.count)

    def _run_engine(self, batch: BatchArray, scratch: BatchArray | None) -> BatchArray:
        """Run the engine on `batch`, one picture per call if the batch is larger than the engine accepts.

        `scratch` is the previous result of the same shape, to be reused.
        """
        most = self.engine.limits.max_batch or batch.shape[0]
        if batch.shape[0] <= most:
            return self.engine.run(batch, scratch)
        parts = [self.engine.run(batch[i : i + 1]) for i in range(batch.shape[0])]
        joined: Any = np.concatenate(parts)
        return cast("BatchArray", joined)


class _ResultWriter:
    """Copies what the engine computed into the result; large tiles are copied by several threads.

    Most of the time of a copy is spent on the memory pages of the result that are touched for the first
    time. Threads share this work. Use it as a context manager; it belongs to one thread.
    """

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> _ResultWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()

    def __call__(self, kept: BatchArray, target: AnyArray) -> None:
        """Copy `kept` [N, H, W, channels] into `target` [H, W, C]; converts like `_from_engine`."""
        if target.nbytes < _PARALLEL_BYTES or not self._write_in_parallel(kept, target):
            _from_engine(kept, target)

    def _write_in_parallel(self, kept: BatchArray, target: AnyArray) -> bool:
        """Copy in parallel, in bands of rows. Returns False if the caller has to copy instead."""
        if self._threads is None:
            self._threads = usable_cores() or os.cpu_count() or 1
        parts = min(_MAX_WRITERS, self._threads)
        if parts == 1:
            return False
        height = target.shape[0]
        try:
            if self._pool is None:
                # this import takes half a millisecond, which small pictures should not pay for
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(parts)
            begun = []
            for part in range(parts):
                rows = slice(height * part // parts, height * (part + 1) // parts)
                begun.append(self._pool.submit(_from_engine, kept[:, rows], target[rows]))
        except RuntimeError:
            # No more threads available. Cancel the waiting copies: later, `kept` will hold another tile.
            if self._pool:
                self._pool.shutdown(cancel_futures=True)
            self._pool, self._threads = None, 1
            return False
        for each in begun:
            each.result()
        return True


def check_tile(spec: ModelSpec, tile: int | str | None, overlap: int | None) -> None:
    """Raise UsageError for a tile that is invalid, or that a model with this spec cannot serve with this overlap."""
    is_number = isinstance(tile, int) and not isinstance(tile, bool) and tile >= 1
    if tile is not None and tile != "auto" and not is_number:
        raise UsageError(f"tile must be a number of pixels, 'auto' or None, got {tile!r}")
    if spec.halo is None and isinstance(tile, int) and overlap is None:
        raise UsageError(
            f"{spec.name} sees the whole picture at once, so tiles change its result; give an overlap as well "
            "to accept that"
        )


def _check_arguments(engine: Engine, overlap: object, say: object) -> None:
    """Raise UsageError for arguments of a wrong type: a model instead of an engine, or a text instead of a number."""
    if isinstance(engine, (str, Path)):
        raise UsageError(
            f"an Upscaler takes an engine, got {str(engine)!r:.60}; Upscaler.open({str(engine)!r:.60}) opens a model by its name"
        )
    if not (hasattr(engine, "spec") and hasattr(engine, "run")):
        raise UsageError(
            f"an Upscaler takes an engine of open_engine, got {type(engine).__name__}; Upscaler.open opens a model by its name"
        )
    if overlap is not None:
        check_whole("overlap", overlap, 0)
    check_function("say", say)


def _check_image(image: object) -> None:
    """Raise UsageError unless `image` looks like an `Image`."""
    if not hasattr(image, "pixels") or not hasattr(image, "alpha"):
        hint = "read_image reads a file" if isinstance(image, (str, os.PathLike)) else "see docs/python.md"
        raise UsageError(
            f"upscale takes an Image or a NumPy array of pixels, got {type(image).__name__}; {hint}"
        )


def _check_pixels(pixels: AnyArray) -> None:
    """Raise UsageError if `pixels` is not an array that `upscale_pixels` accepts."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype not in (np.uint8, np.uint16, np.float32):
        got = getattr(pixels, "dtype", type(pixels).__name__)
        raise UsageError(f"expected a uint8, uint16 or float32 array of pixels, got {got}; convert it first")
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise UsageError(
            f"expected pixels [H, W, 3] (RGB) or [H, W, 1] (grey), got shape {pixels.shape}{_shape_hint(pixels)}"
        )
    check_float_range(pixels)


def _shape_hint(pixels: AnyArray) -> str:
    """The end of the sentence about a wrong shape: what to do with the usual ones; may be empty."""
    if pixels.ndim == 2:
        return "; for a grey picture pass pixels[..., None]"
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return "; opacity is apart: upscale takes an Image(pixels=..., alpha=...)"
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        return "; channels come last here: pass pixels.transpose(1, 2, 0)"
    return "; open_engine takes batches" if pixels.ndim == 4 else ""


def _upscaled_alpha(small: AnyArray, scale: int) -> AnyArray:
    """Opacity [H, W] -> [H*scale, W*scale], by bicubic interpolation.

    Every value is clipped to the range of the 3x3 input pixels around it, so the interpolation cannot
    overshoot and opaque areas stay opaque.
    """
    from sr_deploy.images.opencv import cv2

    height, width = small.shape
    large: AnyArray = cv2.resize(small, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
    # erosion and dilation give the smallest and the largest value of each 3x3 neighbourhood
    kernel = np.ones((3, 3), np.uint8)
    least, most = cv2.erode(small, kernel), cv2.dilate(small, kernel)
    for top in range(0, height, _STRIP):
        low, high = (side[top : top + _STRIP].repeat(scale, 0).repeat(scale, 1) for side in (least, most))
        rows = large[top * scale : (top + _STRIP) * scale]
        np.clip(rows, low, high, out=rows)
    return large


def _read_tile(pixels: AnyArray, row: Span, column: Span, plan: Plan) -> AnyArray:
    """The pixels that a tile reads.

    Pixels beyond the picture, which the size rule may demand, are mirrored, and repeated beyond the
    mirror.
    """
    height, width = pixels.shape[:2]
    bottom, right = row.start + plan.read_height, column.start + plan.read_width
    tile = pixels[row.start : bottom, column.start : right]
    if bottom > height:
        tile = tile[_mirrored(row.start, bottom, height)]
    if right > width:
        tile = tile[:, _mirrored(column.start, right, width)]
    return tile


def _default_budget() -> int:
    """Bytes that a computation may use where the user set no limit."""
    free = available_memory()
    # a quarter: the result, the picture and other programs need memory too
    return _BUDGET if free is None else min(_BUDGET, free // 4)


def _mirrored(start: int, stop: int, length: int) -> npt.NDArray[np.intp]:
    """Indices, relative to `start`, that mirror positions from `length` on at the last pixel."""
    index = np.arange(start, stop)
    index = np.where(index < length, index, 2 * (length - 1) - index)
    return np.clip(index - start, 0, length - 1 - start)


def _to_engine(tile: AnyArray, channels: int) -> BatchArray:
    """Pixels [H, W, C] as an engine takes them: uint8 or float32 [N, H, W, channels], C-contiguous.

    uint16 becomes float32 in 0..1. N is 3 if the picture is RGB and the model is grey, else 1.
    """
    batch: Any = tile.astype(np.float32) / np.float32(65535) if tile.dtype == np.uint16 else tile
    if batch.shape[2] == channels:
        return np.ascontiguousarray(batch[None])
    if channels == 3:  # a grey picture through a colour net
        return np.repeat(batch[None], 3, axis=3)
    # RGB through a grey net: each colour is a picture of its own
    return np.ascontiguousarray(batch.transpose(2, 0, 1)[:, :, :, None])


def _crop_kept(batch: BatchArray, row: Span, column: Span, scale: int) -> BatchArray:
    """The part of a tile's result that counts."""
    top, left = (row.keep_from - row.start) * scale, (column.keep_from - column.start) * scale
    tall, wide = (row.keep_to - row.keep_from) * scale, (column.keep_to - column.keep_from) * scale
    return batch[:, top : top + tall, left : left + wide]


def _from_engine(batch: BatchArray, target: AnyArray) -> None:
    """Copy the engine's [N, H, W, channels] into `target` [H, W, C], rounded to nearest for integer types."""
    values: Any = batch[0] if batch.shape[0] == 1 else batch[:, :, :, 0].transpose(1, 2, 0)
    if values.shape[2] > target.shape[2]:  # a grey picture was fed as three equal channels: average them
        values = values.mean(axis=2, keepdims=True, dtype=np.float32)
        if target.dtype == np.uint8:
            values = np.rint(values)
    if target.dtype == np.uint16:
        values = np.rint(values * np.float32(65535))
    target[...] = values.astype(target.dtype, copy=False)
