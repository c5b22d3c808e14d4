"""The limits of a container, in both versions of the kernel's interface."""

from __future__ import annotations

import pytest

from sr_deploy.system import cgroup
from sr_deploy.system.cgroup import cpu_quota, memory_left, memory_limit


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Writes the files of a control group: name -> content."""
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")

    return write


def test_version_2(group):
    group(cpu_DOT_max="150000 100000", memory_DOT_max="1000", memory_DOT_current="700")
    group(memory_DOT_stat="anon 1\ninactive_file 50\nactive_file 9")
    assert (cpu_quota(), memory_limit(), memory_left()) == (1.5, 1000, 350)


def test_version_1(group):
    group(cpu__cpu_DOT_cfs_quota_us="50000", cpu__cpu_DOT_cfs_period_us="100000")
    group(memory__memory_DOT_limit_in_bytes="1000", memory__memory_DOT_usage_in_bytes="700")
    assert (cpu_quota(), memory_limit(), memory_left()) == (0.5, 1000, 300)


def test_no_limit_is_none_in_both_versions_and_without_any(group):
    assert (cpu_quota(), memory_limit(), memory_left()) == (None, None, None)
    group(cpu_DOT_max="max 100000", memory_DOT_max="max", memory_DOT_current="700")
    assert (cpu_quota(), memory_limit(), memory_left()) == (None, None, None)
    group(cpu_DOT_max="", cpu__cpu_DOT_cfs_quota_us="-1", cpu__cpu_DOT_cfs_period_us="100000")
    group(memory_DOT_max="max", memory__memory_DOT_limit_in_bytes="9223372036854771712")
    assert (cpu_quota(), memory_limit()) == (None, None)
