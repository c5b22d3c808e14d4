"""Claims have one owner at a time, however it ends; records are complete or absent."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from sr_deploy.errors import OutputError
from sr_deploy.system import claims as manifest
from sr_deploy.system.claims import Claim, NoLocksError, read_record, stamp_of, write_record
from sr_deploy.system.files import digest_of

HOLD = """
import sys, time
from pathlib import Path
from sr_deploy.system.claims import Claim
claim = Claim.take(Path(sys.argv[1]))
claim.write({"by": "the other"})
print("held", flush=True)
time.sleep(60)
"""


def test_a_claim_is_had_by_one_and_free_again_after_it(tmp_path):
    path = tmp_path / "new" / "claim"
    first = Claim.take(path)
    assert first is not None
    assert Claim.take(path) is None
    first.release()
    first.release()
    with Claim.take(path) as second:  # type: ignore[union-attr]
        assert second.record() is None


def test_a_killed_process_leaves_its_claim_free_and_its_record_there(tmp_path):
    path = tmp_path / "claim"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert Claim.take(path) is None
        other.kill()
    claim = Claim.take(path)
    assert claim is not None
    assert claim.record() == {"by": "the other"}
    claim.release()


def test_a_shorter_record_leaves_nothing_of_a_longer_one(tmp_path):
    with Claim.take(tmp_path / "claim") as claim:  # type: ignore[union-attr]
        claim.write({"text": "größe " * 1000})
        claim.write({"text": "大"})
        assert claim.record() == {"text": "大"}
    assert read_record(tmp_path / "claim") == {"text": "大"}


@pytest.mark.parametrize("damage", [b"", b'{"done": tr', b"[1, 2]", b"\xff\xfe\x00"])
def test_a_damaged_record_is_none(tmp_path, damage):
    (tmp_path / "claim").write_bytes(damage)
    assert read_record(tmp_path / "claim") is None
    with Claim.take(tmp_path / "claim") as claim:  # type: ignore[union-attr]
        assert claim.record() is None


def test_what_is_discarded_is_gone_and_can_be_had_anew(tmp_path):
    path = tmp_path / "claim"
    claim = Claim.take(path)
    assert claim is not None
    claim.discard()
    claim.discard()
    assert not path.exists()
    with Claim.take(path) as again:  # type: ignore[union-attr]
        assert Claim.take(path) is None
        assert again.record() is None


def test_a_claim_on_a_file_that_was_removed_meanwhile_is_not_had(tmp_path, monkeypatch):
    """A file opened before it is discarded and locked afterwards: the lock would be on a deleted file."""
    path, real, times = tmp_path / "claim", manifest.try_lock, []

    def lock(descriptor: int) -> bool:
        if not times:
            path.unlink()
        times.append(descriptor)
        return real(descriptor)

    monkeypatch.setattr(manifest, "try_lock", lock)
    if os.name == "nt":
        pytest.skip("an open file cannot be removed on Windows")
    with Claim.take(path):  # type: ignore[union-attr]
        assert len(times) == 2
        assert path.exists()


def test_places_without_locks_or_rights_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot keep"):
        Claim.take(tmp_path / "file" / "claim")

    def none(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(manifest, "try_lock", none)
    with pytest.raises(NoLocksError, match="has no locks"):
        Claim.take(tmp_path / "claim")


def test_records_are_replaced_whole_and_files_are_told_by_their_bytes(tmp_path):
    path = tmp_path / "größe.json"
    write_record(path, {"a": 1})
    write_record(path, {"a": 2})
    assert read_record(path) == {"a": 2}
    assert [one.name for one in tmp_path.iterdir()] == ["größe.json"]
    assert read_record(tmp_path / "none") is None
    assert stamp_of(path)[0] == path.stat().st_size
    assert digest_of(path) == digest_of(path)
    before = digest_of(path)
    write_record(path, {"a": 3})
    assert digest_of(path) != before
