"""Tests that need an NVIDIA GPU with TensorRT and PyCUDA. Without them they are skipped, with the reason.

A run that skipped them proves nothing about the GPU. `tests/gpu/run.py` checks more, on real models, without
pytest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.engines.tensorrt.build import require_tensorrt
from sr_deploy.engines.tensorrt.options import BuildOptions, TensorRTOptions
from sr_deploy.errors import MissingRuntimeError

QUICK = BuildOptions(tile=96, small=16, optimisation_level=0, max_batch=2)
"""Options for engines that are built fast, because these tests check behaviour, not speed."""


def missing() -> str | None:
    """Return why nothing can be run here, or None if everything is present."""
    try:
        require_tensorrt()
    except MissingRuntimeError as error:
        return str(error)
    return None


REASON = missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REASON is None:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory) -> Path:
    """One cache for the whole session; writable by its owner only, or it would be refused."""
    folder = tmp_path_factory.mktemp("engines")
    folder.chmod(0o700)
    return folder


@pytest.fixture
def opened(cache_folder) -> Callable[..., Any]:
    """Returns a function that opens the engine of a model; each engine is built once a session."""
    from sr_deploy.engines.tensorrt.engine import TensorRTEngine

    engines = []

    def open_(model: Any, **options: Any) -> TensorRTEngine:
        chosen = TensorRTOptions(**{"build": QUICK, "folder": cache_folder, **options})
        engines.append(TensorRTEngine(model, chosen))
        return engines[-1]

    yield open_
    for engine in engines:
        engine.close()
