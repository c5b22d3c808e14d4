"""Thread pools are as large as CPU affinity and the container's quota allow."""

from __future__ import annotations

import os
import sys
import threading

from sr_deploy.images.codecs.strips import packed_in_order
from sr_deploy.system import cgroup, cores


def test_threads_follow_affinity_and_the_containers_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(cores, "_CPUS", tmp_path)
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)
    assert cores.usable_cores() == 6
    for thread in range(6):
        folder = tmp_path / f"cpu{thread}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{thread % 3},{thread % 3 + 3}\n", encoding="ascii")
    assert cores.usable_cores() == 3
    for quota, expected in (("max 100000", 3), ("150000 100000", 2), ("50000 100000", 1), ("garbage", 3)):
        (tmp_path / "cpu.max").write_text(quota + "\n", encoding="ascii")
        assert cores.usable_cores() == expected
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n", encoding="ascii")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n", encoding="ascii")
    assert cores.usable_cores() == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n", encoding="ascii")
    assert cores.usable_cores() == 3
    monkeypatch.setattr(sys, "platform", "win32")
    assert cores.usable_cores() is None


def test_pictures_are_packed_on_the_cores_that_may_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cores, "_CPUS", tmp_path)
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)

    def workers() -> set[int]:
        return set(packed_in_order(lambda i: threading.get_ident(), 20))

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert workers() == {threading.get_ident()}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert threading.get_ident() not in workers()
    assert len(workers()) <= 2
