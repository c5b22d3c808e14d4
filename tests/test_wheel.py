"""The wheel and the sdist hold all of the package, and know the commit that they were built from."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT

pytest.importorskip(
    "setuptools", minversion="77", reason="setuptools, which builds the wheel, is not installed"
)
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from, which is no checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    for name in ("sr_deploy", "docs"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.svg")
        )
    return folder


def built(kind: str, source: Path, target: Path) -> Path:
    """Build a wheel or an sdist with the setuptools that is installed here, and return its path."""
    code = f"from setuptools.build_meta import build_{kind} as build; build({str(target)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    (path,) = target.iterdir()
    return path


def commit_in(wheel: Path) -> str | None:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read("sr_deploy/COMMIT").decode() if "sr_deploy/COMMIT" in archive.namelist() else None


def git(source: Path, *words: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *who, *words], cwd=source, check=True, capture_output=True, text=True
    ).stdout


def test_the_wheel_has_every_file_and_the_licences(source, tmp_path):
    wheel = built("wheel", source, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {path.relative_to(source).as_posix() for path in source.glob("sr_deploy/**/*") if path.is_file()}
    wanted |= {f"sr_deploy/{page.relative_to(source).as_posix()}" for page in source.glob("docs/**/*.md")}
    assert wanted - names == set()
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    assert commit_in(wheel) is None  # the copy is no checkout


@needs_git
def test_the_commit_goes_from_the_checkout_into_the_wheel_and_through_an_sdist(source, tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(source, checkout)
    git(checkout, "init", "-q")
    git(checkout, "add", "pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE", "sr_deploy", "docs")
    git(checkout, "commit", "-q", "-m", "first")
    head = git(checkout, "rev-parse", "--short=12", "HEAD").strip()
    for name in ("sdist", "wheel", "from sdist", "changed"):
        (tmp_path / name).mkdir()
    with tarfile.open(built("sdist", checkout, tmp_path / "sdist")) as archive:
        archive.extractall(
            tmp_path / "unpacked", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheel = built("wheel", unpacked, tmp_path / "from sdist")
    assert commit_in(wheel) == f"{head}\n"
    with zipfile.ZipFile(wheel) as archive:
        assert "sr_deploy/docs/architecture.md" in archive.namelist()
    (checkout / "setup.py").write_text((checkout / "setup.py").read_text("utf-8") + "# changed\n", "utf-8")
    assert commit_in(built("wheel", checkout, tmp_path / "changed")) == f"{head}+\n"


def test_version_tells_the_commit_where_the_package_has_one(tmp_path, monkeypatch):
    package = tmp_path / "sr_deploy"
    shutil.copytree(ROOT / "sr_deploy", package, ignore=shutil.ignore_patterns("__pycache__", "*.onnx"))
    (package / "COMMIT").write_text("0123456789ab\n")
    done = subprocess.run(
        [sys.executable, "-m", "sr_deploy", "--version"], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.stdout == "sr-deploy 0.1.0 (commit 0123456789ab)\n"
