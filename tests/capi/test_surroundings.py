"""The library leaves the program around it as it was: signals, floating-point numbers, forks, folders."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.capi.conftest import built

BACKENDS = ("onnxruntime", "openvino")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


def test_ctrl_c_ends_a_program_as_before(program, backend):
    command = [str(program("surroundings.c")), "rt-x2", backend, "signal"]
    # Python gives its children the default handling of SIGINT only if it is the default in a terminal.
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "raising\n", "")


def test_results_do_not_depend_on_the_floating_point_environment_which_is_left_as_it_was(run, backend):
    assert run("surroundings.c", "rt-x2", backend, "floats").stdout == "the same, left as it was\n"


def test_a_child_of_a_fork_gets_a_status(run, backend):
    statuses, text, parent = run("surroundings.c", "rt-x2", backend, "fork", timeout=60).stdout.splitlines()
    assert statuses.split() == ["SR_ERROR_RUNTIME"] * 5
    assert text.startswith("this process was forked after sr_open")
    assert parent == "SR_OK"


@pytest.mark.skipif(sys.platform == "win32", reason="the tests build for Unix")
def test_a_relative_folder_is_one_of_the_working_folder(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    made = built(Path("sdk/"))
    assert made.library.is_file()
    assert made.library.is_relative_to(tmp_path)
