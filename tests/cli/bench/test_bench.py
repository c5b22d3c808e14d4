"""`sr-deploy bench`: real models in real workers, its verdicts and its exit codes."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result

from sr_deploy.bench.result import from_json, read_result, to_json
from sr_deploy.bench.run.session import BenchSession
from sr_deploy.models import find_model
from sr_deploy.spec import METADATA_KEY, ModelSpec, SizeRule
from tests.cli.conftest import Run, repeating_model

pytestmark = pytest.mark.long

QUICK = ("--samples", 3, "--seconds", 0, "--backend", "onnxruntime", "--threads", 1, "--quiet")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return repeating_model(tmp_path / "repeat.onnx", 2)


@pytest.fixture
def bench(run: Run, model: Path) -> Callable[..., Result]:
    return lambda *arguments: run("bench", "--model", model, *QUICK, *arguments)


@pytest.fixture
def measured(bench: Callable[..., Result], tmp_path: Path) -> Path:
    """A result file."""
    path = tmp_path / "result.json"
    assert bench("--sizes", "16x12,33x21", "-o", path).exit_code == 0
    return path


def changed(path: Path, new: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    new.write_text(json.dumps(record), encoding="utf-8")
    return new


def slower(record: dict[str, Any], factor: float = 1.5) -> None:
    """Many samples, `factor` slower."""
    for run in record["runs"]:
        run |= {"samples": [0.1 * factor] * 20, "stages": {}, "cpu": []}


def test_the_first_screen_says_at_which_sizes_it_is_real_time(bench: Callable[..., Result]) -> None:
    result = bench("--sizes", "16x12,33x21", "--min-fps", 0.001)
    assert result.exit_code == 0
    assert "Real time, 0.001 fps at p95:" in result.stdout
    assert "repeat onnxruntime fp32: up to 33x21 -> 66x42" in result.stdout
    assert "p99 ms" in result.stdout
    assert "fewer than 20 samples" in result.stderr


def test_json_and_the_file_hold_the_same(bench: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    result = bench("--sizes", "16x12", "--json", "-o", path)
    assert result.exit_code == 0
    printed = from_json(result.stdout)
    assert printed == read_result(path)
    (run,) = printed.runs
    assert (run.subject.model, run.case.width, run.mode) == ("repeat", 16, "end-to-end")
    assert len(run.samples) == 3
    assert printed.settings.images == ("photo.webp",)
    assert printed.calibration is not None


def test_every_combination_is_measured(bench: Callable[..., Result]) -> None:
    result = bench("--sizes", "40x30", "--batch", "1,2", "--tile", "whole", "--threads", "2", "--json")
    found = from_json(result.stdout).runs
    assert {(run.case.batch, run.subject.threads) for run in found} == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_files_and_streams(bench: Callable[..., Result]) -> None:
    files = from_json(bench("--sizes", "16x12", "--with-files", "--json").stdout).runs[0]
    assert "decode" in files.stages
    full = bench("--sizes", "16x12", "--throughput", "--streams", 3, "--json")
    assert from_json(full.stdout).runs[0].subject.streams == 3


def test_pictures_are_measured_at_their_own_size(
    bench: Callable[..., Result], picture: Callable[..., Path]
) -> None:
    result = bench("--image", picture("own.png", width=21, height=13), "--json")
    (run,) = from_json(result.stdout).runs
    assert (run.case.label, run.case.width, run.case.height) == ("own.png", 21, 13)


def test_a_missed_budget_is_exit_code_1_and_a_line(bench: Callable[..., Result], tmp_path: Path) -> None:
    result = bench("--sizes", "16x12", "--max-ms", 1e-6)
    assert result.exit_code == 1
    assert "missed: repeat onnxruntime fp32 on 16x12: " in result.stderr
    budget = tmp_path / "budget.json"
    budget.write_text('{"budget": [{"min_fps": 1e9, "size": "16x12"}]}', encoding="utf-8")
    assert bench("--sizes", "16x12", "--budget", budget).exit_code == 1
    assert bench("--sizes", "17x12", "--max-ms", 1e9).exit_code == 0


def test_the_largest_size_that_holds_is_found(bench: Callable[..., Result]) -> None:
    result = bench("--find", "realtime", "--max-ms", 1e9, "--aspect", "1:60")
    assert result.exit_code == 0
    assert "72x4320 -> 144x8640 is the largest that holds" in result.stdout


def test_no_size_that_holds_is_a_missed_budget(bench: Callable[..., Result]) -> None:
    result = bench("--find", "realtime", "--max-ms", 1e-6)
    assert result.exit_code == 1
    assert "no size of 1.78:1 holds" in result.stderr


def test_a_baseline_that_was_much_faster_is_a_regression(
    bench: Callable[..., Result], measured: Path, tmp_path: Path
) -> None:
    def quick(record: dict[str, Any]) -> None:
        for run in record["runs"]:
            run |= {"samples": [1e-7] * 20, "stages": {}, "cpu": []}

    fast = changed(measured, tmp_path / "fast.json", quick)
    result = bench("--sizes", "16x12", "--samples", 20, "--baseline", fast, "--max-regression", "5%")
    assert result.exit_code == 1
    assert "allowed are +5.0%" in result.stderr
    slow = changed(measured, tmp_path / "slow.json", lambda record: slower(record, 1e6))
    assert bench("--sizes", "16x12", "--samples", 20, "--baseline", slow).exit_code == 0


def test_baselines_that_cannot_be_compared_with_are_refused(
    bench: Callable[..., Result], measured: Path, tmp_path: Path
) -> None:
    machine = changed(
        measured, tmp_path / "m.json", lambda r: r["environment"]["machine"].update(cpu="Another")
    )
    schema = changed(measured, tmp_path / "s.json", lambda r: r.update(schema=99))
    for path, says in ((machine, "another machine (cpu: Another and "), (schema, "has schema 99")):
        result = bench("--sizes", "16x12", "--baseline", path)
        assert result.exit_code == 3
        assert says in result.stderr
    result = bench("--sizes", "5x5", "--baseline", measured)
    assert result.exit_code == 3
    assert "has no case that was measured now" in result.stderr


def failing_model(path: Path) -> Path:
    """Runs on pictures of up to 8 pixels a side: it cuts larger ones, so that they do not fit the result."""
    from onnx import TensorProto, helper, numpy_helper

    values = {
        "start": np.array([0]),
        "end": np.array([8]),
        "axis": np.array([3]),
        "twice": np.array([1, 1, 2, 2.0]),
    }
    kinds = {name: np.float32 if name == "twice" else np.int64 for name in values}
    weights = [numpy_helper.from_array(value.astype(kinds[name]), name) for name, value in values.items()]
    nodes = [
        helper.make_node("Slice", ["pixels", "start", "end", "axis"], ["cut"]),
        helper.make_node("Add", ["cut", "pixels"], ["sum"]),
        helper.make_node("Resize", ["sum", "", "twice"], ["upscaled"], mode="nearest"),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, *axes])
        for name, axes in (("pixels", ("h", "w")), ("upscaled", ("hs", "ws")))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    spec = ModelSpec(name="g", scale=2, halo=None, size_rule=SizeRule())
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, path)
    return path


def test_a_backend_that_fails_in_the_middle_is_named_and_the_rest_is_reported(
    run: Run, model: Path, tmp_path: Path
) -> None:
    failing, path = failing_model(tmp_path / "failing.onnx"), tmp_path / "out.json"
    result = run("bench", "--model", failing, "--model", model, "--sizes", "8x8,9x9", *QUICK, "-o", path)
    assert result.exit_code == 5
    assert "failed: failing onnxruntime fp32 on 9x9: " in result.stderr
    kept = read_result(path)
    assert [(r.subject.model, r.case.label) for r in kept.runs] == [
        ("failing", "8x8"),
        ("repeat", "8x8"),
        ("repeat", "9x9"),
    ]
    assert [failure.case.label for failure in kept.failures] == ["9x9"]


def test_ctrl_c_keeps_what_was_measured(
    bench: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, path = BenchSession.measure, tmp_path / "kept.json"

    def interrupted(self: BenchSession, entry: Any, case: Any, **how: Any) -> Any:
        if case.label == "33x21":
            signal.raise_signal(signal.SIGINT)
        return measure(self, entry, case, **how)

    monkeypatch.setattr(BenchSession, "measure", interrupted)
    result = bench("--sizes", "16x12,33x21,40x40", "-o", path)
    assert result.exit_code == 130
    assert [run.case.label for run in read_result(path).runs] == ["16x12"]
    assert read_result(path).interrupted
    assert "16x12" in result.stdout


def test_a_suite_stands_for_options_and_what_is_given_wins(run: Run, model: Path, tmp_path: Path) -> None:
    suite = tmp_path / "suite.json"
    suite.write_text(
        json.dumps({"sizes": ["16x12", "20x20"], "batch": 2, "tile": "whole", "model": str(model)}),
        encoding="utf-8",
    )
    found = from_json(run("bench", "--suite", suite, *QUICK, "--json").stdout)
    assert [(r.case.label, r.case.batch) for r in found.runs] == [("16x12", 2), ("20x20", 2)]
    found = from_json(run("bench", "--suite", suite, "--sizes", "9x9", *QUICK, "--json").stdout)
    assert [(r.case.label, r.case.batch) for r in found.runs] == [("9x9", 2)]
    suite.write_text('{"size": 3}', encoding="utf-8")
    result = run("bench", "--suite", suite)
    assert result.exit_code == 3
    assert "no option 'size'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--sizes", "0"), 2, "has no pixels"),
        (("--sizes", "40000"), 2, "larger than the limit"),
        (("--min-fps", "many"), 2, "not a valid float"),
        (("--min-fps", "-1"), 2, "above 0"),
        (("--percentile", "p97"), 2, "p97"),
        (("--backend", "onxruntime"), 2, "did you mean 'onnxruntime'?"),
        (("--precision", "int4"), 2, "precision int4"),
        (("--tile", "some"), 2, "is not a tile size"),
        (("--threads", "0"), 2, "not a whole number from 1 to 1024"),
        (("--streams", "2"), 2, "--throughput"),
        (("--find", "realtime"), 2, "--min-fps"),
        (("--max-regression", "lots"), 2, "is not a share"),
        (("--baseline", "nowhere.json"), 3, "nowhere.json"),
        (("--budget", "nowhere.toml"), 3, "nowhere.toml"),
        (("--mode", "device"), 4, "stay on a GPU"),
        (("-o", "no/folder/x.json"), 3, "no/folder"),
    ],
)
def test_bad_input_is_told_before_anything_is_measured(
    bench: Callable[..., Result], arguments: tuple[str, ...], code: int, says: str
) -> None:
    result = bench(*arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_scale_without_a_model_names_those_there_are(run: Run, bundle: Path) -> None:
    result = run("bench", "--scale", 3)
    assert result.exit_code == 2
    assert "no bundled model has scale 3, there are 2, 4" in result.stderr


def test_compare_tells_what_became_slower(run: Run, measured: Path, tmp_path: Path) -> None:
    before = changed(measured, tmp_path / "a.json", lambda record: slower(record, 1.0))
    after = changed(measured, tmp_path / "b.json", lambda record: slower(record, 1.2))
    result = run("bench", "compare", before, after)
    assert result.exit_code == 0
    assert result.stdout.count("slower") == 2
    assert "+20.0 %" in result.stdout
    assert run("bench", "compare", before, before).stdout.count("no change") == 2
    missed = run("bench", "compare", before, after, "--max-regression", "10%")
    assert missed.exit_code == 1
    assert missed.stderr.count("missed: ") == 2


def test_compare_as_csv_and_markdown(run: Run, measured: Path) -> None:
    lines = list(
        csv.DictReader(io.StringIO(run("bench", "compare", measured, measured, "--format", "csv").stdout))
    )
    assert [line["ratio"] for line in lines] == ["1.0", "1.0"]
    assert "| --- |" in run("bench", "compare", measured, measured, "--format", "markdown").stdout


def test_compare_refuses_unlike_machines_and_a_single_file(run: Run, measured: Path, tmp_path: Path) -> None:
    other = changed(
        measured, tmp_path / "o.json", lambda r: r["environment"]["machine"].update(usable_cores=99)
    )
    result = run("bench", "compare", measured, other)
    assert result.exit_code == 3
    assert "unlike machines (usable cores: " in result.stderr
    assert run("bench", "compare", measured).exit_code == 2


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.csv"])
def test_a_report_is_made_by_its_suffix(run: Run, measured: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert run("bench", "report", measured, "-o", path).exit_code == 0
    assert "33x21" in path.read_text(encoding="utf-8")
    again = run("bench", "report", measured, "-o", path)
    assert again.exit_code == 3
    assert "--overwrite" in again.stderr
    assert run("bench", "report", measured, "-o", tmp_path / "report.pdf").exit_code == 2


def test_a_result_written_by_hand_still_has_to_fit(measured: Path) -> None:
    assert from_json(to_json(read_result(measured))) == read_result(measured)


def test_a_model_without_its_option_is_told_how_bench_takes_it(bench: Callable[..., Result]) -> None:
    for name in ("rt-x4", str(find_model("rt-x4"))):
        result = bench(name)
        assert result.exit_code == 2
        assert f"bench takes models as --model {name}" in result.stderr
    assert "No such command 'compar'" in bench("compar").stderr
