"""Write docs/cli.md from the commands; with --check, only report whether the page is up to date.

The text is made from the commands' parameters and not from the output of `--help`, because versions of click
format that output differently.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "cli.md"
sys.path.insert(0, str(ROOT))

import click  # noqa: E402

from sr_deploy.cli import COMMANDS, main  # noqa: E402

_HEAD = """\
# Command line

Results go to stdout; progress and errors go to stderr. An error is one line that ends with advice. `--debug`, before or
after the command's name, also shows the traceback.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a check failed: a tolerance or a budget was missed |
| 2 | usage: an argument is wrong, or the model does not support it |
| 3 | bad input: a picture, a model, a file or a folder cannot be used |
| 4 | a runtime is missing |
| 5 | some of several files failed, or memory ran out |
| 70 | a bug in sr-deploy |
| 129 | the terminal was closed; no partly written file is left |
| 130 | interrupted by Ctrl-C; no partly written file is left |
| 141 | the program that read the output closed it |
| 143 | terminated; no partly written file is left |
"""


def page() -> str:
    """Text of docs/cli.md. Raises SystemExit if a command or an option has no help."""
    context = click.Context(main, info_name="sr-deploy")
    parts = ["<!-- made by scripts/gen_cli_docs.py; edit the commands instead -->", _HEAD]
    for name in COMMANDS:
        command = main.get_command(context, name)
        if command is None or not command.help:
            raise SystemExit(f"command {name} has no help; write a docstring")
        parts.append("\n".join(_section(name, command)))
        for inner, part in getattr(command, "commands", {}).items():
            parts.append("\n".join(_section(f"{name} {inner}", part)))
    return "\n".join(parts)


def _section(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"sr-deploy {name}")
    yield f"## sr-deploy {name}\n"
    yield f"```\nsr-deploy {name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield _prose(command.help or "") + "\n"
    if command.epilog:
        yield _prose(command.epilog) + "\n"
    shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if shown:  # a group such as `cache` has no options
        yield "| option | meaning |"
        yield "|---|---|"
    for option in shown:
        yield _row(name, option, context)
    yield ""


def _prose(text: str) -> str:
    """Help text as Markdown; paragraphs that click does not wrap (marked by a backspace) become code blocks."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            paragraph = f"```\n{paragraph[2:].rstrip()}\n```"
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def _row(command: str, option: click.Option, context: click.Context) -> str:
    if not option.help:
        raise SystemExit(f"option {option.opts[-1]} of {command} has no help; write one")
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" `{_value_name(option, context)}`"
    default = f" [default: {option.default}]" if option.show_default and option.default is not None else ""
    cells = (names + value, (option.help + default).replace("\n", " "))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _value_name(option: click.Option, context: click.Context) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "/".join(str(choice) for choice in option.type.choices)
    return option.type.name.split(" ")[0].upper()


def run() -> int:
    """Write the page, or compare it with the commands. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with code 1 if the page is out of date"
    )
    check = parser.parse_args().check
    made = page()
    if not check:
        PAGE.write_text(made, encoding="utf-8", newline="\n")
        return 0
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made:
        print(
            f"{PAGE.relative_to(ROOT)} is not up to date; run: python scripts/gen_cli_docs.py",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
