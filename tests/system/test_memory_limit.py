"""A limit of the address space is planned with, or answered by one sentence: no crash, and no waiting forever."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from sr_deploy.errors import OutOfMemoryError
from sr_deploy.images.image import Image, write_image
from sr_deploy.system import memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what is used")


@pytest.mark.parametrize(
    ("megabytes", "backend", "works"),
    [(450, "onnxruntime", False), (1000, "onnxruntime", True), (1100, "openvino", True)],
)
def test_many_threads_under_a_limit_work_or_give_a_sentence(tmp_path, megabytes, backend, works):
    """32 threads: so many could not be started before, and the run ended in a crash or never."""
    pytest.importorskip(backend)
    write_image(Image(pixels=np.full((60, 80, 3), 90, np.uint8)), tmp_path / "a.png")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv.pop(1)) * 10**6,) * 2);"
        "from sr_deploy.cli import main; main()"
    )
    options = ["--backend", backend, "--threads", "32", "--model", "rt-x2"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(megabytes), "upscale", "a.png", "-o", "b.png", *options],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "2"},
    )
    assert (tmp_path / "b.png").exists() == works
    if not works:
        assert done.returncode == 5, done.stderr
        assert done.stderr.startswith("error: the limit of the address space leaves")
        assert len(done.stderr.splitlines()) == 1


def test_threads_are_as_many_as_have_room(monkeypatch):
    monkeypatch.setattr(memory, "address_space_left", lambda: None)
    assert [memory.affordable_threads(threads) for threads in (None, 1, 64)] == [None, 1, 64]
    memory.prepare_for_limit()
    monkeypatch.setattr(memory, "address_space_left", lambda: (512 + 100) << 20)
    assert [memory.affordable_threads(threads) for threads in (1, 64)] == [1, 5]
    assert memory.available_memory() <= 612 << 20
    monkeypatch.setattr(memory, "address_space_left", lambda: 1 << 20)
    assert memory.affordable_threads(64) == 1
    with pytest.raises(OutOfMemoryError, match="leaves 1 MiB to this process"):
        memory.prepare_for_limit()


@pytest.mark.parametrize(
    "message", ["cv2.abi3.so: failed to map segment from shared object", "libvips.so: cannot allocate memory"]
)
def test_a_library_that_does_not_fit_is_no_bug_of_ours(message):
    from sr_deploy.batch.steps import memory_error

    assert isinstance(memory_error(ImportError(message)), OutOfMemoryError)
    assert isinstance(memory_error(ImportError("no module")), ImportError)
