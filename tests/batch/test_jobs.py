"""Plans of jobs: the target of every picture, before anything is read or written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sr_deploy.batch.jobs import plan_jobs
from sr_deploy.errors import ImageError, OutputError, UsageError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Folder with two pictures, one more in a subfolder, and files that are no pictures."""
    folder = tmp_path / "photos"
    (folder / "paris").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "notes.txt", "._a.JPG", "paris/c.webp"):
        (folder / name).write_bytes(b"content")
    return folder


def targets(jobs) -> list[Path]:
    return [job.target for job in jobs.todo]


def test_one_file_without_output_is_written_beside_it_with_a_suffix(photos):
    (job,) = plan_jobs([photos / "b.png"], beside_suffix="-x4").todo
    assert (job.source, job.target, job.format) == (photos / "b.png", photos / "b-x4.png", "png")


def test_one_file_and_an_output_with_a_pictures_suffix_is_that_file(photos, tmp_path):
    (job,) = plan_jobs([photos / "b.png"], tmp_path / "large.webp").todo
    assert (job.target, job.format) == (tmp_path / "large.webp", "webp")


def test_an_output_without_suffix_is_a_folder(photos, tmp_path):
    assert targets(plan_jobs([photos / "b.png"], tmp_path / "out")) == [tmp_path / "out" / "b.png"]


def test_an_existing_folder_is_a_folder_whatever_its_name(photos, tmp_path):
    (tmp_path / "out.png").mkdir()
    assert targets(plan_jobs([photos / "b.png"], tmp_path / "out.png")) == [tmp_path / "out.png" / "b.png"]


def test_a_trailing_slash_means_a_folder(photos, tmp_path):
    assert targets(plan_jobs([photos / "b.png"], f"{tmp_path}/out.png/")) == [tmp_path / "out.png" / "b.png"]


def test_a_folder_gives_its_pictures_sorted_without_hidden_files_and_subfolders(photos, tmp_path):
    jobs = plan_jobs([photos], tmp_path / "out")
    assert targets(jobs) == [tmp_path / "out" / "a.JPG", tmp_path / "out" / "b.png"]


def test_recursive_keeps_the_structure_of_subfolders(photos, tmp_path):
    jobs = plan_jobs([photos], tmp_path / "out", recursive=True)
    assert targets(jobs)[-1] == tmp_path / "out" / "paris" / "c.webp"
    assert len(jobs.todo) == 3


def test_a_glob_that_no_shell_expanded_is_expanded_here(photos, tmp_path):
    jobs = plan_jobs([f"{photos}/**/*.webp"], tmp_path / "out")
    assert [job.source for job in jobs.todo] == [photos / "paris" / "c.webp"]


def test_a_glob_that_matches_folders_means_the_pictures_in_them(photos, tmp_path):
    (tmp_path / "photo-files").mkdir()  # a folder without pictures, which the glob also matches
    (tmp_path / "photo.png").write_bytes(b"content")
    jobs = plan_jobs([f"{tmp_path}/photo*"], tmp_path / "out")
    assert sorted(job.source.name for job in jobs.todo) == ["a.JPG", "b.png", "photo.png"]
    deep = plan_jobs([f"{tmp_path}/photos*"], tmp_path / "out", recursive=True)
    assert targets(deep)[-1] == tmp_path / "out" / "paris" / "c.webp"


def test_a_glob_does_not_take_the_output_folder_for_an_input(photos):
    (photos / "large").mkdir()
    (photos / "large" / "b.png").write_bytes(b"the result of a run before")
    jobs = plan_jobs([f"{photos}/*"], photos / "large", existing="skip")
    assert photos / "large" / "b.png" not in [job.source for job in (*jobs.todo, *jobs.skipped)]
    assert photos / "paris" / "c.webp" in [job.source for job in jobs.todo]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    odd = tmp_path / "photo[1].png"
    odd.write_bytes(b"content")
    assert [job.source for job in plan_jobs([str(odd)]).todo] == [odd]


def test_a_picture_named_twice_is_one_job(photos, tmp_path):
    assert len(plan_jobs([photos / "b.png", photos, f"{photos}/../photos/b.png"], tmp_path / "out").todo) == 2


def test_the_format_changes_the_suffix_and_jpg_is_jpeg(photos, tmp_path):
    jobs = plan_jobs([photos], tmp_path / "out", format="jpg")
    assert targets(jobs) == [tmp_path / "out" / "a.JPG", tmp_path / "out" / "b.jpg"]
    assert {job.format for job in jobs.todo} == {"jpeg"}


def test_a_gif_becomes_a_png(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"content")
    assert targets(plan_jobs([tmp_path], tmp_path / "out")) == [tmp_path / "out" / "a.png"]


def test_an_explicit_suffix_counts_in_a_folder_too(photos, tmp_path):
    jobs = plan_jobs([photos / "b.png"], tmp_path / "out", suffix="_big")
    assert targets(jobs) == [tmp_path / "out" / "b_big.png"]


def test_a_missing_file_is_a_job_that_will_fail_on_its_own(photos, tmp_path):
    assert len(plan_jobs([photos / "b.png", photos / "nothing.png"], tmp_path / "out").todo) == 2


def test_running_twice_beside_the_inputs_does_not_upscale_results(photos):
    (photos / "b-x4.png").write_bytes(b"the result of a run before")
    jobs = plan_jobs([photos], beside_suffix="-x4", existing="skip")
    assert [job.source.name for job in jobs.todo] == ["a.JPG"]
    assert [job.source.name for job in jobs.skipped] == ["b.png"]
    assert len(jobs.notes) == 1
    assert "b-x4.png is skipped" in jobs.notes[0]


def test_an_output_folder_inside_the_input_is_not_an_input(photos):
    (photos / "large").mkdir()
    (photos / "large" / "b.png").write_bytes(b"the result of a run before")
    jobs = plan_jobs([photos], photos / "large", recursive=True, existing="overwrite")
    assert sorted(job.source.name for job in jobs.todo) == ["a.JPG", "b.png", "c.webp"]


# --- refused before any work ------------------------------------------------------------------------------


def test_a_folder_without_pictures_points_to_recursive(tmp_path):
    with pytest.raises(ImageError, match=r"holds no pictures.*--recursive"):
        plan_jobs([tmp_path])


def test_a_glob_without_matches_is_refused(tmp_path):
    with pytest.raises(ImageError, match="no file or folder matches"):
        plan_jobs([f"{tmp_path}/*.png"])


def test_a_glob_of_folders_without_pictures_says_what_they_lack(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(ImageError, match=r"holiday holds no pictures.*--recursive"):
        plan_jobs([f"{tmp_path}/holi*"])


def test_two_inputs_for_one_output_fail_and_the_others_do_not(photos, tmp_path):
    (photos / "b.webp").write_bytes(b"content")
    jobs = plan_jobs([photos], tmp_path / "out", format="png")
    assert [job.source.name for job in jobs.todo] == ["a.JPG"]
    assert [one.source.name for one in jobs.refused] == ["b.png", "b.webp"]
    assert jobs.refused[0].error is jobs.refused[1].error
    with pytest.raises(UsageError, match=r"b\.png and .*b\.webp would both be written to .*; rename"):
        plan_jobs([photos / "b.png", photos / "b.webp"], tmp_path / "out", format="png")


def test_what_cannot_be_done_among_several_is_refused_alone(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "out" / "a.JPG").mkdir(parents=True)
    inputs = [tmp_path / "empty", f"{tmp_path}/*.nef", "https://example.org/a.png", photos]
    jobs = plan_jobs(inputs, tmp_path / "out")
    assert [job.source.name for job in jobs.todo] == ["b.png"]
    said = [str(one.error) for one in jobs.refused]
    for sentence, part in zip(
        said,
        ("no pictures", "no file or folder", "download the file first", "a folder with this name"),
        strict=True,
    ):
        assert part in sentence


@pytest.mark.parametrize("recursive", [True, False])
def test_a_folder_that_cannot_be_read_is_named(photos, tmp_path, monkeypatch, recursive):
    locked, scandir = photos / "paris" if recursive else photos, os.scandir

    def guarded(path):
        if os.fspath(path) == os.fspath(locked):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    if not recursive:
        with pytest.raises(ImageError, match=r"photos cannot be read \(Permission denied\)"):
            plan_jobs([photos], tmp_path / "out")
        return
    jobs = plan_jobs([photos], tmp_path / "out", recursive=True)
    assert len(jobs.todo) == 2
    assert "paris cannot be read (Permission denied)" in str(jobs.refused[0].error)


@pytest.mark.skipif(os.name == "nt", reason="the limits of names are others there")
def test_names_that_are_too_long_are_left_to_fail_on_their_own(photos):
    long = photos / f"{'n' * 250}.png"
    long.write_bytes(b"content")
    jobs = plan_jobs([photos / "b.png", long, photos / ("m" * 300)], beside_suffix="-upscaled")
    assert len(jobs.todo) == 3


@pytest.mark.parametrize(("inputs", "output"), [([""], None), (["a.png"], ""), (["a.png"], "-")])
def test_empty_names_and_stdout_are_refused(inputs, output):
    with pytest.raises(UsageError, match="name a file"):
        plan_jobs(inputs, output)


def test_one_file_under_an_unknown_suffix_is_not_taken_for_a_folder(photos, tmp_path):
    with pytest.raises(UsageError, match=r"\.png, .*not as \.foo; .* end the name in / for a folder"):
        plan_jobs([photos / "b.png"], tmp_path / "out.foo")
    assert targets(plan_jobs([photos / "b.png"], f"{tmp_path}/out.foo/")) == [tmp_path / "out.foo" / "b.png"]
    assert targets(plan_jobs([photos], tmp_path / "out.foo"))[0].parent == tmp_path / "out.foo"


def test_jpe_and_jfif_are_jpeg(photos, tmp_path):
    (job,) = plan_jobs([photos / "b.png"], tmp_path / "out.jpe").todo
    assert job.format == "jpeg"
    (photos / "d.jfif").write_bytes(b"content")
    assert targets(plan_jobs([photos], tmp_path / "out"))[-1] == tmp_path / "out" / "d.jfif"


def test_many_inputs_into_one_file_are_refused(photos, tmp_path):
    with pytest.raises(UsageError, match="is one file"):
        plan_jobs([photos], tmp_path / "out.png")


def test_a_format_that_is_not_written_is_not_taken_for_a_folder(photos, tmp_path):
    with pytest.raises(UsageError, match=r"\.gif files cannot be written"):
        plan_jobs([photos / "b.png"], tmp_path / "out.gif")


def test_a_file_that_is_in_the_way_of_a_folder_is_refused(photos, tmp_path):
    (tmp_path / "out").write_bytes(b"content")
    with pytest.raises(OutputError, match="is a file without a picture"):
        plan_jobs([photos], tmp_path / "out")


def test_a_format_that_contradicts_the_output_is_refused(photos, tmp_path):
    with pytest.raises(UsageError, match="--format asks for webp"):
        plan_jobs([photos / "b.png"], tmp_path / "out.png", format="webp")


def test_an_unknown_format_is_refused(photos):
    with pytest.raises(UsageError, match="gif"):
        plan_jobs([photos / "b.png"], format="gif")


def test_an_input_is_never_its_own_output_even_with_overwrite(photos):
    with pytest.raises(OutputError, match="would overwrite itself"):
        plan_jobs([photos / "b.png"], photos / "b.png", existing="overwrite")
    with pytest.raises(OutputError, match="would overwrite itself"):
        plan_jobs([photos], photos, existing="overwrite")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_an_input_is_protected_through_links_too(photos, tmp_path, link):
    try:
        link(photos / "b.png", tmp_path / "out.png")
    except OSError:
        pytest.skip("this system makes no such links")
    with pytest.raises(OutputError, match="would overwrite itself"):
        plan_jobs([photos / "b.png"], tmp_path / "out.png", existing="overwrite")


def test_another_input_is_protected_as_well(photos):
    os.link(photos / "a.JPG", photos / "b-x4.png")
    with pytest.raises(OutputError, match="would overwrite the input"):
        plan_jobs([photos / "a.JPG", photos / "b.png"], beside_suffix="-x4", existing="overwrite")


def test_an_existing_output_is_an_error_that_names_both_ways_out(photos, tmp_path):
    (tmp_path / "b.png").write_bytes(b"content")
    with pytest.raises(OutputError, match="--overwrite or --skip-existing"):
        plan_jobs([photos], tmp_path)
    assert len(plan_jobs([photos], tmp_path, existing="overwrite").todo) == 2


def test_a_folder_of_the_outputs_name_is_an_error(photos, tmp_path):
    (tmp_path / "b.png").mkdir()
    with pytest.raises(OutputError, match="a folder with this name exists"):
        plan_jobs([photos / "b.png"], f"{tmp_path}/", existing="overwrite")


def test_a_suffix_with_a_separator_is_refused(photos):
    with pytest.raises(UsageError, match="path separator"):
        plan_jobs([photos / "b.png"], suffix="/x")
