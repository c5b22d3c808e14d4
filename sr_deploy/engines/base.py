"""The `Engine` protocol: what every engine promises, whatever runtime computes."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import BatchArray, check_array, check_float_range

_Self = TypeVar("_Self", bound="Engine")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Largest input of an engine in one call, in input pixels. None: the engine sets no limit."""

    max_height: int | None = None
    max_width: int | None = None
    max_batch: int | None = None
    """Largest number of pictures in one call."""
    bytes_per_pixel: float | None = None
    """Bytes of working memory inside the engine per input pixel; None: unknown. Tile sizes are planned from
    it."""


@runtime_checkable
class Engine(Protocol):
    """A model that is ready to run. Threads may share an engine; nothing of a picture is kept between
    calls."""

    @property
    def spec(self) -> ModelSpec:
        """Spec of the model that the engine runs."""
        ...

    @property
    def limits(self) -> Limits:
        """Largest input that one call takes."""
        ...

    @property
    def backend(self) -> str:
        """Name by which the user chooses the engine, as in `--backend`."""
        ...

    def run(self, batch: BatchArray, out: BatchArray | None = None) -> BatchArray:
        """Upscale `batch` [N, H, W, C] (C = spec.channels, RGB order) to [N, H*scale, W*scale, C].

        uint8 in gives uint8 (0..255, rounded to nearest); float32 in gives float32 (0..1, clipped). The
        call is synchronous: when it returns, the array is complete and belongs to the caller. `out`, if
        given, is a C-contiguous array of the right shape and dtype; it is filled and returned.

        Raises UsageError for a shape or dtype that the model does not take, and for a closed engine;
        OutOfMemoryError if the runtime ran out of memory.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds. A second call does nothing; `run` raises UsageError afterwards."""
        ...

    def __enter__(self: _Self) -> _Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def check_batch(
    spec: ModelSpec, limits: Limits, batch: BatchArray, out: BatchArray | None = None
) -> tuple[int, ...]:
    """Check `batch` and `out` against the spec and the limits; returns the shape of the result.

    Float pixels have to lie in 0..1, with a small overshoot allowed.

    Raises UsageError that says what was passed and what was expected.
    """
    if not isinstance(batch, np.ndarray) or batch.dtype not in (np.uint8, np.float32):
        got = getattr(batch, "dtype", type(batch).__name__)
        raise UsageError(f"{spec.name}: expected a uint8 or float32 array, got {got}; convert it first")
    if batch.ndim != 4 or batch.shape[3] != spec.channels or 0 in batch.shape:
        raise UsageError(f"{spec.name}: expected pixels [N, H, W, {spec.channels}], got shape {batch.shape}")
    check_float_range(batch)
    count, height, width, channels = batch.shape
    rule = spec.size_rule
    if (rule.fixed and (height, width) != rule.fixed) or rule.padded(height, width) != (height, width):
        raise UsageError(
            f"{spec.name}: cannot take {width}x{height} pixels, its size rule is {rule}; pad the picture first"
        )
    for size, limit, what in (
        (height, limits.max_height, "rows"),
        (width, limits.max_width, "columns"),
        (count, limits.max_batch, "pictures"),
    ):
        if limit is not None and size > limit:
            raise UsageError(
                f"{spec.name}: {size} {what} in one call, this engine takes {limit}; tile the picture"
            )
    shape = (count, height * spec.scale, width * spec.scale, channels)
    if out is not None:
        check_array("out", out)
    if out is not None and (out.shape != shape or out.dtype != batch.dtype or not out.flags.carray):
        raise UsageError(
            f"out must be a writable C-contiguous {batch.dtype} array of shape {shape}, got {out.dtype} {out.shape}"
        )
    return shape
