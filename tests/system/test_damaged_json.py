"""JSON that is damaged, nested deep, of wrong types, or huge gives one sentence, whatever reads it."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from sr_deploy.bench.gate import read_table
from sr_deploy.bench.result import read_result
from sr_deploy.engines.tensorrt.sidecar import EngineSidecar, read_sidecar
from sr_deploy.engines.verdict import read_verdict, verdict_path
from sr_deploy.errors import InputError, ModelError, SrDeployError
from sr_deploy.precision.learned import _read as read_ranges
from sr_deploy.spec import ModelSpec
from sr_deploy.system.files import read_bounded
from sr_deploy.system.json_values import LARGEST_JSON, from_plain, parse_json

DEEP = "[" * 100_000 + "]" * 100_000
DEEP_OBJECT = '{"a":' * 100_000 + "1" + "}" * 100_000
LONG = json.dumps({"x" * 5_000_000: 1})
TEXTS = [
    DEEP,
    DEEP_OBJECT,
    LONG,
    "",
    "[]",
    "null",
    "3",
    '"text"',
    '{"schema": [[]]}',
    '{"schema": 1, "spec": {"a": {}}}',
    "9" * 5000,
    "\x00" * 100,
]


@dataclass
class Small:
    """A record of one value."""

    a: int = 1


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_but_a_sentence_comes_of_it(tmp_path: Path, text: str) -> None:
    began = time.monotonic()
    path = tmp_path / "net.engine.json"
    path.write_text(text, encoding="utf-8")
    for read in (ModelSpec.from_json, EngineSidecar.from_json, read_ranges):
        with pytest.raises(ModelError) as found:
            read(text)
        assert len(str(found.value)) < 2000
    with pytest.raises(ModelError):
        read_sidecar(tmp_path / "net.engine")
    with pytest.raises(InputError):
        read_result(path)
    with suppress(SrDeployError):  # TOML takes some of them
        read_table(path, "--budget")
    (tmp_path / "net.onnx").write_bytes(b"a model")
    path.replace(verdict_path(tmp_path / "net.onnx"))
    assert read_verdict(tmp_path / "net.onnx") is None
    assert time.monotonic() - began < 10


def test_json_has_a_limit_of_size_and_depth() -> None:
    assert parse_json("[1]") == [1]
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json(DEEP)
    with pytest.raises(ValueError, match="more than the"):
        parse_json(" " * (LARGEST_JSON + 1))


def test_a_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match="is not known") as found:
        from_plain(Small, {"x" * 1_000_000: 1})
    assert len(str(found.value)) < 300


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="larger"):
        read_bounded(tmp_path / "a", 4)
