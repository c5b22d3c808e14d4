"""`sr-deploy upscale --model auto`, with a clean net that repeats pixels and a photo net that makes them negative, too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import sr_deploy.batch.nets as nets_module
import sr_deploy.cli.upscale as command
import sr_deploy.models.fast as fast_module
from sr_deploy.batch.jobs import Job
from sr_deploy.batch.nets import AutoNets, auto_digest
from sr_deploy.batch.run import run_jobs
from sr_deploy.engines import registry
from sr_deploy.errors import ModelError
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.models import photo_model
from sr_deploy.models.fast import FastForm
from sr_deploy.spec import METADATA_KEY, ModelSpec
from sr_deploy.upscale import Upscaler


@pytest.fixture
def photo(bundle) -> Path:
    """The bundled photo-x4, whose results are negatives."""
    model = onnx.load(bundle / "rt-x4.onnx")
    model.graph.node[0].output[0] = "large"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "one"))
    model.graph.node.append(helper.make_node("Sub", ["one", "large"], ["upscaled"]))
    path = bundle / "photo-x4.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def picture(picture, tmp_path):
    """Make a picture of noise as `picture` does; a JPEG has quality 75, and a size from which the rule looks at it."""

    def make(name: str = "photo.png") -> Path:
        if not name.endswith(".jpg"):
            return picture(name)
        path = picture(name, width=36, height=32)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (32, 36, 3), np.uint8)
        write_image(Image(pixels=pixels), path, quality=75, overwrite=True)
        return path

    return make


@pytest.fixture
def folder(picture, tmp_path) -> Path:
    """A folder with a JPEG, a PNG and a dithered PNG."""
    picture("in/a.jpg")
    picture("in/b.png")
    dots = (np.random.default_rng(0).random((64, 64, 1)) > 0.5).astype(np.uint8) * 255
    write_image(Image(pixels=dots), tmp_path / "in" / "c.png")
    return tmp_path / "in"


def assert_made_by(source: Path, target: Path, net: str) -> None:
    expected = read_image(source).pixels.astype(int).repeat(4, axis=0).repeat(4, axis=1)
    expected = 255 - expected if net == "photo-x4" else expected
    tolerance = 0 if target.suffix == ".png" else 60  # JPEG of noise
    assert np.abs(read_image(target).pixels - expected).mean() <= tolerance


def test_each_picture_goes_to_the_net_that_suits_it(run, photo, folder, tmp_path):
    result = run("upscale", folder, "-o", tmp_path / "out", "--format", "png")
    assert result.exit_code == 0, result.stderr
    assert_made_by(folder / "a.jpg", tmp_path / "out" / "a.png", "photo-x4")
    assert_made_by(folder / "b.png", tmp_path / "out" / "b.png", "rt-x4")
    lines = result.stderr.splitlines()
    assert lines[0].endswith(") by photo-x4 (JPEG of quality 75)")
    assert lines[1].endswith(") by rt-x4 (small)")
    assert "looks dithered" in lines[2]
    assert lines[3].endswith(" s)")  # neither a net nor a backend
    assert lines[-1].startswith("3 upscaled (photo-x4: 1 picture, rt-x4: 1) in ")


def records(result) -> list[dict]:
    """The records that `--json` printed."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_json_has_the_choice_in_fields_of_its_own(run, photo, folder, tmp_path):
    found = records(run("upscale", folder, "-o", tmp_path / "out", "--json", "--quiet"))
    assert [(one["model"], one["reason"]) for one in found] == [
        ("photo-x4", "JPEG of quality 75"),
        ("rt-x4", "small"),
        (None, None),  # dithered: no net makes it
    ]
    assert [one["backend"] is None for one in found] == [False, False, True]
    assert [len(one["notes"]) for one in found] == [0, 0, 1]
    assert "looks dithered" in found[2]["notes"][0]
    again = records(run("upscale", folder, folder / "none.png", "-o", tmp_path / "out", "--json"))
    assert all(one.keys() == found[0].keys() for one in again)


def test_json_names_the_model_and_backend_of_pictures_without_a_choice(run, photo, folder, tmp_path):
    options = (folder, "-o", tmp_path / "out", "--model", tmp_path / "bundled" / "rt-x4.onnx", "--json")
    planned = records(run("upscale", *options, "--dry-run"))
    assert [(one["model"], one["reason"]) for one in planned] == [("rt-x4", None)] * 3
    found = records(run("upscale", *options))
    assert [(one["model"], one["reason"]) for one in found] == [("rt-x4", None)] * 2 + [(None, None)]
    assert [one["backend"] is None for one in found] == [False, False, True]


@pytest.mark.parametrize("options", [(), ("--model", "auto")])
def test_one_picture_opens_the_one_net_it_needs(run, photo, picture, tmp_path, monkeypatch, options):
    opened = []
    real = command.open_upscaler
    monkeypatch.setattr(
        command, "open_upscaler", lambda model, *a, **o: opened.append(model) or real(model, *a, **o)
    )
    result = run("upscale", picture("a.jpg"), "-o", tmp_path / "large-a.png", *options)
    assert "by photo-x4 (JPEG of quality 75)" in result.stderr
    assert run("upscale", picture("b.png"), "-o", tmp_path / "large-b.png", *options).exit_code == 0
    assert opened == ["photo-x4", "rt-x4"]
    picture("c.png").rename(tmp_path / "c.jpg")  # a name that misleads costs a second net, nothing else
    result = run("upscale", tmp_path / "c.jpg", "-o", tmp_path / "large-c.png", *options)
    assert "by rt-x4 (small)" in result.stderr
    assert opened[2:] == ["photo-x4", "rt-x4"]
    assert_made_by(tmp_path / "c.jpg", tmp_path / "large-c.png", "rt-x4")


def test_a_named_model_is_obeyed(run, photo, folder, tmp_path):
    for name in ("rt-x4", "photo-x4"):
        result = run("upscale", folder / "a.jpg", "-o", tmp_path / f"{name}.png", "--model", name)
        assert " by " not in result.stderr
        assert_made_by(folder / "a.jpg", tmp_path / f"{name}.png", name)


@pytest.mark.parametrize(
    "options", [(), ("--model", "auto"), ("--scale", "4"), ("--model", "auto", "--scale", "4")]
)
def test_without_a_photo_net_auto_is_the_clean_net(run, bundle, folder, tmp_path, options):
    plain = run("upscale", folder, "-o", tmp_path / "plain", "--model", "rt-x4", "--json")
    result = run("upscale", folder, "-o", tmp_path / "out", *options, "--json")
    assert result.exit_code == 0, result.stderr
    for path in (tmp_path / "plain").glob("[a-z]*"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    notes = [[json.loads(line)["notes"] for line in one.stdout.splitlines()] for one in (plain, result)]
    assert notes[0] == notes[1]
    # the records are those of the clean net, so a run that names it makes nothing again
    again = run("upscale", folder, "-o", tmp_path / "out", "--model", "rt-x4")
    assert again.stderr.splitlines()[-1].startswith("0 upscaled, 3 skipped in ")


def test_auto_chooses_for_every_size_that_a_photo_net_can_make(run, photo, picture, tmp_path):
    source = picture("a.jpg")
    for option in (("--scale", 3), ("--width", 20), ("--fit", "40x40")):
        result = run("upscale", source, "-o", tmp_path / "a.png", "--overwrite", *option)
        assert "by photo-x4 (JPEG of quality 75)" in result.stderr, result.stderr
    result = run("upscale", source, "-o", tmp_path / "two.png", "--scale", 2)  # there is no photo-x2
    assert result.exit_code == 0
    assert " by " not in result.stderr


def test_a_second_run_makes_again_what_another_net_or_rule_makes(run, photo, folder, tmp_path, monkeypatch):
    def made(*options: str) -> int:
        return int(
            run("upscale", folder, "-o", tmp_path / "out", *options).stderr.splitlines()[-1].split()[0]
        )

    assert [made(), made()] == [3, 0]
    assert [made("--model", "rt-x4"), made()] == [3, 3]
    (folder / "a.jpg").rename(folder / "0.jpg")  # another first picture changes nothing for the others
    assert made() == 1
    (folder / "0.jpg").rename(folder / "a.jpg")
    monkeypatch.setattr(nets_module, "RULE_VERSION", 99)
    assert [made(), made()] == [3, 0]
    model = onnx.load(photo)
    model.producer_name = "another"
    onnx.save(model, photo)
    assert [made(), made()] == [3, 0]
    assert auto_digest("a", "b", "onnxruntime") != auto_digest("b", "a", "onnxruntime")


def test_a_second_run_makes_again_what_another_backend_of_the_photo_net_makes(
    run, photo, folder, tmp_path, monkeypatch
):
    chosen = {"rt-x4.onnx": "onnxruntime", "photo-x4.onnx": "onnxruntime"}
    real = registry.choose_backend
    monkeypatch.setattr(
        registry,
        "choose_backend",
        lambda backend, model=None, **rest: (
            chosen[model.name] if backend == "auto" else real(backend, model, **rest)
        ),
    )

    def made(*options: str) -> list[str]:
        found = records(run("upscale", folder, "-o", tmp_path / "out", "--json", *options))
        return [one["backend"] for one in found if one["status"] == "done"]

    assert made() == ["onnxruntime", "onnxruntime", None]
    assert made() == []
    chosen["photo-x4.onnx"] = "openvino"
    assert made() == ["openvino", "onnxruntime", None]
    assert made() == []
    assert made("--backend", "onnxruntime") == ["onnxruntime", "onnxruntime", None]


def changed(path: Path, change) -> None:
    """Change the model file at `path` by a function of its ModelProto."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def test_a_photo_net_that_cannot_serve_is_one_error_before_the_first_picture(run, photo, folder, tmp_path):
    whole = photo.read_bytes()

    def without_halo(model: onnx.ModelProto) -> None:
        spec = next(prop for prop in model.metadata_props if prop.key == METADATA_KEY)
        spec.value = ModelSpec.from_json(spec.value).with_(halo=None).to_json()

    for more in ((), ("--dry-run",)):
        photo.write_bytes(whole[:-40])
        result = run("upscale", folder, "-o", tmp_path / "out", *more)
        assert (result.exit_code, len(result.stderr.splitlines())) == (3, 1)
        assert "photo-x4.onnx" in result.stderr
        photo.write_bytes(whole)
        changed(photo, without_halo)
        result = run("upscale", folder, "-o", tmp_path / "out", "--tile", "16", *more)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert "sees the whole picture at once" in result.stderr
    assert not (tmp_path / "out").exists()
    assert run("upscale", folder, "-o", tmp_path / "out", "--tile", "16", "--overlap", "0").exit_code == 0


def test_a_photo_net_that_cannot_be_opened_is_tried_once(run, photo, folder, picture, tmp_path, monkeypatch):
    picture("in/d.jpg")
    opened = []
    real = command.open_upscaler

    def opening(model: str, *arguments, **options) -> Upscaler:
        opened.append(model)
        if model == "photo-x4":
            raise ModelError("model photo-x4: cannot be opened")
        return real(model, *arguments, **options)

    monkeypatch.setattr(command, "open_upscaler", opening)
    result = run("upscale", folder, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 5
    assert opened == ["rt-x4", "photo-x4"]
    found = records(result)
    assert [one["status"] for one in found] == ["failed", "done", "done", "failed"]
    assert "cannot be opened" in found[0]["error"]
    assert found[0]["error"] == found[3]["error"]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("upscale", "a.png", "-m", "auto", "-m", "rt-x4"), "'auto' cannot be part of a chain"),
        (("upscale", "a.png", "-m", "rt-x4+auto"), "'auto' cannot be part of a chain"),
        (("video", "a.mp4", "b.mp4", "-m", "auto"), "name a model, or leave --model out"),
        (("pipe", "-m", "auto"), "name a model, or leave --model out"),
        (("pipe", "-m", "auto", "-m", "rt-x4"), "'auto' cannot be part of a chain"),
    ],
)
def test_auto_where_it_means_nothing_is_refused_before_any_work(run, photo, arguments, answer):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert answer in result.stderr


def test_a_dry_run_tells_what_the_headers_determine_and_decodes_no_pixels(run, photo, folder, tmp_path):
    result = run("upscale", folder, "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].endswith(" (144x128) by photo-x4 (JPEG of quality 75)")
    assert lines[1].endswith(" (36x28) by rt-x4 or photo-x4, by its pixels")
    assert result.stderr.splitlines()[-1].startswith("3 to upscale ")
    planned = records(run("upscale", folder, "-o", tmp_path / "out", "--dry-run", "--json"))
    chosen = [("photo-x4", "JPEG of quality 75"), (None, None), (None, None)]
    assert [(one["model"], one["reason"]) for one in planned] == chosen
    assert [one["notes"] for one in planned] == [[], [], []]
    assert not (tmp_path / "out").exists()


def test_fast_chooses_a_form_of_each_net(run, photo, bundle, folder, tmp_path, monkeypatch):
    form = bundle / "forms" / "photo-x4-int8.onnx"
    form.parent.mkdir()
    form.write_bytes(photo.read_bytes())
    found = {
        "rt-x4": FastForm(path=bundle / "rt-x4.onnx", backend="openvino", precision="fp32"),
        "photo-x4": FastForm(path=form, backend="onnxruntime", precision="int8"),
    }
    monkeypatch.setattr(fast_module, "fast_form", lambda model, *_, **__: found[model])
    result = run("upscale", folder, "-o", tmp_path / "out", "--format", "png", "--fast", "--json")
    assert result.exit_code == 0, result.stderr
    made = records(result)
    assert [one["backend"] for one in made] == ["onnxruntime", "openvino", None]
    assert [one["model"] for one in made] == ["photo-x4-int8", "rt-x4", None]
    assert_made_by(folder / "a.jpg", tmp_path / "out" / "a.png", "photo-x4")
    assert_made_by(folder / "b.png", tmp_path / "out" / "b.png", "rt-x4")


def test_the_page_of_comparisons_names_both_nets(run, photo, folder, tmp_path):
    page = tmp_path / "compare.html"
    assert run("upscale", folder, "-o", tmp_path / "out", "--compare", page).exit_code == 0
    assert "rt-x4 or photo-x4" in page.read_text()


def test_a_cluster_does_not_choose_and_says_so(run, photo, folder, tmp_path, monkeypatch):
    import sr_deploy.batch.ray_driver as driver

    used = []
    monkeypatch.setattr(driver, "run_on_ray", lambda jobs, config, **rest: used.append(config.model) or [])
    result = run("upscale", folder, "-o", tmp_path / "out", "--ray", "local")
    assert used == ["rt-x4"]
    assert "--ray does not choose nets: rt-x4 makes all pictures" in result.stderr


def test_a_photo_net_of_another_scale_than_its_name_is_refused(run, photo, bundle, picture):
    (bundle / "photo-x2.onnx").write_bytes(photo.read_bytes())
    with pytest.raises(ModelError, match="does not have the scale of its name"):
        photo_model("rt-x2")
    assert run("upscale", picture(), "--scale", 2).exit_code == ModelError.exit_code


def test_the_batch_takes_the_choice_in_place_of_an_upscaler(photo, folder, tmp_path):
    names = {"clean": "rt-x4", "photo": "photo-x4"}
    jobs = [Job(path, tmp_path / "out" / f"{path.stem}.png", "png") for path in sorted(folder.iterdir())]
    with AutoNets(names, lambda kind: Upscaler.open(names[kind])) as nets:
        outcomes = run_jobs(jobs, nets)
    assert [one.choice and one.choice.model for one in outcomes] == ["photo-x4", "rt-x4", None]
    assert [bool(one.backend) for one in outcomes] == [True, True, False]  # the dithered one needs no net
    assert_made_by(jobs[0].source, jobs[0].target, "photo-x4")
