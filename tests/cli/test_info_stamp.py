"""`info` and `stamp` on files that nobody described, and on files that somebody did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.onnx_file import load_model, read_spec, save_model, write_spec
from sr_deploy.spec import ModelSpec, SizeRule

Run = Callable[..., Result]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Channels last; stride 2, then dilation 3 on that grid, then up by 4. By hand: inner pixel j reads
    2j - 7 .. 2j + 7 and is drawn at 2j and 2j + 1, so the farthest read lies 8 away."""
    node = helper.make_node
    nodes = [
        node("Transpose", ["picture"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "a"], ["c"], pads=[1] * 4, strides=[2, 2]),
        node("Conv", ["c", "b"], ["d"], pads=[3] * 4, dilations=[3, 3]),
        node("DepthToSpace", ["d"], ["s"], blocksize=4),
        node("Transpose", ["s"], ["larger"], perm=[0, 2, 3, 1]),
    ]
    random = np.random.default_rng(3)
    kernels = {"a": (8, 3, 3, 3), "b": (48, 8, 3, 3)}
    tensors = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in kernels.items()
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("larger", TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"author": "somebody"})
    path = tmp_path / "größer-x2.onnx"
    onnx.save(model, str(path))
    return path


def spec_in(path: Path) -> ModelSpec:
    spec = read_spec(load_model(path))
    assert spec is not None
    return spec


def test_stamp_writes_the_true_halo_of_a_foreign_model_into_the_file(run: Run, foreign: Path) -> None:
    result = run("stamp", foreign)
    assert result.exit_code == 0, result.stderr
    spec = spec_in(foreign)
    assert (spec.name, spec.scale, spec.layout, spec.channels) == ("größer-x2", 2, "NHWC", 3)
    assert (spec.halo, spec.size_rule, spec.precision) == (8, SizeRule(multiple_of=2), "fp32")
    assert "8 px" in result.stdout
    assert "undecided" in result.stdout
    assert all(sentence in result.stdout for sentence in spec.undecided)


def test_stamp_keeps_the_graph_and_what_else_the_file_says(run: Run, foreign: Path) -> None:
    before = load_model(foreign)
    run("stamp", foreign)
    after = load_model(foreign)
    assert after.graph == before.graph
    assert {entry.key: entry.value for entry in after.metadata_props}["author"] == "somebody"


def test_stamp_writes_elsewhere_when_asked(run: Run, foreign: Path, tmp_path: Path) -> None:
    before = foreign.read_bytes()
    target = tmp_path / "stamped.onnx"
    assert run("stamp", foreign, "-o", target).exit_code == 0
    assert foreign.read_bytes() == before
    assert spec_in(target).halo == 8
    assert sorted(tmp_path.iterdir()) == sorted([foreign, target])


def test_stamp_replaces_no_other_file_unless_told_to(run: Run, foreign: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"dear")
    result = run("stamp", foreign, "-o", photo)
    assert result.exit_code == 3
    assert "photo.jpg: it exists already" in result.stderr
    assert "--overwrite" in result.stderr
    assert photo.read_bytes() == b"dear"
    assert run("stamp", foreign, "-o", photo, "--overwrite").exit_code == 0
    assert spec_in(photo).halo == 8
    assert run("stamp", foreign, "-o", foreign).exit_code == 0  # itself, as without -o


def test_what_the_user_knows_is_taken_and_no_longer_undecided(run: Run, foreign: Path) -> None:
    options = ("--name", "mine", "--licence", "MIT", "--value-range", "-1..1", "--halo", "12", "--scale", "2")
    result = run("stamp", foreign, *options, "--json")
    spec = spec_in(foreign)
    assert (spec.name, spec.licence, spec.value_range, spec.halo) == ("mine", "MIT", (-1.0, 1.0), 12)
    assert not any("range" in sentence or "halo" in sentence for sentence in spec.undecided)
    assert json.loads(result.stdout)["spec"]["halo"] == 12


def test_a_halo_can_be_called_global(run: Run, foreign: Path) -> None:
    assert run("stamp", foreign, "--halo", "global").exit_code == 0
    assert spec_in(foreign).halo is None


@pytest.mark.parametrize("halo", ["-1", "wide", "1.5"])
def test_a_halo_that_makes_no_sense_is_a_usage_error(run: Run, foreign: Path, halo: str) -> None:
    before = foreign.read_bytes()
    result = run("stamp", foreign, "--halo", halo)
    assert (result.exit_code, foreign.read_bytes()) == (2, before)
    assert "global" in result.stderr


def test_a_scale_that_is_not_the_models_stops_before_anything_is_written(run: Run, foreign: Path) -> None:
    before = foreign.read_bytes()
    result = run("stamp", foreign, "--scale", "4")
    assert (result.exit_code, foreign.read_bytes()) == (2, before)
    assert "--scale 4" in result.stderr


@pytest.fixture
def described(foreign: Path) -> Path:
    """The foreign model with a record that probing would not come up with."""
    spec = ModelSpec(
        name="known", scale=2, halo=99, layout="NHWC", architecture="mine", parameters={"depth": 3}
    )
    save_model(write_spec(load_model(foreign), spec), foreign)
    return foreign


def test_stamp_changes_what_it_is_told_in_a_record_and_nothing_else(run: Run, described: Path) -> None:
    assert run("stamp", described, "--licence", "MIT", "--halo", "global").exit_code == 0
    expected = ModelSpec(
        name="known",
        scale=2,
        halo=None,
        layout="NHWC",
        architecture="mine",
        parameters={"depth": 3},
        licence="MIT",
    )
    assert spec_in(described) == expected


def test_stamp_replaces_a_record_only_when_forced(run: Run, described: Path) -> None:
    result = run("stamp", described)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert spec_in(described).halo == 99
    assert run("stamp", described, "--force").exit_code == 0
    assert (spec_in(described).halo, spec_in(described).name) == (8, "größer-x2")


def test_info_shows_the_record_without_probing(run: Run, described: Path) -> None:
    result = run("info", described)
    assert result.exit_code == 0, result.stderr
    for text in ("known", "99 px", "mine", "depth", hashlib.sha256(described.read_bytes()).hexdigest()):
        assert text in result.stdout
    assert "stamp" not in result.stdout
    assert result.stderr == ""


def test_info_probes_a_file_without_a_record_and_writes_nothing(run: Run, foreign: Path) -> None:
    before = foreign.read_bytes()
    result = run("info", foreign)
    assert result.exit_code == 0, result.stderr
    assert "8 px" in result.stdout
    assert "multiples of 2" in result.stdout
    assert f"sr-deploy stamp {foreign}" in result.stdout
    assert foreign.read_bytes() == before


def test_info_as_json_holds_the_facts_of_the_file(run: Run, foreign: Path) -> None:
    record: dict[str, Any] = json.loads(run("info", foreign, "--json").stdout)
    assert record["stamped"] is False
    assert record["spec"]["halo"] == 8
    facts = record["file"]
    assert (facts["nodes"], facts["opset"]) == (5, 17)
    assert facts["constants"] == 8 * 3 * 9 + 48 * 8 * 9
    assert facts["size"] == foreign.stat().st_size


def test_info_knows_bundled_models_by_name(run: Run, bundle: Path) -> None:
    result = run("info", "rt-x2")
    assert result.exit_code == 0, result.stderr
    assert "x2" in result.stdout
    assert "CC0-1.0" in result.stdout


@pytest.mark.parametrize("command", ["info", "stamp"])
def test_what_is_no_model_is_one_line_and_exit_code_3(run: Run, command: str, tmp_path: Path) -> None:
    text, truncated, missing = (tmp_path / name for name in ("text.onnx", "cut.onnx", "missing.onnx"))
    text.write_text("not a model", encoding="utf-8")
    truncated.write_bytes(b"")
    for path in (text, truncated, missing, tmp_path):
        result = run(command, path)
        assert result.exit_code == 3
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


def test_what_is_no_upscaler_is_not_stamped(run: Run, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["first", "second"], ["sum"])],
        "two",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, "h", "w"]) for n in ("first", "second")],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 3, "h", "w"])],
    )
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    before = path.read_bytes()
    result = run("stamp", path)
    assert (result.exit_code, path.read_bytes()) == (3, before)
    assert "2 inputs" in result.stderr


def test_a_place_that_cannot_be_written_is_said(run: Run, described: Path, tmp_path: Path) -> None:
    result = run("stamp", described, "--name", "new", "-o", tmp_path / "no-such-folder" / "out.onnx")
    assert result.exit_code == 3
    assert "no-such-folder" in result.stderr


def test_a_place_that_cannot_be_written_is_said_before_the_probing(
    run: Run, foreign: Path, tmp_path: Path
) -> None:
    result = run("stamp", foreign, "-o", tmp_path / "no-such-folder" / "out.onnx")
    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1  # and none that says "probing"


def test_a_bundled_model_has_the_parameters_that_models_lists(run):
    listed = {entry["name"]: entry["parameters"] for entry in json.loads(run("models", "--json").stdout)}
    facts = json.loads(run("info", "rt-x4", "--json").stdout)["file"]
    assert facts["parameters"] == listed["rt-x4"]
    assert facts["constants"] > facts["parameters"]  # the kernels of the bicubic skip path are fixed
    assert f"parameters     {facts['parameters']:,}" in run("info", "rt-x4").stdout
