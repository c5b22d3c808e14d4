"""Places to write to, tried before the work; and folders made for it, removed again where nothing came of it.

What a place can be is `sr_deploy.system.output_file`'s to know; nothing is written here that stays.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from sr_deploy.errors import OutputError
from sr_deploy.system.output_file import checked_target


def check_output_path(target: Path, *, overwrite: bool) -> None:
    """See that the file `target` can be made where it is to be. Raises OutputError where it cannot."""
    folder = checked_target(target, overwrite).parent  # that of the file, where `target` is a link
    probe = folder / f".sr-deploy-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: no file can be made in {folder} ({error.strerror or error}); choose "
            "another folder"
        ) from error
    finally:
        with suppress(OSError):
            probe.unlink()


class OutputFolders:
    """Makes the folders of targets, and knows which of them it made. Serves several threads."""

    def __init__(self) -> None:
        self._made: list[Path] = []

    def prepare(self, target: Path, *, overwrite: bool) -> None:
        """Make `target`'s folder, then `check_output_path`. Raises OutputError."""
        self.make(target.parent)
        check_output_path(target, overwrite=overwrite)

    def make(self, folder: Path) -> None:
        """Make `folder` and those above it, where they are missing. Raises OutputError."""
        try:
            self._make(folder)
        except OSError as error:
            reason = f"{error.filename} is a file" if isinstance(error, FileExistsError) else error.strerror
            raise OutputError(
                f"cannot make the folder {folder} ({reason or error}); choose a place you may write to"
            ) from error

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder.parent != folder:
            self._make(folder.parent)
        try:
            folder.mkdir()
        except FileExistsError:
            if not folder.is_dir():  # a folder was made by another thread or process meanwhile
                raise
        else:
            self._made.append(folder)

    def remove_empty(self) -> None:
        """Remove those it made that nothing lies in."""
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()
