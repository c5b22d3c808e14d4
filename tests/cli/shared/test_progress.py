"""Progress on a terminal and elsewhere: the display that all commands share, and what `upscale` shows."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from sr_deploy.batch.jobs import Job
from sr_deploy.batch.steps import Outcome
from sr_deploy.cli.shared.progress import ProgressDisplay
from sr_deploy.cli.shared.reporter import Reporter
from sr_deploy.errors import ImageError


class Terminal(io.StringIO):
    """A stream that rich and we take for a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def plain(self) -> str:
        """What was drawn, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def job(name: str) -> Job:
    return Job(Path(name), Path("out") / name, "png")


def done(name: str) -> Outcome:
    return Outcome(job(name), width=8, height=6, seconds=0.25)


def test_a_bar_counts_pictures_and_never_goes_back(terminal):
    with redirect_stderr(terminal), Reporter(3, alone=False, quiet=False, as_json=False) as reporter:
        for name in ("a.png", "b.png", "c.png"):  # written only after all are computed
            reporter.tile(job(name), 1, 2)
            reporter.tile(job(name), 2, 2)
        for name in ("a.png", "b.png", "c.png"):
            reporter.finished(done(name))
            reporter.progress.refresh()
    counts = [int(n) for n in re.findall(r"(\d)/3 pictures", terminal.plain())]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    assert terminal.plain().splitlines()[-1].startswith("3 upscaled in ")
    assert "a.png ->" not in terminal.plain()


def test_one_picture_of_many_tiles_is_counted_in_tiles(terminal):
    with redirect_stderr(terminal), Reporter(1, alone=True, quiet=False, as_json=False) as reporter:
        for tile in range(1, 5):
            reporter.tile(job("a.png"), tile, 4)
            reporter.progress.refresh()
        reporter.finished(done("a.png"))
    assert re.findall(r"(\d)/4 tiles", terminal.plain())[-1] == "4"
    assert re.search(r"a\.png -> \S+ \(8x6, 0\.2 s\)", terminal.plain())


def test_one_picture_of_one_tile_draws_no_bar(terminal):
    with redirect_stderr(terminal), Reporter(1, alone=True, quiet=False, as_json=False) as reporter:
        reporter.tile(job("a.png"), 1, 1)
        assert not reporter.progress.drawn


def test_errors_and_notes_appear_above_the_bar(terminal):
    with redirect_stderr(terminal), Reporter(2, alone=False, quiet=False, as_json=False) as reporter:
        reporter.tile(job("a.png"), 1, 1)
        reporter.say("[bold]not markup[/bold]")
        reporter.finished(Outcome(job("a.png"), "failed", error=ImageError("this is broken")))
    assert "note: [bold]not markup[/bold]" in terminal.plain()
    assert "error: a.png: this is broken" in terminal.plain()


def test_json_goes_to_stdout_while_a_bar_is_drawn(terminal, capsys):
    with redirect_stderr(terminal), Reporter(2, alone=False, quiet=False, as_json=True) as reporter:
        reporter.tile(job("a.png"), 1, 1)
        reporter.finished(done("a.png"))
    assert json.loads(capsys.readouterr().out)["input"] == "a.png"
    assert '"input"' not in terminal.plain()


def test_a_long_picture_gives_a_sign_of_life_where_no_bar_is_drawn(capsys, monkeypatch):
    monkeypatch.setattr("sr_deploy.cli.shared.progress.SECONDS_BETWEEN_LINES", -1.0)
    with Reporter(1, alone=True, quiet=False, as_json=False) as reporter:
        reporter.tile(job("a.png"), 3, 40)
    assert capsys.readouterr().err == "a.png: 3 of 40 tiles\n"


def test_tasks_stand_under_each_other_until_they_are_finished(terminal):
    with redirect_stderr(terminal), ProgressDisplay("{task.fields[count]}", refreshes=False) as display:
        display.show(0, None, "building", task="building", count="")
        display.show(1, 4, "[tactics]", task="tactics", count="1/4")
        assert all(text in terminal.plain() for text in ("building", "[tactics]", "1/4"))
        display.finish("tactics")
        drawn = len(terminal.plain())
        display.show(0, None, "building", task="building", count="")
        assert "tactics" not in terminal.plain()[drawn:]
    assert not display.drawn


def test_a_spinner_and_a_bare_line_need_no_count(terminal):
    for mark in ("spinner", "none"):
        with redirect_stderr(terminal), ProgressDisplay(mark=mark, refreshes=False) as display:
            display.show(0, None, f"busy with {mark}")
        assert f"busy with {mark}" in terminal.plain()


def test_what_others_print_to_stderr_appears_above_the_bar(terminal, capsys):
    with redirect_stderr(terminal), ProgressDisplay() as display:
        display.show(1, 2, "working")
        print("a warning", file=sys.stderr)
        print("a result")
    assert "a warning\n" in terminal.plain()
    assert capsys.readouterr().out == "a result\n"


def test_lines_keep_their_interval_where_nothing_is_drawn(capsys):
    with ProgressDisplay(interval=60.0, line_at_once=True) as display:
        for number in range(3):
            display.show(number, 3, line=f"{number} of 3")
        display.finish("", line="finished")
    assert capsys.readouterr().err == "0 of 3\n"
    with ProgressDisplay(interval=-1.0) as display:
        display.show(1, 3)
        display.finish("", line="finished")
    assert capsys.readouterr().err == "finished\n"


def test_a_quiet_display_shows_nothing_but_prints_what_it_is_told_to(terminal):
    with redirect_stderr(terminal), ProgressDisplay(quiet=True, interval=-1.0) as display:
        display.show(1, 3, "working", line="1 of 3")
        display.finish("", line="finished")
        display.print("an error")
    assert terminal.getvalue() == "an error\n"


def test_rich_is_imported_only_when_something_is_drawn():
    code = (
        "import sys; from sr_deploy.cli.shared.progress import ProgressDisplay\n"
        "with ProgressDisplay(interval=-1.0) as display: display.show(1, 2, line='1 of 2'); display.print('x')\n"
        "print('rich' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
