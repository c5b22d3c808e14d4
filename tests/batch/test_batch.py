"""Batches: every picture, in order, with bounded memory, and written completely or not at all."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.batch import run as batch
from sr_deploy.batch.jobs import Job, plan_jobs
from sr_deploy.batch.run import run_jobs
from sr_deploy.batch.steps import WriteSettings
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.errors import ImageError, OutOfMemoryError, OutputError, UsageError
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.images.sizes import OutputSize
from sr_deploy.upscale import Upscaler


@pytest.fixture
def upscaler() -> Upscaler:
    return Upscaler(NearestEngine(2))


def picture(path: Path, seed: int = 0, width: int = 9, height: int = 7) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    write_image(Image(pixels=pixels), path)
    return pixels


def folder_of(tmp_path: Path, count: int) -> list[Job]:
    (tmp_path / "in").mkdir()
    for i in range(count):
        picture(tmp_path / "in" / f"{i:02}.png", seed=i)
    return list(plan_jobs([tmp_path / "in"], tmp_path / "out").todo)


class Recorder:
    """Listener that stores the calls it gets."""

    def __init__(self) -> None:
        self.tiles: list[tuple[str, int, int]] = []
        self.finished_names: list[str] = []

    def tile(self, job, done, total):
        self.tiles.append((job.source.name, done, total))

    def finished(self, outcome):
        self.finished_names.append(outcome.job.source.name)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_every_picture_is_upscaled_in_order(tmp_path, upscaler, count):
    jobs, recorder = folder_of(tmp_path, count), Recorder()
    outcomes = run_jobs(jobs, upscaler, watcher=recorder)
    assert [outcome.status for outcome in outcomes] == ["done"] * count
    assert recorder.finished_names == [job.source.name for job in jobs]
    assert recorder.tiles == [(job.source.name, 1, 1) for job in jobs]
    for job, outcome in zip(jobs, outcomes, strict=True):
        expected = read_image(job.source).pixels.repeat(2, axis=0).repeat(2, axis=1)
        np.testing.assert_array_equal(read_image(job.target).pixels, expected)
        assert (outcome.width, outcome.height) == (18, 14)


def test_one_picture_takes_no_thread(tmp_path, upscaler, monkeypatch):
    (job,) = folder_of(tmp_path, 1)
    threads = []
    monkeypatch.setattr(
        batch, "read_image", lambda path: threads.append(threading.current_thread()) or read_image(path)
    )
    run_jobs([job], upscaler)
    assert threads == [threading.main_thread()]


def test_a_broken_picture_does_not_stop_the_others(tmp_path, upscaler):
    jobs = folder_of(tmp_path, 5)
    jobs[1].source.write_bytes(b"not a picture")
    jobs[3].source.unlink()
    outcomes = run_jobs(jobs, upscaler)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done", "failed", "done"]
    assert all(isinstance(outcomes[i].error, ImageError) for i in (1, 3))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00.png", "02.png", "04.png"]


def test_reading_runs_ahead_and_writing_behind_by_a_few_pictures_only(tmp_path, upscaler, monkeypatch):
    jobs = folder_of(tmp_path, 12)
    in_flight, seen, lock = [0], [], threading.Lock()

    def count(change):
        with lock:
            in_flight[0] += change
            seen.append(in_flight[0])

    def reading(path):
        count(+1)
        return read_image(path)

    def writing(*arguments, **options):
        notes = write_image(*arguments, **options)
        count(-1)
        return notes

    monkeypatch.setattr(batch, "read_image", reading)
    monkeypatch.setattr(batch, "write_image", writing)
    run_jobs(jobs, upscaler)
    assert in_flight == [0]
    assert max(seen) <= 5  # two read ahead, one computed, two being written


def test_a_picture_is_read_and_computed_while_the_one_before_it_is_written(tmp_path, monkeypatch):
    jobs = folder_of(tmp_path, 2)
    second_is_computed, in_time = threading.Event(), []

    class Telling(NearestEngine):
        calls = 0

        def run(self, pixels, out=None):
            result = super().run(pixels, out)
            self.calls += 1
            if self.calls == 2:
                second_is_computed.set()
            return result

    def writing(image, path, **options):
        if path == jobs[0].target:
            in_time.append(second_is_computed.wait(timeout=20))
        return write_image(image, path, **options)

    monkeypatch.setattr(batch, "write_image", writing)
    run_jobs(jobs, Upscaler(Telling(2)))
    assert in_time == [True]


def test_a_picture_is_read_while_the_one_before_it_is_computed(tmp_path, monkeypatch):
    jobs = folder_of(tmp_path, 2)
    second_is_read, in_time = threading.Event(), []

    class Waiting(NearestEngine):
        def run(self, pixels, out=None):
            in_time.append(second_is_read.wait(timeout=20))
            return super().run(pixels, out)

    def reading(path):
        image = read_image(path)
        if path == jobs[1].source:
            second_is_read.set()
        return image

    monkeypatch.setattr(batch, "read_image", reading)
    run_jobs(jobs, Upscaler(Waiting(2)))
    assert in_time[0] is True


def test_a_huge_result_waits_until_the_ones_before_it_are_written(tmp_path, monkeypatch):
    jobs = folder_of(tmp_path, 8)
    monkeypatch.setattr(batch, "_HUGE_PIXELS", 1)
    written: list[Path] = []
    before: list[int] = []

    class Counting(NearestEngine):
        def run(self, pixels, out=None):
            before.append(len(written))
            return super().run(pixels, out)

    def writing(image, path, **options):
        notes = write_image(image, path, **options)
        written.append(path)
        return notes

    monkeypatch.setattr(batch, "write_image", writing)
    run_jobs(jobs, Upscaler(Counting(2)))
    assert before == list(range(8))


def test_an_interrupt_leaves_whole_pictures_only(tmp_path, upscaler):
    jobs = folder_of(tmp_path, 9)

    class Impatient(Recorder):
        def finished(self, outcome):
            super().finished(outcome)
            if len(self.finished_names) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, upscaler, watcher=Impatient())
    left = sorted((tmp_path / "out").iterdir())
    assert 3 <= len(left) < 9
    for path in left:
        assert read_image(path).width == 18


def test_a_target_that_appears_meanwhile_is_skipped_when_existing_ones_are(tmp_path, upscaler, monkeypatch):
    first, second = folder_of(tmp_path, 2)
    (tmp_path / "out").mkdir()
    picture(first.target, seed=99)  # before it is read

    def racing(image, path, **options):
        picture(second.target, seed=98)  # while the second is computed
        return write_image(image, path, **options)

    monkeypatch.setattr(batch, "write_image", racing)
    outcomes = run_jobs([first, second], upscaler, settings=WriteSettings(existing="skip"))
    assert [outcome.status for outcome in outcomes] == ["skipped", "skipped"]
    assert read_image(first.target).width == read_image(second.target).width == 9


def test_a_target_that_appears_meanwhile_is_kept_and_reported_otherwise(tmp_path, upscaler):
    (job,) = folder_of(tmp_path, 1)
    job.target.parent.mkdir()
    picture(job.target, seed=99)
    (outcome,) = run_jobs([job], upscaler)
    assert isinstance(outcome.error, OutputError)
    assert read_image(job.target).width == 9
    (outcome,) = run_jobs([job], upscaler, settings=WriteSettings(existing="overwrite"))
    assert outcome.error is None
    assert read_image(job.target).width == 18


def test_a_size_the_format_cannot_hold_fails_before_it_is_computed(tmp_path, upscaler):
    picture(tmp_path / "wide.png", width=9000, height=2)
    (outcome,) = run_jobs([Job(tmp_path / "wide.png", tmp_path / "out.webp", "webp")], upscaler)
    assert isinstance(outcome.error, UsageError)
    assert str(outcome.error).endswith(", with --format png")
    assert not (tmp_path / "out.webp").exists()


@pytest.fixture
def idle() -> Upscaler:
    """Upscaler that fails if it is used."""

    class Idle(NearestEngine):
        def run(self, pixels, out=None):
            pytest.fail("computed in vain")

    return Upscaler(Idle(2))


def test_a_folder_that_cannot_be_made_is_one_clear_failure_before_the_work(tmp_path, idle):
    picture(tmp_path / "a.png")
    (tmp_path / "file").write_bytes(b"")
    (outcome,) = run_jobs([Job(tmp_path / "a.png", tmp_path / "file" / "deep" / "a.png", "png")], idle)
    assert isinstance(outcome.error, OutputError)
    assert "cannot make the folder" in str(outcome.error)
    assert f"{tmp_path / 'file'} is a file" in str(outcome.error)


def test_a_folder_that_takes_no_files_is_found_out_before_the_work(tmp_path, idle, monkeypatch):
    first, second = folder_of(tmp_path, 2)

    def refused(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("sr_deploy.system.output_folder.os.open", refused)
    outcomes = run_jobs([first, second], idle)
    monkeypatch.undo()
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert all(isinstance(outcome.error, OutputError) for outcome in failed)
    assert "no file can be made in" in str(failed[0].error)
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_full_ends_the_batch(tmp_path, monkeypatch):
    jobs, computed = folder_of(tmp_path, 12), []

    class Counting(NearestEngine):
        def run(self, pixels, out=None):
            computed.append(1)
            return super().run(pixels, out)

    def full(image, path, **options):
        raise OutputError("no room") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(batch, "write_image", full)
    outcomes = run_jobs(jobs, Upscaler(Counting(2)))
    assert len(outcomes) == 12
    assert outcomes[0].status == "failed"
    assert outcomes[-1].status == "left"
    assert len(computed) < 8  # those that had been read ahead


def test_a_file_that_forbids_to_be_replaced_does_not_end_the_batch(tmp_path, upscaler, monkeypatch):
    jobs = folder_of(tmp_path, 6)

    def guarded(image, path, **options):
        if path == jobs[0].target:
            raise OutputError("in use") from PermissionError(errno.EACCES, "Permission denied")
        return write_image(image, path, **options)

    monkeypatch.setattr(batch, "write_image", guarded)
    assert [one.status for one in run_jobs(jobs, upscaler)] == ["failed", *["done"] * 5]


def test_a_system_without_threads_to_spare_is_out_of_memory(tmp_path, upscaler, monkeypatch):
    jobs = folder_of(tmp_path, 2)

    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(OutOfMemoryError, match="no more threads"):
        run_jobs(jobs, upscaler)


def test_a_result_of_too_many_pixels_is_refused_before_the_work(tmp_path, idle):
    (job,) = folder_of(tmp_path, 1)
    (outcome,) = run_jobs([job], idle, settings=WriteSettings(size=OutputSize(width=100_000, height=100_000)))
    assert isinstance(outcome.error, UsageError)
    assert "100000x100000 pixels was asked for, at most 1073741824" in str(outcome.error)
    with pytest.raises(UsageError, match="at most 1000000 pixels a side"):
        OutputSize(fit=(10, 1_000_001))


def test_a_target_that_is_no_file_is_found_out_before_the_work(tmp_path, idle):
    (job,) = folder_of(tmp_path, 1)
    job.target.mkdir(parents=True)
    (outcome,) = run_jobs([job], idle, settings=WriteSettings(existing="overwrite"))
    assert isinstance(outcome.error, OutputError)
    assert "it is a folder" in str(outcome.error)


def test_folders_that_stay_empty_are_removed_again_and_others_are_not(tmp_path, upscaler):
    picture(tmp_path / "a.png")
    picture(tmp_path / "wide.png", width=9000, height=2)
    (tmp_path / "there").mkdir()
    jobs = [
        Job(tmp_path / "a.png", tmp_path / "new" / "a.png", "png"),
        Job(tmp_path / "wide.png", tmp_path / "new" / "deep" / "wide.webp", "webp"),
        Job(tmp_path / "wide.png", tmp_path / "there" / "wide.webp", "webp"),
    ]
    outcomes = run_jobs(jobs, upscaler)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "failed"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(("format", "quality"), [("jpeg", 101), ("png", 101), ("webp", 102), ("webp", 0)])
def test_a_quality_that_a_format_lacks_is_refused_before_the_work(tmp_path, idle, format, quality):
    picture(tmp_path / "a.png")
    jobs = [Job(tmp_path / "a.png", tmp_path / "out" / "a", name) for name in ("webp", format)]
    with pytest.raises(UsageError, match=f"for {format}, got {quality}"):
        run_jobs(jobs, idle, settings=WriteSettings(quality=quality))
    assert not (tmp_path / "out").exists()


def test_a_result_that_does_not_fit_into_memory_is_refused_before_the_work(tmp_path, idle, monkeypatch):
    (job,) = folder_of(tmp_path, 1)
    monkeypatch.setattr("sr_deploy.images.sizes.available_memory", lambda: 8 << 20)
    (outcome,) = run_jobs([job], idle, settings=WriteSettings(size=OutputSize(width=1900)))
    assert isinstance(outcome.error, OutOfMemoryError)
    assert "1900x1478 pixels takes 8 MiB" in str(outcome.error)
    assert "--width, --height or --fit" in str(outcome.error)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (OutputSize(), None),
        (OutputSize(width=30), (30, 20)),
        (OutputSize(height=30), (45, 30)),
        (OutputSize(width=30, height=30), (30, 30)),
        (OutputSize(fit=(30, 30)), (30, 20)),
        (OutputSize(fit=(300, 10)), (15, 10)),
        (OutputSize(width=1), (1, 1)),
    ],
)
def test_the_output_size_keeps_proportions_unless_both_sides_are_given(asked, expected):
    assert asked.of(60, 40) == expected


def test_contradicting_sizes_are_refused():
    with pytest.raises(UsageError, match="leave --width and --height out"):
        OutputSize(width=10, fit=(10, 10))
    with pytest.raises(UsageError, match="positive"):
        OutputSize(height=0)


def test_the_asked_size_is_what_is_written(tmp_path, upscaler):
    (job,) = folder_of(tmp_path, 1)
    (outcome,) = run_jobs([job], upscaler, settings=WriteSettings(size=OutputSize(width=31)))
    result = read_image(job.target)
    assert (outcome.width, outcome.height) == (result.width, result.height) == (31, 24)


def test_a_picture_that_takes_minutes_says_so_after_its_first_tile(tmp_path, monkeypatch):
    now = iter(range(0, 10**6, 50))
    monkeypatch.setattr(batch.time, "monotonic", lambda: float(next(now)))
    said: list[tuple[tuple[int, int], float]] = []
    watcher = Recorder()
    monkeypatch.setattr(
        watcher, "slow", lambda job, size, seconds: said.append((size, seconds)), raising=False
    )
    progress = batch._progress(watcher, Job(tmp_path / "a.png", tmp_path / "b.png", "png"), (4000, 3000))
    for done in range(1, 5):
        progress(done, 4)
    assert said == [((4000, 3000), 200.0)]
    assert len(watcher.tiles) == 4
    progress = batch._progress(watcher, Job(tmp_path / "a.png", tmp_path / "b.png", "png"), (4000, 3000))
    progress(1, 2)
    assert len(said) == 1
