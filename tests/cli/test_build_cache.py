"""`sr-deploy build` where nothing can be built, and `sr-deploy cache` on engines that are there."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sr_deploy.cli.build import lines, options_from
from sr_deploy.engines.tensorrt.build import BuiltEngine
from sr_deploy.engines.tensorrt.cache import EngineCache
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.profiles import plan_profiles
from sr_deploy.engines.tensorrt.runtimes import RTX
from sr_deploy.engines.tensorrt.sidecar import BuildMachine, EngineSidecar, digest, read_engine
from sr_deploy.spec import ModelSpec
from tests.engines.tensorrt.real.compiler import needs_rtx

PLAN = b"p" * (3 << 20)
DAY = 86400


def a_record(**changes) -> EngineSidecar:
    spec = ModelSpec(name="rt-x4", scale=4, halo=7, precision="fp16")
    options = BuildOptions(sizes=((1080, 1920),))
    record = EngineSidecar(
        spec=spec,
        pixels="uint8",
        model_sha256="ab" * 32,
        model_name="rt-x4.onnx",
        options=options,
        machine=BuildMachine(tensorrt="10.16.1", gpu="NVIDIA H100", capability=(9, 0), driver="580.1"),
        profiles=plan_profiles(spec, options),
        plan_sha256=digest(PLAN),
        plan_size=len(PLAN),
        precisions={"fp16": 11, "fp32": 1},
        build_seconds=71.4,
    )
    return replace(record, **changes)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> EngineCache:
    """Two engines in the user's cache, one of them not used for 40 days."""
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    made = EngineCache(tmp_path / "cache" / "engines")
    for key, age in (("a", 40), ("b", 0)):
        made.store(key * 32, PLAN, a_record())
        used = time.time() - age * DAY
        os.utime(made.path(key * 32), (used, used))
    return made


def test_without_tensorrt_build_ends_in_the_install_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = run("build", "rt-x4", "-o", tmp_path / "x.engine")
    assert result.exit_code == 4
    assert result.stderr.strip().endswith('pip install "sr-deploy[gpu]"')
    assert list(tmp_path.iterdir()) == []


def test_build_refuses_to_replace_a_file_unasked(run, tmp_path):
    (tmp_path / "x.engine").write_text("mine", encoding="utf-8")
    result = run("build", "rt-x4", "-o", tmp_path / "x.engine")
    assert "add --overwrite" in result.stderr
    assert (tmp_path / "x.engine").read_text(encoding="utf-8") == "mine"


def test_options_reach_the_build_whole():
    given = {
        "sizes": "1920x1080",
        "tile": 512,
        "small": 64,
        "max_batch": 2,
        "workspace": 100,
        "level": 5,
        "tf32": True,
        "version_compatible": True,
        "hardware_compatible": "ampere+",
    }
    assert options_from(**given) == BuildOptions(
        sizes=((1080, 1920),),
        tile=512,
        small=64,
        max_batch=2,
        workspace_mib=100,
        optimisation_level=5,
        tf32=True,
        version_compatible=True,
        hardware_compatible="ampere+",
    )


def test_what_was_built_is_told():
    text = "\n".join(
        lines(Path("x.engine"), BuiltEngine(plan=PLAN, record=a_record(), timings=b"", layers=""))
    )
    assert "x.engine  3,072 KiB, built in 71 s" in text
    assert "profiles 1920x1080, small, tile" in text
    assert "11 fp16, 1 fp32" in text
    assert "NVIDIA H100 and TensorRT 10.16.1" in text


def test_list_shows_engines_the_last_used_first(run, cache):
    result = run("cache", "list")
    assert result.exit_code == 0
    rows = result.stdout.splitlines()
    assert len(rows) == 3
    assert rows[1].startswith("rt-x4")
    assert rows[1].endswith(f"{'b' * 32}.engine")
    assert "3.0" in rows[1]


def test_list_is_json_for_programs(run, cache):
    found = json.loads(run("cache", "list", "--json").stdout)
    assert [Path(entry["path"]).name[0] for entry in found] == ["b", "a"]
    assert found[0]["record"]["machine"]["gpu"] == "NVIDIA H100"


def test_a_damaged_engine_is_shown_as_such(run, cache):
    cache.path("b" * 32).write_bytes(b"short")
    assert "(damaged)" in run("cache", "list").stdout


def test_an_empty_cache_is_no_error(run, tmp_path):
    result = run("cache", "list", "--folder", tmp_path / "none")
    assert result.exit_code == 0
    assert "no engines" in result.stderr


def test_prune_wants_to_know_what(run, cache):
    result = run("cache", "prune")
    assert result.exit_code == 2
    assert len(cache.entries()) == 2


def test_prune_deletes_what_was_not_used(run, cache):
    result = run("cache", "prune", "--days", "30")
    assert result.stdout.strip() == "1 engines deleted, 3.0 MiB, 1 left"
    assert [entry.key[0] for entry in cache.entries()] == ["b"]


def test_prune_deletes_the_least_used_of_too_much(run, cache):
    run("cache", "prune", "--max-mib", "4")
    assert [entry.key[0] for entry in cache.entries()] == ["b"]


def test_prune_all_deletes_all(run, cache):
    assert run("cache", "prune", "--all").stdout.startswith("2 engines deleted")
    assert cache.entries() == []


def test_without_a_cache_there_is_nothing_to_list(run, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", "")
    result = run("cache", "list")
    assert result.exit_code == 2
    assert "turned off" in result.stderr


def test_export_with_an_engine_says_before_the_work_that_none_can_be_built(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = run("export", "none.safetensors", "-o", tmp_path / "x.onnx", "--engine", tmp_path / "x.engine")
    assert result.exit_code == 4
    assert result.stderr.strip().endswith('pip install "sr-deploy[gpu]"')
    wrong = run("export", "n", "-o", tmp_path / "x.onnx", "--io", "uint8", "--engine", tmp_path / "x.engine")
    assert wrong.exit_code == 2
    assert "leave --io out" in wrong.stderr
    assert list(tmp_path.iterdir()) == []


@needs_rtx
def test_build_for_rtx_needs_no_gpu_and_lists_what_it_is_for(run, tmp_path):
    target = tmp_path / "x.engine"
    result = run(
        "build",
        "rt-x2",
        "-o",
        target,
        "--runtime",
        "tensorrt-rtx",
        "--tile",
        64,
        "--capabilities",
        "8.9, 8.6",
    )
    assert result.exit_code == 0, result.stderr
    assert "building rt-x2 for compute capabilities 8.9, 8.6 with TensorRT for RTX 1." in result.stderr
    assert "layers that compute: 17 fp32" in result.stdout
    assert "for compute capabilities 8.9, 8.6 and TensorRT for RTX 1." in result.stdout
    record = read_engine(target)[1]
    assert (record.machine.runtime, record.machine.gpu, record.options.capabilities) == (
        "tensorrt-rtx",
        "",
        ("8.9", "8.6"),
    )
    served = run("serve-repo", "--engine", target, "-o", tmp_path / "repository")
    assert served.exit_code != 0
    assert "is an engine of TensorRT for RTX 1." in served.stderr
    assert "which Triton has no backend for" in served.stderr


def test_capabilities_are_for_rtx_alone_and_a_wrong_one_is_named(run, tmp_path):
    result = run(
        "build", "rt-x2", "-o", tmp_path / "x.engine", "--runtime", "tensorrt-rtx", "--capabilities", "9.0"
    )
    assert result.exit_code == 2
    assert "capabilities must be among 7.5, 8.0, 8.6, 8.9, 12.0, 12.1, got 9.0" in result.stderr


def test_engines_for_rtx_are_listed_with_what_they_are_for(run, cache):
    record = a_record(
        machine=BuildMachine.without_gpu(RTX, "1.7.1.116"), options=BuildOptions(capabilities=("8.6",))
    )
    cache.store("c" * 32, PLAN, replace(record, plan_sha256=digest(PLAN), plan_size=len(PLAN)))
    (row,) = [line for line in run("cache", "list").stdout.splitlines() if "RTX 1.7.1.116" in line]
    assert "8.6" in row
