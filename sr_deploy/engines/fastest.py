"""Find the installed CPU backend that runs a model fastest on this machine; measured once, then cached.

The winner depends on the net, its precision and the processor, so no table can know it. The choice is kept
in the user's cache folder under all that it depends on: the file, the versions of the runtimes, the
processor, and the number of threads.

The measured pictures are compared as well. A runtime that computes an operator wrongly may be the fastest, so
a backend whose picture differs from that of the first one (ONNX Runtime, the reference of the format) is
dropped.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.engines.base import Engine
from sr_deploy.errors import SrDeployError
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.system.arrays import BatchArray
from sr_deploy.system.cpu import describe_cpu
from sr_deploy.system.files import digest_of, sha256_of
from sr_deploy.system.json_values import parse_json

_DISTRIBUTIONS = ("onnxruntime-", "onnxruntime_gpu-", "openvino-")
"""Beginnings of the names of the runtimes' installed metadata folders."""
_SIDE = 128
"""Side of the measured picture in pixels, before the size rule enlarges it."""
_SPOT, _GRAIN = 8, 3.0
"""Size of the spots of that picture in pixels, and standard deviation of its grain in 8-bit steps."""
_RUNS = 3
"""Timed runs per backend, after one that is not timed."""
_FAST_ENOUGH = 0.003
"""Seconds. A net that takes less on so small a picture is not worth starting a second runtime."""
_CLEARLY_FASTER = 0.9
"""Share of an earlier backend's time that a later one must stay below. Without it, the choice would change
from one measurement to the next."""
_MOST_STEPS = 1
"""Largest difference in 8-bit steps between two backends that compute the same fp32 picture. Values near the
middle of two steps may be rounded either way."""
_MOST_MEAN_STEPS = {"fp16": 0.25, "bf16": 1.0, "int8": 2.0}
"""Largest mean difference in 8-bit steps for lower precisions, in which single pixels of noise may differ more
although both backends are right."""
_COMPARISON = "compared-2"
"""Part of the cache key. It changes when the comparison does, so that a choice made without it is not used."""


def cached_choice(model: Path, threads: int | None) -> str | None:
    """Return the backend that an earlier measurement chose for `model`; None if there was none."""
    kept = RunnableModel(model).read_cached(_cache_kind(threads))
    if kept:
        with suppress(ValueError, KeyError, TypeError):
            return str(parse_json(kept)["backend"])
    return None


def can_cache_choice(model: Path) -> bool:
    """Return True if a choice for `model` can be cached. If not, every start would have to measure."""
    runnable = RunnableModel(model)
    with suppress(SrDeployError):  # an error of the model itself is raised when it is opened
        return runnable.facts is not None and runnable.is_cached
    return False


@dataclass(frozen=True)
class Measured:
    """Seconds and picture of one backend."""

    seconds: float
    """Least time of a run."""
    picture: BatchArray
    """Result for the measured picture, uint8 [1, H, W, C]."""
    precision: str
    """Precision of the model."""


def fastest(
    model: Path, opened: Mapping[str, Callable[[], Engine]], threads: int | None
) -> tuple[str, dict[str, float], dict[str, str]]:
    """Measure the backends in `opened`, compare their pictures, and cache the choice.

    `opened` maps a backend to a function that opens its engine, in the order of preference. A backend that cannot
    run the model is left out. If none can, the first one is returned, so that its error is the one the user sees.

    Returns the best backend; the seconds that each took; and for each backend that was dropped because its
    picture differs, the difference in words.
    """
    return _measured_choice(model, opened, _cache_kind(threads), _FAST_ENOUGH)


def fastest_form(
    files: Sequence[Path], opened: Mapping[str, Callable[[], Engine]], threads: int | None
) -> tuple[str, dict[str, float], dict[str, str]]:
    """Do the same for several forms of one model, or return the cached choice, without seconds.

    `files` are the forms, the model itself first. `opened` maps a form on a backend to a function that opens it, the
    most exact form first.
    """
    kind = _cache_kind(threads, [*(digest_of(file) for file in files[1:]), *opened])
    kept = RunnableModel(files[0]).read_cached(kind)
    if kept:
        with suppress(ValueError, KeyError, TypeError):
            chosen = str(parse_json(kept)["backend"])
            if chosen in opened:
                return chosen, {}, {}
    return _measured_choice(files[0], opened, kind, fast_enough=0.0)


def _measured_choice(
    model: Path, opened: Mapping[str, Callable[[], Engine]], kind: str, fast_enough: float
) -> tuple[str, dict[str, float], dict[str, str]]:
    """Measure, compare and cache, see `fastest`. The first one alone is measured if it takes under `fast_enough`
    seconds."""
    found: dict[str, Measured] = {}
    for name, open_it in opened.items():
        with suppress(SrDeployError), open_it() as engine:
            found[name] = _measure(engine)
        if name in found and not len(found) > 1 and found[name].seconds < fast_enough:
            break
    wrong = _differing(found)
    seconds = {name: one.seconds for name, one in found.items()}
    chosen = _choose(list(opened), {name: taken for name, taken in seconds.items() if name not in wrong})
    if seconds:
        choice = json.dumps({"backend": chosen, "seconds": seconds, "differing": wrong})
        RunnableModel(model).write_cached(kind, choice.encode("utf-8"))
    return chosen, seconds, wrong


def _differing(found: Mapping[str, Measured]) -> dict[str, str]:
    """Describe the backends whose picture differs from the first one's by more than rounding explains."""
    if len(found) < 2:
        return {}
    (first, reference), *others = found.items()
    wrong = {}
    for name, one in others:
        steps = np.abs(reference.picture.astype(np.int16) - one.picture)
        most, mean = int(steps.max()), float(steps.mean())
        limit = _MOST_MEAN_STEPS.get(one.precision)
        if most > _MOST_STEPS if limit is None else mean > limit:
            wrong[name] = f"its picture differs from {first}'s by up to {most} of 255 ({mean:.2g} on average)"
    return wrong


def _choose(names: Sequence[str], seconds: Mapping[str, float]) -> str:
    """Return the first backend that ran, or a later one that is clearly faster."""
    best = next((name for name in names if name in seconds), names[0])
    for name in names:
        if name in seconds and seconds[name] < _CLEARLY_FASTER * seconds[best]:
            best = name
    return best


def _measure(engine: Engine) -> Measured:
    """Run a small picture a few times; the first run is not timed, because it prepares the engine."""
    height, width = engine.spec.size_rule.fixed or engine.spec.size_rule.padded(_SIDE, _SIDE)
    picture: Any = _drawn_picture(height, width, engine.spec.channels)[None]
    result = engine.run(picture)
    taken = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        engine.run(picture)
        taken.append(time.perf_counter() - start)
    return Measured(min(taken), result, engine.spec.precision)


def _drawn_picture(height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    """Draw soft spots of all colours with a little grain, [H, W, C].

    White noise would do for the times, but not for the comparison: on it nets of lower precision differ far more than on
    any photograph.
    """
    random = np.random.default_rng(0)
    rows, columns = (size // _SPOT + 2 for size in (height, width))
    spots = random.uniform(0, 255, (rows, columns, channels))
    for axis, size in ((0, height), (1, width)):
        at = np.arange(size) / _SPOT
        first, share = at.astype(int), (at % 1).reshape([-1 if other == axis else 1 for other in range(3)])
        spots = np.take(spots, first, axis) * (1 - share) + np.take(spots, first + 1, axis) * share
    grain = random.normal(0, _GRAIN, spots.shape)
    return np.clip(np.rint(spots + grain), 0, 255).astype(np.uint8)


def _cache_kind(threads: int | None, forms: Sequence[str] = ()) -> str:
    """Return the kind of the cache entry: a hash of the processor, the threads, the runtimes' versions and `forms`."""
    cpu = describe_cpu()
    parts = [_COMPARISON, cpu.name, *cpu.features, str(threads or cpu.usable_cores), *_versions(), *forms]
    return f"{sha256_of('|'.join(parts).encode('utf-8'))[:16]}.fastest"


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
