"""Build step: the pages of docs/ go into the package, for `sr-deploy help`, and the commit for `sr-deploy --version`.

Everything else is in pyproject.toml. An editable install reads the pages from the checkout and has no commit.
The commit is written into `sr_deploy/COMMIT` of what is built, never into the checkout. It comes from git where this
folder is a checkout, else from the COMMIT file of the sdist that is built here. Without both there is no such file.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
NAME = Path("sr_deploy", "COMMIT")


def git(*arguments: str) -> str | None:
    """Return what git prints about this checkout, or None."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def commit() -> str | None:
    """Return the commit of this source in 12 digits, with a plus sign if files differ from it; None if it is not known."""
    # a copy of the source within another project's checkout is not of that project's commit
    if git("rev-parse", "--show-prefix") == "" and git("ls-files", "--error-unmatch", "setup.py"):
        changed = git("status", "--porcelain", "--untracked-files=no")
        return f"{git('rev-parse', '--short=12', 'HEAD')}{'+' if changed else ''}"
    recorded = ROOT / NAME
    return recorded.read_text("utf-8").strip() if recorded.exists() else None


def record(folder: Path) -> None:
    """Write the commit into the package within `folder`, if it is known."""
    if known := commit():
        (folder / NAME).write_text(f"{known}\n", "utf-8")


class BuildWithPages(build_py):
    """Also copies docs/**/*.md to sr_deploy/docs/, and writes the commit."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        for page in Path("docs").rglob("*.md"):
            target = Path(self.build_lib, "sr_deploy", page)
            self.mkpath(str(target.parent))
            self.copy_file(str(page), str(target))
        record(Path(self.build_lib))


class SourceWithPages(sdist):
    """Also takes docs/**/*.md into the archive, and writes the commit, so that a wheel can be built from it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Make the folder that becomes the archive."""
        pages = [page.as_posix() for page in Path("docs").rglob("*.md")]
        super().make_release_tree(base_dir, [*files, *pages])
        record(Path(base_dir))


setup(cmdclass={"build_py": BuildWithPages, "sdist": SourceWithPages})
