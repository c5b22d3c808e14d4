"""Find layout, channels, scale and size rule of a model without a spec by running it at many sizes.

A size counts as taken only if the output is exactly scale times the input: a net that silently crops or
pads odd sizes does not take them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import Port
from sr_deploy.graph.session import RefusedInputError, SessionRunner
from sr_deploy.spec import SizeRule
from sr_deploy.system.arrays import FloatArray

_FIRST_SIZES = (32, 64, 48, 96, 128, 40, 56, 72, 160, 192, 224, 256, 512)
"""Sides in pixels of the square pictures that are tried until one runs: small ones first, in an order that
covers most divisors."""

_LARGEST_SCALE = 16
"""Largest scale that a spec can hold."""


@dataclass(frozen=True)
class Shape:
    """Layout and scale of a model, and one input size that is known to run."""

    layout: str
    """Order of the axes: "NCHW" or "NHWC"."""
    channels: int
    """3 (RGB) or 1 (grey)."""
    scale: int
    """Output pixels per input pixel, along each axis."""
    size: tuple[int, int]
    """(height, width) in input pixels."""


@dataclass
class SizeTrial:
    """Tries input sizes on a model, and runs every size only once."""

    run: SessionRunner
    shape: Shape
    _known: dict[tuple[int, int], bool] = field(default_factory=dict)

    def takes(self, height: int, width: int) -> bool:
        """Return True if the model runs at this size and the output is exactly scale times it."""
        if (height, width) not in self._known:
            self._known[height, width] = self._try(height, width)
        return self._known[height, width]

    def _try(self, height: int, width: int) -> bool:
        scale = self.shape.scale
        try:
            result = self.run(noise(height, width, self.shape.channels))
        except RefusedInputError:
            return False
        return result.shape == (height * scale, width * scale, self.shape.channels)


def noise(height: int, width: int, channels: int, seed: int = 0) -> FloatArray:
    """Return uniform noise, float32 [H, W, C] in 0..1; the same for the same arguments."""
    return np.random.default_rng(seed).random((height, width, channels), np.float32)


def find_shape(session: Any, port: Port, name: str) -> Shape:
    """Find layout, channels and scale by running the model.

    `session` is an ONNX Runtime session, `port` its picture input, and `name` stands in messages. The first
    size and layout whose output is a whole multiple of the input decide. Raises ModelError if no size runs,
    or if the model does not upscale; the message says what it does instead.
    """
    refusals, misfits = [], []
    for layout, channels in _possible_layouts(port, name):
        run = SessionRunner(session, port, layout)
        for size in _sizes_to_try(port, layout):
            try:
                result = run(noise(*size, channels))
            except RefusedInputError as error:
                refusals.append(f"{size[1]}x{size[0]}: {error}")
                continue
            scale, rest = divmod(result.shape[0], size[0])
            expected = (size[0] * scale, size[1] * scale, channels)
            if not rest and 1 <= scale <= _LARGEST_SCALE and result.shape == expected:
                return Shape(layout, channels, scale, size)
            misfits.append((run, size, channels, result.shape))
    if misfits:
        raise ModelError(f"model {name!r} is not an upscaler: {_misfit_message(*misfits[0])}")
    raise ModelError(
        f"model {name!r} ran at none of {len(refusals)} sizes tried ({refusals[0]}); "
        "export it with dynamic height and width, or with the size it was traced at as fixed axes"
    )


def _possible_layouts(port: Port, name: str) -> list[tuple[str, int]]:
    """Return the (layout, channels) that the declared axes allow, likeliest first."""
    axes = {"NCHW": port.dims[1], "NHWC": port.dims[3]}
    declared = [(layout, size) for layout, size in axes.items() if size in (1, 3)]
    if declared:
        return [(layout, size) for layout, size in declared if size]
    if any(size is not None for size in axes.values()):
        raise ModelError(
            f"model {name!r} takes input of shape {_format_axes(port)}, expected 3 channels (RGB) or 1 (grey) in axis 1 or 3; "
            "export it with the packing or the alpha channel left out"
        )
    return [("NCHW", 3), ("NHWC", 3), ("NCHW", 1), ("NHWC", 1)]


def _format_axes(port: Port) -> str:
    """Write the declared axes as people do: [1, 3, ?, ?]."""
    return "[" + ", ".join("?" if size is None else str(size) for size in port.dims) + "]"


def declared_size(port: Port, layout: str) -> tuple[int | None, int | None]:
    """Return the (height, width) that the graph fixes; None for a dynamic axis."""
    return port.dims[1:3] if layout == "NHWC" else port.dims[2:4]  # type: ignore[return-value]  # four, says picture_io


def _sizes_to_try(port: Port, layout: str) -> Iterator[tuple[int, int]]:
    """Yield (height, width) to run: the declared one, a square where one axis is fixed, else the first
    sizes."""
    height, width = declared_size(port, layout)
    if height and width:
        yield height, width
    elif height or width:
        side = height or width or 0
        yield side, side
    else:
        yield from ((size, size) for size in _FIRST_SIZES)


def _misfit_message(run: SessionRunner, size: tuple[int, int], channels: int, result: tuple[int, ...]) -> str:
    """Say why `result` [H, W, C] is no whole multiple of `size`, and what to do.

    A second run at twice the size tells a net without padding, whose output lacks a border of constant
    width, from a net of another scale.
    """
    asked = f"for {size[1]}x{size[0]} pixels of {channels} channels it gives {result[1]}x{result[0]} of {result[2]}"
    if result[2] != channels:
        return f"{asked}, expected as many channels; export it with the picture as its only output"
    try:
        larger = run(noise(2 * size[0], 2 * size[1], channels)).shape
    except RefusedInputError:
        larger = None
    growth = (larger[0] - result[0]) / size[0] if larger else 0
    if growth >= 1 and growth == int(growth):
        return (
            f"{asked}, {int(growth)} times the input less a border: its convolutions do not pad; "
            "export it with padding"
        )
    return f"{asked}, expected a whole multiple of 1 to {_LARGEST_SCALE}; export a network with a whole scale"


def find_size_rule(trial: SizeTrial, port: Port) -> tuple[SizeRule, list[str]]:
    """Return minimum, multiple or fixed size of the model, and notes about what stays open.

    The multiple is the smallest divisor of a size known to run at which all tried multiples run.
    """
    height, width = declared_size(port, trial.shape.layout)
    if height and width:
        return SizeRule(fixed=(height, width)), []
    if height or width:
        side = height or width or 0
        sentence = f"One of height and width is fixed at {side} and the other is not; {side}x{side} is taken as fixed."
        return SizeRule(fixed=(side, side)), [sentence]
    base = trial.shape.size[0]
    step = next((m for m in range(1, base + 1) if base % m == 0 and _takes_multiples(trial, m, base)), None)
    if step is None:
        sentence = (
            f"The axes are declared dynamic, but of the sizes tried only {base}x{base} ran; taken as fixed."
        )
        return SizeRule(fixed=(base, base)), [sentence]
    return SizeRule(minimum=_find_minimum(trial, step, base), multiple_of=step), []


def _takes_multiples(trial: SizeTrial, step: int, base: int) -> bool:
    """Return True if every multiple of `step` from `base` on seems to be taken, on either axis."""
    # Primes tell `step` from a larger one; neighbours tell it from a rule that takes only some multiples.
    first, second = _two_primes(-(-base // step))
    near = base // step
    pairs = ((first, second), (second, first), (near + 1, near + 2), (near + 3, near))
    return all(trial.takes(step * tall, step * wide) for tall, wide in pairs)


def _two_primes(at_least: int) -> tuple[int, int]:
    """Return the two smallest primes from `at_least` on."""
    primes = [n for n in range(2, 4 * at_least + 8) if all(n % d for d in range(2, n)) and n >= at_least]
    return primes[0], primes[1]


def _find_minimum(trial: SizeTrial, step: int, base: int) -> int:
    """Return the smallest multiple of `step` that runs as a square and beside `base`, by bisection."""
    low, high = 0, base // step
    while high - low > 1:
        middle = (low + high) // 2
        size = middle * step
        taken = trial.takes(size, size) and trial.takes(size, base) and trial.takes(base, size)
        low, high = (low, middle) if taken else (middle, high)
    return 1 if high == 1 else high * step
