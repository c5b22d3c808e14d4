"""The ledger decides which pictures are made and records them. Other cases are tested through the command line."""

from __future__ import annotations

import pytest

from sr_deploy.batch.jobs import Job, record_path
from sr_deploy.batch.ledger import Ledger
from sr_deploy.errors import OutputError
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
    dying = Ledger(KEY, "resume")
    dying.begin(job, OutputFolders())
    job.target.write_bytes(b"written, not recorded")
    dying._held[job].claim.release()  # as the operating system does when a process dies
    assert make(Ledger(KEY, "resume"), job) == "made"
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
