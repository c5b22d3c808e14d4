"""The digest of sr-deploy's own sources, which cache keys contain."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from sr_deploy.engines.openvino import engine
from sr_deploy.system.files import sources_digest


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "digested_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text(f"name = {name!r}", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, folder.name, raising=False)
    importlib.import_module(folder.name)
    return folder


def test_a_renamed_module_is_an_error_and_not_a_key_without_it(package):
    assert sources_digest(package.name, ("one", "two"))
    (package / "two.py").rename(package / "second.py")
    with pytest.raises(RuntimeError, match="no module two, which a cache key depends on"):
        sources_digest(package.name, ("one", "two"))


def test_a_program_that_ships_no_sources_has_a_key_all_the_same(package):
    for name in ("one", "two"):
        (package / f"{name}.py").unlink()
    assert sources_digest(package.name, ("one", "two")) == sources_digest(package.name, ())


def test_the_openvino_key_covers_every_module_that_changes_models():
    beside = {path.stem for path in Path(engine.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(engine._CHANGING_MODELS) == beside
