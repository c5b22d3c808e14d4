"""Files beside results are opened only if they are our own regular files, and never through a link."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sr_deploy.errors import OutputError
from sr_deploy.system import own_files
from sr_deploy.system.claims import Claim, UntrustedRecordError, read_record, write_record
from sr_deploy.system.files import digest_of, write_whole
from sr_deploy.system.own_files import NotOwnError, distrust_reason, make_private_folder, open_own, read_own

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def place(folder, kind):
    """Put something that is not a record of ours at the path of one. Returns that path, and a file of the user."""
    user = folder / "letter.txt"
    user.write_text('{"precious": true}', encoding="utf-8")
    record = folder / "records" / "a.json"
    if kind == "linked folder":
        (folder / "elsewhere").mkdir()
        record.parent.symlink_to(folder / "elsewhere")
        return record, user
    record.parent.mkdir()
    if kind == "link":
        record.symlink_to(user)
    elif kind == "dangling link":
        record.symlink_to(folder / "new.txt")
    elif kind == "hard link":
        os.link(user, record)
    elif kind == "pipe":
        os.mkfifo(record)
    else:
        record.mkdir()
    return record, user


@pytest.mark.parametrize("by_folder", [True, False])
@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder", "linked folder"])
def test_what_is_not_our_own_file_is_neither_read_nor_written(tmp_path, monkeypatch, kind, by_folder):
    if not by_folder:
        monkeypatch.setattr(own_files, "_BY_FOLDER", False)
    record, user = place(tmp_path, kind)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(UntrustedRecordError, match="is not used as a record"):
        Claim.take(record)
    assert read_record(record) is None
    assert user.read_text(encoding="utf-8") == '{"precious": true}'
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_record_of_another_user_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(own_files.os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(own_files, "_owner_of_new_file", lambda path: os.getuid() + 1)
    with pytest.raises(NotOwnError, match="belongs to another user"):
        open_own(tmp_path / "a.json", create=True)


def test_a_file_system_on_which_all_files_have_one_owner_keeps_records(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(own_files.os, "geteuid", lambda: os.getuid() + 1)
    assert read_own(tmp_path / "a.json", 10) == b"{}"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a": "' + "x" * (5 << 20) + '"}'])
def test_a_huge_or_deep_record_is_none(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert read_record(tmp_path / "a.json") is None
    with Claim.take(tmp_path / "a.json") as claim:  # type: ignore[union-attr]
        assert claim.record() is None


def test_writing_replaces_a_link(tmp_path):
    (tmp_path / "letter.txt").write_text("precious", encoding="utf-8")
    (tmp_path / "a.json").symlink_to("letter.txt")
    write_whole(tmp_path / "a.json", b"{}")
    (tmp_path / "b.json").symlink_to("letter.txt")
    write_record(tmp_path / "b.json", {"b": 1})
    assert (tmp_path / "letter.txt").read_text(encoding="utf-8") == "precious"
    assert read_record(tmp_path / "a.json") == {}
    assert read_record(tmp_path / "b.json") == {"b": 1}


def test_a_digest_of_a_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        digest_of(tmp_path / "pipe")


def test_a_pipe_among_the_pictures_does_not_keep_a_run(tmp_path, photo):
    """Three pictures, so that they are read in threads, which no signal interrupts."""
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(photo)
    inputs = [str(tmp_path / name) for name in ("a.png", "pipe.png", "b.png")]
    command = [
        sys.executable,
        "-m",
        "sr_deploy",
        "upscale",
        *inputs,
        "-o",
        str(tmp_path / "out"),
        "--scale",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 5
    assert "pipe.png" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png"]


def test_a_video_uses_no_links_in_its_folder_of_parts(tmp_path):
    from sr_deploy.video.parts import Parts

    (tmp_path / "letter.txt").write_text("precious", encoding="utf-8")
    folder = tmp_path / ".a.mp4.sr-deploy"
    folder.mkdir()
    for name in ("unfinished.tmp", "000000.part", "plan.json"):
        (folder / name).symlink_to(tmp_path / "letter.txt")
    parts = Parts(tmp_path / "a.mp4")
    assert [path.name for path in folder.iterdir()] == ["lock"]
    parts.release()
    folder.symlink_to(tmp_path)
    with pytest.raises(OutputError, match="is a link"):
        Parts(tmp_path / "a.mp4")


@pytest.fixture
def photo():
    """A small PNG."""
    import io

    import numpy as np

    from sr_deploy.images.codecs.png import write_png
    from sr_deploy.images.image import Metadata

    file = io.BytesIO()
    write_png(file, np.full((9, 8, 3), 90, np.uint8), None, Metadata())
    return file.getvalue()


def guarded(folder):
    """Make `folder` with a folder above it, both the user's alone."""
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    folder.chmod(0o700)
    return folder


def test_a_folder_that_only_the_user_can_change_is_trusted(tmp_path):
    assert distrust_reason(guarded(tmp_path / "above" / "cache")) is None
    assert distrust_reason(tmp_path / "none" / "cache") is None


@pytest.mark.parametrize(("mode", "trusted"), [(0o777, False), (0o1777, True), (0o755, True), (0o757, False)])
def test_a_folder_above_that_others_may_write_to_spoils_it(tmp_path, mode, trusted):
    folder = guarded(tmp_path / "above" / "cache")
    folder.parent.chmod(mode)
    assert (distrust_reason(folder) is None) == trusted


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o707])
def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path, mode):
    folder = guarded(tmp_path / "above" / "cache")
    folder.chmod(mode)
    assert distrust_reason(folder) == "others may write to it"


def test_links_are_trusted_by_their_owner_and_by_where_they_lead(tmp_path, monkeypatch):
    folder = guarded(tmp_path / "above" / "cache")
    (tmp_path / "link").symlink_to(folder)
    assert distrust_reason(tmp_path / "link") is None
    folder.parent.chmod(0o777)
    assert "others may write" in (distrust_reason(tmp_path / "link") or "")
    folder.parent.chmod(0o700)
    real = own_files._is_trusted
    owner = (tmp_path / "link").lstat().st_uid
    monkeypatch.setattr(own_files, "_is_trusted", lambda uid: False)
    assert "another user" in (distrust_reason(tmp_path / "link") or "")
    monkeypatch.setattr(own_files, "_is_trusted", real)
    assert real(owner)


def test_private_folders_are_made_for_the_user_alone(tmp_path):
    before = os.umask(0)
    try:
        make_private_folder(tmp_path / "a" / "b")
        make_private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "a" / "b")] == [0o700] * 2
