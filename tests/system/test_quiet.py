"""Commands look up no host, connect to nobody, and leave nothing in the home folder but the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.images.image import Image, write_image
from tests.cli.conftest import repeating_model

RECORDER = """
import os, socket
from urllib import request

def record(what):
    with open(os.environ["LOOK_UPS"], "a") as file:
        file.write(what + "\\n")

def refuse(*arguments, **options):
    record(repr(arguments))
    raise OSError("no network in this test")

socket.getaddrinfo = socket.gethostbyname = socket.create_connection = request.urlopen = refuse
"""
"""A module that every Python process of the test imports at its start, child processes too."""
COMMANDS = """
import sys
from sr_deploy.cli import main
for line in sys.argv[1:]:
    print("$", line, flush=True)
    try:
        main(line.split(), standalone_mode=False)
    except SystemExit as end:
        assert not end.code, line
"""


def run(folder: Path, *lines: str, read_only: bool = False) -> tuple[list[str], list[str], str]:
    """Run commands with an empty home folder. Returns the look-ups, the files in the home folder, and the output."""
    (folder / "recorder").mkdir()
    (folder / "recorder" / "sitecustomize.py").write_text(RECORDER, encoding="utf-8")
    home = folder / "home"
    home.mkdir()
    dropped = ("XDG_", "SR_DEPLOY", "ORT_", "CI", "GITHUB", "OPENVINO", "PYTEST")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    root = Path(__file__).resolve().parents[2]
    environment |= {
        "HOME": str(home),
        "USERPROFILE": str(home),
        "LOCALAPPDATA": str(home / "AppData" / "Local"),
        "LOOK_UPS": str(folder / "look-ups"),
        "PYTHONPATH": os.pathsep.join([str(folder / "recorder"), str(root)]),
    }
    if read_only:
        home.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *lines],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    home.chmod(0o755)
    assert done.returncode == 0, done.stdout + done.stderr
    look_ups = folder / "look-ups"
    found = look_ups.read_text(encoding="utf-8").splitlines() if look_ups.exists() else []
    files = sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if not path.is_dir())
    return found, files, done.stdout + done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a model and two pictures."""
    repeating_model(tmp_path / "net.onnx", 2)
    for name in ("a.png", "b.png"):
        write_image(Image(pixels=np.full((12, 10, 3), 90, np.uint8)), tmp_path / name)
    return tmp_path


def test_commands_look_up_nobody_and_leave_nothing_but_the_cache(place: Path) -> None:
    pytest.importorskip("openvino", reason="this is about OpenVINO's telemetry too")
    look_ups, files, _ = run(
        place,
        "doctor",
        "upscale a.png b.png -o out --model net.onnx",
        "upscale a.png b.png -o other --model net.onnx --backend openvino",
        "info net.onnx",
        "convert rt-x2 -o half.onnx --precision fp16",
        "models",
        "formats",
        "cache list",
    )
    assert look_ups == []
    cache = (".cache/sr-deploy/", "Library/Caches/sr-deploy/", "AppData/Local/sr-deploy/")
    assert [name for name in files if not name.startswith(cache)] == []
    assert files


def test_a_read_only_home_costs_the_cache_and_nothing_else(place: Path) -> None:
    look_ups, files, _ = run(place, "upscale a.png b.png -o out --model net.onnx", read_only=True)
    assert look_ups == []
    assert files == [] or os.geteuid() == 0  # root may write anywhere
    assert (place / "out" / "a.png").exists()


def test_the_recorder_of_this_test_notices_look_ups(place: Path) -> None:
    (place / "recorder").mkdir()
    (place / "recorder" / "sitecustomize.py").write_text(RECORDER, encoding="utf-8")
    code = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('localhost', 1)"
    environment = {**os.environ, "PYTHONPATH": str(place / "recorder"), "LOOK_UPS": str(place / "look-ups")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert "localhost" in (place / "look-ups").read_text(encoding="utf-8")


def test_openvino_can_still_convert_models_for_others() -> None:
    """A program may use OpenVINO's converter beside us; it works, without telemetry."""
    pytest.importorskip("openvino")
    code = """
import sys
from sr_deploy.engines.openvino.engine import _runtime
assert callable(_runtime().convert_model)
print(sorted(name for name in sys.modules if "openvino_telemetry" in name))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("cache", ["kept", ""])
def test_caches_of_training_libraries_are_private(tmp_path: Path, cache: str) -> None:
    """Libraries use our cache, or without one a temporary folder, which does not outlive the process."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    names = ("TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    environment |= {"SR_DEPLOY_CACHE": cache and str(tmp_path / cache), "TMPDIR": str(temporary)}
    code = f"import os, sr_deploy.training\nfor name in {names}: print(os.environ[name], os.path.isdir(os.environ[name]))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True)
    places = [line.split() for line in done.stdout.splitlines()]
    assert [there for _, there in places] == ["True", "True"]
    if cache:
        assert [place for place, _ in places] == [
            str(tmp_path / cache / name) for name in ("torch", "matplotlib")
        ]
    else:
        assert {Path(place).parent for place, _ in places} == {temporary}
    assert list(temporary.iterdir()) == []
