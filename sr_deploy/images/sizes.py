"""The size a result is to have, where it is not the model's scale times the input's, and what speaks against it.

Arithmetic only; `sr_deploy.images.resize` resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sr_deploy.errors import OutOfMemoryError, UsageError
from sr_deploy.images.codecs.formats import check_writable_size, formats
from sr_deploy.system.memory import available_memory

_MAX_SIDE, _MAX_PIXELS = 1_000_000, 1 << 30  # of a result whose size was asked for


@dataclass(frozen=True, kw_only=True)
class OutputSize:
    """The size of a result in pixels, where it is not the model's scale times the input's.

    `width` or `height` alone keep the proportions, both together are taken as they are, `fit` is the
    largest size of the same proportions within (width, height).
    """

    width: int | None = None
    height: int | None = None
    fit: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.fit is not None and (self.width is not None or self.height is not None):
            raise UsageError("a fit already says width and height; leave --width and --height out")
        asked = [n for n in (self.width, self.height, *(self.fit or ())) if n is not None]
        if min(asked, default=1) < 1:
            raise UsageError(f"an output size needs positive numbers of pixels, got {self}; give at least 1")
        if max(asked, default=1) > _MAX_SIDE:
            raise UsageError(f"a result has at most {_MAX_SIDE} pixels a side, got {self}; ask for less")

    def of(self, width: int, height: int) -> tuple[int, int] | None:
        """(width, height) of the result of a picture of these proportions; None where nothing was asked."""
        if self == OutputSize():
            return None
        from sr_deploy.images.resize import fit

        return fit(width, height, target_width=self.width, target_height=self.height, box=self.fit)


def check_size(source: Path, format: str, asked: tuple[int, int], *, chosen: bool) -> None:
    """Raise UsageError for more pixels than are made, where that was `chosen`, or than the format holds."""
    if chosen and asked[0] * asked[1] > _MAX_PIXELS:
        raise UsageError(
            f"{source}: a result of {asked[0]}x{asked[1]} pixels was asked for, at most {_MAX_PIXELS} in all "
            "are made; ask for less with --width, --height or --fit"
        )
    try:
        check_writable_size(format, *asked)
    except UsageError as error:
        other = next((kind.name for kind in formats() if kind.holds(*asked)), None)
        how = f", with --format {other}" if other else ", with --width, --height or --fit"
        raise UsageError(f"{source}: {error}{how}") from error


def check_fits(bytes_a_pixel: int, natural: tuple[int, int], asked: tuple[int, int]) -> None:
    """Raise OutOfMemoryError where the model's result and the one resampled from it do not fit together."""
    needed = (natural[0] * natural[1] + asked[0] * asked[1]) * bytes_a_pixel
    free = available_memory()
    if free is not None and needed > free:
        raise OutOfMemoryError(
            f"a result of {asked[0]}x{asked[1]} pixels takes {needed >> 20} MiB with the {natural[0]}x{natural[1]} "
            f"of the model, and {free >> 20} are free; ask for less with --width, --height or --fit"
        )
