"""`sr-deploy capi build`: build the C library for programs in C and C++."""

from __future__ import annotations

from pathlib import Path

import click

from sr_deploy.cli.shared.paths import NamedPath


@click.command("capi")
@click.argument("action", metavar="build", type=click.Choice(["build"]))
@click.option(
    "-o", "--output", type=NamedPath(), required=True, help="Folder to build into; created if missing."
)
@click.option(
    "--compiler",
    help="Command of the C compiler. [default: the environment variable CC, else cc, gcc or clang]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(action: str, output: Path, compiler: str | None, as_json: bool) -> None:
    """Build the C library for programs in C and C++.

    Writes libsr_deploy, its header sr_deploy.h, and files for pkg-config and CMake into the folder of --output. The
    library runs the sr-deploy that is installed for this Python. The build needs a C compiler, Python's headers and
    Python's shared library. Programs that use the library need no Python code.
    """
    from sr_deploy.capi.build import build_library

    built = build_library(output, compiler=compiler)
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({name: str(path) for name, path in asdict(built).items()}, indent=2))
        return
    click.echo(f"built {built.library}")
    click.echo(f"compile with: cc program.c $(pkg-config --cflags --libs {built.pkg_config})")
