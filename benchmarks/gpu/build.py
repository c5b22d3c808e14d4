"""Builds engines for `tests/gpu/run.py`, and shows where the time of a build goes.

There are three kinds of engines. "any": every size, built fast, for checks of correctness. "crops": the sizes
of the compared pictures, built fast. "timed WxH": a single size and TensorRT's usual search, for timing.
"usual" adds what a user gets. Each build starts from the kernel timings of those before.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.gpu.common import COMMON, Run, named

FAST, USUAL = 1, 3
"""TensorRT's optimisation levels. Not 0, which takes the first kernel that runs, in whatever precision."""
EXPECTED_SECONDS = {FAST: 20.0, USUAL: 45.0}
"""Expected seconds per profile of a build, until one of that level has been seen."""
CROPS_SIDE = 192
"""Side that holds all compared pictures, in pixels."""


@dataclass(frozen=True, kw_only=True)
class EngineToBuild:
    """One engine to be built; sections refer to it by `name`."""

    model: str
    precision: str
    kind: str
    options: dict[str, Any]
    profiles: int
    pixels: str = "uint8"
    only_size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        form = "" if self.pixels == "uint8" else f"-{self.pixels}"
        return f"{self.model}-{self.precision}{form}-{self.kind}".replace(" ", "-")

    @property
    def level(self) -> int:
        return int(self.options["optimisation_level"])


def for_any_size(model: str, precision: str) -> EngineToBuild:
    """Two profiles: 960x540, and all sizes up to that."""
    options = {"sizes": COMMON[:1], "tile": 540, "small": 540, "optimisation_level": FAST}
    return EngineToBuild(model=model, precision=precision, kind="any", options=options, profiles=2)


def for_crops(model: str, precision: str, pixels: str = "uint8") -> EngineToBuild:
    """One profile: all sizes up to those of the compared pictures."""
    options = {"tile": CROPS_SIDE, "small": CROPS_SIDE, "optimisation_level": FAST}
    return EngineToBuild(
        model=model, precision=precision, kind="crops", options=options, profiles=1, pixels=pixels
    )


def to_be_timed(model: str, precision: str, size: tuple[int, int]) -> EngineToBuild:
    """One profile of one size."""
    kind = f"timed {named(size)}"
    options = {"optimisation_level": USUAL}
    return EngineToBuild(
        model=model, precision=precision, kind=kind, options=options, profiles=1, only_size=size
    )


def usual(model: str, precision: str) -> EngineToBuild:
    """The engine a user gets who names three sizes: five profiles. Shows how long that takes, and why."""
    options = {"sizes": COMMON, "optimisation_level": USUAL}
    return EngineToBuild(model=model, precision=precision, kind="usual", options=options, profiles=5)


def seconds_expected(run: Run, plan: EngineToBuild) -> float:
    """Expected seconds of a build, by the slowest profile of that level so far."""
    seen = [row["seconds"] / row["profiles"] for row in run.results["builds"] if row["level"] == plan.level]
    return max(seen, default=EXPECTED_SECONDS[plan.level]) * plan.profiles


def build_section(run: Run, plan: EngineToBuild) -> None:
    """Run the section that builds `plan`, if its graph was prepared."""
    if run.row(plan.model, plan.precision, plan.pixels) is not None:
        run.section(f"build/{plan.name}", lambda: build(run, plan), needs=seconds_expected(run, plan))


def source(run: Run, row: dict[str, Any]) -> Any:
    """The source for a build, from a row of the prepared models."""
    from sr_deploy import ModelSpec
    from sr_deploy.engines.tensorrt.build import BuildSource

    return BuildSource(
        graph=(run.folder / row["graph"]).read_bytes(),
        spec=ModelSpec.from_json(json.dumps(row["spec"])),
        pixels=row["pixels"],
        sha256=row["sha256"],
        name=row["onnx"],
    )


def build(run: Run, plan: EngineToBuild) -> dict[str, Any]:
    """Build `plan`, keep the engine, and report where the time went."""
    from sr_deploy import SizeRule
    from sr_deploy.engines.tensorrt.build import write_engine

    row = run.row(plan.model, plan.precision, plan.pixels)
    assert row is not None
    made, account = source(run, row), BuildTimes()
    if plan.only_size:
        made = replace(made, spec=made.spec.with_(size_rule=SizeRule(fixed=plan.only_size)))
    begun, known = time.perf_counter(), len(run.timings)
    report: dict[str, Any] = {
        "name": plan.name,
        "level": plan.level,
        "profiles": plan.profiles,
        "state": "failed",
    }
    try:
        with account.listening():
            built = build_with_fallbacks(run, made, plan)
        report |= {
            "state": "built",
            "plan_bytes": len(built.plan),
            "precisions": dict(built.record.precisions),
        }
    finally:
        report |= {
            "seconds": round(time.perf_counter() - begun, 2),
            "timings_before": known,
        } | account.shown()
        run.results["builds"].append(report)
    run.timings = built.timings or run.timings
    path = Path(tempfile.gettempdir()) / f"{plan.name}.engine"
    write_engine(path, built.plan, built.record)
    run.engines[plan.name] = path
    run.layers[plan.name] = parse_layers(built.layers)
    run.log(
        f"built {plan.name}: {report['seconds']} s, {report['precisions']}, {report['seconds_by_runner']}"
    )
    return {"record": json.loads(built.record.to_json()), **report}


def build_with_fallbacks(run: Run, made: Any, plan: EngineToBuild) -> Any:
    """Build; if TensorRT fails, try its usual level, and then without the smallest pictures.

    So the rest can still be checked; every failure is in the record.
    """
    from sr_deploy import SizeRule
    from sr_deploy.engines.tensorrt.build import build_engine
    from sr_deploy.engines.tensorrt.options import BuildOptions
    from sr_deploy.errors import ModelError

    # the precision is checked in a section of its own
    go = partial(build_engine, say=run.log, check_precision=False, timings=run.timings)
    options = BuildOptions(**plan.options)
    tries = [(made, options)]
    if plan.level != USUAL:
        tries.append((made, replace(options, optimisation_level=USUAL)))
    if not plan.only_size:
        larger = replace(made, spec=made.spec.with_(size_rule=SizeRule(minimum=16)))
        tries.append((larger, replace(options, optimisation_level=USUAL)))
    for number, (graph, chosen) in enumerate(tries, start=1):
        try:
            return go(graph, chosen)
        except ModelError as error:
            run.log(f"BUILD FAILED, try {number} of {len(tries)}: {error!r}")
            run.results.setdefault("failed builds", []).append(f"{plan.name}, try {number}: {error!r}")
            if number == len(tries):
                raise
    raise AssertionError("there is always a first try")


def parse_layers(layers: str) -> Any:
    """The description of the layers as JSON values, or as text if it is not JSON."""
    try:
        return json.loads(layers, strict=False)
    except ValueError:
        return layers


@dataclass
class BuildTimes:
    """Time and kernels tried for each of TensorRT's runners, from what it logs during a build."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    tried: Counter[str] = field(default_factory=Counter)
    totals: list[str] = field(default_factory=list)
    _now: str = "before the first"
    _at: float = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to every log that is created inside the block."""
        from sr_deploy.engines.tensorrt.api import TensorRTLog

        receive, self._at = TensorRTLog._receive, time.perf_counter()

        def hear(log: Any, severity: Any, text: str) -> None:
            self.hear(text, time.perf_counter())
            receive(log, severity, text)

        with patch.object(TensorRTLog, "_receive", hear):
            yield
        self.hear("", time.perf_counter())

    def hear(self, text: str, at: float) -> None:
        """Take a message logged at second `at`; the time since the last one counts for what was tried then."""
        self.seconds[self._now] += at - self._at
        self._at = at
        if runner := re.search(r"Timing Runner: .*\((\w+)", text):
            self._now = runner[1]
        elif "Chose Runner" in text or "Autotuning" in text or "Computing" in text:
            self._now = "between"
        elif re.match(r"\s*(Tactic|.*Tactic Name):? .*Time", text):
            self.tried[self._now] += 1
        if re.search(r"completed in|timing cache|took ", text):
            self.totals.append(" ".join(text.split())[:160])

    def shown(self) -> dict[str, Any]:
        """The times, for the report."""
        slowest = sorted(self.seconds.items(), key=lambda item: -item[1])
        return {
            "seconds_by_runner": {name: round(n, 2) for name, n in slowest[:8]},
            "kernels_tried": dict(self.tried.most_common(8)),
            "said": self.totals[-12:],
        }
