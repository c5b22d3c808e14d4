"""The ledger decides which pictures are made and records them. Other cases are tested through the command line."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from sr_deploy.batch import ledger as ledger_module
from sr_deploy.batch.jobs import Job, record_path
from sr_deploy.batch.ledger import Ledger
from sr_deploy.errors import OutputError
from sr_deploy.system.claims import Claim
from sr_deploy.system.output_folder import OutputFolders

KEY = {"model": "one", "quality": None}


@pytest.fixture
def job(tmp_path):
    """Job for a picture without a result."""
    source = tmp_path / "a.png"
    source.write_bytes(b"the picture")
    return Job(source, tmp_path / "out" / "a.png", "png")


def make(ledger: Ledger, job: Job) -> str:
    """Return the decision about a picture; if it is "make", record it as done."""
    folders = OutputFolders()
    folders.make(job.target.parent)
    decision = ledger.begin(job, folders)
    if decision.do != "make":
        return decision.do
    assert job.target.exists() <= (decision.existing != "refuse")
    job.target.write_bytes(b"the result")
    ledger.done(job)
    return "made"


def test_a_picture_is_made_once_and_again_when_the_key_changes(job):
    assert [make(Ledger(KEY, "resume"), job) for _ in range(2)] == ["made", "skip"]
    assert make(Ledger({**KEY, "model": "two"}, "resume"), job) == "made"


def test_quality_counts_only_where_the_format_has_one(job):
    make(Ledger(KEY, "resume"), job)
    assert make(Ledger({**KEY, "quality": 50}, "resume"), job) == "skip"


def test_overwriting_runs_that_began_together_do_not_repeat_each_other(job):
    make(Ledger(KEY, "resume"), job)
    first, second = Ledger(KEY, "overwrite"), Ledger(KEY, "overwrite")
    assert make(first, job) == "made"
    assert make(second, job) == "skip"
    assert make(Ledger(KEY, "overwrite"), job) == "made"


def test_two_ledgers_never_have_one_picture(job):
    first, second = Ledger(KEY, "resume"), Ledger(KEY, "resume")
    assert first.begin(job, OutputFolders()).do == "make"
    assert second.begin(job, OutputFolders()).do == "taken"
    first.close()
    assert not record_path(job.target).exists()
    assert second.begin(job, OutputFolders()).do == "make"
    second.close()


def test_a_result_that_was_being_made_when_its_process_died_is_made_again(job):
    die(Ledger(KEY, "resume"), job)
    assert make(Ledger({**KEY, "model": "two"}, "resume"), job) == "made"
    assert job.target.read_bytes() == b"the result"


def die(ledger: Ledger, job: Job, *, named: bool = True) -> None:
    """Make a result as a process does that dies after it is written: before or after it is named."""
    folders = OutputFolders()
    folders.make(job.target.parent)
    assert ledger.begin(job, folders).do == "make"
    draft = job.target.with_name(".draft")
    draft.write_bytes(b"written, not recorded")
    ledger.written(job, draft)
    if named:
        draft.replace(job.target)
    ledger._held[job].claim.release()  # as the operating system does when a process dies


def test_a_killed_run_gives_no_right_to_replace_a_file(job):
    """The run dies before or after its result is written; then the user puts a picture of their own there."""
    dying = Ledger(KEY, "resume")
    dying.begin(job, OutputFolders())
    dying._held[job].claim.release()
    job.target.write_bytes(b"someone's own")
    for _ in range(2):
        with pytest.raises(OutputError, match="was not made by sr-deploy"):
            really_make(Ledger(KEY, "resume"), job)
        assert job.target.read_bytes() == b"someone's own"
        job.target.unlink()
        die(Ledger(KEY, "resume"), job, named=False)
        job.target.write_bytes(b"someone's own")


def really_make(ledger: Ledger, job: Job, result: bytes = b"the result") -> str:
    """Make a picture as a run does: record first, name afterwards. Returns the decision, or "made"."""
    folders = OutputFolders()
    folders.make(job.target.parent)
    decision = ledger.begin(job, folders)
    if decision.do != "make":
        return decision.do
    assert job.target.exists() <= (decision.existing != "refuse")
    draft = job.target.with_name(".draft")
    draft.write_bytes(result)
    try:
        ledger.written(job, draft)
        draft.replace(job.target)
        ledger.done(job)
    finally:
        ledger.close()
    return "made"


def test_the_result_before_the_one_that_was_being_made_is_still_ours(job):
    assert really_make(Ledger(KEY, "resume"), job) == "made"
    die(Ledger({**KEY, "model": "two"}, "resume"), job, named=False)
    assert job.target.read_bytes() == b"the result"
    assert really_make(Ledger({**KEY, "model": "two"}, "resume"), job, b"another") == "made"
    assert really_make(Ledger({**KEY, "model": "two"}, "resume"), job) == "skip"


RESULT = bytes(range(1, 256)) * 40 + b"the end"


@pytest.mark.parametrize("kept", [0, 1, 3000, len(RESULT) - 1])
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("touched", [True, False])
def test_a_result_that_a_power_loss_damaged_is_made_again(job, kept, zeros, touched):
    assert really_make(Ledger(KEY, "resume"), job, RESULT) == "made"
    status = job.target.stat()
    job.target.write_bytes(RESULT[:kept] + bytes(len(RESULT) - kept if zeros else 0))
    if not touched:
        os.utime(job.target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert really_make(Ledger(KEY, "resume"), job, RESULT) == "made"
    assert job.target.read_bytes() == RESULT
    assert really_make(Ledger(KEY, "resume"), job, RESULT) == "skip"


@pytest.mark.parametrize("kept", [0, 1, 100])
@pytest.mark.parametrize("zeros", [True, False])
def test_a_record_that_a_power_loss_damaged_is_made_again_with_its_result(job, kept, zeros):
    assert really_make(Ledger(KEY, "resume"), job, RESULT) == "made"
    record = record_path(job.target)
    text = record.read_bytes()
    record.write_bytes(text[:kept] + bytes(len(text) - kept if zeros else 0))
    job.target.write_bytes(RESULT[:50])
    assert really_make(Ledger(KEY, "resume"), job, RESULT) == "made"
    assert really_make(Ledger(KEY, "resume"), job, RESULT) == "skip"
    record.write_bytes(text[:kept])
    job.target.write_bytes(b"someone's own")
    with pytest.raises(OutputError, match="was not made by sr-deploy"):
        really_make(Ledger(KEY, "resume"), job, RESULT)
    assert job.target.read_bytes() == b"someone's own"


def test_a_file_that_is_put_there_while_the_result_is_made_stays(job):
    assert really_make(Ledger(KEY, "resume"), job) == "made"
    ledger = Ledger({**KEY, "model": "two"}, "resume")
    assert ledger.begin(job, OutputFolders()).existing == "overwrite"
    job.target.write_bytes(b"someone's own")
    with pytest.raises(OutputError, match="was not made by sr-deploy"):
        ledger.written(job, job.source)
    ledger.close()
    assert job.target.read_bytes() == b"someone's own"


def test_changed_bytes_are_found_by_their_checksum_if_asked(job):
    assert really_make(Ledger(KEY, "resume"), job, RESULT) == "made"
    status = job.target.stat()
    job.target.write_bytes(RESULT.replace(b"A", b"B"))
    os.utime(job.target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert really_make(Ledger(KEY, "resume"), job, RESULT) == "skip"
    assert really_make(Ledger(KEY, "resume", check=True), job, RESULT) == "made"
    assert really_make(Ledger(KEY, "resume", check=True), job, RESULT) == "skip"
    os.utime(job.target, (1, 1))  # copied without its time: the checksum says that it is ours
    assert really_make(Ledger(KEY, "resume"), job, RESULT) == "skip"


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="no order is known here")
def test_a_clock_that_was_wrong_changes_nothing(job, monkeypatch):
    monkeypatch.setattr(ledger_module.time, "time", lambda: 4e9)
    first, second = Ledger(KEY, "overwrite"), Ledger(KEY, "overwrite")
    assert really_make(first, job) == "made"
    monkeypatch.setattr(ledger_module.time, "time", lambda: 1e9)
    assert really_make(second, job) == "skip"
    assert really_make(Ledger(KEY, "overwrite"), job) == "made"
    assert really_make(Ledger(KEY, "resume"), job) == "skip"


@pytest.mark.parametrize("order", [["another start", 1 << 62], ["", 0], "2100", None, [1], ["x", "y"]])
def test_a_record_of_another_machine_or_of_nonsense_counts_as_old(job, order):
    assert really_make(Ledger(KEY, "resume"), job) == "made"
    with Claim.take(record_path(job.target)) as claim:
        claim.write({**(claim.record() or {}), "order": order, "when": 4e9})
    assert really_make(Ledger(KEY, "overwrite"), job) == "made"


@pytest.mark.parametrize(
    "record",
    [{"target": 5}, {"target": []}, {"target": ["a", {}]}, {"source": 3}, {"key": [], "before": "x"}],
)
def test_a_record_of_wrong_types_is_no_record(job, record):
    assert really_make(Ledger(KEY, "resume"), job) == "made"
    with Claim.take(record_path(job.target)) as claim:
        claim.write({**(claim.record() or {}), "crc32": 0, **record})
    with suppress(OutputError):
        really_make(Ledger(KEY, "resume"), job)
    assert job.target.read_bytes() == b"the result"


def test_what_is_not_ours_is_refused_skipped_or_replaced_as_told(job):
    job.target.parent.mkdir()
    job.target.write_bytes(b"someone's own")
    with pytest.raises(OutputError, match="was changed after it was made, or was not made by sr-deploy"):
        make(Ledger(KEY, "resume"), job)
    assert make(Ledger(KEY, "skip"), job) == "skip"
    assert job.target.read_bytes() == b"someone's own"
    assert make(Ledger(KEY, "overwrite"), job) == "made"


def test_a_place_that_takes_no_records_takes_pictures(job):
    job.target.parent.mkdir()
    (job.target.parent / ".sr-deploy").write_text("in the way", encoding="utf-8")
    assert make(Ledger(KEY, "resume"), job) == "made"
