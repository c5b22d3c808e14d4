"""Run several models one after the other, as one engine: a restoration net, then an upscaler.

A chain is named by its models, joined by "+": `dejpeg.onnx+4x.onnx`. Its result is that of one run after the other:
for 8-bit pictures the picture between two models has 8 bits as well. Scales multiply and halos add up, so the tiles
of a chain equal the whole picture as those of a single model do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, cast

import numpy as np

from sr_deploy.engines.base import Engine, Limits, check_batch
from sr_deploy.errors import UsageError
from sr_deploy.spec import PRECISIONS, ModelSpec, SizeRule
from sr_deploy.system.arrays import BatchArray
from sr_deploy.system.chains import SEPARATOR


def chain_spec(specs: Sequence[ModelSpec]) -> ModelSpec:
    """Return the spec of a chain: scales multiply, halos add up, tiles start where all nets' grids meet.

    Raises UsageError for models with other numbers of channels, of fixed size, or with a scale of more than 16
    together.
    """
    first, *rest = specs
    if not rest:
        return first
    for spec in specs:
        if spec.size_rule.fixed:
            height, width = spec.size_rule.fixed
            raise UsageError(
                f"{spec.name} takes {width}x{height} pixels only, but a chain needs models of any size; export it with dynamic "
                "height and width, or run the models one by one"
            )
        if spec.channels != first.channels:
            raise UsageError(
                f"{spec.name} has {spec.channels} channels and {first.name} {first.channels}; a chain needs models of one kind"
            )
    scale, halo, step = first.scale, first.halo, first.size_rule.step
    for spec in rest:
        halo = None if halo is None or spec.halo is None else halo + -(-spec.halo // scale)
        step = math.lcm(step, spec.size_rule.step // math.gcd(spec.size_rule.step, scale))
        scale *= spec.scale
    if scale > 16:
        raise UsageError(
            f"the scales of the chain make x{scale} together, at most x16 is possible; leave a model out"
        )
    rule = first.size_rule
    tile_step = step if step != rule.multiple_of else None
    return ModelSpec(
        name=SEPARATOR.join(spec.name for spec in specs),
        scale=scale,
        halo=halo,
        architecture=SEPARATOR.join(spec.architecture for spec in specs),
        channels=first.channels,
        precision=max((spec.precision for spec in specs), key=PRECISIONS.index),
        size_rule=SizeRule(minimum=rule.minimum, multiple_of=rule.multiple_of, tile_step=tile_step),
        undecided=tuple(f"{spec.name}: {sentence}" for spec in specs for sentence in spec.undecided),
    )


class ChainEngine:
    """Runs engines one after the other. Implements `Engine`; threads may share it. It owns its engines.

    Raises UsageError for models that make no chain (`chain_spec`); the engines are then closed.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)
        self._stack = ExitStack()
        for engine in self.engines:
            self._stack.callback(engine.close)
        try:
            self.spec = chain_spec([engine.spec for engine in self.engines])
        except BaseException:
            self.close()
            raise

    @property
    def backend(self) -> str:
        """Backend of all models, or the backends joined by "+" where they differ."""
        return SEPARATOR.join(dict.fromkeys(engine.backend for engine in self.engines))

    @property
    def limits(self) -> Limits:
        """Limits in pixels of the chain's input; the memory is that of the model that needs most."""
        scale, heights, widths, batches, memory = 1, [], [], [], list[float | None]()
        for engine in self.engines:
            limits = engine.limits
            heights.append(limits.max_height and limits.max_height // scale)
            widths.append(limits.max_width and limits.max_width // scale)
            batches.append(limits.max_batch)
            memory.append(limits.bytes_per_pixel and limits.bytes_per_pixel * scale**2)
            scale *= engine.spec.scale
        known = [each for each in memory if each]
        return Limits(
            max_height=_least(heights),
            max_width=_least(widths),
            max_batch=_least(batches),
            bytes_per_pixel=max(known) if len(known) == len(memory) else None,
        )

    def prepare(self, dtype: Any) -> None:
        """Prepare every engine that can be prepared. Raises what `run` raises."""
        for engine in self.engines:
            if (prepare := getattr(engine, "prepare", None)) is not None:
                prepare(dtype)

    def run(self, batch: BatchArray, out: BatchArray | None = None) -> BatchArray:
        """Run the models one after the other; see `Engine.run`. Between two models the picture is padded as the next
        one asks, and cut again."""
        check_batch(self.spec, self.limits, batch, out)
        for engine in self.engines[:-1]:
            batch = _run_padded(engine, batch, None)
        return _run_padded(self.engines[-1], batch, out)

    def close(self) -> None:
        """Close all engines. A second call does nothing."""
        self._stack.close()

    def __enter__(self) -> ChainEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _least(limits: Sequence[int | None]) -> int | None:
    """Return the smallest limit; None if there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def _run_padded(engine: Engine, batch: BatchArray, out: BatchArray | None) -> BatchArray:
    """Run an engine on pictures of any size: mirrored at the bottom and right up to a size that it takes."""
    height, width = batch.shape[1:3]
    tall, wide = engine.spec.size_rule.padded(height, width)
    if (tall, wide) == (height, width):
        return engine.run(batch, out)
    rows, columns = _mirrored(height, tall), _mirrored(width, wide)
    padded = np.ascontiguousarray(batch[:, rows][:, :, columns])
    scale = engine.spec.scale
    result = engine.run(cast("BatchArray", padded))[:, : height * scale, : width * scale]
    if out is None:
        return cast("BatchArray", np.ascontiguousarray(result))
    out[...] = result
    return out


def _mirrored(length: int, wanted: int) -> Any:
    """Return the source index of each of `wanted` rows, as `Upscaler` pads: mirrored at the last pixel, and the first
    one repeated beyond the mirror image."""
    index = np.arange(wanted)
    return np.clip(np.where(index < length, index, 2 * (length - 1) - index), 0, None)
