"""Digests of files and bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from sr_deploy.system.files import digest_of, sha256, sha256_of


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize("openssl", [True, False])
def test_the_digest_is_sha256_whatever_computes_it(size, openssl, tmp_path, monkeypatch):
    if not openssl:
        monkeypatch.delitem(sys.modules, "_hashlib", raising=False)
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(data) == digest_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_without_its_own_sha256_python_takes_that_of_hashlib(monkeypatch):
    monkeypatch.setattr("sr_deploy.system.files._OWN_SHA256", ("no_such_module",))
    monkeypatch.delitem(sys.modules, "_hashlib", raising=False)
    assert sha256(0).hexdigest() == hashlib.sha256().hexdigest()


def test_opening_a_small_model_that_is_cached_loads_no_openssl():
    code = """
import sys
from sr_deploy.upscale import Upscaler
with Upscaler.open("rt-x2", backend="onnxruntime", threads=1):
    print("_hashlib" in sys.modules)
"""
    found = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8") for _ in (1, 2)
    ]
    assert found[1].stdout == "False\n", found[1].stderr
