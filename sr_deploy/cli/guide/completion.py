"""`sr-deploy --install-completion`: completion of commands, options and values in bash, zsh and fish.

click makes the scripts. Shells that load completions from a folder get a file there; zsh has no such folder by default,
so it gets the file and the line for `~/.zshrc` is told.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SHELLS = ("bash", "zsh", "fish")


def install(shell: str) -> None:
    """Write the script of a shell, or of the user's with "auto", and say what is left to do. Raises click.UsageError."""
    shell = _shell() if shell == "auto" else shell
    target = _target(shell)
    from sr_deploy.system.files import write_whole

    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, script(shell).encode())
    click.echo(f"{target}: completion for {shell}")
    click.echo(_next_step(shell, target))


def script(shell: str) -> str:
    """The completion script of a shell. Raises click.UsageError for an unknown one."""
    from click.shell_completion import get_completion_class

    from sr_deploy.cli import main

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}; choose one of {', '.join(SHELLS)}")
    # bash's script of click asks bash for its version when it is made; the script itself does not need it
    kind._check_version = staticmethod(lambda: None)  # type: ignore[attr-defined]
    return kind(main, {}, "sr-deploy", "_SR_DEPLOY_COMPLETE").source() + "\n"


def teach(command: click.Command) -> None:
    """Let the text parameters of a command that name models or files complete to them, in its parts too."""
    for parameter in command.params:
        name, metavar = parameter.name or "", getattr(parameter, "metavar", None) or ""
        if isinstance(parameter.type, click.types.StringParamType):
            if name in ("model", "models", "against") or "NAME|FILE" in metavar:
                parameter._custom_shell_complete = _models
            elif (isinstance(parameter, click.Argument) and name != "topic") or name in ("output", "compare"):
                parameter._custom_shell_complete = _files
    for part in getattr(command, "commands", {}).values():
        teach(part)


def _models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The bundled models whose names begin with `incomplete`, else files."""
    from click.shell_completion import CompletionItem

    models = Path(__file__).resolve().parents[2] / "models"
    names = sorted(path.stem for path in models.glob("*.onnx"))
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or _files(ctx, parameter, incomplete)


def _files(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ask the shell to complete a file name."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _shell() -> str:
    """The user's shell, from $SHELL. Raises click.UsageError for one that has no completion."""
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise click.UsageError(
            f"the shell {name or '(SHELL is not set)'} has no completion; name one: --install-completion {'|'.join(SHELLS)}"
        )
    return name


def _target(shell: str) -> Path:
    """The file in which a shell looks for the completion of sr-deploy."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    if shell == "fish":
        return (
            Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
            / "fish"
            / "completions"
            / "sr-deploy.fish"
        )
    if shell == "zsh":
        return data / "zsh" / "site-functions" / "_sr-deploy"
    folder = os.environ.get("BASH_COMPLETION_USER_DIR")
    return (Path(folder) if folder else data / "bash-completion") / "completions" / "sr-deploy"


def _next_step(shell: str, target: Path) -> str:
    """The step that turns the completion on."""
    if shell == "fish":
        return "It works in the next fish."
    if shell == "bash":
        return (
            "It works in the next bash if the package bash-completion is installed; else add this line to ~/.bashrc: "
            f"source '{target}'"
        )
    return (
        "Add this line to ~/.zshrc before compinit, then start a new zsh: "
        f"fpath=('{target.parent}' $fpath); autoload -Uz compinit && compinit"
    )
