"""Tests of the engine cache: whole files or none, one build for two processes, foreign files left alone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sr_deploy.engines.tensorrt import cache as cache_module
from sr_deploy.engines.tensorrt.cache import EngineCache, distrust_reason, engine_folder
from sr_deploy.engines.tensorrt.sidecar import digest, sidecar_path
from tests.engines.tensorrt.test_sidecar import PLAN, a_record
from tests.paths import ROOT

KEY, OTHER = "a" * 32, "b" * 32
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")


@pytest.fixture
def said() -> list[str]:
    """The lines that the cache reports."""
    return []


@pytest.fixture
def cache(tmp_path, said) -> EngineCache:
    return EngineCache(tmp_path / "engines", said.append)


def keep(cache: EngineCache, key: str, plan: bytes = PLAN, used: float | None = None) -> Path:
    """Store an engine under `key`, last used at `used` (seconds since 1970); returns its path."""
    assert cache.store(key, plan, a_record(plan_sha256=digest(plan), plan_size=len(plan)))
    if used is not None:
        os.utime(cache.path(key), (used, used))
    return cache.path(key)


def test_what_was_stored_is_found(cache):
    assert cache.find(KEY) is None
    keep(cache, KEY)
    assert cache.find(KEY) == (PLAN, a_record())
    assert cache.find(OTHER) is None


@posix
def test_the_folder_is_the_users_alone(cache):
    keep(cache, KEY)
    assert cache.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("spoil", ["truncated", "no record", "empty", "other bytes"])
def test_a_damaged_engine_is_not_found_and_said(cache, said, spoil):
    path = keep(cache, KEY)
    if spoil == "no record":
        sidecar_path(path).unlink()
    else:
        path.write_bytes({"truncated": PLAN[:-1], "empty": b"", "other bytes": PLAN[::-1]}[spoil])
    assert cache.find(KEY) is None
    assert len(said) == 1
    assert said[0].endswith("it is built again now")


def test_finding_an_engine_says_that_it_was_used(cache):
    path = keep(cache, KEY, used=1000.0)
    cache.find(KEY)
    assert time.time() - path.stat().st_mtime < 60


def test_a_full_disk_costs_a_line_and_leaves_nothing(cache, said, monkeypatch):
    def full(path, data):
        Path(path).write_bytes(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module, "write_whole", full)
    assert cache.store(KEY, PLAN, a_record()) is False
    assert "No space left" in said[0]
    assert list(cache.folder.iterdir()) == []


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_costs_a_line(tmp_path, said):
    (tmp_path / "engines").mkdir(mode=0o500)
    cache = EngineCache(tmp_path / "engines", said.append)
    assert cache.store(KEY, PLAN, a_record()) is False
    assert len(said) == 1
    with cache.locked(KEY):
        assert cache.find(KEY) is None


def test_a_folder_that_cannot_be_made_costs_a_line(tmp_path, said):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    cache = EngineCache(tmp_path / "file" / "engines", said.append)
    assert cache.store(KEY, PLAN, a_record()) is False
    with cache.locked(KEY):
        assert cache.find(KEY) is None
    assert cache.entries() == []
    assert len(said) == 1


@posix
def test_engines_that_others_may_have_put_there_are_not_loaded(tmp_path, said):
    folder = tmp_path / "engines"
    folder.mkdir()
    folder.chmod(0o777)
    assert EngineCache.of_user(folder, said.append) is None
    assert "others may write to it" in said[0]
    folder.chmod(0o755)
    assert distrust_reason(folder) is None
    assert EngineCache.of_user(folder) is not None


def test_the_users_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "ä"))
    assert engine_folder() == tmp_path / "ä" / "engines"
    monkeypatch.setenv("SR_DEPLOY_CACHE", "")
    assert engine_folder() is None
    assert EngineCache.of_user() is None


def test_one_thread_waits_for_the_other(cache, said):
    order = []

    def second():
        with cache.locked(KEY):
            order.append("second")

    with cache.locked(KEY):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert said == ["another process is building this engine; waiting for it"]


def test_a_build_that_fails_leaves_its_lock_which_is_empty_and_locks_nobody_out(cache, said):
    def build() -> None:
        with cache.locked(KEY):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    assert {path.name: path.stat().st_size for path in cache.folder.iterdir()} == {f"{KEY}.lock": 0}
    with cache.locked(KEY):
        pass
    cache.prune()
    assert [path.name for path in cache.folder.iterdir()] == [
        f"{KEY}.lock"
    ]  # another process may have it open
    assert (said, cache.entries()) == ([], [])


def test_different_engines_do_not_wait_for_each_other(cache, said):
    with cache.locked(KEY), cache.locked(OTHER):
        assert said == []


PROGRAM = """
import sys, time
from pathlib import Path
from sr_deploy.engines.tensorrt.cache import EngineCache
sys.path.insert(0, sys.argv[2])
from tests.engines.tensorrt.test_sidecar import PLAN, a_record
cache, key = EngineCache(Path(sys.argv[1])), "a" * 32
print("ready", flush=True)
sys.stdin.readline()
with cache.locked(key):
    if cache.find(key) is None:
        time.sleep(0.7)  # stands for a build
        cache.store(key, PLAN, a_record())
        print("built", flush=True)
    else:
        print("found", flush=True)
"""
"""A program that waits for a line on stdin, then builds the engine or finds it, and prints which."""


def start(folder: Path) -> subprocess.Popen[str]:
    """Start `PROGRAM` on the cache in `folder`."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(ROOT)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_want_the_same_engine_build_it_once(tmp_path):
    both = [start(tmp_path / "engines") for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
    said = sorted(process.communicate("go\n", timeout=60)[0].strip() for process in both)
    assert said == ["built", "found"]


def test_a_process_that_is_killed_while_it_builds_holds_up_nobody(tmp_path):
    killed = start(tmp_path / "engines")
    assert killed.stdin is not None
    assert killed.stdout is not None
    killed.stdout.readline()
    killed.stdin.write("go\n")
    killed.stdin.flush()
    time.sleep(0.4)
    killed.kill()
    killed.wait()
    killed.stdin.close()
    killed.stdout.close()
    cache = EngineCache(tmp_path / "engines")
    with cache.locked(KEY):
        assert cache.find(KEY) is None


def test_entries_come_last_used_first_and_damaged_ones_without_a_record(cache):
    keep(cache, KEY, used=1000.0)
    keep(cache, OTHER, used=2000.0)
    sidecar_path(cache.path(KEY)).write_text("{", encoding="utf-8")
    first, second = cache.entries()
    assert (first.key, first.record, first.size) == (OTHER, a_record(), len(PLAN))
    assert (second.key, second.record) == (KEY, None)


def test_pruning_by_age_spares_what_was_used(cache):
    keep(cache, KEY, used=time.time() - 40 * 86400)
    keep(cache, OTHER)
    assert [entry.key for entry in cache.prune(days=30)] == [KEY]
    assert [entry.key for entry in cache.entries()] == [OTHER]


def test_pruning_by_size_spares_the_last_used(cache):
    now = time.time()
    for number, key in enumerate("cde"):
        keep(cache, key * 32, used=now - number)
    assert [entry.key for entry in cache.prune(most_bytes=2 * len(PLAN))] == ["e" * 32]


def test_pruning_all_leaves_what_is_not_ours(cache):
    keep(cache, KEY)
    machine = a_record().machine
    cache.store_timings(machine, b"timings")
    assert cache.timings(machine) == b"timings"
    names = ["mine.engine", f"{KEY[:-1]}.engine", "notes.json", ".hidden.tmp", f"{KEY}.engine.bak"]
    for name in names:
        (cache.folder / name).write_text("mine", encoding="utf-8")
    assert [entry.key for entry in cache.prune()] == [KEY]
    left = {path.name for path in cache.folder.iterdir() if path.suffix != ".lock"}
    assert left == set(names)
    assert cache.timings(machine) == b""


def test_damaged_engines_and_what_dead_builds_left_go_with_any_pruning(cache):
    keep(cache, KEY)
    sidecar_path(cache.path(KEY)).unlink()
    sidecar_path(cache.path(OTHER)).write_text("{}", encoding="utf-8")
    old, fresh = (cache.folder / f".{KEY}.engine.{n * 8}.tmp" for n in "12")
    for draft in (old, fresh):
        draft.write_bytes(b"x")
    os.utime(old, (1000, 1000))
    cache.prune(days=1000)
    assert {path.name for path in cache.folder.iterdir() if path.suffix != ".lock"} == {fresh.name}


def test_timings_are_of_one_machine(cache):
    machine = a_record().machine
    cache.store_timings(machine, b"long timings")
    cache.store_timings(machine, b"short")
    assert cache.timings(machine) == b"long timings"
    from dataclasses import replace

    assert cache.timings(replace(machine, driver="1")) == b""
