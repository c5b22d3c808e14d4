#!/usr/bin/env python
"""Every check but the tests: lint, format, types, fresh documentation. One line a check, 1 where one fails.

python scripts/check_all.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PLACES = ("sr_deploy", "tests", "scripts", "export", "benchmarks")
_LINK = re.compile(r"""\]\(([^)\s]+)(?:\s+"[^"]*")?\)|(?:src|href)=["']([^"']+)["']""")


def _tool(*arguments: str) -> str:
    """The complaints of a Python tool, or an empty text."""
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, encoding="utf-8")
    return (result.stdout + result.stderr).strip() or "it failed" if result.returncode else ""


def _python_places() -> list[str]:
    return [place for place in _PLACES if (ROOT / place).exists()]


def lint() -> str:
    """Ruff's lint rules."""
    return _tool("-m", "ruff", "check", *_python_places())


def formatting() -> str:
    """Ruff's format."""
    return _tool("-m", "ruff", "format", "--check", *_python_places())


def types() -> str:
    """Types of the package."""
    return _tool("-m", "mypy", "--strict")


def levels() -> str:
    """Packages import only what stands below them: the contracts of pyproject.toml, held by import-linter."""
    return _tool("-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache")


def cli_page() -> str:
    """The page of the commands is what the commands say."""
    return _tool("scripts/gen_cli_docs.py", "--check")


def tables() -> str:
    """The tables of the README are those of the committed results."""
    return _tool("-m", "benchmarks.tables", "--check")


def icnr() -> str:
    """The page about ICNR says what its committed results say."""
    return _tool("-m", "benchmarks.icnr.page", "--check")


def training() -> str:
    """The page about training says what its committed results say."""
    scripts = ("perceptual", "ablations", "shapes", "curves")
    return "\n".join(
        filter(None, (_tool("-m", f"benchmarks.training.{name}", "--check") for name in scripts))
    )


def engines() -> str:
    """The page about precision says what its committed results say."""
    return _tool("-m", "benchmarks.engines", "--check")


def capi() -> str:
    """The page about the C library says what its committed results say."""
    return _tool("-m", "benchmarks.capi", "--check")


def auto() -> str:
    """The page about the choice of nets says what its committed results say."""
    scripts = ("auto", "photo_nets")
    return "\n".join(
        filter(None, (_tool("-m", f"benchmarks.pictures.{name}", "--check") for name in scripts))
    )


def frames() -> str:
    """The page about videos says what its committed results say."""
    return _tool("-m", "benchmarks.frames", "--check")


def gstreamer() -> str:
    """The page about GStreamer says what its committed results say."""
    return _tool("-m", "benchmarks.hosts.gstreamer", "--check")


def vapoursynth() -> str:
    """The page about VapourSynth says what its committed results say."""
    return _tool("-m", "benchmarks.hosts.vapoursynth", "--check")


def architectures() -> str:
    """The page about architectures says what its committed results say."""
    return _tool("-m", "benchmarks.architectures.page", "--check")


def gpu() -> str:
    """The page about what ran on GPUs says what its committed results say."""
    return _tool("-m", "benchmarks.gpu.tables", "--check")


def bundled() -> str:
    """The bundled models are what their checkpoints give, byte for byte."""
    return _tool("export/build.py", "--check")


def test_command() -> str:
    """CI runs the test command that the README tells."""
    commands = re.findall(
        r"^python3 -m venv .*pytest$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    return "" if len(commands) == 1 and commands[0] in ci else f".ci/run does not run {commands}"


def versions() -> str:
    """The package, its metadata and the changelog agree on the version."""
    found = {
        "pyproject.toml": _first(r'^version = "([^"]+)"', "pyproject.toml"),
        "sr_deploy/version.py": _first(r'^__version__ = "([^"]+)"', "sr_deploy/version.py"),
        "CHANGELOG.md": _first(r"^## \[?v?(\d[^\]\s,:]*)", "CHANGELOG.md"),
    }
    if len(set(found.values())) == 1:
        return ""
    return "; ".join(f"{name} says {version}" for name, version in found.items())


def _first(pattern: str, name: str) -> str | None:
    match = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return match and match[1]


def links() -> str:
    """Every link from a page to a file of the repository leads somewhere."""
    return "\n".join(
        f"{page.relative_to(ROOT)}: no {target}" for page in _pages() for target in _broken(page)
    )


def _pages() -> list[Path]:
    folders = (
        ROOT,
        ROOT / "docs",
        ROOT / "docs" / "notes",
        ROOT / "docs" / "models",
        ROOT / "docs" / "pictures",
        ROOT / "sr_deploy" / "models",
        ROOT / "benchmarks",
        ROOT / "export",
    )
    return sorted(page for folder in folders for page in folder.glob("*.md"))


def _broken(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for match in _LINK.finditer(text):
        target = (match[1] or match[2]).partition("#")[0]
        if (
            target
            and "://" not in target
            and not target.startswith("mailto:")
            and not (page.parent / target).exists()
        ):
            yield target


CHECKS: dict[str, Callable[[], str]] = {
    "ruff check": lint,
    "ruff format": formatting,
    "mypy --strict": types,
    "imports go down only (lint-imports)": levels,
    "docs/cli.md is up to date, every command and option has help": cli_page,
    "the tables of the README are those of benchmarks/results": tables,
    "docs/notes/icnr.md is that of benchmarks/results": icnr,
    "docs/capi.md is that of benchmarks/results": capi,
    "docs/pictures/nets.md is that of benchmarks/results": auto,
    "docs/notes/training.md is that of benchmarks/results": training,
    "docs/precision.md is that of benchmarks/results": engines,
    "docs/video.md is that of benchmarks/results": frames,
    "docs/gstreamer.md is that of benchmarks/results": gstreamer,
    "docs/vapoursynth.md is that of benchmarks/results": vapoursynth,
    "docs/models/architectures.md is that of benchmarks/architectures/results.json": architectures,
    "benchmarks/results/gpu/README.md is that of its results": gpu,
    "the bundled models are those of export/checkpoints": bundled,
    "CI runs the README's test command": test_command,
    "versions agree": versions,
    "links lead somewhere": links,
}


def main() -> int:
    """Run the checks, two at a time, and return the exit code."""
    failed = False
    with ThreadPoolExecutor(2) as pool:
        for name, problem in zip(CHECKS, pool.map(_problem_of, CHECKS.values()), strict=True):
            print(f"{'FAIL' if problem else 'ok  '} {name}", flush=True)
            if problem:
                failed = True
                print("\n".join(f"     {line}" for line in problem.splitlines()), file=sys.stderr, flush=True)
    return int(failed)


def _problem_of(check: Callable[[], str]) -> str:
    """The complaint of a check, or an empty text."""
    try:
        return check()
    except OSError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())
