"""Fixtures that build the GStreamer plugin and a test application once, and run pipelines with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.capi.build import find_compiler
from sr_deploy.errors import MissingRuntimeError
from sr_deploy.gstreamer.build import Plugin, build_plugin, gstreamer_flags

HOST = Path(__file__).parent / "programs" / "host.c"
STRICT = ("-Wall", "-Wextra", "-Wshadow", "-Werror")
SECONDS = 600
"""Time limit of a pipeline, far beyond what any takes."""

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    """The plugin, compiled with warnings as errors. Skips if it cannot be built or tried."""
    if sys.platform != "linux":
        pytest.skip("GStreamer was tried on Linux only")
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip("gst-launch-1.0 is missing; apt install gstreamer1.0-tools gstreamer1.0-plugins-base")
    try:
        return build_plugin(tmp_path_factory.mktemp("plugin"), {2: "rt-x2", 4: "rt-x4"}, flags=STRICT)
    except MissingRuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def environment(plugin: Plugin, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user who followed the guide. The list of plugins is kept for these tests alone."""
    registry = tmp_path_factory.mktemp("registry") / "registry.bin"
    names = {"GST_PLUGIN_PATH": str(plugin.folder), "GST_REGISTRY": str(registry), "GST_DEBUG_NO_COLOR": "1"}
    return {**os.environ, **names}


@pytest.fixture(scope="session")
def has(environment: dict[str, str]) -> Callable[[str], None]:
    """Skip the test if GStreamer lacks an element."""

    def check(*elements: str) -> None:
        for name in elements:
            done = subprocess.run(["gst-inspect-1.0", name], env=environment, capture_output=True)
            if done.returncode:
                pytest.skip(f"GStreamer has no element {name} here")

    return check


@pytest.fixture
def launch(environment: dict[str, str], tmp_path: Path) -> Callable[..., Done]:
    """Run `gst-launch-1.0` with the words of a pipeline, in a temporary folder. It must end with `code`."""

    def run(pipeline: str, code: int = 0, **more: str) -> Done:
        done = subprocess.run(
            ["gst-launch-1.0", *pipeline.split()],
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def host_program(plugin: Plugin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled test application."""
    program = tmp_path_factory.mktemp("host") / "host"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-g", *STRICT, *gstreamer_flags()]
    subprocess.run([*find_compiler(), str(HOST), "-o", str(program), *flags], check=True)
    return program


@pytest.fixture
def host(host_program: Path, environment: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    """Run the test application and return what it prints. It must end well, without a word on stderr."""

    def run(what: str, pipeline: str, *numbers: int) -> Any:
        done = subprocess.run(
            [str(host_program), what, pipeline, *map(str, numbers)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run
