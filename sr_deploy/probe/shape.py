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

_MEANINGS = {
    4: " (RGBA, RGB with a noise map as in DRUNet and FFDNet, or a packed Bayer raw as in SID)",
    6: " (two frames, or RGB in cells of 2x1 pixels)",
    12: " (RGB in cells of 2x2 pixels, pixel-unshuffled outside the graph as for Real-ESRGAN x2)",
    48: " (RGB in cells of 4x4 pixels, pixel-unshuffled outside the graph)",
}
"""Meanings that public models give to numbers of channels which cannot be pictures."""

_MORE_SMALL_SIZES = 8
"""Sizes above the smallest one that are tried as well where smaller ones fail. Pools and strides make some nets fail at
single sizes above the first that runs."""


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
    inset: int = 0
    """Width in output pixels of the border that the model leaves out on every side, because it does not pad."""


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

    def summary(self) -> str:
        """Say how many sizes ran, and which were refused; empty if none was tried."""
        refused = [f"{width}x{height}" for (height, width), taken in sorted(self._known.items()) if not taken]
        if not self._known:
            return ""
        some = (
            f"; refused {', '.join(refused[:3])}" + (", ..." if len(refused) > 3 else "") if refused else ""
        )
        return f"ran at {len(self._known) - len(refused)} of {len(self._known)} sizes{some}"

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
    size and layout whose output is a whole multiple of the input decide. A model whose output is that less a border
    of constant width has an `inset`, and only its scale and inset hold. Raises ModelError if no size runs, or if
    the model does not upscale; the message says what it does instead.
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
    for run, size, channels, given in misfits:
        if inset := _find_inset(run, size, channels, given):
            return Shape(run.layout, channels, inset[0], size, inset[1])
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
        found = next((_MEANINGS[size] for size in axes.values() if size in _MEANINGS), "")
        raise ModelError(
            f"model {name!r} takes input of shape {_format_axes(port)}{found}, expected 3 channels (RGB) or 1 (grey) in axis 1 "
            f"or 3; {_way_out(port)}"
        )
    return [("NCHW", 3), ("NHWC", 3), ("NCHW", 1), ("NHWC", 1)]


def _way_out(port: Port) -> str:
    """Say what to do with a model of other channels; those of cells are unpacked by `stamp -o`."""
    if port.dims[1] in (12, 48):
        return "name a file to write with `sr-deploy stamp -o`, which puts the packing into the graph"
    return "export it with the packing or the additional channels inside the graph"


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


def _find_inset(
    run: SessionRunner, size: tuple[int, int], channels: int, result: tuple[int, ...]
) -> tuple[int, int] | None:
    """Return (scale, border in output pixels) of a model whose output is a multiple less a border; else None.

    A second run at a larger size tells a net without padding, whose border keeps its width, from a net of another
    scale. The border must have one width on all sides and be smaller than the picture.
    """
    if result[2] != channels:
        return None
    for factor in (2, 3):
        try:
            larger = run(noise(factor * size[0], factor * size[1], channels)).shape
        except RefusedInputError:
            continue
        scale, rest = divmod(larger[0] - result[0], (factor - 1) * size[0])
        borders = {scale * given - got for given, got in zip(size, result, strict=False)}
        borders |= {scale * factor * given - got for given, got in zip(size, larger, strict=False)}
        border = borders.pop()
        if not rest and not borders and not border % 2 and border > 0 and 1 <= scale <= _LARGEST_SCALE:
            return scale, border // 2
    return None


def _misfit_message(run: SessionRunner, size: tuple[int, int], channels: int, result: tuple[int, ...]) -> str:
    """Say why `result` [H, W, C] is no whole multiple of `size`, and what to do."""
    asked = f"for {size[1]}x{size[0]} pixels of {channels} channels it gives {result[1]}x{result[0]} of {result[2]}"
    other = (result[1], result[2], result[0]) if run.layout == "NHWC" else (result[2], result[0], result[1])
    if other[2] == channels and not other[0] % size[0] and not other[1] % size[1]:
        gives = "NCHW" if run.layout == "NHWC" else "NHWC"
        return f"it takes {run.layout} and gives {gives}, expected one layout; export it with the last transpose left out"
    if result[2] != channels:
        return f"{asked}, expected as many channels; export it with the picture as its only output"
    try:
        larger = run(noise(2 * size[0], 2 * size[1], channels)).shape
    except RefusedInputError:
        larger = None
    growth = (larger[0] - result[0]) / size[0] if larger else 0
    if growth >= 1 and growth == int(growth):
        return (
            f"{asked}, {int(growth)} times the input less a border that has not one width on all sides: its convolutions do "
            "not pad; export it with padding"
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
    """Return the smallest multiple of `step` from which on all sizes run, as a square and beside `base`.

    It is found by bisection; then the sizes just above it are tried, too.
    """

    def taken(count: int) -> bool:
        size = count * step
        return trial.takes(size, size) and trial.takes(size, base) and trial.takes(base, size)

    if taken(1):  # most nets take any size
        return 1
    low, high = 1, base // step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if taken(middle) else (middle, high)
    above = range(high, min(high + _MORE_SMALL_SIZES, base // step))
    return max((count + 1 for count in above if not taken(count)), default=high) * step
