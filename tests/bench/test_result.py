"""Results survive being written and read, and nothing else is accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tests.bench.sample_results as sample
from sr_deploy.bench.result import SCHEMA, FailedRun, from_json, read_result, to_json, write_result
from sr_deploy.errors import InputError, OutputError


def changed(**top: Any) -> str:
    """The JSON of a good result with other values at the top level."""
    return json.dumps(json.loads(to_json(sample.result())) | top)


def test_what_was_written_is_read_back_equal(tmp_path: Path) -> None:
    failure = FailedRun(subject=sample.subject(), case=sample.case(), error="it does not fit")
    before = sample.result(failures=(failure,), interrupted=True)
    path = tmp_path / "größe.json"
    write_result(before, path)
    after = read_result(path)
    assert from_json(to_json(after)) == after
    assert after.failures == before.failures
    assert after.interrupted
    assert after.environment == before.environment
    assert [run.case for run in after.runs] == [run.case for run in before.runs]
    for old, new in zip(before.runs, after.runs, strict=True):
        assert new.samples == pytest.approx(old.samples, rel=1e-5)
    assert list(tmp_path.iterdir()) == [path]


def test_a_list_of_samples_is_one_line(tmp_path: Path) -> None:
    text = to_json(sample.result())
    assert any(line.strip().startswith('"samples": [') and line.count(",") > 20 for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("[]", "is not a result"),
        ('{"schema": 1}', "is not a result"),
        (changed(schema=SCHEMA + 1), f"has schema {SCHEMA + 1}, this version reads schema {SCHEMA}"),
        (changed(schema="1"), "has schema '1'"),
        (changed(runs={}), "the record.runs is a dict, expected a list"),
        (changed(surprise=1), "has 'surprise', which is not known"),
        (changed(interrupted=1), "the record.interrupted is a int, expected a bool"),
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(InputError, match=r"^B") as caught:
        from_json(text, "B")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"samples": []}, "has no samples"),
        ({"samples": [0.1, -0.1]}, "below zero"),
        ({"samples": [0.1, True]}, "samples[1] is a bool"),
        ({"mode": "sideways"}, "mode is 'sideways'"),
        ({"stages": {"compute": [0.1]}}, "stage 'compute' has 1 of 40 samples"),
        ({"wall": None}, "wall is a NoneType"),
    ],
)
def test_a_run_that_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    record = json.loads(to_json(sample.result()))
    record["runs"][0] |= change
    with pytest.raises(InputError) as caught:
        from_json(json.dumps(record))
    assert says in str(caught.value)


def test_numbers_that_json_lacks_are_refused() -> None:
    record = to_json(sample.result())
    with pytest.raises(InputError, match="finite"):
        from_json(record.replace('"load": null', '"load": NaN', 1))


def test_a_missing_file_and_a_bad_place_are_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json"):
        read_result(tmp_path / "nowhere.json")
    with pytest.raises(OutputError, match="choose another place"):
        write_result(sample.result(), tmp_path / "no" / "folder.json")
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match="not a result"):
        read_result(tmp_path / "picture.json")
