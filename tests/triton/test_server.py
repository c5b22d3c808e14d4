"""Repositories in a real Triton server, called over HTTP and gRPC."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.graph.onnx_file import save_model
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.models import find_model
from sr_deploy.triton.plan import ServeOptions
from sr_deploy.triton.repository import write_repository
from sr_deploy.upscale import Upscaler
from tests.paths import ROOT
from tests.triton.server import Server, ask, find_server, serving
from tests.triton.test_ports import FORMS
from tests.triton.test_repository import engine

pytestmark = pytest.mark.long

CLIENTS, REQUESTS = 8, 500
"""Clients at once, every second of them over gRPC, and requests of all together."""
FLAT = 4 << 20
"""Bytes by which memory may grow in the second half of the requests."""


@pytest.fixture(autouse=True)
def _server() -> None:
    find_server()


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
    with serving(tmp_path / "repository", tmp_path / "log.txt") as server:
        for batch, wanted in zip(batches, expected, strict=True):
            np.testing.assert_array_equal(ask(server, "rt-x4", batch), wanted)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(server, "rt-x4", np.zeros((1, 4, 4, 2), np.uint8))
        refused.value.close()
        if importlib.util.find_spec("geventhttpclient"):  # part of tritonclient[http]
            assert_the_example_works(server, tmp_path)
    log = (tmp_path / "log.txt").read_text(encoding="utf-8", errors="replace")
    assert "Traceback" not in log


def assert_the_example_works(server: Server, folder: Path) -> None:
    examples = ROOT / "examples"
    arguments = [examples / "colosseum.png", folder / "large.png", "--model", "rt-x4", "--url", server.http]
    done = subprocess.run(
        [sys.executable, examples / "triton_client.py", *arguments], capture_output=True, encoding="utf-8"
    )
    assert done.stdout == "rt-x4: x4, 1920x1080 pixels\n", done.stderr
    with Upscaler.open("rt-x4", backend="onnxruntime", threads=1) as upscaler:
        expected = upscaler.upscale(read_image(examples / "colosseum.png")).pixels
    np.testing.assert_array_equal(read_image(folder / "large.png").pixels, expected)


def test_every_form_of_a_model_is_loaded_and_gives_the_bytes_of_upscale(
    tmp_path: Path, tiny: Callable[[str], Any]
) -> None:
    models = {form.__name__: form(tiny("plain").model) for form in FORMS} | {"fixed": tiny("fixed").model}
    for name, model in models.items():
        save_model(model, tmp_path / f"{name}.onnx")
    files = [tmp_path / f"{name}.onnx" for name in models]
    write_repository(tmp_path / "repository", files, options=ServeOptions(device="cpu", threads=1))
    with serving(tmp_path / "repository", tmp_path / "log.txt") as server:
        for file in files:
            picture = tiny("fixed" if file.stem == "fixed" else "plain").pictures()[0][:1]
            with Upscaler.open(file, backend="onnxruntime", threads=1) as upscaler:
                expected = upscaler.upscale_pixels(picture[0])
            np.testing.assert_array_equal(ask(server, file.stem, picture)[0], expected, file.stem)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dims: [-1, -1, 3]", "dims: [128, 128, 3]", "the configuration upscaled [-1, 128, 128, 3]"),
        ('name: "upscaled"', 'name: "output"', "the configuration output"),
        ("max_batch_size: 8", "max_batch_size: 0", "the configuration pixels [-1, -1, 3]"),
        ("dims: [-1, -1, 3]", "dims: [0, -1, 3]", "dimension must be integer >= 1, or -1"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_the_server(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    options = ServeOptions(device="cpu", threads=1, warm_up=())
    (served,) = write_repository(tmp_path / "repository", [find_model("rt-x2")], options=options)
    head, _, output = (served.folder / "config.pbtxt").read_text().rpartition("output {")
    if old not in output:
        head = head.replace(old, new)
    (served.folder / "config.pbtxt").write_text(f"{head}output {{{output.replace(old, new, 1)}")
    assert message in log_of_a_server_that_ends(tmp_path)


def test_the_server_reads_a_repository_of_engines_until_it_misses_its_backend(tmp_path: Path) -> None:
    write_repository(tmp_path / "repository", engines=[engine(tmp_path, (9, 0)), engine(tmp_path, (8, 9))])
    log = log_of_a_server_that_ends(tmp_path)
    assert "failed to load 'rt-x4' version 1: Invalid argument: unable to find backend library" in log


def log_of_a_server_that_ends(folder: Path) -> str:
    with serving(folder / "repository", folder / "log.txt", ends=True) as server:
        assert server.process.wait(60)
    return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")


def test_many_clients_get_the_bytes_of_upscale_and_memory_stays(tmp_path: Path) -> None:
    """500 pictures of 20 sizes from 8 clients, over HTTP and gRPC."""
    options = ServeOptions(backend="python", device="cpu", threads=1, instances=2)
    write_repository(tmp_path / "repository", [find_model("rt-x2")], options=options)
    photograph = read_image(ROOT / "examples" / "colosseum.png").pixels
    (tmp_path / "small").mkdir()
    for number in range(20):
        height, width = 2 + 7 * number, 150 - 7 * number
        crop = photograph[number : number + height, 2 * number : 2 * number + width]
        write_image(Image(pixels=np.ascontiguousarray(crop)), tmp_path / "small" / f"{number:02}.png")
    upscale = [sys.executable, "-m", "sr_deploy", "upscale", tmp_path / "small", "-o", tmp_path / "large"]
    subprocess.run([*upscale, "--model", "rt-x2", "--backend", "onnxruntime", "--quiet"], check=True)
    pairs = [
        (read_image(path).pixels[None], read_image(tmp_path / "large" / path.name).pixels[None])
        for path in sorted((tmp_path / "small").iterdir())
    ]
    with serving(tmp_path / "repository", tmp_path / "log.txt") as server:
        memory = [(send(server, pairs, half), server.memory())[1] for half in (0, 1)]
    print(f"memory after each half of the requests, in bytes: {memory}")
    assert memory[1] <= memory[0] + FLAT


def send(server: Server, pairs: list[tuple[np.ndarray, np.ndarray]], half: int) -> None:
    """Send one half of the requests from all clients at once, and compare every answer."""

    def client(number: int) -> int:
        call = over_grpc(server) if number % 2 else over_http(server)
        rng = np.random.default_rng([half, number])
        share = range(number, REQUESTS // 2, CLIENTS)
        for _ in share:
            picture, wanted = pairs[rng.integers(len(pairs))]
            np.testing.assert_array_equal(call(picture), wanted)
        return len(share)

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert sum(pool.map(client, range(CLIENTS))) == REQUESTS // 2


def over_http(server: Server) -> Callable[[np.ndarray], np.ndarray]:
    return lambda picture: ask(server, "rt-x2", picture)


def over_grpc(server: Server) -> Callable[[np.ndarray], np.ndarray]:
    pytest.importorskip("grpc")
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(server.grpc)

    def call(picture: np.ndarray) -> np.ndarray:
        pixels = triton.InferInput("pixels", list(picture.shape), "UINT8")
        pixels.set_data_from_numpy(picture)
        answer = client.infer("rt-x2", [pixels], outputs=[triton.InferRequestedOutput("upscaled")])
        return answer.as_numpy("upscaled")

    return call
