"""Fixtures that build the C library once, and each program that uses it once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from sr_deploy.capi.build import BuiltLibrary, build_library, find_compiler
from sr_deploy.errors import MissingRuntimeError
from tests.paths import ROOT

PROGRAMS = Path(__file__).parent / "programs"
EXAMPLES = ROOT / "examples"
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror")
SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DSR_PLAIN_MALLOC")
PLAIN = ("-g", "-DSR_PLAIN_MALLOC")

Compile = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def built(folder: Path, *flags: str) -> BuiltLibrary:
    """Build the library with warnings as errors. Skips if it cannot be built."""
    if sys.platform == "win32":
        pytest.skip("the C programs of the tests need a Unix compiler")
    try:
        return build_library(folder, flags=[*STRICT, *flags])
    except MissingRuntimeError as error:
        pytest.skip(str(error))


def compiled(library: BuiltLibrary, source: Path, target: Path, *flags: str) -> Path:
    """Compile the program `source` with warnings as errors, and link it with `library`."""
    plus = source.suffix == ".cpp"
    command = [shutil.which("c++") or "no c++"] if plus else find_compiler()
    if plus and not shutil.which("c++"):
        pytest.skip("there is no C++ compiler, c++")
    place = library.library.parent
    link = [f"-L{place}", "-lsr_deploy", f"-Wl,-rpath,{place}", "-pthread", "-ldl", "-lm"]
    options = ["-std=c++17" if plus else "-std=c11", "-D_GNU_SOURCE", *STRICT, f"-I{library.header.parent}"]
    subprocess.run([*command, *options, str(source), "-o", str(target), *link, *flags], check=True)
    return target


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> BuiltLibrary:
    """The C library."""
    return built(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="session")
def program(library: BuiltLibrary, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Return the path of a compiled program, given by its name in `programs` or its path in the examples."""
    folder, made = tmp_path_factory.mktemp("programs"), dict[str, Path]()

    def compile_once(name: str, *flags: str) -> Path:
        if name not in made:
            source = EXAMPLES / name if "/" in name else PROGRAMS / name
            made[name] = compiled(library, source, folder / Path(name).stem, *flags)
        return made[name]

    return compile_once


@pytest.fixture
def run(program: Compile, tmp_path: Path) -> Run:
    """Run a program in a temporary folder. It must end with 0 and print nothing on stderr."""

    def run(name: str, *arguments: object, **named: str) -> subprocess.CompletedProcess[str]:
        command = [str(program(name)), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", **named)
        assert (done.returncode, done.stderr) == (0, "")
        return done

    return run


@pytest.fixture
def model(tiny: Callable[..., object], tmp_path: Path) -> Callable[[str], Path]:
    """Write a tiny model of the common conftest and return its path."""

    def save(name: str) -> Path:
        path = tmp_path / f"{name}.onnx"
        onnx.save(tiny(name).model, path)
        return path

    return save
