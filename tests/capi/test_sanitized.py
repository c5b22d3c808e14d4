"""AddressSanitizer, the undefined-behaviour sanitizer and valgrind find no fault in our code, but find a planted one."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.capi.conftest import PLAIN, PROGRAMS, SANITIZED, built, compiled
from tests.capi.pictures import cases

pytestmark = pytest.mark.long

OURS = ("libsr_deploy", "memory-program")
"""Object files whose faults count as ours: the library and the programs that call it."""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """Compile a program with sanitizers, and link it with a library that has them too."""
    if platform.system() != "Linux":
        pytest.skip("the sanitizers are used on Linux")
    folder = tmp_path_factory.mktemp("sanitized")
    library = built(folder, *SANITIZED)
    return lambda name: compiled(library, PROGRAMS / name, folder / Path(name).stem, *SANITIZED)


def run_sanitized(
    program: Path, *arguments: object, folder: Path, **named: str
) -> subprocess.CompletedProcess[str]:
    """Run a program. Leaks are not reported, since Python itself keeps memory until the process ends."""
    (folder / "leaks.txt").write_text(
        "leak:libpython\nleak:_PyObject_New\nleak:onnxruntime\nleak:numpy\n", encoding="utf-8"
    )
    settings = {"LSAN_OPTIONS": f"suppressions={folder / 'leaks.txt'}:print_suppressions=0"}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=os.environ | settings, capture_output=True, encoding="utf-8", **named
    )


def check_clean(done: subprocess.CompletedProcess[str]) -> None:
    """Check that the program ended with 0 and no sanitizer printed a report. ONNX Runtime may print."""
    assert done.returncode == 0, done.stderr
    assert "Sanitizer" not in done.stderr
    assert "runtime error" not in done.stderr


def test_wrong_use_is_clean_under_the_sanitizers(sanitized, model, tmp_path):
    (tmp_path / "garbage.onnx").write_bytes(b"garbage")
    done = run_sanitized(sanitized("wrong_use.c"), model("plain"), folder=tmp_path)
    check_clean(done)
    assert "closed: garbage\tSR_ERROR_CLOSED" in done.stdout


def test_every_layout_is_clean_under_the_sanitizers(sanitized, model, tmp_path):
    lines = "\n".join(picture.write(tmp_path, 2) for picture in cases((7, 5), (6, 6)))
    done = run_sanitized(
        sanitized("calls.c"), model("plain"), "onnxruntime", 4, 0, 0, "batch", folder=tmp_path, input=lines
    )
    check_clean(done)
    assert "30 pictures, 0 notes" in done.stdout


def test_the_sanitizer_sees_an_array_of_pictures_that_is_too_short(sanitized, model, tmp_path):
    done = run_sanitized(sanitized("lies.c"), model("plain"), "pictures", folder=tmp_path)
    assert "heap-buffer-overflow" in done.stderr
    assert "check_image" in done.stderr


def faults(report: Path) -> list[tuple[str, str]]:
    """Return the faults that valgrind found in our code or memory: kind, and innermost function."""
    found = []
    for error in ET.parse(report).iter("error"):
        places = [
            [(f.findtext("obj") or "", f.findtext("fn") or "") for f in s.iter("frame")]
            for s in error.iter("stack")
        ]
        first, memory = places[0], [frame for frame in places[-1] if "vgpreload" not in frame[0]]
        ours = any(name in first[0][0] for name in OURS)
        of_ours = len(places) > 1 and bool(memory) and any(name in memory[0][0] for name in OURS)
        if ours or of_ours:
            found.append((error.findtext("kind") or "", first[0][1]))
    return found


def test_valgrind_finds_the_write_beyond_a_buffer_that_was_lied_about_and_nothing_else(model, tmp_path):
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    program = compiled(built(tmp_path, *PLAIN), PROGRAMS / "lies.c", tmp_path / "memory-program", *PLAIN)
    report = tmp_path / "report.xml"
    options = [
        "--leak-check=no",
        "--error-limit=no",
        "--xml=yes",
        f"--xml-file={report}",
        "--child-silent-after-fork=yes",
    ]
    command = ["valgrind", *options, program, model("plain"), "sizes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("SR_OK") == 16
    assert {kind for kind, _ in faults(report)} == {"InvalidWrite"}
