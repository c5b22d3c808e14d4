"""Degradations written as text, such as `noise:5,jpeg:75`, for evaluations that anybody can repeat."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.degradations.compress import avif, jpeg, to_uint8, webp
from sr_deploy.quality.degradations.filters import blur, sharpen
from sr_deploy.quality.degradations.noise import add_camera_noise, add_noise, dither
from sr_deploy.quality.degradations.resample import KERNELS, shrink
from sr_deploy.system.arrays import FloatArray, Uint8Array

_Step = Callable[[FloatArray, float, np.random.Generator], FloatArray]


@dataclass(frozen=True)
class _Kind:
    """A step that text can name."""

    apply: _Step
    low: float
    """Smallest strength."""
    high: float
    """Largest strength."""
    meaning: str
    """Meaning of the strength, for help and errors."""


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "jpeg": _Kind(lambda p, n, _: jpeg(p, round(n)), 1, 100, "quality of libjpeg-turbo, 4:2:0"),
        "jpeg444": _Kind(lambda p, n, _: jpeg(p, round(n), chroma="444"), 1, 100, "the same, 4:4:4"),
        "mozjpeg": _Kind(
            lambda p, n, _: jpeg(p, round(n), tables="imagemagick"),
            1,
            100,
            "quality with mozjpeg's tables, 4:2:0",
        ),
        "webp": _Kind(lambda p, n, _: webp(p, round(n)), 1, 100, "quality"),
        "avif": _Kind(lambda p, n, _: avif(p, round(n)), 1, 100, "quality"),
        "noise": _Kind(lambda p, n, r: add_noise(p, n, r), 0, 64, "standard deviation in 8-bit steps"),
        "camera": _Kind(
            lambda p, n, r: add_camera_noise(p, n, r, demosaic=True),
            0,
            64,
            "standard deviation at middle grey",
        ),
        "blur": _Kind(lambda p, n, _: blur(p, n, n), 0, 8, "standard deviation in small pixels"),
        "sharpen": _Kind(lambda p, n, _: sharpen(p, n, 1.0), 0, 4, "amount of an unsharp mask of radius 1"),
        "dither": _Kind(lambda p, n, _: dither(p, round(n)), 2, 16, "levels of grey"),
    }
)
"""Name -> step. Strengths are numbers after a colon."""


@dataclass(frozen=True)
class Degrade:
    """A shrinking kernel and the steps that follow it, read from text."""

    text: str
    """The text, for protocols: "noise:5,jpeg:75"."""
    kernel: str
    """Name of the kernel that shrinks; "bicubic" is bit-exact."""
    steps: tuple[tuple[str, float], ...]
    """Name and strength of every step, in order."""

    def small(self, large: Uint8Array, scale: int, name: str) -> Uint8Array:
        """Return the degraded small version of `large` [H, W, 3], whose sides are multiples of `scale`.

        Chance depends on `name` only, so results do not depend on the order of the pictures. As in files, pixels are
        rounded to 8 bits before a step that compresses, and at the end.
        """
        random = np.random.default_rng(zlib.crc32(name.encode("utf-8", "surrogateescape")))
        rounded = self.kernel == "bicubic"  # bit-exact, as where nothing is degraded
        pixels = (
            imresize(large, 1 / scale).astype(np.float32) if rounded else shrink(large, scale, self.kernel)
        )
        for step, strength in self.steps:
            pixels = _KINDS[step].apply(pixels, strength, random)
        return to_uint8(pixels)


def parse(text: str) -> Degrade:
    """Read steps such as `noise:5,jpeg:75`, after an optional kernel: `lanczos,jpeg:75`.

    Raises UsageError that names the part that does not fit.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    kernel = parts.pop(0) if parts and parts[0] in KERNELS else "bicubic"
    if not parts and kernel == "bicubic":
        raise UsageError(f"--degrade {text!r}: no step; {_choices()}")
    return Degrade(text, kernel, tuple(_step(text, part) for part in parts))


def _step(text: str, part: str) -> tuple[str, float]:
    """Read one step and check its strength."""
    name, _, strength = part.partition(":")
    if name not in _KINDS:
        raise UsageError(f"--degrade {text!r}: unknown step {part!r}; {_choices()}")
    kind = _KINDS[name]
    try:
        value = float(strength)
    except ValueError:
        value = float("nan")
    if not kind.low <= value <= kind.high:
        raise UsageError(
            f"--degrade {text!r}: {part!r} needs a number from {kind.low:g} to {kind.high:g}, the {kind.meaning}; "
            f"such as {name}:{_example(kind)}"
        )
    return name, value


def _example(kind: _Kind) -> str:
    """Return a strength in the lower middle of the range."""
    return f"{round(kind.low + 0.7 * (kind.high - kind.low)) if kind.high == 100 else min(5, round(kind.high / 2)):g}"


def _choices() -> str:
    """List the steps and kernels."""
    return f"expected steps like jpeg:75 out of {', '.join(_KINDS)}, after one of the kernels {', '.join(KERNELS)}"


def describe_steps() -> str:
    """Describe every step in one line each, for help texts."""
    return "\n".join(
        f"{name}:N  {kind.meaning}, {kind.low:g} to {kind.high:g}" for name, kind in _KINDS.items()
    )
