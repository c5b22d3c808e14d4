"""Build step: the pages of docs/ go into the package, for `sr-deploy help`. Everything else is in pyproject.toml.

An editable install reads the pages from the checkout.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPages(build_py):
    """Also copies docs/**/*.md to sr_deploy/docs/."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        for page in Path("docs").rglob("*.md"):
            target = Path(self.build_lib, "sr_deploy", page)
            self.mkpath(str(target.parent))
            self.copy_file(str(page), str(target))


setup(cmdclass={"build_py": BuildWithPages})
