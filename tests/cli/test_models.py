"""The bundled models, found and described without a runtime."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from sr_deploy.errors import ModelError, UsageError
from sr_deploy.models import find_model, list_models, model_for_scale, read_metadata, read_spec

CARD = """---
{"parameters": 69940, "licence": "Apache-2.0", "quality": {"Set5": {"psnr_y": 31.051, "ssim_y": 0.8791}}}
---
# rt-x4
"""


def test_models_lists_name_scale_size_licence_and_measured_quality(run, bundle):
    (bundle / "rt-x4.md").write_text(CARD, encoding="utf-8")
    result = run("models")
    header, first, second = result.stdout.splitlines()
    assert header.split() == ["name", "scale", "parameters", "KiB", "precision", "licence", "quality"]
    assert first.split()[:3] == ["rt-x2", "2", "-"]
    assert second.split()[:3] == ["rt-x4", "4", "69,940"]
    assert second.endswith("Apache-2.0  Set5 31.05 dB 0.8791")


def test_models_as_json_is_what_a_program_reads(run, bundle):
    (bundle / "rt-x4.md").write_text(CARD, encoding="utf-8")
    small, large = json.loads(run("models", "--json").stdout)
    assert (small["name"], small["scale"], small["licence"], small["quality"]) == ("rt-x2", 2, "CC0-1.0", {})
    assert (large["parameters"], large["quality"]["Set5"]["psnr_y"]) == (69940, 31.051)
    assert large["size_bytes"] == (bundle / "rt-x4.onnx").stat().st_size


def test_listing_imports_neither_onnx_nor_a_runtime():
    code = (
        "import sys; from sr_deploy.models import list_models; list_models();"
        "print(sorted({'numpy', 'cv2', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_metadata_property_of_a_file_is_read(bundle):
    assert read_metadata(bundle / "rt-x2.onnx")["author"] == "a test"
    assert read_spec(bundle / "rt-x2.onnx").scale == 2


def test_a_model_is_found_by_name_or_by_path(bundle):
    assert find_model("rt-x2") == bundle / "rt-x2.onnx"
    assert find_model(bundle / "rt-x4.onnx") == bundle / "rt-x4.onnx"


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("rt-x5", r"no bundled model is called 'rt-x5'; did you mean rt-x[24] or rt-x[24]\?"),
        ("esrgan", "choose one of rt-x2, rt-x4 or an .onnx file"),
        ("nothing.onnx", "no such file; give an .onnx file or one of rt-x2, rt-x4"),
        (".", "it is a folder"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_error(bundle, asked, answer):
    with pytest.raises(ModelError, match=answer):
        find_model(asked)


def test_the_model_for_a_scale_is_the_real_time_one(bundle):
    (bundle / "a-x4.onnx").write_bytes((bundle / "rt-x4.onnx").read_bytes())
    assert model_for_scale(4) == "rt-x4"
    with pytest.raises(
        UsageError, match=r"no bundled model has scale 3, the available scales are: 2 \(rt-x2\), 4 \(rt-x4\)"
    ):
        model_for_scale(3)


def test_photo_and_perceptual_nets_are_no_default_where_there_is_another(bundle):
    data = (bundle / "rt-x4.onnx").read_bytes()
    (bundle / "rt-x4.onnx").unlink()
    for name in ("photo-x4", "net-x4-perceptual"):
        (bundle / f"{name}.onnx").write_bytes(data)
    assert model_for_scale(4) == "net-x4-perceptual"  # nothing else has this scale
    (bundle / "tiny-x4.onnx").write_bytes(data)
    assert model_for_scale(4) == "tiny-x4"
    with pytest.raises(UsageError, match=r"2 \(rt-x2\), 4 \(tiny-x4\)"):
        model_for_scale(3)


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n", "not an ONNX file"),
        (b"\x3a\xff\xff\xff\xff\x0f", "it is cut short"),
        (b"\xff" * 40, "not an ONNX file"),
    ],
)
def test_a_file_that_is_not_onnx_is_one_clear_error(tmp_path, content, answer):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=answer):
        read_metadata(path)


def test_a_truncated_model_is_never_more_than_an_error(bundle):
    whole = (bundle / "rt-x2.onnx").read_bytes()
    path = bundle / "cut.onnx"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            found = read_metadata(path)
        except ModelError:
            continue
        assert len(found) < 2  # cut between two fields: a smaller, valid message


def test_a_bundled_file_without_a_record_or_with_a_broken_card_says_so(bundle):
    (bundle / "rt-x4.md").write_text("---\nparameters: 3\n---\n", encoding="utf-8")
    with pytest.raises(ModelError, match="front matter is not one JSON object"):
        list_models()
    (bundle / "rt-x4.md").unlink()
    (bundle / "plain.onnx").write_bytes(b"\x08\x09")
    with pytest.raises(ModelError, match="carries no sr-deploy spec"):
        list_models()


def test_a_broken_bundled_model_is_named_and_the_others_are_listed(run, bundle):
    (bundle / "rt-x2.onnx").write_bytes((bundle / "rt-x2.onnx").read_bytes()[:-40])
    result = run("models")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[1].startswith("rt-x4 ")
    assert "rt-x2.onnx" in result.stderr
    assert result.stderr.endswith("install sr-deploy again\n")
    assert model_for_scale(4) == "rt-x4"
    with pytest.raises(ModelError, match="install sr-deploy again"):
        model_for_scale(2)


def test_an_empty_name_is_no_model(run):
    for command in (("info", ""), ("stamp", ""), ("eval", "")):
        result = run(*command)
        assert result.exit_code == 2
        assert "name is empty" in result.stderr


def test_a_card_without_front_matter_is_just_a_page(bundle):
    (bundle / "rt-x4.md").write_text("# rt-x4\n", encoding="utf-8")
    assert list_models()[1].parameters is None


@pytest.mark.parametrize("entry", list_models(), ids=lambda entry: entry.name)
def test_a_bundled_model_is_small_and_is_what_its_card_says(entry):
    parameters, size = (100_000, 2_000_000) if entry.name.startswith("rt-") else (1_000_000, 4_000_000)
    assert entry.size < size
    assert entry.parameters <= parameters
    assert entry.sha256 == hashlib.sha256(entry.path.read_bytes()).hexdigest()
    assert entry.licence
    assert entry.spec.halo is not None
    assert entry.quality["Set5"]["psnr_y"] > {2: 33.65, 4: 28.42}[entry.scale]  # what bicubic scores
