"""Find the installed CPU backend that runs a model fastest on this machine; measured once, then cached.

The winner depends on the net, its precision and the processor, so no table can know it. The choice is kept
in the user's cache folder under all that it depends on: the file, the versions of the runtimes, the
processor, and the number of threads.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from sr_deploy.engines.base import Engine
from sr_deploy.errors import SrDeployError
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.system.cpu import describe_cpu

_DISTRIBUTIONS = ("onnxruntime-", "onnxruntime_gpu-", "openvino-")
"""Beginnings of the names of the runtimes' installed metadata folders."""
_SIDE = 128
"""Side of the measured picture in pixels, before the size rule enlarges it."""
_RUNS = 3
"""Timed runs per backend, after one that is not timed."""
_FAST_ENOUGH = 0.003
"""Seconds. A net that takes less on so small a picture is not worth starting a second runtime."""
_CLEARLY_FASTER = 0.9
"""Share of an earlier backend's time that a later one must stay below. Without it, the choice would change
from one measurement to the next."""


def cached_choice(model: Path, threads: int | None) -> str | None:
    """Return the backend that an earlier measurement chose for `model`; None if there was none."""
    kept = RunnableModel(model).read_cached(_cache_kind(threads))
    if kept:
        with suppress(ValueError, KeyError, TypeError):
            return str(json.loads(kept)["backend"])
    return None


def can_cache_choice(model: Path) -> bool:
    """Return True if a choice for `model` can be cached. If not, every start would have to measure."""
    runnable = RunnableModel(model)
    with suppress(SrDeployError):  # an error of the model itself is raised when it is opened
        return runnable.facts is not None and runnable.is_cached
    return False


def fastest(
    model: Path, opened: Mapping[str, Callable[[], Engine]], threads: int | None
) -> tuple[str, dict[str, float]]:
    """Measure the backends in `opened`; returns the best one and the seconds that each took. The choice is
    cached. `opened` maps a backend to a function that opens its engine, in the order of preference. A backend
    that cannot run the model is left out. If none can, the first one is returned, so that its error is the
    one the user sees."""
    seconds: dict[str, float] = {}
    for name, open_it in opened.items():
        with suppress(SrDeployError), open_it() as engine:
            seconds[name] = _measure_seconds(engine)
        if name in seconds and not len(seconds) > 1 and seconds[name] < _FAST_ENOUGH:
            break
    chosen = _choose(list(opened), seconds)
    if seconds:
        choice = json.dumps({"backend": chosen, "seconds": seconds})
        RunnableModel(model).write_cached(_cache_kind(threads), choice.encode("utf-8"))
    return chosen, seconds


def _choose(names: Sequence[str], seconds: Mapping[str, float]) -> str:
    """Return the first backend that ran, or a later one that is clearly faster."""
    best = next((name for name in names if name in seconds), names[0])
    for name in names:
        if name in seconds and seconds[name] < _CLEARLY_FASTER * seconds[best]:
            best = name
    return best


def _measure_seconds(engine: Engine) -> float:
    """Return the least time in seconds of a few runs on a small picture of noise; the first run is not
    timed, because it prepares the engine."""
    height, width = engine.spec.size_rule.fixed or engine.spec.size_rule.padded(_SIDE, _SIDE)
    picture: Any = np.random.default_rng(0).integers(
        0, 256, (1, height, width, engine.spec.channels), np.uint8
    )
    engine.run(picture)
    taken = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        engine.run(picture)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _cache_kind(threads: int | None) -> str:
    """Return the kind of the cache entry: a hash of the processor, the threads and the runtimes' versions."""
    cpu = describe_cpu()
    parts = [cpu.name, *cpu.features, str(threads or cpu.usable_cores), *_versions()]
    return f"{sha256('|'.join(parts).encode('utf-8')).hexdigest()[:16]}.fastest"


def _versions() -> list[str]:
    """Return the metadata folders of all runtimes on the import path, such as
    `onnxruntime-1.31.0.dist-info`; sorted.

    importlib.metadata would give the same, but loading it takes a tenth of the command line's start-up
    time.
    """
    found = set[str]()
    for folder in sys.path:
        with suppress(OSError):
            found.update(
                name
                for name in os.listdir(folder or os.curdir)
                if name.startswith(_DISTRIBUTIONS) and name.endswith((".dist-info", ".egg-info"))
            )
    return sorted(found)
