"""What an evaluation comes out at, as values and as strict JSON. Measures nothing: `evaluate` does."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from sr_deploy.quality.pairs import FailedPicture


@dataclass(frozen=True)
class Protocol:
    """Everything that must be equal before two figures may be compared."""

    scale: int
    border: int
    """Pixels of the result that do not count, on each side."""
    given_lr: bool = False
    """The low-resolution pictures were given; else they are made from the high-resolution ones."""

    def describe(self) -> str:
        """One line to print beside the numbers."""
        made = f"MATLAB imresize bicubic of the pictures cut to a multiple of {self.scale}"
        return (
            f"x{self.scale}; low resolution: {'as given' if self.given_lr else made}; {self.border} pixels shaved off "
            "each side; Y: BT.601 as MATLAB rgb2ycbcr, rounded (grey pictures: as they are); RGB: all three channels; "
            "SSIM: 11x11 Gaussian of sigma 1.5, whole windows only; bicubic: rounded once"
        )


@dataclass(frozen=True)
class Quality:
    """PSNR in dB (`math.inf` where the pictures are equal) and SSIM; the RGB ones are None for grey."""

    psnr_y: float | None
    ssim_y: float | None
    psnr_rgb: float | None
    ssim_rgb: float | None

    def record(self) -> dict[str, float | None]:
        """As strict JSON, which has no infinity: null there."""
        return {name: value if _finite(value) else None for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Score:
    """What one picture came out at."""

    name: str
    height: int
    width: int
    """Of the high-resolution picture, as far as it was compared, border included."""
    quality: Quality

    @property
    def identical(self) -> bool:
        """The upscaled picture equals the high-resolution one in what was compared on Y."""
        return self.quality.psnr_y == math.inf

    def record(self) -> dict[str, Any]:
        """As strict JSON; `identical` tells why a PSNR is null."""
        size = {"picture": self.name, "width": self.width, "height": self.height}
        return {**size, **self.quality.record(), "identical": self.identical}


@dataclass(frozen=True)
class Evaluation:
    """What one upscaler came out at on a folder."""

    model: str
    protocol: Protocol
    scores: tuple[Score, ...]
    failures: tuple[FailedPicture, ...] = ()

    @property
    def mean(self) -> Quality:
        """Mean of every measure over the pictures that have it.

        A PSNR of infinity (an identical picture) is left out of its mean, unless there are no others.
        """
        return Quality(
            *(_mean(getattr(s.quality, field.name) for s in self.scores) for field in fields(Quality))
        )

    @property
    def identical(self) -> int:
        """How many pictures came out equal to the original on Y, and are not in the mean PSNR."""
        return sum(score.identical for score in self.scores)

    def record(self) -> dict[str, Any]:
        """As strict JSON."""
        return {
            "model": self.model,
            **asdict(self.protocol),
            "protocol": self.protocol.describe(),
            "mean": {**self.mean.record(), "pictures": len(self.scores), "identical": self.identical},
            "pictures": [score.record() for score in self.scores],
            "failed": [{"picture": failure.name, "error": failure.message} for failure in self.failures],
        }


def csv_text(results: Iterable[Evaluation]) -> str:
    """Every value of every picture in full precision; an infinite PSNR is `inf`, a missing one empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = [field.name for field in fields(Quality)]
    writer.writerow(("model", "scale", "border", "picture", "width", "height", *measures))
    for result in results:
        where = (result.model, result.protocol.scale, result.protocol.border)
        for score in result.scores:
            values = asdict(score.quality).values()
            writer.writerow((*where, score.name, score.width, score.height, *values))
    return text.getvalue()


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    finite = [value for value in known if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else (known[0] if known else None)
