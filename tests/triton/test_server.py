"""A repository in a real Triton server, called over HTTP. Needs `tritonserver` on the path, as in its container."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.images.image import read_image
from sr_deploy.models import find_model
from sr_deploy.triton.plan import ServeOptions
from sr_deploy.triton.repository import write_repository
from sr_deploy.upscale import Upscaler
from tests.paths import ROOT

SERVER = shutil.which("tritonserver")
pytestmark = pytest.mark.skipif(SERVER is None, reason="tritonserver is not on the path")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def serving(folder: Path, log: Path) -> Iterator[str]:
    """Start a server for `folder` and return its address. Skips if the server lacks the backend."""
    port = free_port()
    command = [
        str(SERVER),
        f"--model-repository={folder}",
        "--disable-auto-complete-config",
        f"--http-port={port}",
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--allow-grpc=false", "--allow-metrics=false"], stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}/v2"
        wait_until_ready(server, url, log)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(240):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health/ready") as answer:
            if answer.status == 200:
                return
        if server.poll() is not None:
            text = log.read_text(encoding="utf-8", errors="replace")
            if "unable to find backend library" in text:
                pytest.skip("this server was built without the backend")
            pytest.fail(f"the server ended: {text[-2000:]}")
        time.sleep(0.5)
    pytest.fail("the server was not ready in two minutes")


def ask(url: str, model: str, pixels: np.ndarray) -> np.ndarray:
    """Upscale pixels with the server, by the binary extension of its protocol."""
    tensor = {
        "name": "pixels",
        "shape": pixels.shape,
        "datatype": "UINT8",
        "parameters": {"binary_data_size": pixels.nbytes},
    }
    outputs = [{"name": "upscaled", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{url}/models/{model}/infer", head + pixels.tobytes(), headers)
    with urllib.request.urlopen(request) as answer:
        length, data = int(answer.headers["Inference-Header-Content-Length"]), answer.read()
    shape: Any = json.loads(data[:length])["outputs"][0]["shape"]
    return np.frombuffer(data[length:], np.uint8).reshape(shape)


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_the_server_gives_the_bytes_that_sr_deploy_gives(backend: Any, tmp_path: Path) -> None:
    options = ServeOptions(backend=backend, device="cpu", threads=1, queue_delay=1000)
    write_repository(tmp_path / "repository", [find_model("rt-x4")], options=options)
    rng = np.random.default_rng(0)
    batches = [
        rng.integers(0, 256, (n, h, w, 3), np.uint8) for n, h, w in ((1, 1, 1), (2, 33, 17), (8, 20, 20))
    ]
    with Upscaler.open("rt-x4", backend="onnxruntime", threads=1) as upscaler:
        expected = [np.stack([upscaler.upscale_pixels(picture) for picture in batch]) for batch in batches]
    with serving(tmp_path / "repository", tmp_path / "log.txt") as url:
        for batch, wanted in zip(batches, expected, strict=True):
            np.testing.assert_array_equal(ask(url, "rt-x4", batch), wanted)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(url, "rt-x4", np.zeros((1, 4, 4, 2), np.uint8))
        refused.value.close()
        if importlib.util.find_spec("geventhttpclient"):  # part of tritonclient[http]
            assert_the_example_works(url, tmp_path)
    log = (tmp_path / "log.txt").read_text(encoding="utf-8", errors="replace")
    assert "Traceback" not in log


def assert_the_example_works(url: str, folder: Path) -> None:
    examples = ROOT / "examples"
    address = url.removeprefix("http://").removesuffix("/v2")
    arguments = [examples / "colosseum.png", folder / "large.png", "--model", "rt-x4", "--url", address]
    done = subprocess.run(
        [sys.executable, examples / "triton_client.py", *arguments], capture_output=True, encoding="utf-8"
    )
    assert done.stdout == "rt-x4: x4, 1920x1080 pixels\n", done.stderr
    with Upscaler.open("rt-x4", backend="onnxruntime", threads=1) as upscaler:
        expected = upscaler.upscale(read_image(examples / "colosseum.png")).pixels
    np.testing.assert_array_equal(read_image(folder / "large.png").pixels, expected)
