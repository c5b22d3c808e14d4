"""The report as a page: it is safe and self-contained, always the same, and true to the results."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from sr_deploy.bench.gate import Budget
from sr_deploy.bench.report.page import report, write_report
from sr_deploy.bench.result import BenchResult, FailedRun, to_json
from sr_deploy.bench.summary import summarise
from sr_deploy.errors import OutputError, UsageError
from tests.bench.sample_results import MACHINE, case, result, run, stages, subject, sweep

HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u202e"
HARMLESS = """html head meta title style body header main footer nav section h1 h2 h3 h4 p a ul li div span br bdi
code figure figcaption details summary table caption thead tbody tr th td svg desc g path text"""
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Parses the page: its elements, the ones that are left open, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == name]


def hostile(value: Any) -> Any:
    """Replace every text in `value`, at any depth, by an attack. Texts that identify a run stay as they are."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, tuple):
        return tuple(hostile(item) for item in value)
    if isinstance(value, (dict, MappingProxyType)):
        known = {"prepare", "compute", "finish", "psnr_y", "ssim_y"}
        return MappingProxyType({k if k in known else HOSTILE: hostile(v) for k, v in value.items()})
    if is_dataclass(value) and not isinstance(value, type):
        kept = {"mode", "kind"}
        changes = {f.name: hostile(getattr(value, f.name)) for f in fields(value) if f.name not in kept}
        return replace(value, **changes)
    return value


def full() -> BenchResult:
    """A result in which every field has a value."""
    models = {"rt-x4": 31.02, "span-x4": 31.75}
    runs = [
        r
        for name, psnr in models.items()
        for r in sweep(
            subject(name, quality={"Set5": {"psnr_y": psnr}}, options={"a": "b"}, engine_sha256="cd" * 32)
        )
    ]
    runs += [run(where=case("540p", batch=b), seconds=0.03 * b) for b in (2, 4, 8)]
    runs += [run(throughput=True, wall=0.2), run(mode="device", stages={})]
    failures = (FailedRun(subject=subject(backend="openvino"), case=case(), error="it is not there"),)
    return result(*runs, failures=failures, interrupted=True)


def test_a_page_of_everything_is_well_formed_and_made_of_harmless_elements() -> None:
    page = Page(report([full(), full()], budgets=[Budget(min_fps=30)], baseline=full()))
    assert page.open == []
    assert {name for name, _ in page.elements} <= set(HARMLESS.split())
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a")} == {f"#{i}" for i in ids}


def test_hostile_text_in_every_field_stays_text() -> None:
    attacked = hostile(full())
    budget = Budget(min_fps=30, model=HOSTILE, backend=HOSTILE, precision=HOSTILE, size=HOSTILE)
    page = Page(
        report(
            [attacked, attacked], budgets=[budget], baseline=replace(attacked, environment=full().environment)
        )
    )
    assert page.open == []
    assert {name for name, _ in page.elements} <= set(HARMLESS.split())
    assert not [
        key
        for _, a in page.elements
        for key in a
        if key.startswith("on") or key in ("src", "style", "srcdoc")
    ]
    assert {a["href"] for a in page.all("a")} == {"#result-0", "#result-1"}
    assert "<script>alert(1)</script>" in page.text
    assert "\u202e" not in page.text


def test_every_text_of_a_result_was_attacked() -> None:
    """Guards the test above: it must not pass because the attack was missing."""
    left = re.findall(r'": "([^"]*)"', to_json(hostile(full())).replace('\\"', ""))
    assert {text for text in left if "script" not in text} == {"end-to-end", "device", "sr-deploy bench"}


def test_the_page_asks_for_nothing_and_its_policy_forbids_it() -> None:
    text = report([full()])
    page = Page(text)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    style = text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert not re.search(r"url\(|@import|https?:", style)
    assert not re.search(r"https?:", text)


def test_the_same_results_give_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(to_json(full()), encoding="utf-8")
    code = (
        "from pathlib import Path; from sr_deploy.bench.report.page import write_report;"
        "from sr_deploy.bench.result import read_result;"
        "write_report([read_result(Path('result.json'))], Path('page.html'))"
    )
    pages = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
        pages.append((tmp_path / "page.html").read_bytes())
    assert pages[0] == pages[1]


def test_results_of_different_machines_have_sections_of_their_own() -> None:
    other = replace(MACHINE, cpu="Other CPU", gpus=("A GPU",))
    text = report([result(run(subject("alpha-net"))), result(run(subject("beta-net")), machine=other)])
    first, second = text.split('<section class="result">')[1:]
    assert "Test CPU" in first
    assert "Other CPU, A GPU" in second
    assert "beta-net" not in first
    assert "alpha-net" not in second


def test_two_modes_never_share_a_table_or_a_plot() -> None:
    runs = run(samples=[0.0111] * 30), run(samples=[0.0777] * 30, mode="device")
    first, rest = report([result(*runs)]).split("<h3>On the device</h3>")
    second = rest.split("<h3>Models and machine</h3>")[0]
    assert "<h3>End to end</h3>" in first
    assert [("11.1 ms" in part, "77.7 ms" in part) for part in (first, second)] == [
        (True, False),
        (False, True),
    ]


def test_every_figure_of_a_run_is_in_a_table() -> None:
    one = run(seconds=0.0123, count=200)
    table = Page(report([result(one)])).text
    summary = summarise(one)
    for seconds in (summary.p50, summary.p90, summary.p95, summary.p99, summary.least, summary.most):
        assert f"{seconds * 1000:.3g} ms" in table


def test_the_page_says_at_which_sizes_it_is_real_time() -> None:
    text = report([result(*sweep(at_360p=0.0145))])
    row = (
        text.split("The largest measured picture in real time", 2)[2].split("<tbody")[1].split("</tbody>")[0]
    )
    cells = [re.sub("<[^>]*>", " ", cell).split() for cell in re.findall("<td.*?</td>", row)]
    assert cells == [["360p", "to", "2560x1440"], ["360p", "to", "2560x1440"], ["540p", "to", "3840x2160"]]


def test_where_no_size_is_real_time_the_curve_tells_about_which_would_be() -> None:
    """A picture of 320x180 takes 50 ms, so a third of this time allows a third of its pixels."""
    text = Page(report([result(*sweep(at_360p=0.2, count=400))])).text
    (width, height), *_ = re.findall(r"noneabout (\d+)x(\d+)", text)
    assert int(width) * int(height) == pytest.approx(320 * 180 / 3, rel=0.1)
    assert "noneabout" not in Page(report([result(*sweep(at_360p=20.0))])).text


def test_real_time_is_judged_by_the_95th_percentile_not_by_the_median() -> None:
    spiky = run(samples=[0.010] * 18 + [0.050] * 2)
    text = report([result(spiky)])
    assert text.count(">none<") == 3


def test_a_missed_budget_is_named_with_how_much_is_missing_and_a_held_one_too() -> None:
    budgets = [Budget(max_ms=5, percentile="p50"), Budget(min_fps=1)]
    text = Page(report([result(run(samples=[0.010] * 30))], budgets=budgets)).text
    assert "missed at most 5 ms at p50, for every run" in text
    assert "10.00 ms at p50, allowed are 5: 100.0% too long" in text
    assert "held at least 1 fps at p95, for every run, by 1 run" in text


def test_a_baseline_of_the_same_machine_is_compared_and_another_is_refused() -> None:
    now, before = result(run(seconds=0.02)), result(run(seconds=0.01))
    text = Page(report([now], baseline=before)).text
    assert "+100.0 %" in text
    assert "slower" in text
    foreign = result(run(), machine=replace(MACHINE, cpu="Other CPU"))
    text = Page(report([now], baseline=foreign)).text
    assert "comes from another machine and is not compared: cpu: Other CPU and Test CPU" in text


def test_processor_time_is_told_where_it_was_measured() -> None:
    assert "19.5 ms" in Page(report([result(run(count=3, cpu=(0.0195,) * 3))])).text
    assert "processor time" not in Page(report([result(run())])).text.split("Jitter is")[0]


def test_doubts_failures_and_an_interruption_are_told() -> None:
    failure = FailedRun(subject=subject(backend="openvino"), case=case(), error="OpenVINO is not there")
    text = Page(report([result(run(count=5), failures=(failure,), interrupted=True)])).text
    assert "fewer than 20 samples" in text
    assert "it was interrupted" in text
    assert "rt-x4 openvino fp32, 360p: OpenVINO is not there" in text


def test_a_result_in_which_nothing_ran_still_has_a_page() -> None:
    failure = FailedRun(subject=subject(), case=case(), error="out of memory")
    text = Page(report([replace(result(), runs=(), failures=(failure,))])).text
    assert "out of memory" in text
    assert "Test CPU" in text


@pytest.mark.parametrize("samples", [[0.01], [0.0], [0.0, 0.0, 0.01], [1e-7] * 3, [86_400.0, 1e-6]])
def test_odd_samples_have_a_page_without_a_number_that_is_none(samples: list[float]) -> None:
    odd = run(samples=samples, warm_up=(), stages=stages(samples, compute=1.0))
    text = report([result(odd, run(subject("other")))])
    assert Page(text).open == []
    assert not re.search(r"[^a-z](nan|inf)[^a-z]", text)


def test_hashes_of_model_and_engine_and_the_environment_are_there() -> None:
    one = result(run(subject(engine_sha256="cd" * 32)))
    text = Page(report([one])).text
    for expected in (
        "ab" * 32,
        "cd" * 32,
        "CPython 3.11.7",
        "onnxruntime 1.32.0",
        "16 GiB",
        "AVX2",
        "photo.webp",
    ):
        assert expected in text


def test_ten_thousand_samples_make_no_huge_page() -> None:
    samples = [0.01 + 1e-6 * (i % 997) for i in range(20_000)]
    assert len(report([result(run(samples=samples, warm_up=tuple(samples)))])) < 150_000


def test_the_page_is_written_whole_over_an_older_one_and_to_any_name(tmp_path: Path) -> None:
    path = tmp_path / "Bericht ä 数.html"
    path.write_text("old", encoding="utf-8")
    write_report([result()], path)
    assert path.read_text(encoding="utf-8") == report([result()])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_and_no_result_are_errors(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="choose another place"):
        write_report([result()], tmp_path / "missing" / "page.html")
    with pytest.raises(UsageError, match="at least one result"):
        write_report([], tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
