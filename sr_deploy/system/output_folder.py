"""Output paths that are tested before the work, and folders that are created for them.

Folders that stay empty are removed again. `sr_deploy.system.output_file` decides which paths are valid;
this module leaves no files behind.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from sr_deploy.errors import OutputError
from sr_deploy.system.output_file import checked_target


def check_output_path(target: Path, *, overwrite: bool) -> None:
    """Raise OutputError if the file `target` cannot be created.

    A temporary file is created in the folder and deleted, because permission bits do not tell
    everything (for example on read-only or network file systems).
    """
    folder = checked_target(target, overwrite).parent
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
    """Creates folders for output files and remembers which ones it created. Several threads may use it."""

    def __init__(self) -> None:
        self._made: list[Path] = []

    def prepare(self, target: Path, *, overwrite: bool) -> None:
        """Create the folder of `target`, then call `check_output_path`. Raises OutputError."""
        self.make(target.parent)
        check_output_path(target, overwrite=overwrite)

    def make(self, folder: Path) -> None:
        """Create `folder` and its parents where missing. Raises OutputError."""
        try:
            self._make(folder)
        except OSError as error:
            reason = f"{error.filename} is a file" if isinstance(error, FileExistsError) else error.strerror
            raise OutputError(
                f"cannot make the folder {folder} ({reason or error}); choose a path that you may write to"
            ) from error

    def _make(self, folder: Path) -> None:
        """Create `folder` and its parents, and remember the new ones from the top down. Raises OSError."""
        if folder.is_dir():
            return
        if folder.parent != folder:
            self._make(folder.parent)
        try:
            folder.mkdir()
        except FileExistsError:
            if not folder.is_dir():  # a folder is fine: another thread or process created it meanwhile
                raise
        else:
            self._made.append(folder)

    def remove_empty(self) -> None:
        """Remove the folders that this object created and that are empty."""
        for folder in reversed(self._made):  # inner folders first
            with suppress(OSError):
                folder.rmdir()
