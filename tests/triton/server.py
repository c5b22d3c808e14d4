"""A real Triton server for the tests: the `tritonserver` on the path, or the one in the wheel of nvidia-pytriton.

    python -m pip install --no-deps --target .triton nvidia-pytriton==0.7.0

The wheel holds Triton 2.51 with its Python backend only, for Linux on x86-64 with glibc 2.35 or later. `standin` is a
backend in place of that for ONNX Runtime. A server listens on the loopback interface and ends with the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.paths import ROOT

_WHEEL = ROOT / ".triton"
_STUB = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    http: str
    """Address for HTTP, such as 127.0.0.1:8000."""
    grpc: str
    """Address for gRPC."""
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://{self.http}/v2"

    def memory(self) -> int:
        """Bytes of the server and its model processes. A page that several of them share counts once."""
        return sum(_proportional_set_size(pid) for pid in _family(self.process.pid))


def find_server() -> tuple[str, Path | None]:
    """Return the server's program, and the folder of its wheel if it is from there. Skips the test if there is none."""
    if found := shutil.which("tritonserver"):
        return found, None
    program = _WHEEL / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    if not program.is_file():
        pytest.skip("there is no tritonserver; see tests/triton/server.py")
    if not (program.parent.parent / "python_backend_stubs" / _STUB).is_dir():
        pytest.skip(f"the wheel of nvidia-pytriton has no Python backend for Python {_STUB}")
    return str(program), _WHEEL


def _backends(wheel: Path, folder: Path) -> Path:
    """Make a folder of backends out of the wheel, which keeps a program for each version of Python beside them."""
    triton = wheel / "pytriton" / "tritonserver"
    (folder / "python").mkdir(parents=True)
    stub = triton / "python_backend_stubs" / _STUB / "triton_python_backend_stub"
    for path in (*(triton / "backends" / "python").glob("*.*"), stub):
        shutil.copy(path, folder / "python")  # the server refuses a link that leads out of the folder
    for program in (folder / "python" / stub.name, triton / "bin" / "tritonserver"):
        program.chmod(0o755)  # pip installs them without the right to run
    shutil.copytree(Path(__file__).parent / "standin", folder / "onnxruntime")
    return folder


def _environment(wheel: Path | None) -> dict[str, str]:
    """The environment in which the Python backend finds this Python's library, and what is installed here."""
    libraries = [str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    if wheel:
        libraries.insert(0, str(wheel / "nvidia_pytriton.libs"))
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in found]


@contextlib.contextmanager
def serving(repository: Path, log: Path, *, ends: bool = False) -> Iterator[Server]:
    """Start a server for `repository`. With `ends` it is meant to end by itself."""
    program, wheel = find_server()
    http, grpc = _free_ports(2)
    command = [
        program,
        f"--model-repository={repository}",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--allow-metrics=false",
    ]
    if wheel:
        command.append(f"--backend-directory={_backends(wheel, log.parent / 'backends')}")
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=_environment(wheel))
    server = Server(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", process)
    try:
        if not ends:
            _wait_until_ready(server, log)
        yield server
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_ready(server: Server, log: Path) -> None:
    for _ in range(1200):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/health/ready") as answer:
            if answer.status == 200:
                return
        if server.process.poll() is not None:
            text = log.read_text(encoding="utf-8", errors="replace")
            if "unable to find backend library" in text:
                pytest.skip("this server was built without the backend")
            pytest.fail(f"the server ended: {text[-2000:]}")
        time.sleep(0.1)
    pytest.fail("the server was not ready in two minutes")


def ask(server: Server, model: str, pixels: np.ndarray) -> np.ndarray:
    """Upscale pixels over HTTP, by the binary extension of the protocol."""
    tensor = {
        "name": "pixels",
        "shape": pixels.shape,
        "datatype": "UINT8",
        "parameters": {"binary_data_size": pixels.nbytes},
    }
    outputs = [{"name": "upscaled", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{server.url}/models/{model}/infer", head + pixels.tobytes(), headers)
    with urllib.request.urlopen(request) as answer:
        length, data = int(answer.headers["Inference-Header-Content-Length"]), answer.read()
    shape: Any = json.loads(data[:length])["outputs"][0]["shape"]
    return np.frombuffer(data[length:], np.uint8).reshape(shape)


def _family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [
        pid,
        *(found for path in children for child in path.read_text().split() for found in _family(int(child))),
    ]


def _proportional_set_size(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) * 1024
