"""`sr-deploy upscale` on folders that are worked on again, in shares, and by several processes at once."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.images.image import read_image
from sr_deploy.system import claims as manifest
from sr_deploy.system.claims import Claim


@pytest.fixture
def upscale(run, bundle, tmp_path):
    """Upscale the folder `in` into `out`; the names of what was made, and all that was said."""

    def call(*options, code=0):
        result = run("upscale", tmp_path / "in", "-o", tmp_path / "out", "--recursive", "--json", *options)
        assert result.exit_code == code, result.stderr
        records = [json.loads(line) for line in result.stdout.splitlines()]
        made = [Path(one["input"]).name for one in records if one["status"] == "done"]
        return sorted(made), result.stderr

    return call


@pytest.fixture
def pictures(picture):
    """Three of them in two folders: a.png, b.jpg, deep/c.png."""
    return [picture("in/a.png"), picture("in/b.jpg"), picture("in/deep/c.png")]


def assert_repeated(source: Path, target: Path) -> None:
    expected = read_image(source).pixels.repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(read_image(target).pixels, expected)


def test_what_is_done_is_not_done_again(upscale, pictures, tmp_path):
    assert upscale()[0] == ["a.png", "b.jpg", "c.png"]
    made, said = upscale()
    assert made == []
    assert said.splitlines()[-1].startswith("0 upscaled, 3 skipped in ")
    (tmp_path / "out" / "deep" / "c.png").unlink()
    assert upscale()[0] == ["c.png"]


def test_a_changed_picture_is_done_again_and_a_touched_one_is_not(upscale, pictures, picture, tmp_path):
    upscale()
    changed = picture("in/a.png", width=5)
    os.utime(pictures[2], (1, 1))
    assert upscale()[0] == ["a.png"]
    assert_repeated(changed, tmp_path / "out" / "a.png")
    same_size = bytearray(pictures[2].read_bytes())
    same_size[-20] ^= 1
    pictures[2].write_bytes(same_size)  # as many bytes, one of them another
    assert upscale(code=5)[0] == []  # it is tried, and is no whole picture any more


def test_changed_options_redo_what_they_touch(upscale, pictures):
    upscale()
    assert upscale("--quality", 80)[0] == ["b.jpg"]
    assert upscale("--quality", 80, "--fit", "30x30")[0] == ["a.png", "b.jpg", "c.png"]
    assert upscale("--quality", 80, "--fit", "30x30", "--threads", 1)[0] == []
    assert upscale("--quality", 80, "--fit", "30x30", "--scale", 2)[0] == ["a.png", "b.jpg", "c.png"]


def test_a_result_that_someone_changed_is_left_alone_unless_told(upscale, pictures, tmp_path):
    upscale()
    edited = tmp_path / "out" / "a.png"
    edited.write_bytes(edited.read_bytes() + b"a signature")
    kept = edited.read_bytes()
    made, said = upscale(code=5)
    assert made == []
    assert "was changed after it was made" in said
    assert edited.read_bytes() == kept
    assert upscale("--skip-existing")[0] == []
    assert upscale("--overwrite")[0] == ["a.png", "b.jpg", "c.png"]
    assert_repeated(pictures[0], edited)


def test_a_failed_picture_leaves_no_trace_and_is_tried_again(upscale, picture, tmp_path):
    bad = tmp_path / "in" / "a.png"
    bad.parent.mkdir()
    bad.write_bytes(b"no picture at all")
    assert upscale(code=3)[0] == []
    assert not (tmp_path / "out").exists()
    picture("in/a.png")
    assert upscale()[0] == ["a.png"]


def test_results_beside_the_pictures_are_remembered_too(run, bundle, picture):
    photo = picture("in/a.png")
    for status in ("1 upscaled", "0 upscaled, 1 skipped"):
        picture("in/b.png" if status[0] == "1" else "in/a.png")
        result = run("upscale", photo.parent)
        assert result.exit_code == 0, result.stderr
    assert run("upscale", photo.parent).stderr.splitlines()[-1].startswith("0 upscaled, 2 skipped")
    assert sorted(p.name for p in photo.parent.glob("*.png")) == ["a-x4.png", "a.png", "b-x4.png", "b.png"]


def test_shards_are_equal_and_make_the_whole(upscale, picture):
    names = [picture(f"in/{i}.png").name for i in range(7)]
    made = [upscale("--shard", f"{i}/3")[0] for i in (3, 1, 2)]
    assert sorted(len(one) for one in made) == [2, 2, 3]
    assert sorted(name for share in made for name in share) == names
    assert upscale()[0] == []


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_share_that_makes_no_sense_is_refused(run, picture, shard):
    result = run("upscale", picture(), f"--shard={shard}")
    assert result.exit_code == 2
    assert "is not a share like 1/4" in result.stderr


def test_a_picture_another_process_is_at_is_left_to_it(run, bundle, pictures, tmp_path):
    with Claim.take(tmp_path / "out" / ".sr-deploy" / "a.png.json"):  # type: ignore[union-attr]
        result = run("upscale", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "a.png is being made by another process, skipped" in result.stderr
    assert not (tmp_path / "out" / "a.png").exists()


def test_where_there_are_no_locks_the_work_is_done_and_it_is_said(upscale, pictures, monkeypatch):
    def none(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(manifest, "try_lock", none)
    made, said = upscale()
    assert made == ["a.png", "b.jpg", "c.png"]
    assert said.count("has no locks") == 1


def command(bundle: Path, tmp_path: Path, *options: str) -> list[str]:
    start = [sys.executable, "-m", "sr_deploy", "upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    return [*start, "--model", str(bundle / "rt-x4.onnx"), "--threads", "1", "--json", *options]


def test_three_processes_do_every_picture_once(bundle, picture, tmp_path):
    names = sorted(picture(f"in/{i}.png", width=200, height=150).name for i in range(20))
    running = [
        subprocess.Popen(command(bundle, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    made: Counter[str] = Counter()
    for process in running:
        out, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        records = map(json.loads, out.decode().splitlines())
        made.update(Path(one["input"]).name for one in records if one["status"] == "done")
    assert made == Counter(names)
    for name in names:
        assert_repeated(tmp_path / "in" / name, tmp_path / "out" / name)


def test_killed_in_the_middle_it_goes_on_with_what_is_missing(bundle, picture, tmp_path):
    for i in range(20):
        picture(f"in/{i:02}.png", width=200, height=150)
    process = subprocess.Popen(
        command(bundle, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    third = tmp_path / "out" / "02.png"
    deadline = time.monotonic() + 60
    while not third.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    out = tmp_path / "out"
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("[0-9]*.png")}
    result = subprocess.run(command(bundle, tmp_path), capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    again = [p.name for p in out.glob("[0-9]*.png") if before.get(p.name, 0) not in (0, p.stat().st_mtime_ns)]
    assert len(again) <= 2  # written, and killed before that was recorded
    assert sorted(path.name for path in out.iterdir() if path.is_file() and path.name[0] != ".") == [
        f"{i:02}.png" for i in range(20)
    ]
    for i in range(20):
        assert_repeated(tmp_path / "in" / f"{i:02}.png", out / f"{i:02}.png")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_in_place_of_a_record_or_its_folder_is_not_followed(upscale, pictures, tmp_path):
    letter, out = tmp_path / "letter.txt", tmp_path / "out"
    letter.write_text("precious", encoding="utf-8")
    (out / ".sr-deploy").mkdir(parents=True)
    (out / ".sr-deploy" / "a.png.json").symlink_to(letter)
    (out / "deep").mkdir()
    (out / "deep" / ".sr-deploy").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    made, said = upscale()
    assert made == ["a.png", "b.jpg", "c.png"]
    assert "is not used as a record: it is a link" in said
    assert letter.read_text(encoding="utf-8") == "precious"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_in_place_of_a_result_is_replaced_unless_it_is_to_be_followed(upscale, pictures, tmp_path):
    letter, result = tmp_path / "letter.png", tmp_path / "out" / "a.png"
    letter.write_bytes(b"precious")
    result.parent.mkdir()
    result.symlink_to(letter)
    upscale("--overwrite")
    assert letter.read_bytes() == b"precious"
    assert_repeated(pictures[0], result)
    assert not result.is_symlink()
    result.unlink()
    result.symlink_to(letter)
    upscale("--overwrite", "--follow-links")
    assert result.is_symlink()
    assert_repeated(pictures[0], letter)
