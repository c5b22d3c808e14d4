"""Tests that need an NVIDIA GPU with TensorRT and PyCUDA. Where those are not there they are skipped, with the reason;
a run that skipped them says nothing of the GPU. `tests/gpu/run.py` shows more, on real models, without pytest.
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


def missing() -> str | None:
    """Why nothing can be run here; None where it can."""
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
    folder = tmp_path_factory.mktemp("engines")
    folder.chmod(0o700)
    return folder


@pytest.fixture
def opened(cache_folder) -> Callable[..., Any]:
    """Opens an engine of a model, built quickly once a session."""
    from sr_deploy.engines.tensorrt.engine import TensorRTEngine

    engines = []

    def open_(model: Any, **options: Any) -> TensorRTEngine:
        chosen = TensorRTOptions(**{"build": QUICK, "folder": cache_folder, **options})
        engines.append(TensorRTEngine(model, chosen))
        return engines[-1]

    yield open_
    for engine in engines:
        engine.close()
