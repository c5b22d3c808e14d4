"""`sr-deploy eval` as a user meets it: tables, JSON, CSV, exit codes."""

from __future__ import annotations

import csv
import errno
import json
import sys
from inspect import signature
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from sr_deploy.cli import main
from sr_deploy.quality.bicubic import imresize
from sr_deploy.spec import METADATA_KEY, ModelSpec


def run(*arguments: object) -> Result:
    apart = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}  # click < 8.2
    return CliRunner(**apart).invoke(main, ["eval", *(str(a) for a in arguments)])


def save(path: Path, pixels: np.ndarray) -> Path:
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    assert done
    path.write_bytes(data.tobytes())
    return path


def picture(seed: int, side: int = 48) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "hr"
    folder.mkdir()
    for seed, name in enumerate(("one", "two")):
        save(folder / f"{name}.png", picture(seed))
    return folder


@pytest.fixture
def doubling_model(tmp_path: Path) -> Path:
    """A net that repeats every pixel, as `nearest` does, for x2."""
    graph = helper.make_graph(
        [
            helper.make_node(
                "Resize",
                ["pixels", "", "factors"],
                ["upscaled"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        "doubling",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("upscaled", TensorProto.FLOAT, ["n", 3, "h2", "w2"])],
        [helper.make_tensor("factors", TensorProto.FLOAT, [4], [1.0, 1.0, 2.0, 2.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: ModelSpec(name="doubling", scale=2, halo=0).to_json()})
    path = tmp_path / "doubling.onnx"
    onnx.save(model, path)
    return path


def test_the_table_shows_every_picture_the_mean_and_the_protocol(pictures: Path) -> None:
    result = run(pictures, "--model", "bicubic", "--scale", 2)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["bicubic", "one.png"], ["bicubic", "two.png"]]
    assert lines[3].startswith("bicubic  mean of 2")
    assert lines[4].startswith("protocol: x2;")


def test_json_and_csv_agree_and_hold_full_precision(pictures: Path, tmp_path: Path) -> None:
    target = tmp_path / "values.csv"
    result = run(
        pictures, "--model", "bicubic", "--model", "nearest", "--scale", 3, "--json", "--csv", target
    )
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert [(r["model"], r["scale"], r["border"]) for r in record["results"]] == [
        ("bicubic", 3, 3),
        ("nearest", 3, 3),
    ]
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    values = [p["psnr_y"] for r in record["results"] for p in r["pictures"]]
    assert [float(row["psnr_y"]) for row in rows] == values
    assert record["results"][0]["mean"]["psnr_y"] == pytest.approx(sum(values[:2]) / 2)
    assert list(tmp_path.glob(".values*")) == []


def test_a_csv_replaces_no_file_unless_told_to(pictures: Path, tmp_path: Path) -> None:
    target = tmp_path / "photo.jpg"
    target.write_bytes(b"dear")
    arguments = (pictures, "--model", "nearest", "--scale", 2, "--csv", target)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "it exists already" in result.stderr
    assert target.read_bytes() == b"dear"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert "one.png" in target.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="every name is text there")
def test_a_name_that_is_no_utf_8_is_escaped_in_the_csv(pictures: Path, tmp_path: Path) -> None:
    (pictures / "one.png").rename(pictures / "gr\udcfc\udce7.png")
    target = tmp_path / "values.csv"
    assert run(pictures, "--model", "nearest", "--scale", 2, "--csv", target).exit_code == 0
    assert "gr\\udcfc\\udce7.png" in target.read_text(encoding="utf-8")


def test_baselines_alone_are_measured_at_2_and_4(pictures: Path) -> None:
    record = json.loads(run(pictures, "--model", "bicubic", "--json").stdout)
    assert [r["scale"] for r in record["results"]] == [2, 4]


def test_given_pairs_say_their_scale_themselves(pictures: Path, tmp_path: Path) -> None:
    small = tmp_path / "lr"
    small.mkdir()
    for seed, name in enumerate(("one_LRx3", "twox3")):
        save(small / f"{name}.png", imresize(picture(seed), 1 / 3))
    given = json.loads(run(pictures, "--lr", small, "--model", "bicubic", "--json").stdout)
    made = json.loads(run(pictures, "--scale", 3, "--model", "bicubic", "--json").stdout)
    assert given["results"][0]["scale"] == 3
    assert given["results"][0]["given_lr"] is True
    assert given["results"][0]["pictures"] == made["results"][0]["pictures"]


def test_a_model_file_is_measured_at_its_own_scale_beside_the_baselines(
    pictures: Path, doubling_model: Path
) -> None:
    result = run(pictures, "--model", doubling_model, "--model", "nearest", "--json")
    assert result.exit_code == 0, result.output
    model, nearest = json.loads(result.stdout)["results"]
    assert (model["model"], model["scale"]) == (str(doubling_model), 2)
    assert model["pictures"] == nearest["pictures"]


def test_a_model_of_another_scale_than_asked_is_refused(pictures: Path, doubling_model: Path) -> None:
    result = run(pictures, "--model", doubling_model, "--scale", 4)
    assert result.exit_code == 2
    assert "is a model for x2" in result.stderr


def test_an_unreadable_picture_is_named_and_left_out(pictures: Path) -> None:
    (pictures / "broken.png").write_bytes((pictures / "one.png").read_bytes()[:200])
    result = run(pictures, "--model", "bicubic", "--scale", 2)
    assert result.exit_code == 5
    assert "mean of 2" in result.stdout
    (line,) = [line for line in result.stderr.splitlines() if "skipped" in line]
    assert "broken.png" in line


def test_a_picture_without_partner_is_named_and_left_out(pictures: Path, tmp_path: Path) -> None:
    small = tmp_path / "lr"
    small.mkdir()
    save(small / "one.png", imresize(picture(0), 0.5))
    result = run(pictures, "--lr", small, "--model", "bicubic", "--json")
    assert result.exit_code == 5
    record = json.loads(result.stdout)
    assert [entry["picture"] for entry in record["unpaired"]] == ["two.png"]
    assert [p["picture"] for p in record["results"][0]["pictures"]] == ["one.png"]
    assert "two.png" in result.stderr


def test_no_pair_at_all_is_bad_input(pictures: Path, tmp_path: Path) -> None:
    small = tmp_path / "lr"
    small.mkdir()
    save(small / "stranger.png", picture(0, 24))
    result = run(pictures, "--lr", small, "--model", "bicubic")
    assert result.exit_code == 3
    assert "none of 2 pictures has a partner" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing"], 3, "no such folder"),
        (["hr", "--lr", "missing"], 3, "no such folder"),
        (["hr/one.png"], 3, "it is a file"),
        (["empty"], 3, "no pictures"),
        (["hr", "--model", "bicubik"], 3, "did you mean the baseline bicubic?"),
        (["hr", "--model", "missing.onnx"], 3, "no such file"),
        (["hr", "--scale", "0"], 2, "--scale"),
        (["hr", "--border", "-1"], 2, "--border"),
        (["hr", "--border", "24", "--model", "bicubic"], 3, "border of 24"),
        (["hr", "--csv", "missing/values.csv", "--model", "bicubic"], 3, "there is no folder"),
        (["hr", "--csv", "empty", "--model", "bicubic"], 3, "it is a folder"),
    ],
)
def test_bad_input_gets_one_line_and_its_exit_code(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    (pictures.parent / "empty").mkdir()
    monkeypatch.chdir(pictures.parent)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    (line,) = result.stderr.splitlines()
    assert message in line


def test_where_no_terminal_shows_it_no_bar_is_made(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)  # importing it fails
    result = run(pictures, "--model", "nearest", "--scale", 2)
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_csv_that_cannot_be_written_is_said_before_anything_is_measured(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("sr_deploy.system.output_folder.os.open", refused)
    result = run(pictures, "--model", "nearest", "--scale", 2, "--csv", tmp_path / "values.csv")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no file can be made in" in result.stderr


def test_names_of_set5_over_other_pictures_are_warned_of(tmp_path: Path) -> None:
    for seed, name in enumerate(("baby", "bird", "butterfly", "head", "woman")):
        save(tmp_path / f"{name}.png", picture(seed))
    result = run(tmp_path, "--model", "nearest", "--scale", 4, "--json")
    assert result.exit_code == 0, result.output
    assert "28.42 dB on the standard Set5" in result.stderr
    assert len(json.loads(result.stdout)["warnings"]) == 1


def test_a_picture_of_one_colour_comes_out_identical_and_says_so(pictures: Path) -> None:
    save(pictures / "flat.png", np.full((32, 32, 3), 90, np.uint8))
    result = run(pictures, "--model", "bicubic", "--scale", 2)
    assert result.exit_code == 0, result.output
    assert "bicubic: 1 came out identical" in result.stdout
    record = json.loads(run(pictures, "--model", "bicubic", "--scale", 2, "--json").stdout)
    flat = record["results"][0]["pictures"][0]
    assert (flat["picture"], flat["psnr_y"], flat["identical"]) == ("flat.png", None, True)


def test_degraded_pictures_are_measured_with_blocks_and_specks(pictures: Path) -> None:
    result = run(pictures, "--model", "bicubic", "--scale", 2, "--degrade", "jpeg:50")
    assert result.exit_code == 0
    assert "blocks" in result.stdout
    assert "specks" in result.stdout
    assert "then jpeg:50" in result.stdout
    record = json.loads(
        run(pictures, "--model", "bicubic", "--scale", 2, "--degrade", "jpeg:50", "--json").stdout
    )
    clean = json.loads(run(pictures, "--model", "bicubic", "--scale", 2, "--json").stdout)
    assert record["results"][0]["degrade"] == "jpeg:50"
    assert record["results"][0]["mean"]["blocks"] > 0
    assert clean["results"][0]["mean"]["blocks"] is None
    assert record["results"][0]["mean"]["psnr_y"] < clean["results"][0]["mean"]["psnr_y"]


def test_steps_to_degrade_by_are_listed_and_checked_first(pictures: Path) -> None:
    listed = run("--degrade", "help")
    assert listed.exit_code == 0
    assert listed.stdout.startswith("jpeg:N  quality")
    wrong = run(pictures, "--degrade", "smear:3")
    assert wrong.exit_code == 2
    assert "unknown step 'smear:3'" in wrong.stderr
    both = run(pictures, "--lr", pictures, "--degrade", "jpeg:75")
    assert both.exit_code == 2
    assert "leave one of them out" in both.stderr
