"""`sr-deploy upscale` as its users call it, with a model that repeats pixels, so that every result is known."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sr_deploy import cli
from sr_deploy.batch import run as batch
from sr_deploy.errors import OutputError
from sr_deploy.images.image import read_image
from sr_deploy.upscale import Upscaler


def assert_repeated(source: Path, target: Path, scale: int) -> None:
    expected = read_image(source).pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    np.testing.assert_array_equal(read_image(target).pixels, expected)


def files(folder: Path) -> list[str]:
    """All but what is remembered of the results."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if ".sr-deploy" not in path.parts)


def test_one_picture_is_written_beside_itself_four_times_as_large(run, bundle, picture):
    photo = picture("größe 大.png")
    result = run("upscale", photo)
    assert (result.exit_code, result.stdout) == (0, "")
    target = photo.with_name("größe 大-x4.png")
    assert_repeated(photo, target, 4)
    assert result.stderr.startswith(f"{photo} -> {target} (36x28, ")
    assert result.stderr.endswith(" s, onnxruntime)\n")


def test_scale_chooses_the_bundled_model_and_output_names_the_file(run, bundle, picture, tmp_path):
    photo = picture()
    assert run("upscale", photo, "-o", tmp_path / "new" / "large.png", "--scale", 2).exit_code == 0
    assert_repeated(photo, tmp_path / "new" / "large.png", 2)


def test_a_model_file_serves_as_well_as_a_name(run, bundle, picture, tmp_path):
    photo, model = picture(), tmp_path / "mine.onnx"
    model.write_bytes((bundle / "rt-x2.onnx").read_bytes())
    assert run("upscale", photo, "--model", model).exit_code == 0
    assert_repeated(photo, photo.with_name("photo-x2.png"), 2)


@pytest.mark.parametrize("tile", ["auto", "none", "16"])
def test_tiles_do_not_show(run, bundle, picture, tmp_path, tile):
    photo = picture(width=50, height=41)
    result = run("upscale", photo, "-o", tmp_path / "out.png", "--tile", tile, "--threads", 1)
    assert result.exit_code == 0
    assert_repeated(photo, tmp_path / "out.png", 4)


def test_a_folder_keeps_its_structure_and_ends_in_a_summary(run, bundle, picture, tmp_path):
    for name in ("in/a.png", "in/b.bmp", "in/deep/c.png"):
        picture(name)
    result = run("upscale", tmp_path / "in", "-o", tmp_path / "out", "--recursive")
    assert result.exit_code == 0
    assert files(tmp_path / "out") == ["a.png", "b.bmp", "deep/c.png"]
    assert result.stderr.splitlines()[0].startswith("[1/3] ")
    assert result.stderr.splitlines()[-1].startswith("3 upscaled in ")


def test_one_bad_picture_of_several_is_named_and_the_others_are_done(run, bundle, picture, tmp_path):
    picture("in/a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no picture at all, just text")
    picture("in/c.png")
    result = run("upscale", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 5
    assert files(tmp_path / "out") == ["a.png", "c.png"]
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert "b.png" in error
    assert result.stderr.splitlines()[-1].startswith("2 upscaled, 1 failed in ")


def test_one_bad_picture_alone_has_its_own_exit_code_and_one_line(run, bundle, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture at all, just text")
    for name in ("a.png", "missing.png"):
        result = run("upscale", tmp_path / name, "-o", tmp_path / "out")
        assert result.exit_code == 3
        assert len(result.stderr.splitlines()) == 1
        assert name in result.stderr
    assert not (tmp_path / "out").exists()


def test_one_bad_input_of_several_does_not_stop_the_others(run, bundle, picture, tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("upscale", tmp_path / "empty", picture(), "-o", tmp_path / "out", "--json")
    assert result.exit_code == 5
    assert files(tmp_path / "out") == ["photo.png"]
    assert "error: folder" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("1 upscaled, 1 failed in ")
    bad, good = (json.loads(line) for line in result.stdout.splitlines())
    assert (bad["status"], bad["output"], good["status"]) == ("failed", None, "done")
    assert bad.keys() == good.keys()


def test_a_full_disk_is_said_once_and_the_rest_is_left(run, bundle, picture, tmp_path, monkeypatch):
    for i in range(12):
        picture(f"in/{i}.png")

    def full(image, path, **options):
        raise OutputError(f"cannot write {path}: no room") from OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(batch, "write_image", full)
    result = run("upscale", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 5
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) < 9
    assert errors[-1].startswith("error: the rest, ")


@pytest.mark.skipif(os.name == "nt", reason="descriptors are closed by a POSIX shell")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_output_that_nobody_takes_does_not_fail_the_work(bundle, picture, tmp_path, closed):
    if "/dev/full" in closed and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "sr_deploy", "upscale", str(picture()), "-o", str(tmp_path / "out.png")]
    line = shlex.join([*command, "--model", str(bundle / "rt-x2.onnx")])
    result = subprocess.run(["sh", "-c", f"{line} {closed}"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
    assert "Traceback" not in result.stderr
    assert_repeated(tmp_path / "photo.png", tmp_path / "out.png", 2)


def test_a_file_that_is_no_model_is_called_what_it_is(run, bundle, picture, tmp_path):
    for content, answer in (
        (b"PK\x03\x04rest", "PyTorch checkpoint"),
        (
            b'\x10\0\0\0\0\0\0\0{"weight": {}}   ',
            "is a checkpoint, not an ONNX model; run `sr-deploy export`",
        ),
        (b"version https://git-lfs", "git lfs pull"),
    ):
        (tmp_path / "model.onnx").write_bytes(content)
        result = run("upscale", picture(), "--model", tmp_path / "model.onnx")
        assert result.exit_code == 3
        assert answer in result.stderr


def test_json_is_one_line_a_picture_on_stdout(run, bundle, picture, tmp_path):
    photo = picture("in/a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no picture at all, just text")
    result = run("upscale", tmp_path / "in", "-o", tmp_path / "out", "--json", "--quiet")
    good, bad = (json.loads(line) for line in result.stdout.splitlines())
    assert (good["input"], good["output"]) == (str(photo), str(tmp_path / "out" / "a.png"))
    assert (good["status"], good["width"], good["height"], good["error"]) == ("done", 36, 28, None)
    assert (bad["status"], bad["width"]) == ("failed", None)
    assert "b.png" in bad["error"]
    assert len(result.stderr.splitlines()) == 1  # the error


def test_quiet_prints_nothing_but_errors(run, bundle, picture, tmp_path):
    result = run("upscale", picture("a.png"), picture("b.png"), "-o", tmp_path / "out", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_existing_results_stop_the_run_unless_told_what_to_do(run, bundle, picture, tmp_path):
    picture("in/a.png")
    picture("in/b.png")
    old = picture("out/a.png")
    arguments = ("upscale", tmp_path / "in", "-o", tmp_path / "out")
    refused = run(*arguments)
    assert refused.exit_code == 3
    assert "--overwrite or --skip-existing" in refused.stderr
    assert files(tmp_path / "out") == ["a.png"]
    skipped = run(*arguments, "--skip-existing")
    assert skipped.exit_code == 0
    assert read_image(old).width == 9
    assert "1 upscaled, 1 skipped in " in skipped.stderr
    assert run(*arguments, "--overwrite").exit_code == 0
    assert_repeated(tmp_path / "in" / "a.png", old, 4)


def test_when_everything_is_there_no_model_is_opened(run, bundle, picture, tmp_path, monkeypatch):
    picture("in/a.png")
    picture("out/a.png")
    monkeypatch.setattr(Upscaler, "open", lambda *_, **__: pytest.fail("opened a model"))
    assert run("upscale", tmp_path / "in", "-o", tmp_path / "out", "--skip-existing").exit_code == 0


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (("--width", 20), (20, 16)),
        (("--height", 14), (18, 14)),
        (("--width", 20, "--height", 20), (20, 20)),
        (("--fit", "18x100"), (18, 14)),
    ],
)
def test_any_size_can_be_asked_for(run, bundle, picture, tmp_path, options, size):
    assert run("upscale", picture(), "-o", tmp_path / "out.png", *options).exit_code == 0
    result = read_image(tmp_path / "out.png")
    assert (result.width, result.height) == size


def test_more_than_the_model_gives_is_said_to_be_resampled(run, bundle, picture, tmp_path):
    result = run("upscale", picture(), "-o", tmp_path / "out.png", "--scale", 2, "--width", 200)
    assert result.stderr.startswith(
        f"note: {tmp_path / 'photo.png'}: the model gives 18x14; the rest of the enlargement is plain resampling\n"
    )
    less = run("upscale", picture(), "-o", tmp_path / "less.png", "--scale", 2, "--width", 17)
    assert "note" not in less.stderr


def test_format_and_quality_reach_the_file(run, bundle, picture, tmp_path):
    photo = picture(width=40, height=40)
    for quality in (20, 95):
        out = tmp_path / f"q{quality}"
        assert run("upscale", photo, "-o", out, "--format", "jpeg", "--quality", quality).exit_code == 0
    small, large = ((tmp_path / name / "photo.jpg") for name in ("q20", "q95"))
    assert small.stat().st_size < large.stat().st_size
    assert read_image(small).format == "jpeg"


def test_what_a_format_cannot_keep_is_said(run, bundle, picture, tmp_path):
    alpha = np.full((7, 9), 100, np.uint8)
    result = run("upscale", picture("a.png", alpha=alpha), "-o", tmp_path / "a.jpg")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"note: {tmp_path / 'a.png'}: ")


@pytest.mark.parametrize(
    ("arguments", "code", "answer"),
    [
        ((), 2, "Missing argument"),
        (("photo.png", "--scale", "5"), 2, "no bundled model has scale 5"),
        (("photo.png", "--scale", "8", "--model", "rt-x4"), 2, "model rt-x4 has scale 4 and --scale asks for 8"),
        (("photo.png", "--model", "rt-x3"), 3, "did you mean"),
        (("photo.png", "--model", "photo.png"), 3, "is not an ONNX model, or is truncated"),
        (("photo.png", "--model", ""), 2, "name is empty"),
        (("",), 2, "an input has an empty name"),
        (("photo.png", "-o", "out.foo"), 2, "end the name in / for a folder"),
        (("photo.png", "-o", "-"), 2, "are not written to stdout"),
        (("https://example.org/photo.png",), 3, "download the file first"),
        (("photo.png", "--threads", "1000000000000"), 2, "--threads"),
        (("photo.png", "--scale", "0"), 2, "--scale"),
        (("photo.png", "--width", "10000000000"), 2, "--width"),
        (("photo.png", "--model", "."), 3, "it is a folder"),
        (("photo.png", "--backend", "onnxruntme"), 2, "onnxruntime"),
        (("photo.png", "--tile", "big"), 2, "not 'auto', 'none' or a number"),
        (("photo.png", "--fit", "1920"), 2, "not a size like 1920x1080"),
        (("photo.png", "--fit", "8x8", "--width", "8"), 2, "leave --width and --height out"),
        (("photo.png", "--format", "gif"), 2, "gif"),
        (("photo.png", "--quality", "0"), 2, "quality"),
        (("photo.png", "--quality", "101", "--format", "jpeg"), 2, "1 to 100 for jpeg, got 101; 101 is WebP's lossless"),
        (("photo.png", "-o", "photo.png/deep"), 3, "photo.png is a file"),
        (("photo.png", "--width", "900000"), 2, "with --width, --height or --fit"),
        (("photo.png", "--overwrite", "--skip-existing"), 2, "contradict"),
        (("photo.png", "-o", "photo.png", "--overwrite"), 3, "would overwrite itself"),
        (("empty",), 3, "holds no pictures"),
        (("*.webp",), 3, "no file or folder matches"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_line_and_write_nothing(
    run, bundle, picture, tmp_path, monkeypatch, arguments, code, answer
):
    picture()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    result = run("upscale", *arguments)
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert answer in result.stderr
    assert files(tmp_path) == before


def test_an_interrupt_is_one_line_and_leaves_nothing_half_written(
    run, bundle, picture, tmp_path, monkeypatch
):
    photo = picture()

    def interrupted(image, path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "write_image", interrupted)
    result = run("upscale", photo, "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted; nothing half-written was left behind"
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("count", [1, 3])
def test_being_terminated_leaves_nothing_half_written(bundle, picture, tmp_path, count):
    for i in range(count):
        picture(f"in/{i}.png")
    arguments = ["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    arguments += ["--model", str(bundle / "rt-x2.onnx")]
    code = f"""
import signal, time
from sr_deploy import cli
from sr_deploy.images import image
encoded = image._encode
def terminated(path, *arguments):
    encoded(path, *arguments)
    signal.raise_signal(signal.SIGTERM)  # while the temporary file is there
    time.sleep(0.2)
    return ()
image._encode = terminated
cli.main({arguments!r})
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (cli.EXIT_TERMINATED, "")
    assert result.stderr.splitlines()[-1] == "interrupted; nothing half-written was left behind"
    assert set(files(tmp_path / "out")) <= {"0.png", "1.png", "2.png"}


@pytest.mark.parametrize("option", ["--skip-existing", "--overwrite"])
def test_two_processes_on_one_folder_both_succeed_and_leave_whole_pictures(bundle, picture, tmp_path, option):
    for i in range(6):
        picture(f"in/{i}.png", width=80, height=60)
    command = [sys.executable, "-m", "sr_deploy", "upscale", tmp_path / "in", "-o", tmp_path / "out", option]
    command += ["--model", bundle / "rt-x4.onnx"]
    both = [subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert files(tmp_path / "out") == [f"{i}.png" for i in range(6)]
    for i in range(6):
        assert_repeated(tmp_path / "in" / f"{i}.png", tmp_path / "out" / f"{i}.png", 4)


def test_one_picture_needs_no_bar_library(bundle, picture):
    arguments = ["upscale", str(picture()), "--model", str(bundle / "rt-x2.onnx")]
    code = (
        "import sys; from sr_deploy.cli import main\n"
        f"try: main({arguments!r})\n"
        "finally: print(sorted({'rich', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_an_engine_without_its_sidecar_is_told_as_that(run, picture, tmp_path):
    (tmp_path / "net.engine").write_bytes(b"a plan")
    result = run("upscale", str(picture()), "--model", str(tmp_path / "net.engine"))
    assert result.exit_code == 3
    assert "net.engine has no sidecar net.engine.json beside it" in result.stderr
