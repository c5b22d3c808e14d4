"""Hold the tolerances and results of a verification, as values and as strict JSON. Nothing is measured here.

A `Verification` has one `VerifiedModel` per model, which has one `PathResult` per `CheckedPath`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

SCHEMA = 1
"""Version of the JSON."""
FILE = "file"
"""Backend name in results for checks that read the file and run nothing: its halo and its weights."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits for the difference between a form of a model and its reference."""

    steps: int | None
    """Largest allowed difference in 8-bit steps; None for no limit. Below fp32 single pixels may be far off
    while the picture is as good, so there the change of PSNR decides."""
    psnr_change: float
    """Largest allowed change of PSNR against the originals in dB, up or down."""
    drift: float
    """Largest allowed mean difference of a channel, in 8-bit steps. Truncation where there should be rounding
    makes it 0.5 while no pixel is off by more than 1 step, so `steps` cannot find it."""
    seam: int
    """Largest allowed difference between tiled and whole on one backend, in 8-bit steps."""


TOLERANCES: Mapping[str, Tolerance] = MappingProxyType(
    {
        "fp32": Tolerance(steps=1, psnr_change=0.01, drift=0.1, seam=1),
        "fp16": Tolerance(steps=None, psnr_change=0.01, drift=0.1, seam=2),
        "bf16": Tolerance(steps=None, psnr_change=0.03, drift=0.25, seam=8),
        "int8": Tolerance(steps=None, psnr_change=0.1, drift=0.4, seam=8),
    }
)
"""Precision of the verified file -> its limits, from the precision that rounds least to the one that rounds
most.

The limits of `psnr_change` for fp16, bf16 and int8 are those that `sr-deploy convert` allows. fp32 allows one
step, because two runtimes may round a value near the middle of two steps differently."""


@dataclass(frozen=True, kw_only=True)
class PathDifferences:
    """Differences between one path and the reference over all crops."""

    steps: int
    """Largest difference from the reference's bytes, in 8-bit steps."""
    where: str
    """Picture, crop, pixel and channel of the largest difference."""
    psnr: float
    """PSNR between path and reference in dB; infinity if they are equal."""
    psnr_change: float
    """PSNR of the path against the originals less that of the reference, in dB, over all values at once."""
    not_finite: int | None
    """Number of NaN and infinite values in the float output and, if examined, inside the graph; None where
    only bytes were visible, which cannot hold such values."""
    drift: tuple[float, ...]
    """Mean of path less reference per channel, in 8-bit steps, over the pixels where the reference is neither
    black nor white."""
    seam: int | None = None
    """Largest difference between tiled and whole, in 8-bit steps; None for a path that computes pictures
    whole."""
    seam_where: str = ""
    """Picture, crop, pixel and channel of the largest difference between tiled and whole."""

    def record(self) -> dict[str, Any]:
        """Return the differences as strict JSON, which has no infinity: an infinite PSNR is null."""
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
    """One way in which one form of a model was run: the backend, and whole or tiled."""

    model: str
    """Name or path by which the user gave the model."""
    precision: str
    """Precision of the file: fp32, fp16, bf16 or int8."""
    backend: str
    """Name of a backend, or "graph" for the ONNX file run operator by operator, "torch" for a checkpoint,
    "file" for what was read without running it."""
    how: str
    """Either "whole" or "tiled"; for the backend "file", "halo" or "weights"."""


@dataclass(frozen=True, kw_only=True)
class PathResult:
    """Outcome of one path."""

    path: CheckedPath
    """The path that was checked."""
    measured: PathDifferences | None = None
    """Differences from the reference; None if the path did not run or had nothing to run."""
    failures: tuple[str, ...] = ()
    """One clause for each limit that was missed."""
    not_run: str = ""
    """Reason why the path could not run; empty if it ran."""

    @property
    def verdict(self) -> str:
        """Verdict on the path: "passed", "failed" or "not run"."""
        if self.failures:
            return "failed"
        return "not run" if self.not_run else "passed"

    def record(self) -> dict[str, Any]:
        """Return the outcome as strict JSON."""
        return {
            **vars(self.path),
            "verdict": self.verdict,
            **(self.measured.record() if self.measured else {}),
            "failures": list(self.failures),
            **({"not_run": self.not_run} if self.not_run else {}),
        }


@dataclass(frozen=True, kw_only=True)
class VerifiedModel:
    """Outcome of one model over all its paths."""

    model: str
    """Name or path by which the user gave the model."""
    results: tuple[PathResult, ...]
    """Outcome of every path, in the order they were checked."""
    culprits: tuple[str, ...] = ()
    """Causes of the failures, one clause each, as far as they were found."""

    @property
    def failed(self) -> bool:
        """True if any path missed a limit."""
        return any(result.verdict == "failed" for result in self.results)

    @property
    def ran(self) -> bool:
        """True if at least one path ran."""
        return any(result.measured is not None for result in self.results)

    @property
    def passed(self) -> bool:
        """True if a path ran and none failed."""
        return self.ran and not self.failed

    def why(self) -> str:
        """Describe the failure in one line: the culprits, or the missed limits where none was found."""
        failed = [result for result in self.results if result.failures]
        missed = [f"{one.path.backend} {one.path.how}: {', '.join(one.failures)}" for one in failed]
        return "; ".join(self.culprits or missed)

    def record(self) -> dict[str, Any]:
        """Return the outcome as strict JSON.

        The key "legs" holds the paths; it is kept so that programs can go on reading the output.
        """
        return {
            "model": self.model,
            "verdict": "failed" if self.failed else "passed" if self.ran else "not run",
            "culprits": list(self.culprits),
            "legs": [result.record() for result in self.results],
        }


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Outcome of one run of `sr-deploy verify`."""

    against: str
    """Name of the reference."""
    precision: str
    """Precision of the reference."""
    crops: int
    """Number of crops that every model ran on."""
    pictures: int
    """Number of photographs the crops were cut from."""
    models: tuple[VerifiedModel, ...]
    """Outcome of each model, in the order they were given."""

    @property
    def passed(self) -> bool:
        """True if every model ran and nothing failed."""
        return all(model.passed for model in self.models)

    def record(self) -> dict[str, Any]:
        """Return the outcome as strict JSON, with the version of its schema."""
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
    """List the limits of `precision` that `measured` misses, one clause each; empty if it passes.

    The comparisons are written so that NaN never passes.
    """
    allowed = TOLERANCES[precision]
    missed = []
    if measured.not_finite:
        missed.append(f"{measured.not_finite} values are NaN or infinite (none may be)")
    if allowed.steps is not None and measured.steps > allowed.steps:
        missed.append(
            f"largest difference is {measured.steps} steps of 8 bits in {measured.where} (at most {allowed.steps})"
        )
    if not abs(measured.psnr_change) <= allowed.psnr_change:
        missed.append(f"PSNR changes by {measured.psnr_change:+.4f} dB (at most {allowed.psnr_change})")
    if not all(abs(value) <= allowed.drift for value in measured.drift):
        worst = max(measured.drift, key=abs)
        missed.append(f"mean colour drifts by {worst:+.3f} steps of 8 bits (at most {allowed.drift})")
    if measured.seam is not None and measured.seam > allowed.seam:
        missed.append(
            f"tiled and whole differ by {measured.seam} steps of 8 bits in {measured.seam_where} "
            f"(at most {allowed.seam})"
        )
    return tuple(missed)


def _finite(value: float) -> float | None:
    """Replace infinity and NaN by None, for strict JSON."""
    return value if math.isfinite(value) else None
