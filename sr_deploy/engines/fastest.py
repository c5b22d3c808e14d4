"""Which of the installed CPU backends runs a model fastest on this machine: measured once, and kept.

What wins depends on the net, its precision and the processor, so no table can know. The verdict is kept in the
user's cache folder with what it depends on: the file, the runtimes' versions, the processor, the threads.
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
_SIDE = 128
_RUNS = 3
_FAST_ENOUGH = (
    0.003  # seconds: a net that takes less on so small a picture is not worth a second runtime's start
)
_CLEARLY_FASTER = (
    0.9  # of the time of an earlier one: a later one has to be clearly faster, or the choice would waver
)


def cached_choice(model: Path, threads: int | None) -> str | None:
    """The backend that an earlier measurement chose; None where there was none."""
    kept = RunnableModel(model).read_cached(_cache_kind(threads))
    if kept:
        with suppress(ValueError, KeyError, TypeError):
            return str(json.loads(kept)["backend"])
    return None


def can_cache_choice(model: Path) -> bool:
    """Whether the verdict on `model` can be kept; without, every start would measure."""
    runnable = RunnableModel(model)
    with suppress(SrDeployError):  # of the model itself, which whoever opens it will see
        return runnable.facts is not None and runnable.is_cached
    return False


def fastest(
    model: Path, opened: Mapping[str, Callable[[], Engine]], threads: int | None
) -> tuple[str, dict[str, float]]:
    """The best of the backends in `opened` (name -> what opens it, in the order of preference), and the seconds
    each took; the verdict is kept.

    One that cannot run the model is out. Where all are, the first is named, whose error will then be seen.
    """
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
    best = next((name for name in names if name in seconds), names[0])
    for name in names:
        if name in seconds and seconds[name] < _CLEARLY_FASTER * seconds[best]:
            best = name
    return best


def _measure_seconds(engine: Engine) -> float:
    """The least time of a few runs on a small picture."""
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
    cpu = describe_cpu()
    parts = [cpu.name, *cpu.features, str(threads or cpu.usable_cores), *_versions()]
    return f"{sha256('|'.join(parts).encode('utf-8')).hexdigest()[:16]}.fastest"


def _versions() -> list[str]:
    """`onnxruntime-1.31.0.dist-info` and its like, of every runtime on the import path, sorted.

    importlib.metadata would say the same; loading it costs a tenth of the command line's start.
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
