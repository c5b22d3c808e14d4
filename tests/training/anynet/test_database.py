"""openmodeldb:NAME against a local file server: checksum, licence, and what fails."""

from __future__ import annotations

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

pytest.importorskip("spandrel")
pytest.importorskip("openmodeldb")

import openmodeldb.client as client

from sr_deploy.errors import CheckFailedError, InputError
from sr_deploy.training.anynet.database import database_source

pytestmark = pytest.mark.xdist_group("community")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index with one model on a local server; returns its entry, which may be changed before the first call."""
    folder = tmp_path / "served"
    folder.mkdir()
    shapes = {0: (8, 3, 3, 3), 2: (8, 8, 3, 3), 4: (48, 8, 3, 3)}
    weights = {f"body.{n}.weight": torch.zeros(shape) for n, shape in shapes.items()}
    weights |= {f"body.{n}.bias": torch.zeros(shape[0]) for n, shape in shapes.items()}
    torch.save(
        {"params": weights | {f"body.{n}.weight": torch.zeros(8) for n in (1, 3)}}, folder / "tiny.pth"
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    digest = hashlib.sha256((folder / "tiny.pth").read_bytes()).hexdigest()
    resource = {"type": "pth", "sha256": digest, "urls": [f"{address}/tiny.pth"]}
    entry = {
        "name": "Tiny", "author": "somebody", "architecture": "compact", "scale": 4, "license": "CC-BY-4.0",
        "resources": [resource],
    }  # fmt: skip

    def publish() -> None:
        (folder / "models.json").write_text(json.dumps({"4x-Tiny": entry}))

    monkeypatch.setattr(client, "API_URL", f"{address}/models.json")
    monkeypatch.setattr(client, "DEFAULT_CACHE_DIR", str(tmp_path / "cache"))
    publish()
    yield entry, publish
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_is_fetched_with_its_licence_and_checksum(index):
    source = database_source("openmodeldb:4x-Tiny")
    assert (source.name, source.architecture, source.scale) == ("4x-Tiny", "RealESRGAN Compact", 4)
    assert source.licence == "CC-BY-4.0"
    assert source.sha256 == index[0]["resources"][0]["sha256"]
    assert source.parameters["source"] == "openmodeldb:4x-Tiny"
    assert source.parameters["author"] == "somebody"


def test_a_file_with_another_checksum_is_not_used(index):
    entry, publish = index
    entry["resources"][0]["sha256"] = "0" * 64
    publish()
    with pytest.raises((CheckFailedError, InputError)):
        database_source("openmodeldb:4x-Tiny")


def test_an_unknown_name_and_a_model_without_weights_are_told(index):
    with pytest.raises(InputError, match=r"nothing-like-it: cannot be fetched \(ModelNotFoundError"):
        database_source("openmodeldb:nothing-like-it")
    entry, publish = index
    entry["resources"][0]["type"] = "onnx"
    publish()
