"""Summaries of a run's samples. They are computed on demand and never stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sr_deploy.bench.result import BenchRun, Calibration
from sr_deploy.errors import UsageError

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
"""Percentiles of every summary, in percent."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run in a few numbers. All times are in seconds."""

    count: int
    """Number of samples."""
    least: float
    """Fastest sample."""
    p50: float
    """Median; `p90`, `p95` and `p99` are higher percentiles, interpolated linearly."""
    p90: float
    p95: float
    p99: float
    most: float
    """Slowest sample."""
    mean: float
    jitter: float
    """Mean absolute difference between a sample and the one before it."""
    spread: float
    """Half the interquartile range divided by the median: 0.1 is a tenth."""
    outliers: float
    """Share (0..1) of samples more than 1.5 interquartile ranges outside the quartiles (Tukey's fences)."""
    fps: float
    """Input pictures per second over the whole run."""
    megapixels: float
    """Input megapixels per second."""
    output_megapixels: float
    """Output megapixels per second."""
    stages: Mapping[str, float]
    """Stage -> mean share (0..1) of a sample's time."""
    compute_share: float | None = None
    """Multiply-adds per second over the peak of the machine in float32. int8 is faster and may exceed 1."""
    bandwidth_share: float | None = None
    """Bytes of input and output pictures per second over the machine's copy rate."""
    joules: float | None = None
    """Energy per input picture, including everything else that ran on the processor."""

    def percentile_of(self, name: str) -> float:
        """Return `p50`, `p90`, `p95`, `p99`, `min`, `max` or `mean` by name.

        Raises UsageError for another one.
        """
        fields = {"min": "least", "max": "most"}
        if name not in ("min", "max", "mean", "p50", "p90", "p95", "p99"):
            raise UsageError(
                f"there is no percentile {name!r}; choose one of p50, p90, p95, p99, min, max and mean"
            )
        value: float = getattr(self, fields.get(name, name))
        return value


def summarise(run: BenchRun, calibration: Calibration | None = None) -> Summary:
    """Compute the summary of `run`. With `calibration`, it includes shares of the machine's peak."""
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
    """Stage -> share (0..1) of the time of all samples; `other` is the time that belongs to no stage."""
    total = sum(run.samples)
    if not run.stages or total <= 0:
        return MappingProxyType({})
    shares = {stage: sum(seconds) / total for stage, seconds in run.stages.items()}
    return MappingProxyType({**shares, "other": max(0.0, 1 - sum(shares.values()))})


def percentile(samples: Sequence[float], share: float) -> float:
    """The value that `share` (0..100) percent of the samples do not exceed, interpolated linearly."""
    return float(np.percentile(np.asarray(samples), share))


def _compute_share(run: BenchRun, pixels: float, calibration: Calibration | None) -> float | None:
    """Share of the peak multiply-adds, for `pixels` input pixels per second; None if it is unknown."""
    work = run.subject.multiply_adds_per_pixel
    if calibration is None or work is None:
        return None
    return pixels * work / calibration.multiply_adds_per_second


def _bandwidth_share(run: BenchRun, pixels: float, calibration: Calibration | None) -> float | None:
    """Share of the copy rate that the pictures need: 3 bytes for each input pixel and for each output pixel."""
    if calibration is None:
        return None
    return pixels * 3 * (1 + run.subject.scale**2) / calibration.copy_bytes_per_second
