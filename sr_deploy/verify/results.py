"""What a verification comes out at, as values and as strict JSON; the tolerances. Measures nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

SCHEMA = 1
FILE = "file"
"""The backend of what is told from a file without running it on a backend."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a form of a model may be from its reference."""

    steps: int | None
    """Largest difference in 8-bit steps; None: any, the change of PSNR decides."""
    psnr_change: float
    """Largest change of PSNR against the originals, in dB, up or down."""
    drift: float
    """Largest mean difference of a colour, in 8-bit steps. Truncation instead of rounding makes it 0.5."""
    seam: int
    """Largest difference between tiled and whole on one backend, in 8-bit steps."""


TOLERANCES: Mapping[str, Tolerance] = MappingProxyType(
    {
        "fp32": Tolerance(steps=1, psnr_change=0.01, drift=0.1, seam=1),
        "fp16": Tolerance(steps=None, psnr_change=0.01, drift=0.1, seam=2),
        "bf16": Tolerance(steps=None, psnr_change=0.03, drift=0.25, seam=8),
        "int8": Tolerance(steps=None, psnr_change=0.1, drift=0.4, seam=8),
    }
)
"""By the precision of the file that is verified."""


@dataclass(frozen=True, kw_only=True)
class PathDifferences:
    """The differences of one path over all crops."""

    steps: int
    """Largest difference to the reference's bytes."""
    where: str
    """The picture, crop, pixel and channel of it."""
    psnr: float
    """Between the two, in dB; infinity where they are equal."""
    psnr_change: float
    """PSNR of the path against the originals, less that of the reference, in dB; over all values at once."""
    not_finite: int | None
    """NaN and infinite values in what came out as floats, and in what the graph computed on the way; None where
    only bytes were to be seen."""
    drift: tuple[float, ...]
    """Mean of path less reference, in 8-bit steps, of each channel, where the reference is neither black nor white."""
    seam: int | None = None
    """Largest difference between tiled and whole; None for a path that is whole."""
    seam_where: str = ""

    def record(self) -> dict[str, Any]:
        """As strict JSON: an infinite PSNR is null."""
        return {
            "max_steps": self.steps,
            "where": self.where,
            "psnr_between": _finite(self.psnr),
            "psnr_change": _finite(self.psnr_change),
            "not_finite": self.not_finite,
            "drift": [_finite(value) for value in self.drift],
            "tiled_less_whole": self.seam,
        }


@dataclass(frozen=True, kw_only=True)
class CheckedPath:
    """One form of one model: what ran it, and how."""

    model: str
    precision: str
    backend: str
    """"graph" is the file as it is written, operator by operator; "torch" a checkpoint; "file" what stands in it."""
    how: str
    """"whole" or "tiled"; of "file": "halo" or "weights"."""


@dataclass(frozen=True, kw_only=True)
class PathResult:
    """What became of one path."""

    path: CheckedPath
    measured: PathDifferences | None = None
    """None where it did not run, or where nothing had to."""
    failures: tuple[str, ...] = ()
    """What missed its tolerance, one clause each."""
    not_run: str = ""
    """Why it could not run; empty where it did."""

    @property
    def verdict(self) -> str:
        """passed, failed or not run."""
        if self.failures:
            return "failed"
        return "not run" if self.not_run else "passed"

    def record(self) -> dict[str, Any]:
        """As strict JSON."""
        return {
            **vars(self.path),
            "verdict": self.verdict,
            **(self.measured.record() if self.measured else {}),
            "failures": list(self.failures),
            **({"not_run": self.not_run} if self.not_run else {}),
        }


@dataclass(frozen=True, kw_only=True)
class VerifiedModel:
    """What one model came out at."""

    model: str
    results: tuple[PathResult, ...]
    culprits: tuple[str, ...] = ()
    """What the failures come from, as far as it was found."""

    @property
    def failed(self) -> bool:
        """Something missed its tolerance."""
        return any(result.verdict == "failed" for result in self.results)

    @property
    def ran(self) -> bool:
        """At least one path ran."""
        return any(result.measured is not None for result in self.results)

    @property
    def passed(self) -> bool:
        """Something ran, and nothing failed."""
        return self.ran and not self.failed

    def why(self) -> str:
        """One line: the culprits, or where none was found what missed its tolerance."""
        missed = [
            f"{result.path.backend} {result.path.how}: {', '.join(result.failures)}"
            for result in self.results
            if result.failures
        ]
        return "; ".join(self.culprits or missed)

    def record(self) -> dict[str, Any]:
        """As strict JSON."""
        return {
            "model": self.model,
            "verdict": "failed" if self.failed else "passed" if self.ran else "not run",
            "culprits": list(self.culprits),
            "legs": [result.record() for result in self.results],
        }


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a run came out at."""

    against: str
    precision: str
    """Of the reference."""
    crops: int
    pictures: int
    models: tuple[VerifiedModel, ...]

    @property
    def passed(self) -> bool:
        """Every model ran, and nothing failed."""
        return all(model.passed for model in self.models)

    def record(self) -> dict[str, Any]:
        """As strict JSON."""
        return {
            "schema": SCHEMA,
            "against": self.against,
            "reference_precision": self.precision,
            "pictures": self.pictures,
            "crops": self.crops,
            "passed": self.passed,
            "models": [model.record() for model in self.models],
        }


def judge(measured: PathDifferences, precision: str) -> tuple[str, ...]:
    """What of `measured` misses the tolerance of `precision`, one clause each."""
    allowed = TOLERANCES[precision]
    missed = []
    if measured.not_finite:
        missed.append(f"{measured.not_finite} values are NaN or infinite")
    if allowed.steps is not None and measured.steps > allowed.steps:
        missed.append(f"{measured.steps} steps of 8 bits in {measured.where} (at most {allowed.steps})")
    if not abs(measured.psnr_change) <= allowed.psnr_change:
        missed.append(f"PSNR changes by {measured.psnr_change:+.4f} dB (at most {allowed.psnr_change})")
    if not all(abs(value) <= allowed.drift for value in measured.drift):
        worst = max(measured.drift, key=abs)
        missed.append(f"mean colour drifts by {worst:+.3f} steps (at most {allowed.drift})")
    if measured.seam is not None and measured.seam > allowed.seam:
        missed.append(
            f"tiles differ from the whole by {measured.seam} steps in {measured.seam_where} "
            f"(at most {allowed.seam})"
        )
    return tuple(missed)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
