"""`sr-deploy capi build`: the files it writes, and its errors."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from sr_deploy.capi import build
from sr_deploy.cli import main
from sr_deploy.errors import MissingRuntimeError, OutputError
from sr_deploy.version import __version__
from tests.paths import ROOT

PROGRAM = "#include <sr_deploy.h>\n#include <stdio.h>\nint main(void) { puts(sr_version()); return 0; }\n"
CMAKE = """\
cmake_minimum_required(VERSION 3.16)
project(uses_it C)
find_package(sr_deploy 0.1 REQUIRED)
add_executable(program program.c)
target_link_libraries(program PRIVATE sr_deploy::sr_deploy)
"""


def needs(*commands: str) -> None:
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")


@pytest.fixture
def can_build() -> None:
    try:
        build.find_compiler(), build.python_headers(), build.python_library()
    except MissingRuntimeError as error:
        pytest.skip(str(error))


def test_the_command_tells_programs_where_everything_is(can_build, tmp_path, capsys):
    main(["capi", "build", "-o", str(tmp_path / "höme"), "--json"], standalone_mode=False)
    told = {name: Path(path) for name, path in json.loads(capsys.readouterr().out).items()}
    assert set(told) == {"folder", "header", "library", "pkg_config", "cmake"}
    assert all(path.exists() for path in told.values())
    assert {path.name for path in told["folder"].iterdir()} <= {"include", "lib", "bin"}


def test_a_relative_folder_is_built_into(can_build, tmp_path, monkeypatch, capsys):
    """The compiler runs in a folder of its own, where a relative path would mean another place."""
    monkeypatch.chdir(tmp_path)
    main(["capi", "build", "-o", "sdk/", "--json"], standalone_mode=False)
    paths = {name: Path(path) for name, path in json.loads(capsys.readouterr().out).items()}
    assert paths["folder"] == tmp_path / "sdk"
    assert all(path.is_absolute() and path.exists() for path in paths.values())
    assert [path.name for path in tmp_path.iterdir()] == ["sdk"]


@pytest.mark.skipif(sys.platform == "win32", reason="the compiler of this test is a shell script")
def test_a_relative_compiler_is_found(can_build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "my-cc"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(build.find_compiler())} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("CC", "./my-cc -g")
    assert build.find_compiler() == [str(script), "-g"]
    assert build.build_library(Path("sdk")).library.is_file()


def test_the_command_tells_people_how_to_compile(can_build, tmp_path, capsys):
    main(["capi", "build", "-o", str(tmp_path)], standalone_mode=False)
    first, second = capsys.readouterr().out.splitlines()
    assert Path(first.removeprefix("built ")).is_file()
    assert second.endswith(f"$(pkg-config --cflags --libs {tmp_path / 'lib' / 'pkgconfig' / 'sr_deploy.pc'})")


def test_a_program_builds_with_pkg_config_where_the_folder_was_moved(library, tmp_path):
    needs("pkg-config")
    shutil.copytree(library.folder, tmp_path / "moved")
    (tmp_path / "program.c").write_text(PROGRAM, encoding="utf-8")
    surroundings = os.environ | {"PKG_CONFIG_PATH": str(tmp_path / "moved" / "lib" / "pkgconfig")}
    asked = ["pkg-config", "--cflags", "--libs", "sr_deploy >= 0.1"]
    flags = subprocess.check_output(asked, env=surroundings, encoding="utf-8").split()
    assert str(library.folder) not in " ".join(flags)
    command = [*build.find_compiler(), "program.c", "-o", "program", *flags]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert subprocess.check_output([tmp_path / "program"], encoding="utf-8").strip() == __version__


def test_a_program_builds_with_cmake(library, tmp_path):
    needs("cmake", "make")
    (tmp_path / "program.c").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "CMakeLists.txt").write_text(CMAKE, encoding="utf-8")
    for arguments in (
        ["-S", ".", "-B", "made", f"-DCMAKE_PREFIX_PATH={library.folder}"],
        ["--build", "made"],
    ):
        subprocess.run(["cmake", *arguments], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert subprocess.check_output([tmp_path / "made" / "program"], encoding="utf-8").strip() == __version__


def test_the_header_is_fine_in_cpp17(run, model):
    assert run("header.cpp", model("plain")).stdout == "plain x2\n"


def test_the_library_exports_what_the_header_declares_and_nothing_else(library):
    needs("nm")
    lines = subprocess.check_output(
        ["nm", "-D", "--defined-only", library.library], encoding="utf-8"
    ).splitlines()
    exported = {line.split()[-1].lstrip("_") for line in lines if line.split()[-2] in "TDBRV"}
    header = library.header.read_text(encoding="utf-8")
    declared = {
        line.split("(")[0].split()[-1].lstrip("*")
        for line in header.splitlines()
        if line.startswith("SR_API ")
    }
    assert exported == declared
    assert len(declared) == 10


def test_header_and_source_come_with_the_package(library):
    package = files("sr_deploy.capi")
    assert package.joinpath("sr_deploy.h").read_text(encoding="utf-8") == library.header.read_text(
        encoding="utf-8"
    )
    pyproject = ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert 'include = ["sr_deploy*"]' in pyproject
    assert '"sr_deploy.capi" = ["*.h", "*.c"]' in pyproject


def test_without_a_compiler_the_error_ends_in_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(MissingRuntimeError, match=r"needs a C compiler.*name it with --compiler"):
        build.build_library(tmp_path / "out")
    with pytest.raises(MissingRuntimeError, match="found none of: my-own-cc"):
        build.find_compiler("my-own-cc -m64")


def test_without_headers_or_shared_library_of_python_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda key: str(tmp_path))
    with pytest.raises(MissingRuntimeError, match=r"there is no Python\.h in .*python3-dev"):
        build.python_headers()
    if sys.platform == "win32":
        return
    monkeypatch.setattr(
        "sysconfig.get_config_var", lambda key: "libpython3.a" if key == "LDLIBRARY" else None
    )
    with pytest.raises(MissingRuntimeError, match=r"as a shared library.*--enable-shared"):
        build.python_library()


def test_a_compiler_that_fails_is_quoted(library, tmp_path):
    with pytest.raises(OutputError, match=r"could not compile the C library.*not-a-flag"):
        build.build_library(tmp_path, flags=["--not-a-flag"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_made_is_an_error(library, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"cannot build in .*choose another folder"):
        build.build_library(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("surroundings", "said"),
    [
        (
            {"SR_DEPLOY_PYTHON": "/nowhere/python"},
            "there is no Python at /nowhere/python; set the environment variable",
        ),
        ({}, ""),
        ({"SR_DEPLOY_PYTHON": sys.executable, "PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"}, ""),
    ],
    ids=["a Python that is gone", "as it was built", "another Python's variables"],
)
def test_which_python_is_used(program, model, surroundings, said):
    command = [program("c/upscale_ppm.c"), model("plain"), "none.ppm", "out.ppm"]
    Path(command[1]).with_name("none.ppm").write_bytes(b"P6 1 1 255\n123")
    done = subprocess.run(
        command, cwd=command[1].parent, env=os.environ | surroundings, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == (1 if said else 0)
    assert done.stderr.startswith(said)
    assert bool(done.stderr) == bool(said)
