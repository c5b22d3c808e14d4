"""What `--minutes` and the learning rate mean, what a look at the quality may take, and how runs are prolonged."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sr_deploy.errors import UsageError
from sr_deploy.training.recipe import parse_recipe
from sr_deploy.training.run import loop, trainer, validate
from sr_deploy.training.run.log import read_log
from sr_deploy.training.run.schedule import (
    REACHED,
    TrainingClock,
    highest_share,
    limit_early_rate,
    one_cycle,
    rate_share,
    warmup_of,
)
from sr_deploy.training.run.session import TrainOptions
from sr_deploy.training.run.state import STATE
from sr_deploy.training.run.trainer import Trainer
from tests.training.conftest import ONE_PHASE, Listener, tiny_recipe

ENDLESS = ONE_PHASE.replace("steps = 12", "steps = 1000000")


class Steady(TrainingClock):
    """A clock on which every step takes a hundredth of a second, and everything else seven seconds."""

    def lap(self, most=30.0):
        self.spent += 0.01
        return self.spent

    def skip(self):
        return 7.0


def train(pictures, out, recipe=None, watch=None, **options):
    options = {"every": 5, "device": "cpu", **options}
    run = Trainer(recipe or tiny_recipe(ONE_PHASE), TrainOptions(data=pictures, out=out, **options), watch)
    run.run()
    return run


def test_two_equal_phases_get_half_of_the_time_each_and_reach_their_rate(
    pictures, tmp_path, without_plots, monkeypatch
):
    monkeypatch.setattr(trainer, "TrainingClock", Steady)
    watch = Listener()
    run = train(pictures, tmp_path / "run", tiny_recipe(ENDLESS, ENDLESS), watch, minutes=0.05, every=10**6)
    ends = {row["phase"]: row["seconds"] for row in read_log(tmp_path / "run")}
    assert ends == {1: pytest.approx(1.5, rel=0.1), 2: pytest.approx(3.0, rel=0.1)}
    assert run.position.highest_rate == pytest.approx(1e-2, rel=0.05)
    assert watch.last.share == 1.0
    assert run.position.looked == 14.0  # it is outside of the minutes


@pytest.mark.parametrize("steps", [2, 4, 12, 100, 300, 3000, 30000])
def test_every_phase_of_some_steps_reaches_its_learning_rate(steps):
    assert highest_share(steps) >= REACHED
    rates = [rate_share((step + 1) / steps, step, steps) for step in range(steps)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0.005)
    assert warmup_of(steps) * steps <= max(1000, 0.05 * steps)


def test_long_phases_have_the_schedule_that_the_bundled_models_were_trained_with():
    assert [warmup_of(steps) for steps in (20_000, 200_000, 4000, 100)] == [0.05, 0.05, 0.25, 0.3]
    for step in (0, 10, 500, 9_000, 150_000):
        share = (step + 1) / 200_000
        assert rate_share(share, step, 200_000) == limit_early_rate(one_cycle(share), step)


def test_a_phase_that_is_too_short_for_its_rate_is_named(pictures, tmp_path, without_plots):
    watch = Listener()
    train(pictures, tmp_path / "run", tiny_recipe(ONE_PHASE.replace("steps = 12", "steps = 1")), watch)
    said = [line for line in watch.lines if "too few for its learning rate of 0.01" in line]
    assert [line.split("rate of")[1].split("; ")[1] for line in said] == ["give it more steps"] * 2
    assert "which will peak at" in said[0]
    assert "which peaked at" in said[1]


def test_the_first_look_comes_after_seconds_not_after_steps(pictures, tmp_path, without_plots, monkeypatch):
    monkeypatch.setattr(loop, "_FIRST_LOOK_SECONDS", 0.0)
    train(pictures, tmp_path / "run", every=10**6)
    assert [row["step"] for row in read_log(tmp_path / "run")] == [1, 12]


def test_looks_that_would_take_more_than_a_tenth_are_left_out_but_the_state_is_saved(
    pictures, tmp_path, without_plots, monkeypatch
):
    monkeypatch.setattr(trainer, "TrainingClock", Steady)
    saved, save = [], loop.Loop._save_state
    monkeypatch.setattr(loop.Loop, "_save_state", lambda self: (saved.append(self), save(self)))
    train(pictures, tmp_path / "run", tiny_recipe(ENDLESS), minutes=1 / 60, every=5)
    rows = read_log(tmp_path / "run")
    assert [row["phase"] for row in rows] == [1, 1] or len(
        rows
    ) == 1  # the first one does not know its time yet
    assert len(saved) == 20


def test_the_crops_are_as_large_as_the_time_allows(pictures, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(validate.time, "perf_counter", lambda: now[0])

    def measure(net, loss, pairs, scale):
        now[0] += sum(pair.large.shape[0] * pair.large.shape[1] for pair in pairs) * 1e-6

    monkeypatch.setattr(validate, "measure", measure)
    import numpy as np
    from torch import nn

    from sr_deploy.training.data.pictures import TrainingPair

    pair = TrainingPair("p", np.zeros((600, 600, 3), np.uint8), np.zeros((300, 300, 3), np.uint8))
    sides = [
        validate.affordable_side(nn.Identity(), None, [pair] * 10, 2, seconds) for seconds in (9, 0.9, 0.01)
    ]
    assert sides == [512, 288, 96]


def test_what_is_prepared_and_measured_has_a_progress_of_its_own(pictures, tmp_path, without_plots):
    watch = Listener()
    train(pictures, tmp_path / "run", watch=watch)
    kinds = {what for what, _, _ in watch.worked}
    assert {
        "decoding pictures",
        "shrinking pictures by 2",
        "measuring the quality",
        "the first step",
    } <= kinds
    for kind in kinds:
        (*_, last) = [(done, total) for what, done, total in watch.worked if what == kind]
        assert last[0] == last[1]


def test_the_folder_keeps_the_recipe_and_the_commands(pictures, tmp_path, without_plots):
    recipe = tiny_recipe(ONE_PHASE)
    train(pictures, tmp_path / "run", recipe, command="sr-deploy train a.toml --data 'my photos'")
    train(pictures, tmp_path / "run", recipe, command="sr-deploy train a.toml --resume", resume=True)
    assert (tmp_path / "run" / "recipe.toml").read_bytes() == recipe.raw
    first, second = (tmp_path / "run" / "commands.txt").read_text().splitlines()
    assert first.endswith(": sr-deploy train a.toml --data 'my photos'")
    assert second.endswith("--resume")


def test_resuming_a_finished_run_says_what_to_do(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "run")
    watch = Listener()
    train(pictures, tmp_path / "run", watch=watch, resume=True)
    (said,) = [line for line in watch.lines if "is finished" in line]
    assert "raise the steps of the last phase" in said
    assert f"--init {tmp_path / 'run' / 'final.safetensors'}" in said


def test_a_finished_run_goes_on_with_more_steps_in_the_recipe(pictures, tmp_path, without_plots):
    longer = tiny_recipe(ONE_PHASE, ONE_PHASE.replace("steps = 12", "steps = 20"))
    train(pictures, tmp_path / "run", tiny_recipe(ONE_PHASE, ONE_PHASE))
    before = load_file(tmp_path / "run" / "final.safetensors")
    run = train(pictures, tmp_path / "run", longer, resume=True)
    assert run.position.steps == 32
    assert [(row["phase"], row["step"]) for row in read_log(tmp_path / "run")][-3:] == [
        (2, 12), (2, 15), (2, 20),
    ]  # fmt: skip
    after = load_file(tmp_path / "run" / "final.safetensors")
    assert any((after[key] != before[key]).any() for key in after)
    assert (tmp_path / "run" / "recipe.toml").read_bytes() == longer.raw


def test_a_finished_run_goes_on_with_more_minutes(pictures, tmp_path, without_plots, monkeypatch):
    monkeypatch.setattr(trainer, "TrainingClock", Steady)
    recipe = tiny_recipe(ENDLESS)
    short = train(pictures, tmp_path / "run", recipe, minutes=1 / 60, every=10**6)
    steps = short.position.steps
    more = train(pictures, tmp_path / "run", recipe, minutes=2 / 60, every=10**6, resume=True)
    assert more.position.steps > 1.5 * steps


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ([ONE_PHASE.replace("1e-2", "2e-2"), ONE_PHASE], "resume with the first recipe, of which only the steps"),
        ([ONE_PHASE.replace("steps = 12", "steps = 13"), ONE_PHASE], "phase 1 .* has done 12 steps, .* now has 13"),
        ([ONE_PHASE, ONE_PHASE.replace("steps = 12", "steps = 9")], "phase 2 .* has done 12 steps, .* now has 9"),
    ],
)  # fmt: skip
def test_other_changes_of_the_recipe_are_refused(pictures, tmp_path, without_plots, changed, message):
    train(pictures, tmp_path / "run", tiny_recipe(ONE_PHASE, ONE_PHASE))
    with pytest.raises(UsageError, match=message):
        train(pictures, tmp_path / "run", tiny_recipe(*changed), resume=True)


def test_states_written_before_these_fields_were_there_are_resumed(pictures, tmp_path, without_plots):
    recipe = tiny_recipe(ONE_PHASE)
    watch = Listener(7, lambda: run.stop())
    run = Trainer(recipe, TrainOptions(data=pictures, out=tmp_path / "run", every=5, device="cpu"), watch)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    path = tmp_path / "run" / STATE
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["sr_deploy_state"])
    for key in ("looked", "side", "bicubic", "highest_rate"):
        del record["at"][key]
    save_file(load_file(path), path, metadata={"sr_deploy_state": json.dumps(record)})
    (tmp_path / "run" / "recipe.toml").unlink()
    train(pictures, tmp_path / "run", recipe, resume=True)
    train(pictures, tmp_path / "unbroken", recipe)
    ours, theirs = (load_file(tmp_path / name / "final.safetensors") for name in ("run", "unbroken"))
    assert all((ours[key] == theirs[key]).all() for key in theirs)


def test_a_recipe_knows_its_bytes_but_is_equal_without_them():
    assert parse_recipe(tiny_recipe(ONE_PHASE).raw) == tiny_recipe(ONE_PHASE)
