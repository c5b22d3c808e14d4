"""The programs that are taken to a GPU: what can be shown of them without one, so that its minutes are not lost."""

from __future__ import annotations

import json

import pytest

from sr_deploy.graph.onnx_file import save_model
from tests.engines.tensorrt.real.compiler import needs_rtx
from tests.paths import ROOT


@pytest.fixture
def run(tmp_path):
    from benchmarks.gpu.common import Run

    made = Run(tmp_path, tmp_path, budget=100.0, only=set())
    made.engines["there"] = tmp_path / "there.engine"
    return made


def saved(run):
    return json.loads((run.out / "gpu_run.json").read_text(encoding="utf-8"))["sections"]


def fail():
    raise RuntimeError("it broke")


def test_a_section_that_fails_is_recorded_and_does_not_stop_the_next(run):
    run.section("first", fail)
    run.section("second", lambda: 7)
    assert saved(run)["first"]["error"] == "RuntimeError('it broke')"
    assert str(ROOT) not in saved(run)["first"]["traceback"]
    assert saved(run)["second"]["result"] == 7


def test_a_section_is_in_the_record_before_it_is_done(run):
    run.section("long", lambda: saved(run)["long"])
    assert saved(run)["long"]["result"] == {"state": "started"}


@pytest.mark.parametrize(
    ("limits", "why"), [({"of": "not there"}, "no engine not there"), ({"needs": 101}, "101 would be needed")]
)
def test_a_section_that_cannot_run_is_skipped_and_says_why(run, limits, why):
    run.section("one", fail, **limits)
    run.section("other", lambda: 7, of="there", needs=90)
    assert run.results["sections"]["one"]["state"] == "skipped"
    assert why in run.results["sections"]["one"]["why"]
    assert run.results["sections"]["other"]["state"] == "ran"


def test_what_a_build_is_expected_to_take_is_what_the_slowest_took(run):
    from benchmarks.gpu.build import EXPECTED_SECONDS, USUAL, seconds_expected, to_be_timed, usual

    one, five = to_be_timed("net", "fp16", (540, 960)), usual("net", "fp16")
    assert (seconds_expected(run, one), seconds_expected(run, five)) == (
        EXPECTED_SECONDS[USUAL],
        5 * EXPECTED_SECONDS[USUAL],
    )
    run.results["builds"] += [{"level": USUAL, "profiles": 1, "seconds": 3.0}] * 2
    run.results["builds"] += [{"level": USUAL, "profiles": 5, "seconds": 50.0}]
    assert seconds_expected(run, one) == 10.0


def test_what_is_built_for_the_important_sections_is_small_and_quick():
    from benchmarks.gpu.build import FAST, for_any_size, for_crops, to_be_timed
    from sr_deploy.engines.tensorrt.options import BuildOptions
    from sr_deploy.engines.tensorrt.profiles import plan_profiles
    from sr_deploy.spec import ModelSpec, SizeRule

    spec = ModelSpec(name="net", scale=4, halo=10)
    for plan in (
        for_any_size("net", "fp16"),
        for_crops("net", "fp16"),
        to_be_timed("net", "fp16", (540, 960)),
    ):
        rule = SizeRule(fixed=plan.only_size) if plan.only_size else SizeRule()
        profiles = plan_profiles(spec.with_(size_rule=rule), BuildOptions(**plan.options))
        assert len(profiles) == plan.profiles <= 2
        assert plan.only_size or plan.level == FAST


def test_the_time_of_a_build_is_told_by_what_it_tries():
    from benchmarks.gpu.build import BuildTimes

    account = BuildTimes()
    account.hear("[MemUsageChange] Init CUDA", 1.0)
    account.hear("--------------- Timing Runner: core/Conv_2 (CaskConvolution[0x80000009])", 2.0)
    account.hear("Tactic: 0xe47e164f4a743900 Time: 0.231", 4.5)
    account.hear("core/Conv_2 Set Tactic Name: sm80_xmma Tactic: 0x0412 Time: 0.2", 5.0)
    account.hear(">>>>>>>>>>>>>>> Chose Runner Type: CaskConvolution Tactic: 0xe47e164f4a743900", 5.0)
    account.hear("Engine generation completed in 4.2 seconds.", 6.5)
    shown = account.shown()
    assert shown["seconds_by_runner"] == {"CaskConvolution": 3.0, "before the first": 2.0, "between": 1.5}
    assert shown["kernels_tried"] == {"CaskConvolution": 2}
    assert shown["said"] == ["Engine generation completed in 4.2 seconds."]


def test_torch_is_timed_on_the_model_and_the_size_of_the_acceptance_line_first():
    pytest.importorskip("torch")
    from benchmarks.gpu.torch_peer import SEARCHED, order

    listed = order()
    assert listed[0] == ("srresnet-x4", "compile", (540, 960))
    assert {mode for _, mode, _ in listed[-6:]} == {SEARCHED}
    assert len(listed) == len(set(listed)) == 2 * 3 * 4


@pytest.fixture(scope="module")
def gpu_models(tmp_path_factory):
    """The folder that is taken to the GPU machine, with an int8 file in it."""
    from benchmarks.gpu.prepare import prepare
    from tests.engines.tensorrt.real.compiler import bundled

    folder = tmp_path_factory.mktemp("gpu")
    save_model(bundled("rt-x4", "int8"), folder / "rt-x4-int8.onnx")
    prepare(folder, [], [folder / "rt-x4-int8.onnx"], None, "")
    return folder


@needs_rtx
def test_a_dry_run_builds_everything_with_a_real_compiler_and_stops_before_cuda(gpu_models, tmp_path):
    from benchmarks.gpu.common import Run
    from tests.gpu.run import sections

    made = Run(gpu_models, tmp_path, budget=600.0, only=set(), runtime="tensorrt-rtx", dry=True)
    made.models = json.loads((gpu_models / "models.json").read_text(encoding="utf-8"))
    sections(made)
    found = saved(made)
    states = {name: section["state"] for name, section in found.items()}
    assert [name for name, state in states.items() if state == "failed"] == []
    ran = [name for name, state in states.items() if state == "ran"]
    assert {name.partition("/")[0] for name in ran} == {"build", "precision"}
    built = [name for name in ran if name.startswith("build/")]
    assert built[:3] == ["build/rt-x4-fp16-crops", "build/rt-x4-int8-crops", "build/rt-x4-fp16-timed-960x540"]
    assert len(built) >= 12
    assert {section["why"] for section in found.values() if section["state"] == "skipped"} == {
        "a dry run makes no call to CUDA"
    }
    # what matters most comes first
    order = [
        name for name in found if name.partition("/")[0] in ("parity", "timing", "torch", "sweep", "device")
    ]
    assert order[:2] == ["parity/rt-x4-fp16-crops", "parity/rt-x4-int8-crops"]
    assert order.index("torch") < order.index("sweep") < order.index("device")
