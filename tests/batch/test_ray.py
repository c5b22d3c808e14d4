"""`sr-deploy upscale --ray` on a real cluster of two Ray nodes on this machine, each with a worker of one thread."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.images.image import Image, write_image
from sr_deploy.spec import METADATA_KEY, ModelSpec
from tests.paths import ROOT

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """Cluster of two nodes with one CPU each."""
    pytest.importorskip("ray.data", reason="needs Ray: pip install 'sr-deploy[ray]'")
    if sys.platform != "linux":
        pytest.skip("Ray starts several nodes on one machine on Linux only")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else the workers wait for all other tests
        root = str(ROOT)
        patch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            cluster.add_node(num_cpus=1)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x2 model of a 3x3 convolution and a PixelShuffle."""
    rng = np.random.default_rng(3)
    weights = {"w": rng.normal(0.1, 0.1, (12, 3, 3, 3)), "b": rng.normal(0, 0.1, 12)}
    nodes = [
        helper.make_node("Conv", ["pixels", "w", "b"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["features"], ["upscaled"], blocksize=2, mode="CRD"),
    ]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, f"{n}h", f"{n}w"])
        for n in ("pixels", "upscaled")
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, {METADATA_KEY: ModelSpec(name="net", scale=2, halo=1).to_json()})
    onnx.save(made, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def pictures(folder: Path, count: int = 12, side: int = 40) -> list[str]:
    """Noise of several sizes, in two folders and three formats."""
    names = [f"{'dé/' if i % 4 == 0 else ''}p{i:02}.{('png', 'jpg', 'webp')[i % 3]}" for i in range(count)]
    for i, name in enumerate(names):
        pixels = np.random.default_rng(i).integers(0, 256, (side, side + i, 3), np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(Image(pixels=pixels), folder / name)
    return names


def command(model: Path, out: str, *options: object) -> list[str]:
    start = [sys.executable, "-m", "sr_deploy", "upscale", "in", "-o", out, "-r", "--model", model.name]
    return [*start, "--backend", "onnxruntime", "--threads", "1", "--json", *map(str, options)]


def upscale(model: Path, out: str, *options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(model, out, *options), cwd=model.parent, capture_output=True, encoding="utf-8", timeout=240
    )


def statuses(output: str) -> dict[str, str]:
    records = [json.loads(line) for line in output.splitlines()]
    return {Path(one["input"]).as_posix().removeprefix("in/"): one["status"] for one in records}


def results(folder: Path) -> dict[str, bytes]:
    """Return the files in a folder of results, without the records."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".sr-deploy")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_cluster_makes_what_this_machine_alone_makes_and_nothing_twice(cluster, model, tmp_path):
    names = pictures(tmp_path / "in")
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture at all")
    alone = upscale(model, "alone")
    assert alone.returncode == 5, alone.stderr
    shared = upscale(model, "shared", "--ray", cluster.address)
    assert shared.returncode == 5, shared.stderr
    assert statuses(shared.stdout) == dict.fromkeys(names, "done") | {"bad.png": "failed"}
    assert "error: " in shared.stderr
    assert "12 upscaled, 1 failed" in shared.stderr
    assert results(tmp_path / "shared") == results(tmp_path / "alone")
    assert len(results(tmp_path / "shared")) == 12

    (tmp_path / "in" / "bad.png").unlink()
    (tmp_path / "shared" / names[1]).unlink()
    again = upscale(model, "shared", "--ray", cluster.address)
    assert again.returncode == 0, again.stderr
    assert statuses(again.stdout) == dict.fromkeys(names, "skipped") | {names[1]: "done"}
    assert results(tmp_path / "shared") == results(tmp_path / "alone")
    assert set(statuses(upscale(model, "shared").stdout).values()) == {"skipped"}


def workers(cluster: object) -> list[int]:
    """Return the worker processes."""
    raylets = {
        process.process.pid for node in cluster.list_all_nodes() for process in node.all_processes["raylet"]
    }
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            if parent in raylets and b"Worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def has_open(process: int, path: Path) -> bool:
    """Return whether `process` has the file open."""
    for link in Path(f"/proc/{process}/fd").glob("*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == str(path):
                return True
    return False


def test_a_picture_that_ends_every_worker_fails_and_the_others_are_made(cluster, model, tmp_path):
    names = pictures(tmp_path / "in", count=5)
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    write_image(Image(pixels=pixels), tmp_path / "in" / "poison.png")
    claim, over, kills = tmp_path / "out" / ".sr-deploy" / "poison.png.json", threading.Event(), []

    def kill() -> None:
        while not over.wait(0.01):
            for process in workers(cluster):
                if has_open(process, claim):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                        kills.append(process)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        result = upscale(model, "out", "--ray", cluster.address)
    finally:
        over.set()
        killer.join()
    assert len(set(kills)) >= 2
    assert result.returncode == 5, result.stderr
    made = statuses(result.stdout)
    assert made.pop("poison.png") == "failed"
    assert "every worker that tried it died" in result.stderr
    assert set(made) == set(names)
    assert set(results(tmp_path / "out")) >= set(names)
    healed = upscale(model, "out")
    assert healed.returncode == 0, healed.stderr
    assert statuses(healed.stdout)["poison.png"] == "done"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_stopped_it_leaves_nothing_half_written_and_goes_on_later(cluster, model, tmp_path, name):
    names = pictures(tmp_path / "in", count=24, side=400)
    running = subprocess.Popen(
        command(model, "out", "--ray", cluster.address),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert running.stdout is not None
    running.stdout.readline()  # one is done
    running.send_signal(getattr(signal, name))
    _, said = running.communicate(timeout=120)
    assert running.returncode == {"SIGINT": 130, "SIGTERM": 143}[name], said
    assert said.splitlines()[-1] == "interrupted; nothing half-written was left behind"
    before = results(tmp_path / "out")
    assert set(before) < set(names)
    result = upscale(model, "out")
    assert result.returncode == 0, result.stderr
    assert sorted(n for n, status in statuses(result.stdout).items() if status == "skipped") == sorted(before)
    assert set(results(tmp_path / "out")) == set(names)


def test_more_threads_than_a_machine_has_are_refused(cluster, model, tmp_path):
    pictures(tmp_path / "in", count=2)
    result = upscale(model, "out", "--ray", cluster.address, "--threads", 64)
    assert result.returncode == 2
    assert "one worker needs 64 CPUs" in result.stderr


def test_what_a_worker_meets_before_it_begins_ends_the_run_in_one_line(cluster, model, tmp_path):
    pictures(tmp_path / "in", count=2)
    result = upscale(model, "out", "--ray", cluster.address, "--backend", "tensorrt")
    assert result.returncode == 4
    assert [line for line in result.stderr.splitlines() if line.startswith("error:")] != []
    result = upscale(model, "out", "--ray", cluster.address, "--scale", 3)
    assert result.returncode == 2
    assert "has scale 2 and --scale asks for 3" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_one_error_soon(model, tmp_path):
    pytest.importorskip("ray.data", reason="needs Ray: pip install 'sr-deploy[ray]'")
    pictures(tmp_path / "in", count=2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    result = upscale(model, "out", "--ray", f"127.0.0.1:{port}")
    assert result.returncode == 4
    assert len(result.stderr.splitlines()) == 1
    assert f"no Ray cluster can be reached at 127.0.0.1:{port}" in result.stderr


def test_what_listens_and_is_no_cluster_is_one_error_in_a_bounded_time(model, tmp_path):
    pytest.importorskip("ray.data", reason="needs Ray: pip install 'sr-deploy[ray]'")
    pictures(tmp_path / "in", count=2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        arguments = command(model, "out", "--ray", f"127.0.0.1:{port}")[3:]
        code = (
            "import sys, sr_deploy.batch.ray_driver as r, sr_deploy.cli as c; r._CONNECT_TIMEOUT = 2.0; "
            f"sys.argv = ['sr-deploy', *{arguments!r}]; c.main()"
        )
        start = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120
        )
    assert time.monotonic() - start < 100
    assert result.returncode == 4, result.stderr
    assert "(no Ray cluster answers)" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("address", ["nowhere", "host:port", "ray://host:10001", ":1", ""])
def test_an_address_that_is_none_is_refused(model, tmp_path, address):
    pytest.importorskip("ray.data", reason="needs Ray: pip install 'sr-deploy[ray]'")
    pictures(tmp_path / "in", count=2)
    result = upscale(model, "out", "--ray", address)
    assert result.returncode == 2
    assert "not the address of a cluster" in result.stderr


def test_without_ray_it_ends_in_the_install_line(model, tmp_path):
    pictures(tmp_path / "in", count=2)
    arguments = command(model, "out", "--ray", "auto")[3:]
    code = (
        "import sys, sr_deploy.cli as c; sys.modules['ray'] = None; "
        f"sys.argv = ['sr-deploy', *{arguments!r}]; c.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert result.returncode == 4
    assert len(result.stderr.splitlines()) == 1
    assert "pip install 'sr-deploy[ray]'" in result.stderr


def test_one_picture_is_not_for_a_cluster(model, tmp_path):
    pictures(tmp_path / "in", count=2)
    result = subprocess.run(
        [sys.executable, "-m", "sr_deploy", "upscale", "in/p01.jpg", "--ray", "auto"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 2
    assert "leave --ray out" in result.stderr


def test_workers_reserve_a_gpu_for_every_backend_that_computes_on_one():
    from sr_deploy.batch import ray_driver
    from sr_deploy.engines.registry import GPU_BACKENDS

    assert ray_driver._GPU_BACKENDS == GPU_BACKENDS
