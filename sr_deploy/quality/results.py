"""Hold the results of an evaluation, as values, as strict JSON and as CSV. `evaluate` does the measuring."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from sr_deploy.quality.pairs import FailedPicture
from sr_deploy.system.text import csv_cell


@dataclass(frozen=True)
class Protocol:
    """Everything that must be equal before two figures may be compared."""

    scale: int
    """Output pixels per input pixel, along each axis."""
    border: int
    """Pixels on each side of the result that are not compared."""
    given_lr: bool = False
    """True if the low-resolution pictures were given, False if they are made from the high-resolution ones."""
    degrade: str = ""
    """Steps that degrade the low-resolution pictures, as text (`quality.degradations.chain`); "" for none."""

    def describe(self) -> str:
        """Describe the protocol in one line, to print beside the figures."""
        made = f"MATLAB imresize bicubic of the pictures cut to a multiple of {self.scale}"
        if self.degrade:
            made = f"{made} (or the kernel named first), then {self.degrade} (noise is seeded by the file's name)"
        return (
            f"x{self.scale}; low resolution: {'as given' if self.given_lr else made}; {self.border} pixels shaved off "
            "each side; Y: BT.601 as MATLAB rgb2ycbcr, rounded (grey pictures: as they are); RGB: all three channels; "
            "SSIM: 11x11 Gaussian of sigma 1.5, whole windows only; bicubic: rounded once"
        )


@dataclass(frozen=True)
class Quality:
    """PSNR in dB (`math.inf` if the pictures are equal), SSIM (at most 1) and damage; None for what was not measured."""

    psnr_y: float | None
    """PSNR on Y."""
    ssim_y: float | None
    """SSIM on Y."""
    psnr_rgb: float | None
    """PSNR over all three channels; None for grey."""
    ssim_rgb: float | None
    """SSIM averaged over the three channels; None for grey."""
    blocks: float | None = None
    """Strength of 8 x 8 blocks as a multiple of the original's; measured where pictures are degraded."""
    specks: float | None = None
    """Fine colour as a multiple of the original's; measured where colour pictures are degraded."""
    vgg: float | None = None
    """Distance in the features of a VGG; measured where its weights were given."""

    def record(self) -> dict[str, float | None]:
        """Return the measures as strict JSON, which has no infinity: an infinite PSNR is null."""
        return {name: value if _finite(value) else None for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Score:
    """Result for one picture."""

    name: str
    """Name of the picture in results."""
    height: int
    """Height in pixels of what was compared, border included."""
    width: int
    """Width in pixels of what was compared, border included."""
    quality: Quality
    """The measures."""

    @property
    def identical(self) -> bool:
        """True if the upscaled picture equals the high-resolution one on Y, without the border."""
        return self.quality.psnr_y == math.inf

    def record(self) -> dict[str, Any]:
        """Return the score as strict JSON; `identical` tells why a PSNR is null."""
        size = {"picture": self.name, "width": self.width, "height": self.height}
        return {**size, **self.quality.record(), "identical": self.identical}


@dataclass(frozen=True)
class Evaluation:
    """Result for one upscaler on a folder."""

    model: str
    """Name of the model or baseline."""
    protocol: Protocol
    """Protocol it was measured under."""
    scores: tuple[Score, ...]
    """One score for each picture that was measured."""
    failures: tuple[FailedPicture, ...] = ()
    """Pictures that could not be measured."""

    @property
    def mean(self) -> Quality:
        """Mean of every measure over the pictures that have it. An infinite PSNR (an identical picture) is
        left out, unless there are no others."""
        return Quality(
            *(_mean(getattr(s.quality, field.name) for s in self.scores) for field in fields(Quality))
        )

    @property
    def identical(self) -> int:
        """Number of pictures that equal the original on Y, and are therefore not in the mean PSNR."""
        return sum(score.identical for score in self.scores)

    def record(self) -> dict[str, Any]:
        """Return the evaluation as strict JSON."""
        return {
            "model": self.model,
            **asdict(self.protocol),
            "protocol": self.protocol.describe(),
            "mean": {**self.mean.record(), "pictures": len(self.scores), "identical": self.identical},
            "pictures": [score.record() for score in self.scores],
            "failed": [{"picture": failure.name, "error": failure.message} for failure in self.failures],
        }


def csv_text(results: Iterable[Evaluation]) -> str:
    """Return CSV with every value of every picture in full precision.

    An infinite PSNR is `inf`, a missing value is empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = [field.name for field in fields(Quality)]
    writer.writerow(("model", "scale", "border", "picture", "width", "height", *measures))
    for result in results:
        where = (csv_cell(result.model), result.protocol.scale, result.protocol.border)
        for score in result.scores:
            values = asdict(score.quality).values()
            writer.writerow((*where, csv_cell(score.name), score.width, score.height, *values))
    return text.getvalue()


def _finite(value: float | None) -> bool:
    """Check that a measure exists and is finite."""
    return value is not None and math.isfinite(value)


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the finite values; infinity if there are only infinite ones, None if there are none."""
    known = [value for value in values if value is not None]
    finite = [value for value in known if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else (known[0] if known else None)
