"""`sr-deploy help`, and completion by shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sr_deploy.cli import COMMANDS
from sr_deploy.cli.guide.completion import SHELLS, script
from sr_deploy.cli.guide.help import pages
from tests.paths import ROOT


def test_all_pages_are_listed_with_their_titles(run):
    result = run("help")
    assert result.exit_code == 0
    expected = {
        p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in (ROOT / "docs").rglob("*.md")
    }
    assert set(pages()) == expected
    for name in expected:
        assert any(
            line.split(maxsplit=1)[:1] == [name] and len(line.split()) > 1
            for line in result.stdout.splitlines()
        )


@pytest.mark.parametrize("topic", ["training", "pictures/formats", "formats", "Training.md"])
def test_a_page_is_printed_by_its_name(run, topic):
    name = topic.lower().removesuffix(".md")
    page = pages().get(name) or pages()["pictures/formats"]
    assert run("help", topic).stdout == page.read_text(encoding="utf-8")


def test_the_help_of_a_command_is_shown_too(run):
    assert run("help", "upscale").stdout.startswith("Usage: sr-deploy upscale ")


def test_an_unknown_topic_names_a_similar_one(run):
    result = run("help", "trainin")
    assert result.exit_code == 2
    assert "no page or command 'trainin'; did you mean 'training'?" in result.stderr


def test_a_terminal_gets_the_page_formatted(monkeypatch):
    from sr_deploy.cli.guide import help as module

    shown = []
    monkeypatch.setattr(module.click, "echo_via_pager", lambda text, color: shown.append(text))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    module._show("# Title\n\n- **one**\n")
    assert "**" not in shown[0]
    assert "Title" in shown[0]


def test_a_built_package_has_the_pages(tmp_path):
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "docs", source / "docs")
    shutil.copytree(
        ROOT / "sr_deploy", source / "sr_deploy", ignore=shutil.ignore_patterns("__pycache__", "*.onnx")
    )
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", "dist"],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"sr_deploy/docs/{name}.md" for name in pages()} <= set(names)
    assert wheel.name in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_installed_where_the_shell_looks(run, tmp_path, monkeypatch, shell):
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "BASH_COMPLETION_USER_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    result = run("--install-completion")
    assert result.exit_code == 0, result.stderr
    path = Path(result.stdout.splitlines()[0].partition(": completion for ")[0])
    assert path.is_relative_to(tmp_path)
    assert path.read_text() == script(shell)
    assert "_SR_DEPLOY_COMPLETE" in path.read_text()


def test_a_shell_without_completion_is_named(run, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/csh")
    result = run("--install-completion")
    assert result.exit_code == 2
    assert "the shell csh has no completion; name one: --install-completion bash|zsh|fish" in result.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [("upscale --model rt", {"rt-x2", "rt-x4"}), ("nothing tr", {"train"}), ("tr", {"train"}), ("train --arch", {"--architecture"}), ("train --architecture u", {"unet"}), ("help tr", {"train", "training", "triton", "troubleshooting"})],
)  # fmt: skip
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_options_values_and_pages(tmp_path, words, expected):
    (tmp_path / "script").write_text(script("bash"))
    (tmp_path / "sr-deploy").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sr_deploy "$@"\n')
    (tmp_path / "sr-deploy").chmod(0o755)
    typed = ["sr-deploy", *words.split(" ")]
    code = (
        f"source script; COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; "
        "_sr_deploy_completion sr-deploy; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert expected <= set(done.stdout.strip("\n").split("\n")), done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command", [name for name in COMMANDS if name not in ("help", "bench", "cache", "capi")]
)
def test_every_argument_of_a_command_completes(command):
    from click.shell_completion import ShellComplete

    from sr_deploy.cli import main

    complete = ShellComplete(main, {}, "sr-deploy", "_SR_DEPLOY_COMPLETE")
    kinds = {item.type for item in complete.get_completions([command], "holid")}
    found = main.get_command(main.make_context("sr-deploy", ["help"], resilient_parsing=True), command)
    takes = any(parameter.param_type_name == "argument" for parameter in found.params)
    assert kinds == ({"file"} if takes else set())
