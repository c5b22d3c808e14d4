"""Put the generated tables into the README, docs/bench.md and docs/precision.md, from the committed raw results.

python -m benchmarks.tables            # rewrite the pages between their markers
python -m benchmarks.tables --check    # write nothing; exit code 1 if a page is out of date
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks import int8_forms
from benchmarks.pages import ROOT
from benchmarks.quality import table as quality_table

RESULTS = ROOT / "benchmarks" / "results"
PAGES = {
    "README.md": ("quality", "speed"),
    "docs/precision.md": ("int8_forms",),
    "docs/bench.md": ("harness", "peers", "overhead", "scaling"),
}
"""Page -> the tables it has, each once."""
PLOT = ROOT / "docs" / "images" / "bench-scaling.svg"


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def quality() -> str:
    record = load("quality-set5.json")
    return quality_table(record) if record else ""


def speed() -> str:
    """The short comparison of the README: every net of the table `peers` in fp32, at the smallest size."""
    result = _peers()
    if result is None:
        return ""
    runs = [run for run in result.runs if run.subject.precision == "fp32"]
    case, subject = (
        min((run.case for run in runs), key=lambda case: case.width * case.height),
        runs[0].subject,
    )
    runs = [run for run in runs if run.case.label == case.label]
    seconds = {_name(run): statistics.median(run.samples) for run in runs}
    best = _best_of_ours(runs, case.label)
    rows = [
        f"| {name} | {time * 1000:.0f} ms | {time / best:.2f}x |\n"
        for name, time in sorted(seconds.items(), key=lambda item: item[1])
    ]
    return (
        f"`python -m benchmarks.peers --model {subject.model}`: the same net in fp32 on an 8-bit picture of "
        f"{case.width}x{case.height}\npixels, from memory to memory, median time on {subject.threads} threads of "
        f"{result.environment.machine.cpu}:\n\n| what | time | against the fastest sr-deploy |\n|---|---|---|\n"
        f"{''.join(rows)}{_caveat(_busy(result.runs))}"
    )


def overhead() -> str:
    """The table of the time and memory that sr-deploy adds to ONNX Runtime."""
    record = load("upscale.json")
    if not record:
        return ""
    where, frame, tiles = record["environment"], record["frame"], record["tiles"]
    milliseconds = statistics.median(frame["seconds"]) * 1000
    rows = [
        (
            "`Upscaler` on a 480x270 uint8 frame, against a bare ONNX Runtime session on a ready float tensor",
            f"{frame['ratio']:.2f}x ({milliseconds:.0f} ms)",
        ),
        (
            f"12 megapixels in {tiles['tiles']} tiles, against one untiled megapixel, per pixel",
            f"{tiles['ratio']:.2f}x",
        ),
        (
            "`sr-deploy upscale` of one 256x256 picture, start to exit, against importing numpy, cv2 and onnxruntime",
            f"{record['start']['ratio']:.2f}x",
        ),
        (
            "peak memory of 12 megapixels to 192, over the decoded input and output themselves",
            " (of 3 to 48: ".join(
                f"{size['over_bytes'] / 1e9:.2f} GB" for size in record["memory"]["sizes"][::-1]
            )
            + ")",
        ),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    return (
        f"`python -m benchmarks.upscale --model {record['model']}`, {record['threads']} threads of {where['cpu']}, ratios "
        f"within one run:\n\n| what | cost |\n|---|---|\n{table}\n"
    )


def harness() -> str:
    record = load("harness.json")
    if not record:
        return ""
    sleep, over = record["sleep"], record["overhead"]
    watch, judged = record["stopwatch"], record["verdicts"]
    rows = [
        (
            f"a call that takes {name}: what the harness says, against what the call says of itself",
            f"p50 {found['p50_error']:+.2%}, p99 {found['p99_error']:+.2%}",
        )
        for name, found in sleep.items()
    ]
    rows += [
        ("cost of a sample: the stopwatch", f"{over['stopwatch_microseconds']:.2f} microseconds"),
        ("cost of a sample: telling stages apart", f"{over['stages_microseconds']:.2f} microseconds"),
        (
            f"p50 of `sr-deploy bench` against a ten-line loop in a fresh process, {len(watch['turns'])} times in turn",
            f"{watch['ratio'] - 1:+.1%} (processor time {watch['processor_ratio'] - 1:+.1%})",
        ),
        (
            f"the same thing measured twice ({judged['rounds']} processes of {judged['seconds']:g} s each) is judged "
            "'no change'",
            f"{judged['no_change_of_same']} of {judged['pairs']}",
        ),
        ("5 % more work is judged 'slower'", f"{judged['slower_of_slowed']} of {judged['pairs']}"),
    ]
    body = "".join(f"| {what} | {value} |\n" for what, value in rows)
    return f"`python -m benchmarks.harness`, {_where(record['environment'])}:\n\n| what | figure |\n|---|---|\n{body}"


def peers() -> str:
    result = _peers()
    if result is None:
        return ""
    nets = [run for run in result.runs if run.subject.precision != "uint8"]
    labels = list(dict.fromkeys(run.case.label for run in result.runs))
    best = {
        (precision, label): _best_of_ours([run for run in nets if run.subject.precision == precision], label)
        for precision in dict.fromkeys(run.subject.precision for run in nets)
        for label in labels
    }
    lines: dict[str, dict[str, Any]] = {}
    for run in result.runs:
        lines.setdefault(_who(run), {})[run.case.label] = run
    body = [
        f"| {name} | {' | '.join(_peer_cells(runs.get(label), best) for label in labels)} |\n"
        for name, runs in lines.items()
    ]
    head = ["what", *(f"{label}: end to end | of that the net | against sr-deploy" for label in labels)]
    rule = "|".join(["---"] * (1 + 3 * len(labels)))
    subject, environment = nets[0].subject, result.environment
    return (
        f"`python -m benchmarks.peers --model {subject.model}`, p50 of one 8-bit picture to another in memory, "
        f"x{subject.scale}, {subject.threads} threads of {environment.machine.cpu}, {_versions(environment.versions)}:"
        f"\n\n| {' | '.join(head)} |\n|{rule}|\n{''.join(body)}{_caveat(_busy(result.runs))}"
    )


def _peers() -> Any:
    """The result of `benchmarks.peers`, or None."""
    from sr_deploy.bench.result import read_result

    path = RESULTS / "peers.json"
    return read_result(path) if path.exists() else None


def _who(run: Any) -> str:
    name, precision = _name(run), run.subject.precision
    return name if name.endswith(precision) else f"{name}, {precision}"


def _name(run: Any) -> str:
    ours = run.subject.runner == "sr-deploy"
    return f"**sr-deploy**, {_RUNTIMES[run.subject.backend]}" if ours else run.subject.runner


def _best_of_ours(nets: list[Any], label: str) -> float:
    ours = [run for run in nets if run.case.label == label and run.subject.runner == "sr-deploy"]
    return min(statistics.median(run.samples) for run in ours)


def _peer_cells(run: Any, best: Mapping[tuple[str, str], float]) -> str:
    """Return three cells: the time, the time of the net alone, and the ratio to sr-deploy's best time in that precision."""
    if run is None:
        return "- | - | -"
    seconds, net = statistics.median(run.samples), statistics.median(run.stages["compute"])
    reference = best.get((run.subject.precision, run.case.label))
    factor = f"{seconds / reference:.2f}x" if reference else ""
    return f"{seconds * 1000:.1f} ms | {net * 1000:.1f} ms | {factor}"


def scaling() -> str:
    from sr_deploy.bench.result import read_result

    rows = []
    for law in _laws():
        fit, unit = law.fit, "ms" if law.cost == "time" else "MB"
        size = 1e3 if law.cost == "time" else 1e-6
        ends = [(x, y * size) for x, y in (fit.points[0], fit.points[-1])]
        span = ", ".join(f"{x:,.0f}: {y:,.1f} {unit}" for x, y in ends)
        rows.append(
            f"| {law.name} | {law.cost} | {law.against}^{fit.exponent:.2f} | {fit.r2:.3f} | {span} |\n"
        )
    if not rows:
        return ""
    runs = [run for path in RESULTS.glob("scaling-*.json") for run in read_result(path).runs]
    head = "| what | cost | grows as | R2 | from, to |\n|---|---|---|---|---|\n"
    return f"![Time and memory, on logarithmic axes](images/{PLOT.name})\n\n{head}{''.join(rows)}{_caveat(_busy(runs))}"


def _busy(runs: Any) -> float:
    """Mean share of the cores that other processes took during the runs, 0 to 1."""
    return statistics.mean(run.others or 0 for run in runs)


def _caveat(busy: float) -> str:
    """A warning for figures that were measured on a busy machine; otherwise empty."""
    if busy < 0.1:
        return ""
    return f"\nMeasured while other processes took {busy:.0%} of the cores: take the figures as rough ones.\n"


def _laws() -> list[Any]:
    from sr_deploy.bench.result import read_result
    from sr_deploy.bench.scaling import find_scalings

    return [
        law
        for path in sorted(RESULTS.glob("scaling-*.json"))
        for law in find_scalings(read_result(path).runs)
    ]


def plot() -> str:
    from benchmarks.plots import scaling_svg

    laws = _laws()
    return scaling_svg(laws) if laws else ""


def _where(environment: dict[str, Any]) -> str:
    machine = environment["machine"]
    return f"{machine['usable_cores']} cores of {machine['cpu']}"


def _versions(versions: Any) -> str:
    names = _RUNTIMES | {"torch": "torch", "ncnn": "ncnn"}
    known = [f"{title} {versions[name]}" for name, title in names.items() if name in versions]
    return ", ".join([*known, f"OpenCV {versions['opencv-python-headless']}"])


TABLES = {
    "quality": quality,
    "speed": speed,
    "harness": harness,
    "peers": peers,
    "overhead": overhead,
    "scaling": scaling,
    "int8_forms": int8_forms.table,
}
_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_PLACE = re.compile(r"<!-- tables: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str, text: str) -> str:
    """Return `text` with every table in place. SystemExit if its tables are not those of `PAGES`."""
    found = [match[1] for match in _PLACE.finditer(text)]
    if sorted(found) != sorted(PAGES[page]):
        raise SystemExit(
            f"{page} has places for the tables {', '.join(found)}, not for {', '.join(PAGES[page])}"
        )
    return _PLACE.sub(lambda m: f"<!-- tables: {m[1]} -->\n{TABLES[m[1]]()}<!-- end -->", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    made = {ROOT / name: filled(name, (ROOT / name).read_text(encoding="utf-8")) for name in PAGES}
    if picture := plot():
        made[PLOT] = picture
    stale = 0
    for path, new in made.items():
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if args.check and new != old:
            where = path.relative_to(ROOT).as_posix()
            print(f"{where} does not match benchmarks/results; run python -m benchmarks.tables")
            stale = 1
        if not args.check and new != old:
            path.write_text(new, encoding="utf-8", newline="\n")
    return stale


if __name__ == "__main__":
    sys.exit(main())
