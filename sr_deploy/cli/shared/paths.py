"""Arguments that name files: an empty name is refused, and an existing file is replaced only if the user asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class NamedPath(click.Path):
    """A click type for a path, parsed as `pathlib.Path`.

    An empty name is a usage error. pathlib would read it as the current folder.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path that `value` names. Fails with click.BadParameter if it is empty."""
        if str(value) == "":
            self.fail("the name is empty.", param, ctx)
        return super().convert(value, param, ctx)


def check_new(path: Path, *, overwrite: bool) -> None:
    """Check that the file `path` can be written. Raises OutputError if not.

    An existing file may be replaced only with `overwrite`. Commands call this before work that takes minutes.
    """
    from sr_deploy.errors import OutputError
    from sr_deploy.system.output_folder import check_output_path

    if not overwrite and (path.is_file() or path.is_symlink()):
        raise OutputError(f"cannot write {path}: it exists already; choose another name, or add --overwrite")
    check_output_path(path, overwrite=True)
