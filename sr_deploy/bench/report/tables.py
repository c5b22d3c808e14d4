"""The tables of the report: real time, all numbers, models, machine. They have every figure of the plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sr_deploy.bench.report.axes import duration, size, three_digits
from sr_deploy.bench.report.charts import RATES
from sr_deploy.bench.report.lines import Line, Panel
from sr_deploy.bench.report.markup import Child, Markup, grouped_table, table, tag
from sr_deploy.bench.result import STAGES, BenchResult, BenchRun, BenchSubject, Calibration
from sr_deploy.bench.scaling import fit_power_law
from sr_deploy.bench.summary import percentile, summarise

_MAX_EXTRAPOLATION = 16.0
"""Factor below the smallest measured picture, in pixels, down to which the power law is trusted."""


def real_time_table(panel: Panel) -> Markup:
    """The largest picture that each line upscales at 60, 30 and 24 pictures a second."""
    rows = [
        (tag("bdi", line.name), *(_largest_real_time(line, rate) for rate in RATES)) for line in panel.swept
    ]
    rule = (
        "the mean time per picture, with the pipeline full, is within the budget"
        if panel.throughput
        else "95 of 100 pictures are done within the budget (p95)"
    )
    budgets = ", ".join(f"{duration(1 / rate)} for {rate} fps" for rate in RATES)
    return table(
        ("model", *(f"{rate} fps" for rate in RATES)),
        rows,
        caption=f"The largest measured picture in real time: {rule}. The budget is {budgets}. If no picture is in real "
        'time, "about" is an estimate by the power law through all sizes.',
        class_="stack",
    )


def _real_time_seconds(run: BenchRun) -> float:
    """Seconds per picture that real time is judged by: p95, or the mean in throughput mode."""
    summary = summarise(run)
    return 1 / summary.fps if run.throughput else summary.p95 / run.case.batch


def _largest_real_time(line: Line, rate: int) -> Markup:
    """The cell of one line and rate: the largest measured size in real time, with the size of its result.

    If no size is in real time, the cell says "none" and gives an estimate.
    """
    held = [run for run in line.runs if _real_time_seconds(run) * rate <= 1]
    if not held:
        return tag("span", _state("none", "bad"), _estimate(line, rate))
    run, scale = held[-1], held[-1].subject.scale
    out = f"to {run.case.width * scale}x{run.case.height * scale}"
    return tag("span", _state(run.case.label, "good"), tag("br"), tag("span", out, class_="soft"))


def _state(text: str, state: str) -> Markup:
    """A coloured label; `state` is "good" or "bad"."""
    return tag("span", text, class_=f"state {state}")


def _estimate(line: Line, rate: int) -> list[Markup]:
    """The 16:9 picture that would be real time by the power law through all sizes, as "about WIDTHxHEIGHT".

    Nothing if that is larger than the smallest measured picture, or smaller by more than _MAX_EXTRAPOLATION.
    """
    areas = [run.case.width * run.case.height for run in line.runs]
    fit = fit_power_law([(area, _real_time_seconds(run)) for area, run in zip(areas, line.runs, strict=True)])
    pixels = fit.reaching(1 / rate) if fit else None
    if pixels is None or not min(areas) / _MAX_EXTRAPOLATION <= pixels <= min(areas):
        return []
    height = round((pixels * 9 / 16) ** 0.5)
    return [tag("br"), tag("span", f"about {round(height * 16 / 9)}x{height}", class_="soft")]


def numbers_table(panel: Panel, calibration: Calibration | None) -> Markup:
    """Every run with all its figures, grouped by line.

    Columns that are empty for all runs are omitted.
    """
    figures = [(line, run, _figures(run, calibration)) for line, run in panel.runs]
    used = [name for name in figures[0][2] if any(mine[name] for _, _, mine in figures)]
    groups = [
        (
            tag("bdi", line.name),
            [(_size_cell(run), *(mine[n] for n in used)) for owner, run, mine in figures if owner is line],
        )
        for line in panel.lines
    ]
    return grouped_table(
        ("size", *used),
        groups,
        caption="All runs. Times are those of one sample. Jitter is the mean difference between a sample and the one "
        "before it. Processor time is the median over the samples, of all threads together.",
    )


def _size_cell(run: BenchRun) -> list[Child]:
    """The label of a size, with the exact size below it if that differs."""
    exact = f"{run.case.width}x{run.case.height}"
    soft = [tag("br"), tag("span", exact, class_="soft")] if run.case.label != exact else None
    return [tag("span", run.case.label), soft]


def _figures(run: BenchRun, calibration: Calibration | None) -> dict[str, str]:
    """Column -> figure of one run, "" if it is unknown.

    The order here is the order of the columns; the stages come last, as shares of the mean sample.
    """
    s, cold, memory = summarise(run, calibration), run.cold_start, run.memory
    return {
        "fps": three_digits(s.fps),
        "p50": duration(s.p50),
        "p90": duration(s.p90),
        "p95": duration(s.p95),
        "p99": duration(s.p99),
        "min": duration(s.least),
        "max": duration(s.most),
        "jitter": duration(s.jitter),
        "processor time": duration(percentile(run.cpu, 50)) if run.cpu else "",
        "MP/s in": three_digits(s.megapixels),
        "MP/s out": three_digits(s.output_megapixels),
        "tiles": str(run.case.tiles),
        "samples": str(s.count),
        "warm-up": str(len(run.warm_up)) + ("" if run.steady else ", not steady"),
        "memory": _or_blank(memory.host, size),
        "device memory": _or_blank(memory.device, size),
        "open": "" if cold is None else duration(cold.open),
        "first call": "" if cold is None else duration(cold.first),
        "of peak compute": _or_blank(s.compute_share, _percent),
        "of copy bandwidth": _or_blank(s.bandwidth_share, _percent),
        "energy per picture": _or_blank(s.joules, lambda v: f"{three_digits(v)} J"),
        "others' load": _or_blank(run.others, _percent),
        **{name: _percent(s.stages[name]) if name in s.stages else "" for name in (*STAGES, "other")},
    }


def _or_blank(value: float | None, text: Callable[[float], str]) -> str:
    """Format `value`, or return "" for None."""
    return "" if value is None else text(value)


def _percent(share: float) -> str:
    """Format a share (0..1) as percent."""
    return f"{three_digits(100 * share)} %"


def models_table(result: BenchResult) -> Markup:
    """The models that ran, with size, quality and hashes."""
    header = (
        "model",
        "scale",
        "precision",
        "parameters",
        "quality, from its card",
        "SHA-256 of file and engine",
    )
    rows = dict.fromkeys(_model(run.subject) for run in result.runs)
    return table(
        header, [(tag("bdi", name), *rest) for name, *rest in rows], caption="Models.", class_="stack"
    )


def _model(subject: BenchSubject) -> tuple[str, ...]:
    """The row of one model."""
    quality = (
        f"{data} {' '.join(_measured(k, v) for k, v in sorted(values.items()))}"
        for data, values in sorted(subject.quality.items())
    )
    hashes = (tag("code", digest) for digest in (subject.model_sha256, subject.engine_sha256) if digest)
    return (
        subject.model,
        f"x{subject.scale}",
        subject.precision,
        "" if subject.parameters is None else f"{subject.parameters:,}",
        "; ".join(quality),
        Markup(tag("br").join(hashes)),
    )


def _measured(key: str, value: float) -> str:
    """A quality with its unit."""
    return f"{value:.2f} dB" if key.startswith("psnr") else f"{value:.4f}"


def environment_table(result: BenchResult) -> Markup:
    """The machine, the software and the settings of the measurement. Unknown values have no row."""
    rows = [(name, tag("bdi", value)) for name, value in _environment(result) if value]
    return table(("", ""), rows, caption="Machine, software and settings of the measurement.", class_="wrap")


def _environment(result: BenchResult) -> Iterator[tuple[str, str]]:
    """Yield names and values of the environment; unknown values are ""."""
    env, settings = result.environment, result.settings
    machine, state = env.machine, env.state
    yield "processor", f"{machine.cpu} ({machine.architecture})"
    yield "instruction sets", ", ".join(machine.features)
    yield "cores", f"{machine.usable_cores} usable, {machine.cores} logical in the machine"
    yield "limits of the container", _limits(machine.cpu_quota, machine.memory_limit)
    yield "GPU", ", ".join(machine.gpus)
    yield "driver", env.driver or ""
    yield "memory", _memory(state.memory_total, state.memory_available)
    yield "clock", _clock(state.clock_mhz, state.top_clock_mhz, state.governor)
    yield "load before the first run", _or_blank(state.load, lambda v: f"{three_digits(v)} processes")
    yield "taken by others before the first run", _or_blank(state.busy_elsewhere, _percent)
    yield "virtual machine", state.virtual or ""
    yield "system", env.platform
    yield "Python", env.python
    yield "versions", _pairs(env.versions)
    yield "pictures", ", ".join(settings.images)
    yield "SHA-256 of their pixels", settings.image_sha256 or ""
    yield (
        "effort",
        (
            f"at least {settings.min_samples} samples and {duration(settings.min_seconds)}, "
            f"{duration(settings.max_seconds)} at most, for each run"
        ),
    )
    if result.calibration:
        yield "this machine's peak, measured", _peak(result.calibration)


def _limits(quota: float | None, memory: int | None) -> str:
    """The limits of the container in words."""
    found = [f"{three_digits(quota)} cores' worth of time"] if quota is not None else []
    return ", ".join(found + ([size(memory)] if memory is not None else []))


def _memory(total: int | None, available: int | None) -> str:
    """Total and free memory in words."""
    free = "" if available is None else f"{size(available)} free before the first run"
    return ", ".join(filter(None, ("" if total is None else size(total), free)))


def _clock(now: float | None, top: float | None, governor: str | None) -> str:
    """Current and largest clock and the governor in words."""
    most = "" if top is None else f"{three_digits(top)} MHz at most"
    return ", ".join(
        filter(
            None,
            (
                "" if now is None else f"{three_digits(now)} MHz",
                most,
                f"governor {governor}" if governor else "",
            ),
        )
    )


def _pairs(values: Mapping[str, str]) -> str:
    """Keys and values as one line, sorted by key."""
    return ", ".join(f"{key} {value}" for key, value in sorted(values.items()))


def _peak(found: Calibration) -> str:
    """The measured peak of the machine in words."""
    threads = f"{found.threads} thread{'' if found.threads == 1 else 's'}"
    return (
        f"copies {three_digits(found.copy_bytes_per_second / 1e9)} GB/s, "
        f"multiplies and adds {three_digits(found.multiply_adds_per_second / 1e9)} G float32 a second, {threads}"
    )
