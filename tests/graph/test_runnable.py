"""The cache of prepared models: never stale, never needed, never trusted when damaged."""

from __future__ import annotations

import importlib
import os
import random
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from sr_deploy.engines.onnxruntime.cpu import OnnxRuntimeEngine
from sr_deploy.errors import ModelError, SrDeployError
from sr_deploy.graph import cache as kept
from sr_deploy.graph.cache import CacheEntry, cache_folder
from sr_deploy.graph.onnx_file import load_model, parse_model, save_model, write_spec
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.spec import ModelSpec
from sr_deploy.system import own_files
from sr_deploy.system.files import sha256_of

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
        "import sys, numpy as np; from pathlib import Path; from sr_deploy.engines.registry import open_engine;"
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


@pytest.fixture
def other_program(tmp_path, monkeypatch):
    """Let entries be made by a package of the test, a folder or a zip archive that holds `graft.py`."""

    def use(name: str, place: Path) -> None:
        monkeypatch.syspath_prepend(str(place))
        importlib.import_module(name)
        monkeypatch.setattr(kept, "_PACKAGE", name)
        monkeypatch.setattr(kept, "_MAKERS", ("graft",))

    return use


def test_a_changed_program_never_meets_an_old_graph(cache, model, tmp_path, other_program):
    package = tmp_path / "kept_in_a_folder"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "graft.py").write_text("one = 1", encoding="utf-8")
    other_program(package.name, tmp_path)
    before = CacheEntry.of(model)
    assert CacheEntry.of(model).key == before.key
    (package / "graft.py").write_text("one = 2", encoding="utf-8")
    assert CacheEntry.of(model).key != before.key


def test_a_program_in_an_archive_keeps_graphs_too(cache, model, tmp_path, other_program):
    keys = []
    for number in (1, 2):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr(f"kept_in_archive_{number}/__init__.py", "")
            archive.writestr(f"kept_in_archive_{number}/graft.py", f"one = {number}")
        other_program(f"kept_in_archive_{number}", tmp_path / f"{number}.zip")
        RunnableModel(model).graph(UINT8)
        assert CacheEntry.of(model).read("uint8.onnx")
        keys.append(CacheEntry.of(model).key)
    assert keys[0] != keys[1]


def test_every_module_beside_the_cache_counts_as_one_that_makes_its_entries():
    folder = Path(kept.__file__).parent
    modules = {path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py")}
    beside = {module.as_posix() for module in modules if module.name != "__init__"}
    assert set(kept._MAKERS) == beside


def aged(folder, days: float, name: str, size: int = 10):
    path = folder / name
    path.write_bytes(b"x" * size)
    when = time.time() - days * 24 * 60 * 60
    os.utime(path, (when, when))
    return path


def test_entries_nobody_used_are_deleted_and_nothing_else_is(cache, model):
    cache.mkdir(parents=True)
    gone = [aged(cache, 100, "0" * 32 + "-json"), aged(cache, 2, f".{'1' * 32}-json.{'2' * 8}.tmp")]
    stay = [
        aged(cache, 80, "3" * 32 + "-uint8.onnx"),
        aged(cache, 0, f".{'4' * 32}-json.{'5' * 8}.tmp"),
        aged(cache, 1000, "precious.onnx"),
        aged(cache, 1000, "6" * 32 + "-json.backup"),
    ]
    folder = cache / ("7" * 32 + "-json")
    folder.mkdir()
    os.utime(folder, (0, 0))
    RunnableModel(model).graph(UINT8)
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in (*stay, folder))


def test_the_least_used_entries_go_where_all_are_too_large(cache, model, monkeypatch):
    monkeypatch.setattr(kept, "_LARGEST_TOTAL", 100_000)
    cache.mkdir(parents=True)
    old, older, oldest = (aged(cache, d, f"{d}" * 32 + "-json", 40_000) for d in (1, 2, 3))
    RunnableModel(model).graph(UINT8)
    assert old.exists()
    assert not oldest.exists()
    assert CacheEntry.of(model).read("uint8.onnx")
    assert sum(path.stat().st_size for path in cache.iterdir()) <= 100_000
    assert older.exists() == (sum(path.stat().st_size for path in cache.iterdir()) > 80_000)


def test_an_entry_in_use_does_not_age(cache, model):
    RunnableModel(model).graph(UINT8)
    for entry in cache.iterdir():
        os.utime(entry, (0, 0))
    second = RunnableModel(model)
    assert second.facts
    assert second.graph(UINT8)
    assert all(time.time() - entry.stat().st_mtime < 3600 for entry in cache.iterdir())


@pytest.mark.parametrize("claimed", [1, 3, 16])
def test_a_record_of_another_scale_is_found_out_before_a_picture_runs(each_tiny, claimed):
    spec = each_tiny.spec
    if claimed == spec.scale:
        assert RunnableModel(each_tiny.model).facts.spec == spec
        return
    lying = write_spec(each_tiny.model, spec.with_(scale=claimed))
    said = (
        f"{spec.name}: its spec says x{claimed}, the graph gives x{spec.scale}; run `sr-deploy stamp --force`"
    )
    with pytest.raises(ModelError, match=re.escape(said)):
        RunnableModel(lying).facts  # noqa: B018


def test_what_a_graph_declares_of_its_result_is_not_believed(tiny):
    plain = tiny("plain")
    for i, side in enumerate((1, 3, 256, 256)):  # sizes of the picture it was traced with
        plain.model.graph.output[0].type.tensor_type.shape.dim[i].dim_value = side
    assert RunnableModel(plain.model).facts.spec.scale == 2


def test_a_graph_whose_shapes_nobody_can_tell_is_left_to_the_runtime():
    nodes = [helper.make_node("Secret", ["pixels"], ["upscaled"], domain="com.example")]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, None, None])
        for n in ("pixels", "upscaled")
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:]), opset_imports=opsets)
    spec = ModelSpec(name="net", scale=7, halo=0)
    assert RunnableModel(model, spec).facts.peak_per_pixel is None


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with some bytes changed, cut out, or repeated."""
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data)), rng.randint(1, 12)
        kind = rng.random()
        if kind < 0.5:
            data = data[:at] + rng.randbytes(1) + data[at + 1 :]
        elif kind < 0.7:
            data = data[:at] + rng.randbytes(length) + data[at + length :]
        elif kind < 0.85:
            data = data[:at] + data[at + length :]
        else:
            data = data[:at] + data[at : at + length] + data[at:]
    return data


def test_a_damaged_model_file_is_read_or_refused_and_never_a_crash(each_tiny, cache, tmp_path):
    # most of a file is weights, in which any value is valid; so every second file is damaged without them
    whole = each_tiny.model.SerializeToString(deterministic=True)
    bare = load_bare(whole)
    rng, path = random.Random(each_tiny.name), tmp_path / "net.onnx"
    refused = []
    for i in range(60):
        path.write_bytes(damaged(bare if i % 2 else whole, rng))
        try:
            load_model(path)
            runnable = RunnableModel(path)
            runnable.graph(UINT8)
        except SrDeployError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert max(map(len, refused)) < 2000


def load_bare(data: bytes) -> bytes:
    """Return the model in `data` with weights of the same shapes but without values."""
    model = parse_model(data)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    return model.SerializeToString(deterministic=True)


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")


def planted(cache: Path) -> int:
    """Put other data with a matching checksum in the place of every entry; returns their number."""
    entries = list(cache.iterdir())
    for entry in entries:
        entry.write_bytes(sha256_of(b"planted").encode() + b"\nplanted")
    return len(entries)


@posix
def test_a_cache_that_others_may_write_to_is_not_believed(cache, model, recwarn):
    made = RunnableModel(model).graph(UINT8)
    assert planted(cache)
    assert RunnableModel(model).read_cached("uint8.onnx") == b"planted"  # the user alone could write there
    cache.chmod(0o777)
    kept._is_trusted.cache_clear()
    for _ in range(2):
        runnable = RunnableModel(model)
        assert runnable.graph(UINT8) == made
        assert not runnable.is_cached
    said = [str(one.message) for one in recwarn if one.category is kept.UntrustedCacheWarning]
    assert len(said) == 1
    assert "others may write to it" in said[0]
    cache.chmod(0o700)
    kept._is_trusted.cache_clear()


@posix
def test_an_entry_that_is_a_link_or_another_users_is_not_believed(cache, model, tmp_path, monkeypatch):
    made = RunnableModel(model).graph(UINT8)
    planted(cache)
    for entry in list(cache.iterdir()):
        entry.rename(tmp_path / entry.name)
        entry.symlink_to(tmp_path / entry.name)
    assert RunnableModel(model).graph(UINT8) == made
    assert not any(entry.is_symlink() for entry in cache.iterdir())  # they were replaced by our own
    planted(cache)
    monkeypatch.setattr(own_files, "_owner_of_new_file", lambda path: None)
    monkeypatch.setattr(os, "fstat", lambda descriptor: _owned_by(os.stat(descriptor), 12345))
    assert RunnableModel(model).read_cached("uint8.onnx") is None


def _owned_by(status: os.stat_result, owner: int) -> os.stat_result:
    """`status` with another owner."""
    return os.stat_result([*status[:4], owner, *status[5:]])
