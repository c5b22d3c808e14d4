"""The style sheet of the report: colours have enough contrast in light and in dark mode."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sr_deploy.bench.report.page
from sr_deploy.bench.report.plot import COLOURS
from sr_deploy.bench.result import STAGES

STYLE = Path(sr_deploy.bench.report.page.__file__).with_name("report.css").read_text(encoding="utf-8")
SERIES = [f"s{i}" for i in range(COLOURS)]
STAGE = [f"t{i}" for i in range(len(STAGES) + 1)]


def palette(mode: str) -> dict[str, str]:
    """Variable -> colour; dark mode inherits the colours that it does not change."""
    light, dark = STYLE.split("prefers-color-scheme: dark")
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return found | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark)) if mode == "dark" else found


def luminance(colour: str) -> float:
    """Relative luminance as defined by WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio as defined by WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_stands_out_by_at_least_four_and_a_half(mode: str) -> None:
    colours = palette(mode)
    pairs = [(text, ground) for text in ("ink", "soft", "link", "guide") for ground in ("card", "ground")]
    pairs += [(state, f"{state}-ground") for state in ("good", "bad", "warn")]
    pairs += [("soft", "faint"), ("ink", "faint")]
    poor = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", SERIES + STAGE)
def test_lines_and_bars_stand_out_by_at_least_three(name: str, mode: str) -> None:
    colours = palette(mode)
    assert contrast(colours[name], colours["card"]) >= 3


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_no_two_series_and_no_two_stages_have_one_colour(mode: str) -> None:
    colours = palette(mode)
    assert len({colours[name] for name in SERIES}) == len(SERIES)
    assert len({colours[name] for name in STAGE}) == len(STAGE)


@pytest.mark.parametrize("name", SERIES + STAGE)
def test_every_class_that_is_used_has_a_rule(name: str) -> None:
    assert re.search(rf"\.{name} {{ color: var\(--{name}\); }}", STYLE)
