"""What the samples of a run amount to. Computed whenever it is asked for, never stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sr_deploy.bench.result import BenchRun, Calibration
from sr_deploy.errors import UsageError

PERCENTILES = (50.0, 90.0, 95.0, 99.0)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One run in a few numbers; times in seconds."""

    count: int
    least: float
    p50: float
    p90: float
    p95: float
    p99: float
    most: float
    mean: float
    jitter: float
    """Mean of the absolute difference between a sample and the one before it."""
    spread: float
    """Half the range between the quartiles, over the median: 0.1 is a tenth."""
    outliers: float
    """Share (0..1) of the samples beyond 1.5 times the range of the quartiles from these (Tukey's fences)."""
    fps: float
    """Input pictures per second over the whole run."""
    megapixels: float
    """Input megapixels per second."""
    output_megapixels: float
    """Output megapixels per second."""
    stages: Mapping[str, float]
    """Stage -> mean share (0..1) of a sample's time."""
    compute_share: float | None = None
    """Multiply-adds per second over what the machine reached in float32; above 1 with int8, which is quicker."""
    bandwidth_share: float | None = None
    """Bytes of pictures in and out per second over what the machine copies."""
    joules: float | None = None
    """Energy per input picture, everything that ran on the processor included."""

    def percentile_of(self, name: str) -> float:
        """`p50`, `p90`, `p95`, `p99`, `min`, `max` or `mean` by its name. Raises UsageError for another."""
        fields = {"min": "least", "max": "most"}
        if name not in ("min", "max", "mean", "p50", "p90", "p95", "p99"):
            raise UsageError(f"there is no percentile {name!r}; choose p50, p90, p95, p99, min, max or mean")
        value: float = getattr(self, fields.get(name, name))
        return value


def summarise(run: BenchRun, calibration: Calibration | None = None) -> Summary:
    """The numbers of `run`; shares of the machine's peak where `calibration` tells what that is."""
    samples = np.asarray(run.samples)
    p50, p90, p95, p99 = (float(v) for v in np.percentile(samples, PERCENTILES))
    low, high = (float(v) for v in np.percentile(samples, (25, 75)))
    fence = 1.5 * (high - low)
    pictures = len(samples) * run.case.batch / run.wall
    pixels = pictures * run.case.width * run.case.height
    return Summary(
        count=len(samples),
        least=float(samples.min()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        most=float(samples.max()),
        mean=float(samples.mean()),
        jitter=float(np.abs(np.diff(samples)).mean()) if len(samples) > 1 else 0.0,
        spread=(high - low) / 2 / p50 if p50 else 0.0,
        outliers=float(((samples < low - fence) | (samples > high + fence)).mean()),
        fps=pictures,
        megapixels=pixels / 1e6,
        output_megapixels=pixels * run.subject.scale**2 / 1e6,
        stages=stage_shares(run),
        compute_share=_compute_share(run, pixels, calibration),
        bandwidth_share=_bandwidth_share(run, pixels, calibration),
        joules=run.energy / (len(samples) * run.case.batch) if run.energy is not None else None,
    )


def stage_shares(run: BenchRun) -> Mapping[str, float]:
    """Stage -> share (0..1) of the time of all samples; `other` is what no stage accounts for."""
    total = sum(run.samples)
    if not run.stages or total <= 0:
        return MappingProxyType({})
    shares = {stage: sum(seconds) / total for stage, seconds in run.stages.items()}
    return MappingProxyType({**shares, "other": max(0.0, 1 - sum(shares.values()))})


def percentile(samples: Sequence[float], share: float) -> float:
    """The value that `share` (0..100) percent of the samples do not exceed, interpolated linearly."""
    return float(np.percentile(np.asarray(samples), share))


def _compute_share(run: BenchRun, pixels: float, calibration: Calibration | None) -> float | None:
    work = run.subject.multiply_adds_per_pixel
    if calibration is None or work is None:
        return None
    return pixels * work / calibration.multiply_adds_per_second


def _bandwidth_share(run: BenchRun, pixels: float, calibration: Calibration | None) -> float | None:
    if calibration is None:
        return None
    return pixels * 3 * (1 + run.subject.scale**2) / calibration.copy_bytes_per_second
