"""Output files appear complete or not at all, and writing needs little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.errors import OutputError
from sr_deploy.images.image import (
    Image,
    read_image,
    write_image,
)
from tests.images.samples import (
    package_on_path,
    picture,
)


def not_written(image: Image, path: Path, **options: Any) -> str:
    with pytest.raises(OutputError) as caught:
        write_image(image, path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_places_that_cannot_be_written_are_said_to_be(tmp_path: Path) -> None:
    assert "folder" in not_written(picture(), tmp_path, format="png")
    assert "does not exist" in not_written(picture(), tmp_path / "no" / "a.png")
    (tmp_path / "file").write_bytes(b"x")
    assert "does not exist" in not_written(picture(), tmp_path / "file" / "a.png")
    assert "name" in not_written(picture(), tmp_path / ("n" * 300 + ".png"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_an_existing_file_is_replaced_only_if_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    assert "exists already" in not_written(picture(), path, overwrite=False)
    assert path.read_bytes() == b"precious"
    write_image(picture(), path)
    assert read_image(path).width == 53


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    write_image(picture(), tmp_path / "link.png")
    assert not (tmp_path / "link.png").is_symlink()
    assert read_image(tmp_path / "link.png").width == 53
    assert (tmp_path / "real.png").read_bytes() == b"old"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("leads", ["real.png", "nowhere.png"])
def test_a_link_counts_as_an_existing_file(tmp_path: Path, leads: str) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(leads)
    assert "exists already" in not_written(picture(), tmp_path / "link.png", overwrite=False)
    assert (tmp_path / "link.png").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="there is no setuid there")
def test_a_result_is_no_program_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    (tmp_path / "a.png").chmod(0o4755)
    write_image(picture(), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_mode & 0o7777 == 0o755


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no devices or pipes with names here")
def test_a_pipe_or_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "regular file" in not_written(picture(), tmp_path / "pipe.png")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from sr_deploy.errors import OutputError
from sr_deploy.images.image import Image, Metadata, write_image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
image = Image(pixels=np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8),
              metadata=Metadata(xmp=b"x" * 50000))
for suffix in ("png", "jpg", "webp", "tif", "bmp"):
    path = Path(sys.argv[1], "a." + suffix)
    for share in (0.001, 0.5, 0.9, 0.999):
        write_image(image, path)
        size = path.stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size * share), limits[1]))
        before = path.read_bytes()
        try:
            write_image(image, path)
            print("written", suffix, share)
        except OutputError as error:
            if "room" not in str(error): print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if path.read_bytes() != before: print("changed", suffix, share)
print(sorted(p.name for p in Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.skipif(os.name == "nt", reason="no limits of file size there")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=package_on_path())
    assert done.stdout.strip() == "['a.bmp', 'a.jpg', 'a.png', 'a.tif', 'a.webp']"


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sr_deploy.images.codecs.png.zlib.adler32", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image(picture(size=(2000, 1000)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def _race(path: str, grey: int, barrier: Any, results: Any) -> None:
    image = Image(pixels=np.full((64, 64, 3), grey, np.uint8))
    barrier.wait(60)
    try:
        write_image(image, path, overwrite=False)
        results.put(grey)
    except OutputError:
        results.put(None)


def test_of_two_processes_that_write_one_file_one_wins(tmp_path: Path) -> None:
    context = get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    racers = [
        context.Process(target=_race, args=(str(tmp_path / "a.png"), g, barrier, results)) for g in (10, 20)
    ]
    for racer in racers:
        racer.start()
    outcomes = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    assert outcomes.count(None) == 1
    winner = next(o for o in outcomes if o is not None)
    assert (read_image(tmp_path / "a.png").pixels == winner).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_without_hard_links_a_taken_name_is_still_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if os.name != "nt":
        monkeypatch.setattr("os.link", no_links)
    write_image(picture(), tmp_path / "a.png", overwrite=False)
    assert read_image(tmp_path / "a.png").width == 53
    assert "exists already" in not_written(picture(), tmp_path / "a.png", overwrite=False)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


MEMORY = """
import resource, sys
import numpy as np
from sr_deploy.images.image import Image, write_image
unit = 1 if sys.platform == "darwin" else 1024
for suffix, alpha in (("jpg", False), ("png", True), ("tif", True), ("bmp", False)):
    pixels = np.zeros((5000, 5000, 3), np.uint8)
    pixels[:] = (np.arange(5000) % 251).astype(np.uint8)[:, None]
    image = Image(pixels=pixels, alpha=np.full((5000, 5000), 9, np.uint8) if alpha else None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_image(image, sys.argv[1] + "/a." + suffix, consume=True)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit // 2**20)
"""


@pytest.mark.skipif(os.name == "nt", reason="peak memory is measured otherwise there")
def test_writing_takes_little_memory_beside_the_picture(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=package_on_path())
    assert max(int(line) for line in done.stdout.split()) < 60  # the picture takes 71 MB, 95 with alpha
