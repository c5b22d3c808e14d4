"""Teachers: finished nets whose pictures another net learns."""

import time

import numpy as np
import pytest
import torch

from sr_deploy.errors import InputError, UsageError
from sr_deploy.training.checkpoint import CheckpointInfo, load_net, read_checkpoint, save_checkpoint
from sr_deploy.training.data.pictures import PictureStore
from sr_deploy.training.nets import build_net
from sr_deploy.training.objective import teacher as teacher_module
from sr_deploy.training.objective.teacher import Teacher
from sr_deploy.training.run.session import TrainOptions
from sr_deploy.training.run.trainer import Trainer
from tests.training.conftest import ONE_PHASE, Listener, tiny_recipe

TAUGHT = ONE_PHASE + '\ntarget = "teacher"'


def checkpoint(path, architecture="rt", scale=2, seed=0, gain=20.0, **parameters):
    """Save a net whose result depends on the orientation of the picture; `gain` says how much."""
    torch.manual_seed(seed)
    parameters = parameters or {"features": 4, "depth": 1}
    net = build_net(architecture, scale, parameters)
    with torch.no_grad():
        if gain != 1:
            net.head.weight.mul_(gain)
    save_checkpoint(
        path, net, CheckpointInfo(name="old", architecture=architecture, scale=scale, parameters=parameters)
    )
    return path


@pytest.fixture
def small():
    return np.random.default_rng(3).integers(0, 256, (21, 26, 3), dtype=np.uint8)


def test_it_shows_the_mean_over_all_flips_and_turns(tmp_path, small):
    path = checkpoint(tmp_path / "old.safetensors")
    net, _ = load_net(path)
    drawn = []
    for turns in range(4):
        for mirrored in (False, True):
            seen = np.rot90(small, turns)[:, :: -1 if mirrored else 1]
            with torch.no_grad():
                large = (
                    net(torch.from_numpy(seen.copy()).permute(2, 0, 1)[None] / 255)[0]
                    .permute(1, 2, 0)
                    .numpy()
                )
            drawn.append(np.rot90(large[:, :: -1 if mirrored else 1], -turns))
    wanted = np.clip(np.mean(drawn, axis=0) * 255, 0, 255)
    got = Teacher(path).draw(small)
    assert got.shape == (42, 52, 3)
    assert np.abs(got - wanted).max() <= 0.5 + 1e-3
    assert np.abs(np.clip(drawn[0] * 255, 0, 255) - wanted).max() > 2


def test_a_turned_picture_is_drawn_turned(tmp_path, small):
    teacher = Teacher(checkpoint(tmp_path / "old.safetensors"))
    turned = teacher.draw(np.ascontiguousarray(np.rot90(small)))
    assert np.abs(turned.astype(int) - np.rot90(teacher.draw(small))).max() <= 1


@pytest.mark.parametrize("architecture", ["rt", "unet"])
def test_large_pictures_are_drawn_in_tiles_to_the_same_effect(tmp_path, monkeypatch, architecture):
    parameters = {"features": 4, "depth": 1} if architecture == "rt" else {"features": 4, "levels": 1}
    path = checkpoint(tmp_path / "old.safetensors", architecture, gain=1.0, **parameters)
    small = np.random.default_rng(3).integers(0, 256, (61, 75, 3), dtype=np.uint8)
    whole = Teacher(path).draw(small)
    monkeypatch.setattr(teacher_module, "_TILE", 16)
    teacher = Teacher(path)
    plan = teacher._plan(*small.shape[:2])
    assert plan.count > 1
    assert np.abs(teacher.draw(small).astype(int) - whole).max() <= 1


def test_a_phase_learns_what_its_teacher_draws(pictures, tmp_path, without_plots):
    """The net itself is the teacher, and its result hardly depends on orientation, so there is little to learn."""
    path = checkpoint(tmp_path / "old.safetensors", gain=1.0)
    still = ONE_PHASE.replace("1e-2", "1e-9")
    losses = {}
    for name, phase in {"taught": still + '\ntarget = "teacher"', "not": still}.items():
        options = TrainOptions(
            data=pictures, out=tmp_path / name, init=path, teacher=path, device="cpu", every=12
        )
        trainer = Trainer(tiny_recipe(phase), options)
        info, _ = read_checkpoint(trainer.run())
        losses[name] = float((tmp_path / name / "log.csv").read_text().splitlines()[1].split(",")[5])
        assert ("teacher" in info.training) == (name == "taught")
    assert losses["taught"] < losses["not"] / 2
    record = read_checkpoint(tmp_path / "taught" / "final.safetensors")[0].training["teacher"]
    assert record["name"] == "old"
    assert record["sha256"] == Teacher(path).sha256


def test_what_was_drawn_is_kept_for_the_next_run(pictures, tmp_path):
    teacher = Teacher(checkpoint(tmp_path / "old.safetensors"))
    asked = []

    def draw(small):
        asked.append(small.shape)
        return teacher.draw(small)

    for _ in range(2):
        store = PictureStore(pictures, overflow=tmp_path / "none", cache=tmp_path / "cache")
        pairs = store.pairs(2)
        drawn = store.with_targets(pairs, teacher.key, draw)
        assert [p.name for p in drawn] == [p.name for p in pairs]
        assert all(np.array_equal(a.small, b.small) for a, b in zip(pairs, drawn, strict=True))
    assert len(asked) == len(pairs)
    np.testing.assert_array_equal(drawn[3].large, teacher.draw(np.array(pairs[3].small)))
    store.with_targets(pairs[:1], "another", draw)
    assert len(asked) == len(pairs) + 1


def test_a_phase_without_its_teacher_is_refused(pictures, tmp_path):
    with pytest.raises(UsageError, match="--teacher"):
        Trainer(tiny_recipe(TAUGHT), TrainOptions(data=pictures, out=tmp_path / "run", device="cpu")).run()


def test_a_teacher_of_another_scale_is_refused(pictures, tmp_path):
    path = checkpoint(tmp_path / "old.safetensors", scale=4)
    trainer = Trainer(
        tiny_recipe(TAUGHT), TrainOptions(data=pictures, out=tmp_path / "run", teacher=path, device="cpu")
    )
    with pytest.raises(InputError, match=r"enlarges 4 times, .* 2 times"):
        trainer.run()


def test_another_teacher_for_the_rest_of_a_run_is_refused(pictures, tmp_path, without_plots):
    old, other = (checkpoint(tmp_path / f"{n}.safetensors", seed=n) for n in (0, 1))
    recipe = tiny_recipe(TAUGHT)

    def options(teacher, **more):
        return TrainOptions(
            data=pictures, out=tmp_path / "run", teacher=teacher, device="cpu", every=5, **more
        )

    trainer = Trainer(recipe, options(old), Listener(6, lambda: trainer.stop()))
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    with pytest.raises(UsageError, match="same --teacher"):
        Trainer(recipe, options(other, resume=True)).run()
    assert Trainer(recipe, options(old, resume=True)).run().exists()


def test_a_run_that_is_stopped_while_its_teacher_draws_ends_at_once_and_goes_on_where_it_was(
    pictures, tmp_path, without_plots, monkeypatch
):
    path = checkpoint(tmp_path / "old.safetensors")
    shown, drawn = Teacher.draw, []

    def draw(self, small):
        drawn.append(small.shape)
        if len(drawn) == 3:
            trainer.stop()
        return shown(self, small)

    monkeypatch.setattr(Teacher, "draw", draw)
    options = TrainOptions(
        data=pictures, out=tmp_path / "run", teacher=path, device="cpu", every=12, minutes=1e-3
    )
    trainer = Trainer(tiny_recipe(TAUGHT), options)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert len(drawn) == 3
    assert Trainer(tiny_recipe(TAUGHT), options).run().exists()
    assert len(drawn) == 8  # two of the ten pictures are held out


def test_drawing_takes_none_of_the_runs_time(pictures, tmp_path, without_plots, monkeypatch):
    path = checkpoint(tmp_path / "old.safetensors")
    shown, now, later = Teacher.draw, time.perf_counter, []

    def draw(self, small):
        later.append(1000)
        return shown(self, small)

    monkeypatch.setattr(Teacher, "draw", draw)
    monkeypatch.setattr(time, "perf_counter", lambda: now() + sum(later))
    options = TrainOptions(data=pictures, out=tmp_path / "run", teacher=path, device="cpu", every=12)
    trainer = Trainer(tiny_recipe(TAUGHT), options)
    trainer.run()
    assert len(later) == 8
    assert 0 < trainer.position.seconds < 900


def test_phases_of_two_scales_cannot_have_one_teacher():
    with pytest.raises(UsageError, match="one scale"):
        tiny_recipe(TAUGHT, TAUGHT.replace("scale = 2", "scale = 4"))


def test_a_recipe_says_what_is_learnt():
    with pytest.raises(UsageError, match="target = 'master'"):
        tiny_recipe(ONE_PHASE + '\ntarget = "master"')
    with pytest.raises(UsageError, match="leave out degrade"):
        tiny_recipe(TAUGHT + "\ndegrade = { noise = [0, 5] }")
