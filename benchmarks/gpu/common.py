"""State shared by the parts of `tests/gpu/run.py`: the state of a run, its sections, and opening engines."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import ROOT

COMMON = ((540, 960), (360, 640), (1080, 1920))
"""(height, width); the first is the size that the acceptance criterion names."""
STEPS = {"fp32": 1, "fp16": 3, "bf16": 8, "int8": 96}
"""8-bit steps by which a pixel may differ from fp32 on the CPU; the decisive tolerance is that of PSNR."""
PSNR_LOSS = {"fp32": 0.005, "fp16": 0.01, "bf16": 0.03, "int8": 0.1}
"""Mean loss of PSNR on Y against the originals that is accepted, in dB."""
WITHOUT_CUDA = ("build", "precision")
"""Sections that a dry run runs, by the first part of their names."""


@dataclass
class Run:
    """State of a run: what was found so far, and where it is written."""

    folder: Path
    out: Path
    budget: float
    only: set[str]
    start: float = field(default_factory=time.perf_counter)
    results: dict[str, Any] = field(default_factory=lambda: {"sections": {}, "builds": [], "schema": 2})
    models: list[dict[str, Any]] = field(default_factory=list)
    engines: dict[str, Path] = field(default_factory=dict)
    layers: dict[str, Any] = field(default_factory=dict)
    runtime: str = "tensorrt"
    """The library under test: "tensorrt" or "tensorrt-rtx"."""
    dry: bool = False
    """Stop before the first CUDA call: only engines are built, and what they compute in is checked."""
    timings: bytes = b""
    """Kernel timings of the builds so far; each build starts from them."""

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def log(self, text: str) -> None:
        """Print a line and append it to `gpu_run.log`."""
        line = f"[{self.elapsed:7.1f}] {text}"
        print(line, flush=True)
        with (self.out / "gpu_run.log").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def save(self) -> None:
        """Write all results so far, each file completely or not at all."""
        self.results["seconds"] = round(self.elapsed, 1)
        for name, content in (("gpu_run.json", self.results), ("layers.json", self.layers)):
            draft = self.out / f".{name}"
            draft.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
            os.replace(draft, self.out / name)

    def section(self, name: str, work: Callable[[], Any], *, needs: float = 0.0, of: str = "") -> None:
        """Run `work` and record its result or its exception.

        Skipped if fewer than `needs` seconds are left, or if the engine `of` was not built. The record says
        "started" before it runs, so a run that is killed during a section shows where.
        """
        if self.only and not any(name.startswith(wanted) for wanted in self.only):
            return
        if why := self._reason_to_skip(name, needs, of):
            self.results["sections"][name] = {"state": "skipped", "why": why}
            self.log(f"{name}: SKIPPED, {why}")
            return
        self.results["sections"][name] = {"state": "started"}
        self.save()
        begun = time.perf_counter()
        try:
            found = {"state": "ran", "result": work()}
        except BaseException as error:
            shown = traceback.format_exc().replace(f"{ROOT}{os.sep}", "")
            found = {"state": "failed", "error": repr(error), "traceback": shown}
            self.log(f"{name}: FAILED {error!r}\n{shown}")
            if isinstance(error, KeyboardInterrupt):
                raise
        found["seconds"] = round(time.perf_counter() - begun, 2)
        self.results["sections"][name] = found
        self.log(f"{name}: {found['state']} in {found['seconds']} s")
        self.save()

    def _reason_to_skip(self, name: str, needs: float, of: str) -> str:
        """Return why a section cannot run, or an empty string."""
        if self.dry and name.partition("/")[0] not in WITHOUT_CUDA:
            return "a dry run makes no call to CUDA"
        if of and of not in self.engines:
            return f"no engine {of}"
        if self.elapsed + needs > self.budget:
            return f"{self.elapsed:.0f} of {self.budget:.0f} s were gone, {needs:.0f} would be needed"
        return ""

    def row(self, model: str, precision: str, pixels: str = "uint8") -> dict[str, Any] | None:
        """The prepared model of that name, precision and pixel type, or None."""
        wanted = (model, precision, pixels)
        return next((r for r in self.models if (r["model"], r["precision"], r["pixels"]) == wanted), None)

    def pictures(self, model: str) -> list[tuple[Any, Any, Any]]:
        """(original, small picture, the CPU's result) for each prepared picture, uint8."""
        data, found = np.load(self.folder / "pictures.npz"), np.load(self.folder / f"{model}.npz")
        return [(data[f"hr{n}"], data[f"lr{n}"], found[f"sr{n}"]) for n in range(len(found.files))]


def named(size: tuple[int, int]) -> str:
    """A size (height, width) as width x height."""
    return f"{size[1]}x{size[0]}"


def open_engine(run: Run, name: str, **options: Any) -> Any:
    """Open a built engine by its name."""
    from sr_deploy.engines.tensorrt.engine import TensorRTEngine, TensorRTRtxEngine
    from sr_deploy.engines.tensorrt.options import TensorRTOptions

    kind = TensorRTRtxEngine if run.runtime == TensorRTRtxEngine.backend else TensorRTEngine
    return kind(run.engines[name], TensorRTOptions(**options))


def filled(base: Any, height: int, width: int) -> Any:
    """A picture of that size, made of copies of `base` side by side."""
    times = (-(-height // base.shape[0]), -(-width // base.shape[1]), 1)
    return np.ascontiguousarray(np.tile(base, times)[:height, :width])
