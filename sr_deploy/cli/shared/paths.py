"""Arguments that name files: none is empty, and none that is there is replaced unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class NamedPath(click.Path):
    """A path as `pathlib.Path`; the empty name, which would mean the current folder, is an error of usage."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; fails for an empty one."""
        if str(value) == "":
            self.fail("the name is empty.", param, ctx)
        return super().convert(value, param, ctx)


def check_new(path: Path, *, overwrite: bool) -> None:
    """See that the file `path` can be made. Raises OutputError where it cannot, or is there and may not be replaced."""
    from sr_deploy.errors import OutputError
    from sr_deploy.system.output_folder import check_output_path

    if not overwrite and path.is_file():
        raise OutputError(f"cannot write {path}: it exists already; choose another name, or add --overwrite")
    check_output_path(path, overwrite=True)
