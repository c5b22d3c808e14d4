"""`sr-deploy help`: the pages of the documentation, by name, without a browser.

An installed package has them in `sr_deploy/docs`; in a checkout they stand in `docs`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

_EXAMPLES = """\b
Examples:
  sr-deploy help
  sr-deploy help training
  sr-deploy help upscale
"""


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The pages and commands whose names begin with `incomplete`, for the completion by shells."""
    from sr_deploy.cli import COMMANDS

    return [name for name in sorted({*pages(), *COMMANDS}) if name.startswith(incomplete)]


@click.command("help", epilog=_EXAMPLES)
@click.argument("topic", required=False, shell_complete=_complete)
def command(topic: str | None) -> None:
    """Show a page of the documentation, or the help of a command.

    Without TOPIC, all pages are listed. On a terminal a pager shows the page; elsewhere it is printed as Markdown.
    """
    found = pages()
    if topic is None:
        click.echo(_list(found))
        return
    page = _find(topic, found)
    if page is not None:
        _show(page.read_text(encoding="utf-8"))
    else:
        click.echo(_command_help(click.get_current_context(), topic, found))


def pages() -> dict[str, Path]:
    """Name of every page -> its file. A page in a folder has the folder in its name, such as `pictures/formats`."""
    package = Path(__file__).resolve().parents[2]
    installed, checkout = package / "docs", package.parent / "docs"
    folder = installed if installed.is_dir() else checkout
    return {
        page.relative_to(folder).with_suffix("").as_posix(): page for page in sorted(folder.rglob("*.md"))
    }


def _find(topic: str, found: dict[str, Path]) -> Path | None:
    """The page of a topic: its name, or its last part if only one page has it."""
    wanted = topic.lower().removesuffix(".md")
    if wanted in found:
        return found[wanted]
    ending = [page for name, page in found.items() if name.rpartition("/")[2] == wanted]
    return ending[0] if len(ending) == 1 else None


def _list(found: dict[str, Path]) -> str:
    """The names of all pages, with their titles."""
    width = max(map(len, found), default=0)
    lines = [f"  {name:{width}}  {_title(page)}" for name, page in found.items()]
    return "\n".join(
        ["Pages, shown by `sr-deploy help TOPIC`:", "", *lines, "", "`sr-deploy --help` lists the commands."]
    )


def _title(page: Path) -> str:
    """The first heading of a page."""
    headings = (line[2:] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    return next(headings, "")


def _show(text: str) -> None:
    """Print Markdown, formatted and in a pager if stdout is a terminal."""
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from io import StringIO

    from rich.console import Console
    from rich.markdown import Markdown

    drawn = StringIO()
    console = Console(file=drawn, force_terminal=True, width=min(shutil.get_terminal_size().columns, 110))
    console.print(Markdown(text))
    click.echo_via_pager(drawn.getvalue(), color=True)


def _command_help(ctx: click.Context, topic: str, found: dict[str, Path]) -> str:
    """The help of a command. Raises click.UsageError if there is neither a page nor a command of this name."""
    from difflib import get_close_matches

    from sr_deploy.cli import COMMANDS, main

    command = main.get_command(ctx, topic)
    if command is None:
        similar = get_close_matches(topic, [*found, *COMMANDS], n=1)
        hint = f"did you mean '{similar[0]}'?" if similar else "'sr-deploy help' lists the pages."
        raise click.UsageError(f"no page or command '{topic}'; {hint}", ctx)
    return command.get_help(click.Context(command, info_name=topic, parent=ctx.parent))
