"""Sample results for tests, built from parts, with samples that scatter the same way each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from sr_deploy.bench.result import (
    BenchCase,
    BenchMachine,
    BenchResult,
    BenchRun,
    BenchSettings,
    BenchSubject,
    Calibration,
    ColdStart,
    Environment,
    Memory,
    State,
)

SIZES = {"180p": (320, 180), "360p": (640, 360), "540p": (960, 540), "1080p": (1920, 1080)}
MACHINE = BenchMachine(
    cpu="Test CPU", architecture="x86_64", system="Linux", cores=4, usable_cores=2, features=("AVX2",)
)


def subject(model: str = "rt-x4", **changes: Any) -> BenchSubject:
    """A bundled model on ONNX Runtime, with `changes`."""
    plain = BenchSubject(
        model=model,
        backend="onnxruntime",
        precision="fp32",
        scale=4,
        threads=2,
        model_sha256="ab" * 32,
        parameters=88_752,
        quality=MappingProxyType({"Set5": MappingProxyType({"psnr_y": 31.02, "ssim_y": 0.8747})}),
    )
    return replace(plain, **changes)


def case(label: str = "360p", **changes: Any) -> BenchCase:
    """One picture of a named size or of WIDTHxHEIGHT."""
    width, height = SIZES.get(label) or tuple(int(part) for part in label.split("x"))
    return replace(BenchCase(label=label, width=width, height=height), **changes)


def run(
    who: BenchSubject | None = None,
    where: BenchCase | None = None,
    *,
    seconds: float = 0.01,
    count: int = 40,
    samples: Sequence[float] | None = None,
    **changes: Any,
) -> BenchRun:
    """A run of `samples`, or of `count` samples that scatter by 3 % around `seconds` after three slower
    warm-ups."""
    who, where = who or subject(), where or case()
    seed = sum(map(ord, f"{who.name}{where.label}{where.batch}"))
    scatter = np.random.default_rng(seed).normal(1, 0.03, count)
    taken = tuple(float(v) for v in seconds * scatter) if samples is None else tuple(samples)
    plain = BenchRun(
        subject=who,
        case=where,
        mode="end-to-end",
        throughput=False,
        warm_up=(3 * seconds, 1.4 * seconds, 1.1 * seconds),
        steady=True,
        samples=taken,
        wall=sum(taken) or 1e-6,
        stages=stages(taken, prepare=0.1, compute=0.8, finish=0.06),
        cold_start=ColdStart(open=0.05, first=0.03),
        memory=Memory(host=where.pixels * 200),
    )
    return replace(plain, **changes)


def stages(samples: Sequence[float], **shares: float) -> Mapping[str, tuple[float, ...]]:
    """Stage -> seconds of each sample, by the share of each stage."""
    return MappingProxyType({name: tuple(share * s for s in samples) for name, share in shares.items()})


def result(*runs: BenchRun, machine: BenchMachine = MACHINE, **changes: Any) -> BenchResult:
    """A result with `runs`, by default one."""
    plain = BenchResult(
        created="2026-11-20T10:30:00Z",
        environment=Environment(
            machine=machine,
            state=State(load=0.1, memory_total=16 * 2**30, memory_available=8 * 2**30),
            platform="Linux-6.1-x86_64",
            python="CPython 3.11.7",
            versions=MappingProxyType({"sr-deploy": "0.1.0", "onnxruntime": "1.32.0"}),
        ),
        settings=BenchSettings(min_samples=30, min_seconds=1.0, max_seconds=5.0, images=("photo.webp",)),
        runs=runs or (run(),),
        calibration=Calibration(copy_bytes_per_second=2e10, multiply_adds_per_second=1e11, threads=2),
    )
    return replace(plain, **changes)


def sweep(
    who: BenchSubject | None = None, *, exponent: float = 1.0, at_360p: float = 0.01, **changes: Any
) -> list[BenchRun]:
    """A run for each of SIZES, whose time is a power of the number of pixels."""
    area = 640 * 360
    return [
        run(who, case(label), seconds=at_360p * (w * h / area) ** exponent, **changes)
        for label, (w, h) in SIZES.items()
    ]
