"""What is kept of a model between two starts: never stale, never needed, never trusted when damaged."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sr_deploy.engines.onnxruntime import OnnxRuntimeEngine
from sr_deploy.graph.record import save_model, write_spec
from sr_deploy.graph.runnable import RunnableModel, cache_folder

UINT8 = np.dtype(np.uint8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


@pytest.fixture
def model(tiny, tmp_path):
    path = tmp_path / "model.onnx"
    save_model(tiny("plain").model, path)
    return path


def test_the_second_start_needs_no_onnx(cache, model, tiny):
    with OnnxRuntimeEngine(model) as engine:
        tiny("plain").check_uint8(engine.run)
    code = (
        "import sys, numpy as np; from pathlib import Path; from sr_deploy.engines import open_engine;"
        "engine = open_engine(Path(sys.argv[1])); engine.limits;"
        "print(engine.run(np.zeros((1, 8, 9, 3), np.uint8)).shape, 'onnx' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True
    )
    scale = tiny("plain").spec.scale
    assert done.stdout.strip() == f"(1, {8 * scale}, {9 * scale}, 3) False"


def test_kept_facts_and_graphs_equal_fresh_ones(cache, each_tiny, tmp_path):
    path = tmp_path / "model.onnx"
    save_model(each_tiny.model, path)
    first = RunnableModel(path)
    kinds = [UINT8] if first.facts.bytes_only else [UINT8, np.dtype(np.float32)]
    made = [first.graph(kind) for kind in kinds]
    second = RunnableModel(path)
    assert second.facts == first.facts == RunnableModel(path.read_bytes()).facts
    assert [second.graph(kind) for kind in kinds] == made
    assert len(list(cache.iterdir())) == 1 + len(kinds)


def test_a_changed_file_never_meets_an_old_graph(cache, model, tiny):
    before = RunnableModel(model)
    before.graph(UINT8)
    other = tiny("plain").model
    save_model(write_spec(other, tiny("plain").spec.with_(name="renamed")), model)
    after = RunnableModel(model)
    assert before.facts.spec.name != "renamed"
    assert after.facts.spec.name == "renamed"


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-7], lambda data: data[:-1] + b"!"])
def test_a_damaged_entry_is_made_again(cache, model, tiny, damage):
    RunnableModel(model).graph(UINT8)
    for entry in cache.iterdir():
        entry.write_bytes(damage(entry.read_bytes()))
    with OnnxRuntimeEngine(model) as engine:
        tiny("plain").check_uint8(engine.run)
    fresh = RunnableModel(model.read_bytes()).graph(UINT8)
    assert RunnableModel(model).graph(UINT8) == fresh


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(model, tiny, tmp_path, monkeypatch):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("", encoding="ascii")
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(blocked))
    with OnnxRuntimeEngine(model) as engine:
        tiny("plain").check_uint8(engine.run)


def test_an_empty_setting_turns_the_cache_off(model, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", "")
    assert cache_folder() is None
    assert RunnableModel(model).graph(UINT8)


def test_the_cache_lies_where_the_platform_wants_it(monkeypatch, tmp_path):
    monkeypatch.delenv("SR_DEPLOY_CACHE")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "sr-deploy" / "graphs"
    else:
        assert cache_folder().name == "graphs"
