"""The public API is fixed on purpose: a new or missing name fails a test."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

import sr_deploy


def test_the_public_names_are_these_and_sorted():
    assert sr_deploy.__all__ == sorted(sr_deploy._MODULE_OF)


@pytest.mark.parametrize("name", sr_deploy.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(sr_deploy, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sr_deploy.nothing  # noqa: B018


def test_the_version_is_that_of_the_distribution():
    assert sr_deploy.__version__ == version("sr-deploy")


def test_importing_the_package_alone_imports_nothing_heavy():
    code = "import sys, sr_deploy; print(sorted({'numpy', 'cv2', 'onnx', 'torch', 'rich', 'click'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_runtime_leaves_no_trace_in_the_home_folder(tmp_path):
    surroundings = {
        k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    code = "import sr_deploy, onnxruntime as o; o.get_available_providers()"
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=surroundings | home, check=True)
    assert list(tmp_path.rglob("*")) == []
