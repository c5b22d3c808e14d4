"""Building the plugin: what is missing is named, and the command prints what GStreamer needs. Needs no GStreamer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import sr_deploy
from sr_deploy.cli import main
from sr_deploy.errors import MissingRuntimeError, OutputError, UsageError
from sr_deploy.gstreamer import build, check

BUILT = "gstreamer-1.0/libgstsrdeploy.so"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiled(monkeypatch) -> list[Path]:
    """Replaces building by writing an empty plugin. Returns the list of folders built into."""
    folders = []

    def pretend(folder, bundled, *, compiler=None, flags=()):
        assert bundled == {2: "rt-x2", 4: "rt-x4"}
        folders.append(folder)
        plugin = build.plugin_in(folder)
        plugin.folder.mkdir(parents=True, exist_ok=True)
        plugin.file.write_bytes(b"")
        return plugin

    monkeypatch.setattr(build, "build_plugin", pretend)
    monkeypatch.setattr("sys.platform", "linux")
    return folders


def run(*arguments):
    return CliRunner().invoke(main, ["gstreamer", *arguments], standalone_mode=False)


def tool(folder: Path, code: int, text: str = "") -> None:
    """A program pkg-config that prints `text` on stderr and ends with `code`."""
    path = folder / "pkg-config"
    path.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")
    path.chmod(0o755)


def test_the_plugin_is_built_once_and_its_folder_printed(cache, compiled):
    first, second = run("--plugin-path"), run("--plugin-path")
    assert first.output == second.output == f"{compiled[0]}/gstreamer-1.0\n"
    assert len(compiled) == 1
    assert compiled[0].parent == cache / "gstreamer"


def test_the_line_to_run_names_the_folder(cache, compiled):
    lines = run().output.splitlines()
    assert (
        f"export GST_PLUGIN_PATH={compiled[0]}/gstreamer-1.0${{GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}}" in lines
    )


def test_a_folder_of_choice_is_built_into_each_time(cache, compiled, tmp_path):
    assert run("-o", str(tmp_path / "sdk"), "--plugin-path").output == f"{tmp_path}/sdk/gstreamer-1.0\n"
    assert compiled == [tmp_path / "sdk"]


def test_another_version_is_built_anew(cache, compiled, monkeypatch):
    run()
    monkeypatch.setattr(sr_deploy, "__version__", "0.0.1")
    run()
    assert len({str(folder) for folder in compiled}) == 2


def test_without_a_cache_a_folder_is_asked_for(monkeypatch, compiled):
    monkeypatch.setenv("SR_DEPLOY_CACHE", "")
    assert isinstance(run().exception, UsageError)
    assert "give one with --output" in str(run().exception)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_cache_that_others_may_write_to_is_not_trusted(cache, compiled):
    run()
    os.chmod(compiled[0], 0o777)
    assert "others may write to it, so a plugin in it is not trusted" in str(run().exception)


def test_a_missing_pkg_config_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MissingRuntimeError, match=r"needs pkg-config, which is not there; install GStreamer's headers"
    ):
        build.gstreamer_flags()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_missing_headers_are_named_with_the_words_of_pkg_config(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    tool(tmp_path, 1, "Package gstreamer-video-1.0 was not found")
    with pytest.raises(MissingRuntimeError) as caught:
        build.gstreamer_flags()
    assert str(caught.value) == (
        "the GStreamer plugin needs GStreamer 1.16 or later, which pkg-config does not find (Package gstreamer-video-1.0 "
        "was not found); install GStreamer's headers (such as: apt install libgstreamer-plugins-base1.0-dev pkg-config gcc)"
    )
    assert check.gstreamer_state() == (False, str(caught.value))


def test_windows_is_told_of_pipe(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(MissingRuntimeError, match="built on Linux and macOS only; use `sr-deploy pipe`"):
        build.gstreamer_flags()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    tool(tmp_path, 0)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((OutputError, MissingRuntimeError), match=r"cannot build in|the C library needs"):
        build.build_plugin(tmp_path / "file" / "sdk", {})


def test_every_bundled_scale_is_known_to_the_plugin():
    macros = build._macros("libsr_deploy.so", {2: "rt-x2", 4: "rt-x4"})
    assert macros["SRUSCALE_MODELS"] == '{2, "rt-x2"}, {4, "rt-x4"}'


def test_doctor_tells_about_the_element(cache, monkeypatch):
    monkeypatch.setattr(check, "gstreamer_state", lambda: (None, "not built yet"))
    monkeypatch.setattr("sr_deploy.doctor._try_backend", lambda name, models: _backend(name))
    text = CliRunner().invoke(main, ["doctor"], standalone_mode=False).output
    assert text.splitlines()[-1] == "  gstreamer            not tried: not built yet"
    facts = json.loads(CliRunner().invoke(main, ["doctor", "--json"], standalone_mode=False).output)
    assert facts["gstreamer"] == {"works": None, "detail": "not built yet"}


def _backend(name):
    from sr_deploy.doctor import Backend

    return Backend(name=name, works=True, detail="")


def test_a_plugin_that_was_not_built_yet_is_no_fault(cache, monkeypatch):
    for name in ("gstreamer_flags", "find_compiler", "python_headers", "python_library"):
        monkeypatch.setattr(check, name, list)
    assert check.gstreamer_state() == (
        None,
        "not built yet; build it with `sr-deploy gstreamer --plugin-path`",
    )
