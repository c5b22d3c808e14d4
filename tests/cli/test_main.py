"""What every command shares: help, errors as one line, exit codes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from types import ModuleType

import click
import numpy as np
import pytest

import sr_deploy
from sr_deploy import cli
from sr_deploy.errors import MissingRuntimeError, ModelError, UsageError
from sr_deploy.images.image import Image, write_image


def install_broken(monkeypatch, command: click.Command) -> None:
    """Make `command` one that the program finds under the name `broken`."""
    module = ModuleType("broken_command")
    module.command = command
    monkeypatch.setitem(sys.modules, "broken_command", module)
    monkeypatch.setitem(cli.COMMANDS, "broken", "broken_command")


@pytest.fixture
def raising(monkeypatch):
    """Make a command `broken` that raises what it is given."""

    def make(error: BaseException) -> None:
        @click.command("broken")
        def command() -> None:
            raise error

        install_broken(monkeypatch, command)

    return make


def python(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    options = {"encoding": "utf-8", **options}
    return subprocess.run([sys.executable, *arguments], capture_output=True, **options)


def test_help_names_every_command_with_a_line_about_it(run):
    result = run("--help")
    assert result.exit_code == 0
    lines = result.stdout.split("Commands:")[1].strip().splitlines()
    assert [line.split()[0] for line in lines] == list(cli.COMMANDS)
    assert all(len(line.split()) > 3 for line in lines)


def test_no_arguments_are_a_question_for_help(run):
    assert run().stdout == run("--help").stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_and_every_option_has_help(run, name):
    result = run(name, "--help")
    assert result.exit_code == 0
    command = cli.main.get_command(click.Context(cli.main), name)
    assert command.help
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []


def commands_and_subcommands() -> dict[str, click.Command]:
    """Every command of the program by its full name, commands of groups included."""
    found: dict[str, click.Command] = {}
    for name in cli.COMMANDS:
        command = cli.main.get_command(click.Context(cli.main), name)
        assert command is not None
        found[name] = command
        found |= {f"{name} {inner}": part for inner, part in getattr(command, "commands", {}).items()}
    return found


def test_no_summary_of_a_command_is_cut_off(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    groups = [
        [],
        *([name] for name, command in commands_and_subcommands().items() if hasattr(command, "commands")),
    ]
    assert len(groups) == 3
    for group in groups:
        summaries = run(*group, "--help").stdout.split("Commands:")[1]
        assert [line for line in summaries.splitlines() if line.rstrip().endswith("...")] == []


@pytest.mark.parametrize("name", commands_and_subcommands())
def test_the_help_of_every_option_stands_alone(name):
    fragments = ("Of", "As", "That", "What")
    options = [p for p in commands_and_subcommands()[name].params if isinstance(p, click.Option)]
    texts = [str(option.help) for option in options]
    assert [text for text in texts if text.split()[0] in fragments or text.startswith("[")] == []


@pytest.mark.parametrize("arguments", [[], *([name] for name in cli.COMMANDS)])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from sr_deploy.cli import main\n"
        f"try: main({[*arguments, '--help']!r})\n"
        "finally: print(sorted({'numpy', 'cv2', 'onnx', 'onnxruntime', 'torch', 'rich'} & set(sys.modules)))"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


def test_version_is_the_packages(run):
    assert run("--version").stdout == f"sr-deploy {sr_deploy.__version__}\n"


def test_an_unknown_command_suggests_a_near_one(run):
    result = run("upscal")
    assert result.exit_code == 2
    assert result.stderr == "error: no command 'upscal'; did you mean 'upscale'? See 'sr-deploy --help'.\n"


def test_a_picture_in_place_of_a_command_is_answered_with_the_command(run, tmp_path):
    path = tmp_path / "photo.png"
    path.touch()
    assert f"to upscale it: sr-deploy upscale {path}" in run(path).stderr


def test_an_unknown_option_suggests_a_near_one(run):
    result = run("upscale", "--scal", "2", "photo.png")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "--scale" in result.stderr
    assert result.stderr.endswith("See 'sr-deploy upscale --help'.\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no such scale; choose 2"), 2, "error: no such scale; choose 2"),
        (ModelError("two\nlines;\n  mend it"), 3, "error: two lines; mend it"),
        (MissingRuntimeError("pip install it"), 4, "error: pip install it"),
        (MemoryError(), 5, "error: out of memory; close other programs"),
        (RuntimeError("can't start new thread"), 5, "error: out of memory; close other programs"),
        (OSError(errno.ENOSPC, "No space left on device", "out.csv"), 3, "error: out.csv: No space left"),
        (RuntimeError("surprise"), 70, "error: RuntimeError: surprise; this is a bug in sr-deploy, run again with --debug"),
        (KeyboardInterrupt(), 130, "interrupted; nothing half-written"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_on_stderr_and_its_exit_code(run, raising, error, code, line):
    raising(error)
    result = run("broken")
    assert result.exit_code == code
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(line)


@pytest.mark.parametrize("arguments", [("--debug", "broken"), ("broken", "--debug")])
def test_debug_shows_the_traceback_before_or_after_the_command(run, raising, arguments):
    raising(RuntimeError("surprise"))
    result = run(*arguments)
    assert result.exit_code == 70
    assert "Traceback (most recent call last)" in result.stderr
    assert "Traceback" not in run("broken").stderr


def test_an_interrupt_that_a_loading_module_takes_for_its_own_failure_is_an_interrupt(run, monkeypatch):
    @click.command("broken")
    def command() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    install_broken(monkeypatch, command)
    before = signal.getsignal(signal.SIGINT)
    result = run("broken")
    assert result.exit_code == 130
    assert result.stderr.startswith("interrupted")
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_ends_a_command_as_ctrl_c_does_with_its_own_code(run, monkeypatch):
    @click.command("broken")
    def command() -> None:
        signal.raise_signal(signal.SIGTERM)

    install_broken(monkeypatch, command)

    def ours(*_) -> None:
        pytest.fail("the command line left SIGTERM alone")

    before = signal.signal(signal.SIGTERM, ours)
    try:
        result = run("broken")
        assert result.exit_code == 143
        assert result.stderr.strip() == "interrupted; nothing half-written was left behind"
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_ends_a_command_unless_nohup_asked_otherwise(run, monkeypatch, ignored):
    @click.command("broken")
    def command() -> None:
        signal.raise_signal(signal.SIGHUP)

    install_broken(monkeypatch, command)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        assert run("broken").exit_code == (0 if ignored else cli.EXIT_HANGUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_does_not_disturb_the_cleaning_up(run, monkeypatch):
    cleaned = []

    @click.command("broken")
    def command() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleaned.append(True)

    install_broken(monkeypatch, command)
    assert run("broken").exit_code == 130
    assert cleaned == [True]


def test_a_reader_that_goes_away_is_no_error_worth_a_word():
    read, write = os.pipe()
    os.close(read)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "sr_deploy", "upscale", "--help"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(write)
    assert result.returncode == cli.EXIT_PIPE
    assert result.stderr == ""


def test_a_console_without_the_letters_of_a_name_gets_them_escaped():
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    result = python("-m", "sr_deploy", "größe-大.png", env=environment, encoding="cp1252")
    assert result.returncode == 2
    assert result.stderr.startswith("error: no command 'größe-\\u5927.png'; there are upscale")


def test_outside_standalone_mode_errors_reach_the_caller(raising):
    raising(ModelError("no"))
    with pytest.raises(ModelError, match="no"):
        cli.main(["broken"], standalone_mode=False)


@pytest.mark.parametrize("arguments", [["upscale", "{picture}", "-o", "{out}", "-q"], ["models"]])
def test_garbage_is_looked_for_as_usual_once_a_command_works(tmp_path, arguments):
    picture = tmp_path / "a.png"
    write_image(Image(pixels=np.zeros((8, 8, 3), np.uint8)), picture)
    code = (
        "import gc, os, sys; usual = gc.get_threshold(); from sr_deploy.cli import main\n"
        "from sr_deploy import cli; assert cli._OBJECTS_BEFORE_COLLECTING > usual[0]; seen = []\n"
        "rarely = cli.collect_rarely\n"
        "cli.collect_rarely = lambda: (rarely(), seen.append(gc.get_threshold()))\n"
        "os._exit = lambda code: (print(len(seen), seen[0] != usual, gc.get_threshold() == usual, code), sys.exit(code))\n"
        "main()\n"
    )
    filled = [a.format(picture=picture, out=tmp_path / "b.png") for a in arguments]
    result = subprocess.run(
        [sys.executable, "-c", code, *filled], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert result.stdout.splitlines()[-1] == "1 True True 0", result.stdout + result.stderr


@pytest.mark.skipif(os.name == "nt", reason="such names do not exist there")
def test_control_characters_of_names_reach_no_terminal(tmp_path):
    """A name that clears the screen, as a missing picture, as one of two pictures, and in what is printed on stdout."""
    name = str(tmp_path / "a\x1b7\u202eb.png")
    other = str(tmp_path / "c\x9b2J.png")
    for arguments in (
        ["upscale", name],
        ["upscale", name, other, "-o", str(tmp_path / "out")],
        ["info", name],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "sr_deploy", *arguments], capture_output=True, encoding="utf-8"
        )
        text = done.stdout + done.stderr
        assert "\\u001b7\\u202eb.png" in text
        assert not set(text) & set("\x1b\x9b\u202e")
