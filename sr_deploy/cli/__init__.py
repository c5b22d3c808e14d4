"""The command line: a group of commands, and the one place where an error becomes a line on stderr and an exit code.

Each command lives in a module of its own, which is imported only when the command is used. Such a module exposes
`command`, imports what it needs inside the command, parses and prints. The work itself is done by other packages.

Exit codes: 0 done, 1 a check failed, 2 usage, 3 bad input, 4 missing runtime, 5 some files failed or out of
memory, 70 a bug in sr-deploy, 129 terminal closed (SIGHUP), 130 interrupted (SIGINT), 141 the program that read
our output closed it, 143 terminated (SIGTERM).
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from sr_deploy.cli.shared.console import complain, make_output_safe
from sr_deploy.errors import SrDeployError

COMMANDS = {
    "upscale": "sr_deploy.cli.upscale",
    "video": "sr_deploy.cli.frames.video",
    "pipe": "sr_deploy.cli.frames.pipe",
    "models": "sr_deploy.cli.models",
    "formats": "sr_deploy.cli.formats",
    "eval": "sr_deploy.cli.eval",
    "verify": "sr_deploy.cli.verify",
    "info": "sr_deploy.cli.info",
    "stamp": "sr_deploy.cli.stamp",
    "train": "sr_deploy.cli.train",
    "export": "sr_deploy.cli.export",
    "build": "sr_deploy.cli.build",
    "cache": "sr_deploy.cli.cache",
    "convert": "sr_deploy.cli.convert",
    "bench": "sr_deploy.cli.bench.command",
    "serve-repo": "sr_deploy.cli.serve_repo",
    "doctor": "sr_deploy.cli.doctor",
    "capi": "sr_deploy.cli.capi",
    "gstreamer": "sr_deploy.cli.frames.gstreamer",
    "help": "sr_deploy.cli.guide.help",
}
"""Command name -> module. The order is that of the help: what a new user needs comes first."""

# 128 + the number of the signal, as shells report it; 70 is EX_SOFTWARE of BSD's sysexits.h
EXIT_BUG, EXIT_HANGUP, EXIT_INTERRUPTED, EXIT_PIPE, EXIT_TERMINATED = 70, 129, 130, 141, 143
_EXIT_BAD_INPUT, _EXIT_MEMORY = 3, 5  # for errors of Python that are none of SrDeployError
# Objects that may be allocated between two collections while modules are imported: far above Python's default.
_OBJECTS_BEFORE_COLLECTING, _DEFAULT_THRESHOLDS = 50_000, gc.get_threshold()
_EXIT_BY_SIGNAL = {"SIGHUP": EXIT_HANGUP, "SIGINT": EXIT_INTERRUPTED, "SIGTERM": EXIT_TERMINATED}


class _OutputClosedError(Exception):
    """The program that read our output closed it.

    This is not an OSError, because click turns an OSError of this kind into exit code 1.
    """


@contextmanager
def _detecting_closed_stdout() -> Iterator[None]:
    """Turn a BrokenPipeError into `_OutputClosedError`, before click sees it."""
    try:
        yield
    except BrokenPipeError as error:
        raise _OutputClosedError from error


class _CommandRun:
    """State of one run of a command that its arguments do not hold. `main` passes it to click as the context object."""

    debug = False
    """True if --debug was given."""
    stopped_by: int | None = None
    """Number of the first signal that came (SIGINT, SIGTERM or SIGHUP), or None."""
    _signal_count = 0
    """Number of signals that came so far."""

    @contextmanager
    def watching_signals(self) -> Iterator[None]:
        """Make SIGTERM and SIGHUP stop a run as Ctrl-C does, and remember which signal came first.

        All three raise KeyboardInterrupt, so that the same code cleans up. The second signal is ignored, because a key
        that is held too long must not stop the clean-up. A third signal stops the clean-up too. A signal that is ignored
        at the start stays ignored, as nohup asks for. Does nothing outside the main thread, where Python allows no
        signal handlers.

        The signal is remembered because an extension module that is interrupted while it loads may raise an error of
        its own instead of KeyboardInterrupt.
        """

        def stop(number: int, frame: FrameType | None) -> None:
            """Signal handler: count and remember the signal, and interrupt the run unless it is the second one."""
            self._signal_count += 1
            self.stopped_by = self.stopped_by or number
            if self._signal_count != 2:
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [getattr(signal, name) for name in _EXIT_BY_SIGNAL if hasattr(signal, name)]
        handled = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        before = {number: signal.signal(number, stop) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _set_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Callback of --debug: remember the choice in the run, wherever on the command line the option stands."""
    run = ctx.find_object(_CommandRun)
    if value and run is not None:
        run.debug = True


def _debug_option(*, hidden: bool) -> click.Option:
    """A new --debug option: shown in the help of `sr-deploy`, hidden in the help of each command."""
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        hidden=hidden,
        callback=_set_debug,
        help="Show the traceback if an error occurs.",
    )


class CommandGroup(click.Group):
    """A click group of the commands in `COMMANDS`. Each is imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command and add a hidden --debug to it. Returns None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        if cmd_name != "upscale":  # `upscale` restores it later, once its runtime is imported
            collect_as_usual()
        # The module of a command is imported once, but this method runs for each call of the command line.
        if not any(parameter.name == "debug" for parameter in command.params):
            command.params.append(_debug_option(hidden=True))
        if ctx.resilient_parsing:  # a shell asks for completion
            from sr_deploy.cli.guide.completion import teach

            teach(command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; without any argument, show the help."""
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command by its name. Raises click.UsageError with a similar name if there is no such command."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(_unknown_command_message(args[0]), ctx)
        return super().resolve_command(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments. This prints the help if it is asked for, so a closed pipe is noticed here too."""
        with _detecting_closed_stdout():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command. Its return value is dropped, because it is not an exit code."""
        with _detecting_closed_stdout():
            super().invoke(ctx)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "sr-deploy",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = False,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit with its exit code.

        Outside standalone mode, return the result of click or raise its error instead, for tests and other callers.
        `args` None means the arguments of the process, which then belongs to sr-deploy alone.
        """
        common: dict[str, Any] = {"windows_expand_args": windows_expand_args, **extra}
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **common)
        make_output_safe()
        warnings.formatwarning = _warning_line
        if args is None:  # the process is sr-deploy's own, so its garbage collector may be changed
            collect_rarely()
        run = _CommandRun()
        try:
            with run.watching_signals():
                code = (
                    super().main(args, prog_name, complete_var, standalone_mode=False, obj=run, **common) or 0
                )
        except (Exception, KeyboardInterrupt) as error:
            if run.debug:
                import traceback

                traceback.print_exc()
            interrupted = run.stopped_by is not None or isinstance(error, KeyboardInterrupt)
            code = _report(click.Abort() if interrupted else error)  # type: ignore[arg-type]
            if run.stopped_by is not None:
                code = _EXIT_BY_SIGNAL[signal.Signals(run.stopped_by).name]
        code = _flush_stdout(code)
        if args is None and not {"torch", "sr_deploy.training"} & sys.modules.keys():
            # The process is sr-deploy's own, its files are closed and its threads have ended. An orderly shutdown
            # of the runtimes would take a seventh of the time that upscaling a small picture takes.
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)


def collect_rarely() -> None:
    """Run Python's garbage collector rarely until `collect_as_usual` is called.

    Importing the runtimes allocates many objects and frees almost none, so collections during it find nothing.
    """
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTING, *_DEFAULT_THRESHOLDS[1:])


def collect_as_usual() -> None:
    """Restore the default thresholds of the garbage collector. Every command does this before its work begins.

    What was imported stays to the end, so it is taken out of the collector's sight: looking through it twice would take
    a twentieth of the time that upscaling a small picture takes.
    """
    if gc.get_threshold()[0] == _OBJECTS_BEFORE_COLLECTING:
        gc.freeze()
    gc.set_threshold(*_DEFAULT_THRESHOLDS)


def _warning_line(message: Warning | str, *where: object, **more: object) -> str:
    """Format a Python warning as one line for the user, without its place in the code."""
    return f"warning: {' '.join(str(message).split())}\n"


def _report(error: Exception) -> int:
    """Print an error as one line on stderr. Returns the exit code for it."""
    if isinstance(error, _OutputClosedError):
        return EXIT_PIPE
    if isinstance(error, click.Abort):
        complain("interrupted; nothing half-written was left behind", prefix=False)
        return EXIT_INTERRUPTED
    if isinstance(error, click.ClickException):
        complain(_usage_message(error))
        return 2
    if isinstance(error, SrDeployError):
        complain(str(error))
        return error.exit_code
    # A system without memory for another thread raises a RuntimeError with this text.
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
        complain("out of memory; close other programs, or use a smaller picture or a smaller model")
        return _EXIT_MEMORY
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror}; make sure the path exists and that you may read or write it")
        return _EXIT_BAD_INPUT
    complain(
        f"{type(error).__name__}: {error}; this is a bug in sr-deploy, run again with --debug for the traceback"
    )
    return EXIT_BUG


def _usage_message(error: click.ClickException) -> str:
    message = error.format_message().rstrip()
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    end = "" if message.endswith((".", "?", "!", ")")) else "."
    return f"{message}{end} See '{context.command_path} --help'."


def _unknown_command_message(name: str) -> str:
    """The message for the unknown command `name`. If it is the name of a file, suggest `upscale`."""
    from shlex import quote

    if os.path.isdir(name):
        folder = name.rstrip("/") or name
        whole, results = quote(f"{folder}/"), quote(f"{folder}-x4/")
        return f"'{name}' is a folder, not a command; to upscale its pictures: sr-deploy upscale {whole} -o {results}"
    if os.path.exists(name):
        return f"'{name}' is a file, not a command; to upscale it: sr-deploy upscale {quote(name)}"
    from difflib import get_close_matches

    similar = get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean '{similar[0]}'?" if similar else f"there are {', '.join(COMMANDS)}."
    return f"no command '{name}'; {hint}"


def _flush_stdout(code: int) -> int:
    """Flush stdout. Returns `code`, or EXIT_PIPE if the reader closed stdout before all of it was written."""
    try:
        sys.stdout.flush()
    except OSError:
        # Python flushes stdout once more when it exits, and would report the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    return code


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Callback of --version: print the version and exit."""
    if value and not ctx.resilient_parsing:
        from sr_deploy.version import __version__, built_from

        commit = built_from()
        click.echo(f"sr-deploy {__version__}" + (f" (commit {commit})" if commit else ""))
        ctx.exit()


def _install_completion(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Callback of --install-completion: write the script for the shell and exit."""
    if value is not None and not ctx.resilient_parsing:
        from sr_deploy.cli.guide.completion import install

        install(value)
        ctx.exit()


@click.command("sr-deploy", cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.option(
    "--install-completion",
    is_flag=False,
    flag_value="auto",
    type=click.Choice(["auto", "bash", "zsh", "fish"]),
    is_eager=True,
    expose_value=False,
    callback=_install_completion,
    help="Install completion for a shell and exit. auto is the shell of the user.",
)
def main() -> None:
    """Super-resolution from PyTorch to production: upscale pictures and videos, train, export and measure models."""


main.params.append(_debug_option(hidden=False))
