"""The plots of the report show the samples they were given."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from sr_deploy.bench.report.axes import axis_of
from sr_deploy.bench.report.bars import spread_bars, stage_bars
from sr_deploy.bench.report.charts import latency_plots, scaling_plots
from sr_deploy.bench.report.lines import Panel, panels
from sr_deploy.bench.report.plot import BOTTOM, TOP, Point, Scale, Series, plot
from sr_deploy.bench.report.quality import quality_plots
from sr_deploy.bench.report.samples import samples_plot
from sr_deploy.bench.result import BenchRun
from tests.bench.sample_results import case, result, run, stages, subject, sweep


def panel(*runs: BenchRun) -> Panel:
    """The panel of `runs`, which are all of one mode."""
    (only,) = panels(result(*runs))
    return only


def names(found: Panel) -> list[str]:
    return [line.name for line in found.lines]


def test_a_line_is_what_differs_in_size_alone_and_is_named_by_what_differs() -> None:
    found = panel(*sweep(), *sweep(subject(backend="openvino")))
    assert names(found) == ["rt-x4 onnxruntime", "rt-x4 openvino"]
    assert found.common == "fp32, 2 threads"
    assert [r.case.label for r in found.lines[0].runs] == ["180p", "360p", "540p", "1080p"]


def test_no_two_lines_have_one_name_even_where_only_the_file_differs() -> None:
    found = panel(
        run(), run(subject(model_sha256="ef" * 32)), run(where=case(batch=2)), run(where=case(tile="256"))
    )
    assert len(set(names(found))) == 4
    assert "efefefef" in names(found)[1]


def test_modes_are_panels_and_so_is_throughput() -> None:
    found = panels(result(run(), run(mode="device"), run(throughput=True)))
    assert [(p.mode, p.throughput) for p in found] == [
        ("end-to-end", False),
        ("device", False),
        ("end-to-end", True),
    ]


def test_a_point_lies_where_its_value_is() -> None:
    points = tuple(Point(x=x, y=y, tip="") for x, y in ((1, 10), (10, 100), (100, 1000)))
    drawn = plot(
        [Series(name="a", points=points, style=0)],
        x=Scale(label="x", log=True),
        y=Scale(label="y", log=True),
        title="t",
        description="d",
    )
    (way,) = re.findall(r'<path d="M([^"]*)" class="line">', drawn)
    places = [tuple(float(v) for v in place.split()) for place in way.split("L")]
    up = axis_of([10, 100, 1000], start=BOTTOM, end=TOP, log=True)
    assert [y for _, y in places] == pytest.approx([up.at(v) for v in (10, 100, 1000)], abs=0.01)
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.02)


def test_every_series_has_a_mark_of_its_own_so_that_colour_is_not_needed() -> None:
    lines = [run(subject(f"model-{i}")) for i in range(8)]
    (drawn,) = latency_plots(panel(*lines))
    marks = re.findall(r'<path d="M[\d.]+ [\d.]+([^"]*)" class="mark[^"]*">', drawn.split("</svg>")[0])
    assert len(set(marks)) == len(marks) == 8


def test_more_than_eight_lines_are_shared_out_evenly_among_plots() -> None:
    runs = [r for i in range(9) for r in sweep(subject(f"model-{i}"))]
    drawn = list(latency_plots(panel(*runs)))
    assert [len(re.findall("<li>", one)) for one in drawn] == [5, 4]
    assert "(2 of 2)" in drawn[1]


def test_sizes_with_a_name_are_ticks() -> None:
    sizes = [replace(case("160x90"), label="90p"), case("360p"), replace(case("637x481"), label="photo.png")]
    (drawn,) = latency_plots(panel(*(run(where=size) for size in sizes)))
    assert re.findall(r"class=\"tick middle\">([^<]*)<", drawn) == ["90p", "360p"]


def test_the_rates_of_real_time_are_drawn_where_they_are_near() -> None:
    (drawn,) = latency_plots(panel(*sweep(at_360p=0.02)))
    assert re.findall(r">(\d+ fps)<", drawn) == ["60 fps", "30 fps", "24 fps"]
    (drawn,) = latency_plots(panel(run(seconds=100.0)))
    assert "fps<" not in drawn


def test_a_plot_is_told_in_words_too() -> None:
    (drawn,) = latency_plots(panel(*sweep()))
    said = re.findall('aria-label="([^"]*)"', drawn)[0]
    assert said.startswith("Latency by size. rt-x4: 2.")
    assert said.endswith("at 1080p (1920x1080).")


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.3])
def test_the_exponent_is_fitted(exponent: float) -> None:
    drawn = next(scaling_plots(panel(*sweep(exponent=exponent, count=400))))
    (found,) = re.findall(r"rt-x4: pixels\^([\d.]+)</li>", drawn)
    assert float(found) == pytest.approx(exponent, abs=0.02)
    assert 'class="trend"' in drawn


def test_two_points_have_no_exponent() -> None:
    drawn = next(scaling_plots(panel(*sweep()[:2])))
    assert "^" not in drawn
    assert 'class="trend"' not in drawn


@pytest.mark.parametrize(
    ("runs", "title"),
    [
        ([run(subject(threads=t), seconds=0.1 / t) for t in (1, 2, 4)], "Time per picture by threads"),
        ([run(where=case(batch=b), seconds=0.1 * b) for b in (1, 2, 4)], "Time per picture by batch"),
        ([run(where=case(tile=str(s))) for s in (64, 128, 256)], "Time per picture by tile side"),
    ],
)
def test_threads_batch_and_tile_side_have_a_plot_where_they_vary(runs: list[BenchRun], title: str) -> None:
    assert [title in one for one in scaling_plots(panel(*runs))] == [True]


def test_speed_against_quality_needs_two_qualities_and_never_mixes_scales() -> None:
    good, better = (
        subject("a", quality={"Set5": {"psnr_y": 31.0}}),
        subject("b", quality={"Set5": {"psnr_y": 32.0}}),
    )
    other = replace(better, model="c", scale=2)
    assert not list(quality_plots(panel(run(good), run(other))))
    (drawn,) = quality_plots(panel(run(good), run(better), run(other)))
    assert "a: 31.00 dB on Set5" in drawn
    assert "x4" in drawn
    assert "c: " not in drawn


def test_the_card_of_a_net_is_no_praise_for_repeated_pixels() -> None:
    card = subject("a"), subject("b", backend="nearest", quality={"Set5": {"psnr_y": 32.0}})
    assert not list(quality_plots(panel(*(run(one) for one in card))))


def test_warm_ups_are_rings_and_samples_are_dots_one_each() -> None:
    drawn = samples_plot(run(count=57), "a run")
    (rings,), (dots,) = (re.findall(f'<path d="([^"]*)" class="{name}', drawn) for name in ("warmup", "dots"))
    assert rings.count("M") == 3
    assert dots.count("M") == 57


def test_a_warm_up_far_beyond_the_samples_does_not_squeeze_them() -> None:
    def height(one: BenchRun) -> float:
        (dots,) = re.findall('<path d="([^"]*)" class="dots', samples_plot(one, "a run"))
        heights = [float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)", dots)]
        return max(heights) - min(heights)

    samples = [0.010, 0.011, 0.012, 0.020]
    usual, slow = (run(samples=samples, warm_up=(w,)) for w in (0.032, 32.0))
    assert height(slow) == pytest.approx(height(usual))


def test_of_too_many_samples_the_slowest_and_the_fastest_are_kept() -> None:
    samples = [0.01] * 5000
    samples[1234], samples[4321] = 0.002, 0.09
    drawn = samples_plot(run(samples=samples, warm_up=()), "a run")
    (dots,) = re.findall('<path d="([^"]*)" class="dots', drawn)
    heights = {float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)", dots)}
    assert dots.count("M") <= 400
    assert len(heights) == 3


def test_the_histogram_counts_every_sample() -> None:
    drawn = samples_plot(run(samples=[0.01] * 30 + [0.02] * 10, warm_up=()), "a run")
    (bars,) = re.findall('<path d="([^"]*)" class="bar s0"', drawn)
    long, short = sorted((float(w) for w in re.findall(r"M[\d.]+ [\d.]+h([\d.]+)", bars)), reverse=True)
    assert long / short == pytest.approx(3, rel=0.01)


def test_the_bar_of_a_stage_is_as_long_as_its_share() -> None:
    taken = (0.01, 0.02, 0.03)
    drawn = stage_bars(panel(run(samples=taken, stages=stages(taken, prepare=0.25, compute=0.5))))
    assert drawn is not None
    widths = re.findall(r"<title>(\w+): [^<]*</title><path d=\"M[\d.]+ 0h([\d.]+)v", drawn)
    assert [(name, float(width)) for name, width in widths] == [
        ("prepare", 250),
        ("compute", 500),
        ("other", 250),
    ]
    assert 'aria-label="prepare 25 %, compute 50 %, other 25 %"' in drawn


def test_without_stages_there_are_no_bars_of_stages() -> None:
    assert stage_bars(panel(run(stages={}))) is None


def test_the_spread_names_how_far_p95_lies_above_the_median() -> None:
    drawn = spread_bars(panel(run(samples=[1.0] * 10 + [1.5] * 10 + [2.0])))
    assert drawn is not None
    assert ">+0.0 %<" in spread_bars(panel(run(samples=[1.0] * 30)))
    assert "slowest 2 s" in drawn
