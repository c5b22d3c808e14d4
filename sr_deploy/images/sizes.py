"""The size of a result, if it is not the model's scale times the input's, and the limits that apply.

Arithmetic only; `sr_deploy.images.resize` resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sr_deploy.errors import OutOfMemoryError, UsageError
from sr_deploy.images.codecs.formats import check_writable_size, formats
from sr_deploy.system.memory import available_memory

# Limits of a result whose size the user chose. 2**30 pixels is also the largest picture `read_image` takes.
_MAX_SIDE, _MAX_PIXELS = 1_000_000, 1 << 30


@dataclass(frozen=True, kw_only=True)
class OutputSize:
    """The size of a result in pixels, as the user gives it.

    `width` or `height` alone keep the proportions; both together are used as they are. `fit` stands for
    the largest size with the same proportions within (width, height), and `factor` for so many times the input's
    size. With no value set, the size is the model's scale times the input's. Raises UsageError for sizes below 1 or
    above a million, or `fit` or `factor` with another value.
    """

    width: int | None = None
    """Width in pixels."""
    height: int | None = None
    """Height in pixels."""
    fit: tuple[int, int] | None = None
    """Box (width, height) in pixels that the result must fit into."""
    factor: float | None = None
    """Pixels of the result for each pixel of the input, along each axis."""

    def __post_init__(self) -> None:
        if self.fit is not None and (self.width is not None or self.height is not None):
            raise UsageError("--fit already sets width and height; leave --width and --height out")
        if self.factor is not None and (self.fit, self.width, self.height) != (None, None, None):
            raise UsageError("a factor already sets the size; leave width, height and fit out")
        asked = [n for n in (self.width, self.height, *(self.fit or ())) if n is not None]
        if min(asked, default=1) < 1:
            raise UsageError(f"an output size needs positive numbers of pixels, got {self}; give at least 1")
        if max(asked, default=1) > _MAX_SIDE:
            raise UsageError(
                f"an output size has at most {_MAX_SIDE} pixels a side, got {self}; ask for less"
            )

    def of(self, width: int, height: int) -> tuple[int, int] | None:
        """The result's (width, height) for a picture of these proportions, or None if no size was given."""
        if self == OutputSize():
            return None
        if self.factor is not None:
            return max(1, round(width * self.factor)), max(1, round(height * self.factor))
        from sr_deploy.images.resize import fit

        return fit(width, height, target_width=self.width, target_height=self.height, box=self.fit)


def check_size(source: Path, format: str, asked: tuple[int, int], *, chosen: bool) -> None:
    """Raise UsageError if the result has too many pixels or the format cannot hold them.

    `asked` is (width, height). `chosen` says that the user chose the size; only then the limit of 2**30
    pixels applies.
    """
    if chosen and asked[0] * asked[1] > _MAX_PIXELS:
        raise UsageError(
            f"{source}: a result of {asked[0]}x{asked[1]} pixels was asked for, at most {_MAX_PIXELS} pixels "
            "in all are possible; ask for less with --width, --height or --fit"
        )
    try:
        check_writable_size(format, *asked)
    except UsageError as error:
        other = next((kind.name for kind in formats() if kind.holds(*asked)), None)
        how = f", with --format {other}" if other else ", with --width, --height or --fit"
        raise UsageError(f"{source}: {error}{how}") from error


def check_fits(bytes_a_pixel: int, natural: tuple[int, int], asked: tuple[int, int]) -> None:
    """Raise OutOfMemoryError if the model's result and the one resampled from it do not fit together.

    `natural` and `asked` are their (width, height).
    """
    needed = (natural[0] * natural[1] + asked[0] * asked[1]) * bytes_a_pixel
    free = available_memory()
    if free is not None and needed > free:
        raise OutOfMemoryError(
            f"a result of {asked[0]}x{asked[1]} pixels takes {needed >> 20} MiB together with the model's "
            f"{natural[0]}x{natural[1]} pixels, but only {free >> 20} MiB are free; ask for less with --width, "
            "--height or --fit"
        )
