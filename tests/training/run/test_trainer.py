"""Complete runs of a tiny net on a CPU: the files they write, resuming, and failures."""

import copy
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sr_deploy.errors import CheckFailedError, InputError, MissingRuntimeError, OutputError, UsageError
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.metrics import luma, psnr, shave
from sr_deploy.system.cpu import describe_cpu
from sr_deploy.training.checkpoint import load_net, read_checkpoint
from sr_deploy.training.data.loader import CropSampler
from sr_deploy.training.data.pictures import PictureStore, split_validation
from sr_deploy.training.objective.losses import ComposedLoss
from sr_deploy.training.recipe import parse_recipe
from sr_deploy.training.run import precision as precision_module
from sr_deploy.training.run import schedule
from sr_deploy.training.run import trainer as trainer_module
from sr_deploy.training.run.log import read_log
from sr_deploy.training.run.phase import PhaseRun
from sr_deploy.training.run.precision import has_precision
from sr_deploy.training.run.process_group import ProcessGroup
from sr_deploy.training.run.schedule import TrainingClock, limit_early_rate, one_cycle
from sr_deploy.training.run.session import SilentListener, TrainingRun, TrainOptions
from sr_deploy.training.run.state import STATE, BestCheckpoints
from sr_deploy.training.run.trainer import Trainer
from tests.paths import ROOT
from tests.training.conftest import ONE_PHASE, Listener, tiny_recipe

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(pictures, out, recipe=None, watch=None, **options):
    options = {"every": 5, "device": "cpu", **options}
    trainer = Trainer(
        recipe or tiny_recipe(ONE_PHASE), TrainOptions(data=pictures, out=out, **options), watch
    )
    trainer.run()
    return trainer


def stopped(pictures, out, step, recipe):
    """Run a training that is asked to stop at a step."""
    watch = Listener(step, lambda: trainer.stop())
    trainer = Trainer(recipe, TrainOptions(data=pictures, out=out, every=5, device="cpu"), watch)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()


def cpu_with(monkeypatch, *features):
    """Pretend that the CPU has these instructions and no others."""
    cpu = replace(describe_cpu(), features=features)
    monkeypatch.setattr(precision_module, "describe_cpu", lambda: cpu)


def losses(out):
    return [(row["phase"], row["step"], row["loss"], row["psnr"]) for row in read_log(out)]


def same_weights(one, other):
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


X4 = ONE_PHASE.replace("scale = 2", "scale = 4")


def test_two_phases_leave_checkpoints_a_log_and_pictures(pictures, tmp_path):
    watch = Listener()
    trainer = train(pictures, tmp_path / "run", tiny_recipe(ONE_PHASE, X4), watch)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"final.safetensors", "best.safetensors", "last.safetensors", "phase1.safetensors"} <= names
    assert {"log.csv", "log.jsonl", STATE} <= names
    assert not any(name.endswith(".tmp") for name in names)
    for name in ("curves.png", "crops.png"):
        assert cv2.imdecode(np.fromfile(tmp_path / "run" / name, np.uint8), cv2.IMREAD_COLOR) is not None
    net, info = load_net(tmp_path / "run" / "final.safetensors")
    assert net(torch.rand(1, 3, 6, 7)).shape == (1, 3, 24, 28)
    assert info.scale == 4
    assert info.training["steps"] == trainer.position.steps == 24
    assert info.training["psnr_held_out"] == pytest.approx(trainer.position.psnr, abs=1e-3)
    header, *rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert header == "phase,step,steps,seconds,learning_rate,loss,l1,psnr,validation_loss"
    assert [row.split(",")[:3] for row in rows] == [
        ["1", "5", "5"], ["1", "10", "10"], ["1", "12", "12"], ["2", "5", "17"], ["2", "10", "22"], ["2", "12", "24"],
    ]  # fmt: skip
    assert "weights carried over; fresh: head.bias, head.weight" in watch.lines


def test_training_makes_the_net_better(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "run", tiny_recipe(ONE_PHASE.replace("steps = 12", "steps = 120")), every=60)
    first, last = losses(tmp_path / "run")
    assert last[2] < first[2]


def test_the_carried_body_is_that_of_the_first_phase(pictures, tmp_path, without_plots):
    still = X4.replace("1e-2", "1e-30")
    train(pictures, tmp_path / "run", tiny_recipe(ONE_PHASE, still))
    first = load_file(tmp_path / "run" / "phase1.safetensors")
    final = load_file(tmp_path / "run" / "final.safetensors")
    assert torch.equal(first["body.0.full"], final["body.0.full"])


@pytest.mark.parametrize(("precision", "optimiser"), [("off", "adamw"), ("bf16", "adamw"), ("bf16", "muon")])
@pytest.mark.parametrize("step", [7, 10])
def test_a_resumed_run_goes_on_bit_for_bit(
    pictures, tmp_path, without_plots, monkeypatch, precision, optimiser, step
):
    cpu_with(monkeypatch, "BF16")
    recipe = tiny_recipe(ONE_PHASE, X4, precision=precision, optimiser=optimiser)
    train(pictures, tmp_path / "unbroken", recipe)
    stopped(pictures, tmp_path / "broken", step, recipe)
    train(pictures, tmp_path / "broken", recipe, resume=True)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    assert same_weights(
        tmp_path / "broken" / "final.safetensors", tmp_path / "unbroken" / "final.safetensors"
    )
    assert same_weights(tmp_path / "broken" / STATE, tmp_path / "unbroken" / STATE)


def test_resuming_a_finished_run_trains_nothing_and_gives_the_same_file(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "run")
    before = (tmp_path / "run" / "final.safetensors").read_bytes()
    (tmp_path / "run" / "final.safetensors").unlink()
    train(pictures, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "final.safetensors").read_bytes() == before


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from sr_deploy.training.run import loop
loop.plot_curves = lambda *_: None
from sr_deploy.training.recipe import parse_recipe
from sr_deploy.training.run.session import TrainOptions
from sr_deploy.training.run.trainer import Trainer

class Says:
    def say(self, line):
        print(line, flush=True)
    def step(self, status):
        pass
    def work(self, what, done, total):
        pass

data, out, recipe = sys.argv[1:]
parsed = parse_recipe(Path(recipe).read_bytes())
Trainer(parsed, TrainOptions(data=Path(data), out=Path(out), every=3, device="cpu", resume=True), Says()).run()
"""


def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(pictures, tmp_path, without_plots):
    text = (
        'name = "tiny"\nprecision = "off"\nvalidation = 2\n[net]\narchitecture = "rt"\nfeatures = 4\ndepth = 1\n'
        "[[phase]]\n" + ONE_PHASE.replace("steps = 12", "steps = 150")
    )
    (tmp_path / "recipe.toml").write_text(text)
    arguments = [
        sys.executable,
        "-c",
        KILLED,
        str(pictures),
        str(tmp_path / "run"),
        str(tmp_path / "recipe.toml"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    moments = random.Random(5)
    killed = 0
    for _ in range(2):
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment)
        for line in process.stdout:
            if line.startswith(b"phase 1 step"):
                break
        time.sleep(moments.uniform(0.0, 0.4))
        killed += process.poll() is None
        process.kill()
        process.stdout.close()
        process.wait()
    assert killed
    subprocess.run(arguments, env=environment, check=True, stdout=subprocess.DEVNULL)
    train(pictures, tmp_path / "unbroken", parse_recipe(text.encode()), every=3)
    assert losses(tmp_path / "run") == losses(tmp_path / "unbroken")
    assert same_weights(tmp_path / "run" / "final.safetensors", tmp_path / "unbroken" / "final.safetensors")


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_state(
    pictures, tmp_path, without_plots, monkeypatch
):
    calls = []

    def failing(got):
        calls.append(1)
        return got.sum() * (float("nan") if len(calls) > 9 else 0.0)

    monkeypatch.setattr("sr_deploy.training.objective.losses.total_variation", failing)
    recipe = tiny_recipe(ONE_PHASE + "\nloss = { l1 = 1.0, tv = 1e-6 }")
    with pytest.raises(CheckFailedError, match=r"step 10, not a finite number in .*tv.*last good state"):
        train(pictures, tmp_path / "run", recipe)
    state = load_file(tmp_path / "run" / STATE)
    assert all(torch.isfinite(value).all() for value in state.values())
    assert [row["step"] for row in read_log(tmp_path / "run")] == [5]


def test_weights_that_blow_up_stop_the_run(pictures, tmp_path, without_plots):
    with pytest.raises(CheckFailedError, match="diverged"):
        train(pictures, tmp_path / "run", tiny_recipe(ONE_PHASE.replace("1e-2", "1e38")))


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX's")
def test_no_room_for_a_checkpoint_leaves_the_old_one_whole(pictures, tmp_path, without_plots):
    import resource

    recipe, out = tiny_recipe(ONE_PHASE), tmp_path / "run"
    before = {}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk():
        before.update({name: (out / name).read_bytes() for name in (STATE, "last.safetensors")})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    try:
        with pytest.raises(OutputError, match=r"cannot be written.*--resume"):
            train(pictures, out, recipe, Listener(7, fill_disk))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {name: (out / name).read_bytes() for name in before} == before
    assert not list(out.glob(".*.tmp"))
    train(pictures, out, recipe, resume=True)
    train(pictures, tmp_path / "unbroken", recipe)
    assert losses(out) == losses(tmp_path / "unbroken")


def test_a_full_disk_is_named(pictures, tmp_path, without_plots, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="no space is left"):
        train(pictures, tmp_path / "run")


def test_a_run_in_the_way_is_not_overwritten(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "run")
    with pytest.raises(UsageError, match="contains a run already"):
        train(pictures, tmp_path / "run")


def test_resuming_with_another_recipe_is_refused(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "run")
    with pytest.raises(UsageError, match="was begun with recipe"):
        train(pictures, tmp_path / "run", tiny_recipe(X4), resume=True)


def test_resuming_nothing_starts_anew_and_says_so(pictures, tmp_path, without_plots):
    watch = Listener()
    train(pictures, tmp_path / "run", watch=watch, resume=True)
    assert any("nothing to resume" in line for line in watch.lines)


def test_first_weights_may_come_from_a_checkpoint_of_the_same_net(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "x2")
    watch = Listener()
    train(pictures, tmp_path / "x4", tiny_recipe(X4), watch, init=tmp_path / "x2" / "final.safetensors")
    assert "weights carried over; fresh: head.bias, head.weight" in watch.lines


def test_a_net_without_branches_begins_with_one_that_had_them_folded(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "branches")
    first = tmp_path / "branches" / "final.safetensors"
    still = tiny_recipe(ONE_PHASE.replace("1e-2", "1e-30"), net="foldable = false\n")
    watch = Listener()
    train(pictures, tmp_path / "plain", still, watch, init=first)
    assert "weights carried over; fresh: none" in watch.lines
    x = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    plain, branches = (load_net(tmp_path / run / "final.safetensors")[0] for run in ("plain", "branches"))
    assert torch.allclose(plain(x), branches(x), atol=1e-5)
    with pytest.raises(InputError, match="name a checkpoint of that net"):
        train(pictures, tmp_path / "back", init=tmp_path / "plain" / "final.safetensors")


def test_a_deeper_plain_net_begins_with_a_shallower_one_and_near_identities(
    pictures, tmp_path, without_plots
):
    plain = "foldable = false\n"
    train(pictures, tmp_path / "shallow", tiny_recipe(ONE_PHASE, depth=2, net=plain))
    first = tmp_path / "shallow" / "final.safetensors"
    still = tiny_recipe(ONE_PHASE.replace("1e-2", "1e-30"), depth=4, net=plain)
    watch = Listener()
    train(pictures, tmp_path / "deep", still, watch, init=first)
    assert "weights carried over; fresh: none" in watch.lines
    shallow, deep = (load_net(tmp_path / run / "final.safetensors")[0] for run in ("shallow", "deep"))
    assert [len(net.body) for net in (shallow, deep)] == [3, 5]
    assert torch.equal(deep.body[1].weight, shallow.body[1].weight)
    assert torch.equal(deep.body[4].weight, shallow.body[2].weight)
    between = deep.body[2].weight.detach()[:, :, 1, 1]
    assert torch.allclose(between, torch.eye(len(between)), atol=0.1)
    info, _ = read_checkpoint(tmp_path / "deep" / "final.safetensors")
    assert info.training["init"]["name"] == "tiny of depth 2, made deeper"
    with pytest.raises(InputError, match="the net has depth 4, but the recipe's net has depth 2"):
        train(
            pictures,
            tmp_path / "back",
            tiny_recipe(ONE_PHASE, depth=2, net=plain),
            init=tmp_path / "deep" / "final.safetensors",
        )


def test_a_wider_plain_net_begins_with_all_that_a_narrower_one_computes(pictures, tmp_path, without_plots):
    plain = "foldable = false\n"
    train(pictures, tmp_path / "narrow", tiny_recipe(ONE_PHASE, depth=2, net=plain))
    first = tmp_path / "narrow" / "final.safetensors"
    still = tiny_recipe(ONE_PHASE.replace("1e-2", "1e-30"), depth=2, features=12, net=plain)
    watch = Listener()
    train(pictures, tmp_path / "wide", still, watch, init=first)
    assert "weights carried over; fresh: none" in watch.lines
    x = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    narrow, wide = (load_net(tmp_path / run / "final.safetensors")[0] for run in ("narrow", "wide"))
    assert wide.head.in_channels == 12
    assert torch.allclose(wide(x), narrow(x), atol=1e-5)
    info, _ = read_checkpoint(tmp_path / "wide" / "final.safetensors")
    assert info.training["init"]["name"] == "tiny of 4 features, made wider"
    with pytest.raises(InputError, match="name a checkpoint of that net"):
        train(
            pictures,
            tmp_path / "back",
            tiny_recipe(ONE_PHASE, depth=2, net=plain),
            init=tmp_path / "wide" / "final.safetensors",
        )


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("", 'residual = "bicubic"\n', "tiny, with something else around the net"),
        ("", "back_projection = true\n", "tiny, without back-projection"),
        ("back_projection = true\n", "", "tiny, with back-projection"),
    ],
)
def test_what_has_no_weights_may_differ_from_the_net_of_the_first_weights(
    pictures, tmp_path, without_plots, before, now, said
):
    train(pictures, tmp_path / "before", tiny_recipe(ONE_PHASE, net=before))
    first = tmp_path / "before" / "final.safetensors"
    still = tiny_recipe(ONE_PHASE.replace("1e-2", "1e-30"), net=now)
    train(pictures, tmp_path / "now", still, init=first)
    info, tensors = read_checkpoint(tmp_path / "now" / "final.safetensors")
    assert info.training["init"]["name"] == said
    assert torch.allclose(tensors["head.weight"], read_checkpoint(first)[1]["head.weight"])


def test_leaves_are_trained_on_beside_the_photographs_and_never_held_out(pictures, tmp_path, without_plots):
    watch = Listener()
    cache = tmp_path / "cache"  # dead-leaves pictures take seconds to make, so they are kept
    trainer = train(pictures, tmp_path / "run", tiny_recipe(ONE_PHASE, leaves=2), watch, cache=cache)
    store = PictureStore(pictures, overflow=tmp_path / "overflow", cache=cache)
    training, held_out = trainer._pairs(trainer._session, store, 2)
    made = [pair.name for pair in training if pair.name.startswith("leaves")]
    assert made == ["leaves 0", "leaves 1"]
    assert len(training) == 8 + 2
    assert all(pair.name.startswith("picture") for pair in held_out)
    assert any("10 pictures, loss" in line for line in watch.lines)
    one, two = store.dead_leaves_pairs(4, 2)
    assert one.large.shape == (768, 768, 3)
    assert np.array_equal(one.small, imresize(one.large, 1 / 4))
    assert not np.array_equal(one.large, two.large)
    assert np.array_equal(store.dead_leaves_pairs(2, 1)[0].large, one.large)
    with pytest.raises(UsageError, match="leaves = -1"):
        tiny_recipe(ONE_PHASE, leaves=-1)


LEAKY, RELU = 'activation = "leaky_relu"\nfoldable = false\n', 'activation = "relu"\nfoldable = false\n'


def test_a_leaking_net_begins_as_the_leaky_one_and_ends_with_relu(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "leaky", tiny_recipe(ONE_PHASE, net=LEAKY))
    first = tmp_path / "leaky" / "final.safetensors"
    still = ONE_PHASE.replace("1e-2", "1e-30").replace("steps = 12", "steps = 40")
    leaking = tiny_recipe(still + "\nleak = 0.1", net=RELU)
    train(pictures, tmp_path / "relu", leaking, init=first, every=1)
    log = [row["psnr"] for row in read_log(tmp_path / "relu")]
    net = load_net(first)[0].eval()
    assert log[0] == pytest.approx(read_log(tmp_path / "leaky")[-1]["psnr"], abs=0.1)
    assert log[19] != log[0]
    assert log[20:] == [log[20]] * 20
    info, tensors = read_checkpoint(tmp_path / "relu" / "final.safetensors")
    assert info.training["init"]["name"] == "tiny, with ReLU"
    assert torch.allclose(tensors["body.1.weight"], net.body[1].weight)
    assert type(load_net(tmp_path / "relu" / "final.safetensors")[0].activation) is torch.nn.ReLU
    with pytest.raises(InputError, match="name a checkpoint of that net"):
        train(pictures, tmp_path / "not", tiny_recipe(ONE_PHASE, net=RELU), init=first)
    with pytest.raises(UsageError, match="leak = 2"):
        tiny_recipe(ONE_PHASE + "\nleak = 2")


def test_a_leaking_run_goes_on_bit_for_bit(pictures, tmp_path, without_plots):
    recipe = tiny_recipe(ONE_PHASE + "\nleak = 0.1", net=RELU)
    train(pictures, tmp_path / "unbroken", recipe)
    stopped(pictures, tmp_path / "broken", 4, recipe)
    train(pictures, tmp_path / "broken", recipe, resume=True)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


def test_a_net_behind_an_unshuffle_begins_as_the_net_before_it(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "whole", tiny_recipe(ONE_PHASE, net="foldable = false\n"))
    first = tmp_path / "whole" / "final.safetensors"
    wider = parse_recipe(
        b'name = "wide"\nprecision = "off"\nvalidation = 2\n[net]\narchitecture = "rt"\nfeatures = 16\ndepth = 1\n'
        b"unshuffle = 2\nfoldable = false\n[[phase]]\n" + ONE_PHASE.replace("1e-2", "1e-30").encode()
    )
    train(pictures, tmp_path / "wide", wider, init=first)
    log = [read_log(tmp_path / run)[-1]["psnr"] for run in ("whole", "wide")]
    assert log[0] == pytest.approx(log[1], abs=1e-3)
    info = read_checkpoint(tmp_path / "wide" / "final.safetensors")[0]
    assert info.training["init"]["name"] == "tiny, behind an unshuffle of 2"


QUANTISED = ONE_PHASE + '\nquantise = "int8"'


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_quantised_phase_learns_ranges_and_goes_on_bit_for_bit(
    pictures, tmp_path, without_plots, optimiser
):
    recipe = tiny_recipe(ONE_PHASE, QUANTISED, QUANTISED, net=RELU, optimiser=optimiser)
    watch = Listener()
    train(pictures, tmp_path / "unbroken", recipe, watch)
    assert [line for line in watch.lines if "int8" in line] == [
        "preparing: choosing the first ranges for int8"
    ]
    assert watch.lines.count("weights carried over; fresh: none") == 2
    last = read_checkpoint(tmp_path / "unbroken" / "final.safetensors")[0].ranges
    second = read_checkpoint(tmp_path / "unbroken" / "phase2.safetensors")[0].ranges
    assert read_checkpoint(tmp_path / "unbroken" / "phase1.safetensors")[0].ranges == {}
    assert list(last) == ["body.0", "body.1", "head"]
    assert last["body.0"] == second["body.0"] == {"range": 1.0, "signed": False}
    assert last["head"]["range"] != second["head"]["range"]
    assert load_net(tmp_path / "unbroken" / "final.safetensors")[0](torch.rand(1, 3, 6, 7)).shape == (
        1,
        3,
        12,
        14,
    )
    stopped(pictures, tmp_path / "broken", 7, recipe)
    train(pictures, tmp_path / "broken", recipe, resume=True)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    assert read_checkpoint(tmp_path / "broken" / "final.safetensors")[0].ranges == last


def test_a_run_stopped_in_a_quantised_phase_goes_on_bit_for_bit(pictures, tmp_path, without_plots):
    recipe = tiny_recipe(QUANTISED, net=RELU)
    train(pictures, tmp_path / "unbroken", recipe)
    stopped(pictures, tmp_path / "broken", 7, recipe)
    train(pictures, tmp_path / "broken", recipe, resume=True)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


def test_a_phase_that_undoes_quantising_and_an_unknown_form_are_refused():
    with pytest.raises(UsageError, match="quantise the last phases"):
        tiny_recipe(QUANTISED, ONE_PHASE)
    with pytest.raises(UsageError, match="leak in a phase before"):
        tiny_recipe(QUANTISED + "\nleak = 0.1")
    with pytest.raises(UsageError, match="quantise = 'int4'"):
        tiny_recipe(ONE_PHASE + '\nquantise = "int4"')


def test_the_busiest_places_are_cut_where_the_phase_says_so(pictures, tmp_path):
    recipe = tiny_recipe(ONE_PHASE + "\nbusiest_of = 3")
    options = TrainOptions(data=pictures, out=tmp_path / "run", device="cpu")
    pairs = PictureStore(pictures, overflow=tmp_path / "overflow").pairs(2)
    session = TrainingRun(recipe, options, SilentListener(), ProcessGroup(), torch.device("cpu"))
    ours = Trainer(recipe, options)._crops(0, session, pairs).batch(5)
    same, plain = (
        CropSampler(pairs, scale=2, crop=8, batch=4, seed=recipe.seed, busiest_of=n).batch(5) for n in (3, 1)
    )
    assert torch.equal(ours[0], same[0])
    assert not torch.equal(ours[0], plain[0])


def test_a_checkpoint_says_what_its_first_weights_were_and_how_those_were_made(
    pictures, tmp_path, without_plots
):
    train(pictures, tmp_path / "first")
    first = tmp_path / "first" / "final.safetensors"
    before, _ = read_checkpoint(first)
    train(pictures, tmp_path / "second", tiny_recipe(ONE_PHASE, X4), init=first)
    after, _ = read_checkpoint(tmp_path / "second" / "final.safetensors")
    assert after.training["init"] == {
        "name": "tiny",
        "scale": 2,
        "recipe_sha256": before.recipe_sha256,
        "training": before.training,
    }
    assert "init" not in before.training


def test_a_run_may_begin_with_a_later_phase_and_its_checkpoint_says_so(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "first")
    first, watch = tmp_path / "first" / "final.safetensors", Listener()
    train(pictures, tmp_path / "second", tiny_recipe(ONE_PHASE, X4), watch, init=first, phase=2)
    assert not any(line.startswith("phase 1 of 2") for line in watch.lines)
    after, _ = read_checkpoint(tmp_path / "second" / "final.safetensors")
    assert (after.training["steps"], after.training["init"]["first_phase"]) == (12, 2)


def test_a_run_is_not_resumed_as_one_that_began_with_another_phase(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "first")
    first, recipe = tmp_path / "first" / "final.safetensors", tiny_recipe(ONE_PHASE, X4)
    train(pictures, tmp_path / "later", recipe, init=first, phase=2)
    train(pictures, tmp_path / "later", recipe, init=first, phase=2, resume=True)
    train(pictures, tmp_path / "whole", recipe, init=first)
    with pytest.raises(UsageError, match="began with phase 1, not with phase 2"):
        train(pictures, tmp_path / "whole", recipe, init=first, phase=2, resume=True)


def test_a_later_phase_needs_first_weights_and_has_to_be_there(pictures, tmp_path, without_plots):
    with pytest.raises(UsageError, match="name its checkpoint with --init"):
        train(pictures, tmp_path / "run", phase=2)
    train(pictures, tmp_path / "first")
    with pytest.raises(UsageError, match=r"phase = 3, but recipe tiny has 2"):
        train(
            pictures,
            tmp_path / "second",
            tiny_recipe(ONE_PHASE, X4),
            init=tmp_path / "first" / "final.safetensors",
            phase=3,
        )


def test_pictures_held_out_are_not_trained_on_at_any_size(pictures, tmp_path, without_plots, monkeypatch):
    seen = []

    def crops(pairs, **options):
        seen.extend(pairs)
        return CropSampler(pairs, **options)

    monkeypatch.setattr("sr_deploy.training.run.trainer.CropSampler", crops)
    recipe = replace(tiny_recipe(ONE_PHASE), sizes=(1.0, 0.5, 1.5))
    train(pictures, tmp_path / "run", recipe)
    shapes = {name: sorted(p.large.shape for p in seen if p.name == name) for name in {p.name for p in seen}}
    assert len(shapes) == 8
    assert set(map(tuple, shapes.values())) == {((36, 40, 3), (72, 80, 3), (108, 120, 3))}


def test_a_checkpoint_of_another_net_is_refused(pictures, tmp_path, without_plots):
    train(pictures, tmp_path / "x2")
    path = tmp_path / "x2" / "final.safetensors"
    wider = parse_recipe(
        f'name = "wide"\nvalidation = 2\n[net]\narchitecture = "rt"\nfeatures = 6\n[[phase]]\n{ONE_PHASE}'.encode()
    )
    with pytest.raises(InputError, match="name a checkpoint of that net"):
        train(pictures, tmp_path / "wide", wider, init=path)


def test_one_corrupt_picture_is_named_skipped_and_counted(pictures, tmp_path, without_plots):
    folder = tmp_path / "with a corrupt one"
    shutil.copytree(pictures, folder)
    (folder / "broken.png").write_bytes(b"no picture")
    watch = Listener()
    train(folder, tmp_path / "run", watch=watch)
    assert any(line.startswith("skipped: ") and "broken.png" in line for line in watch.lines)
    assert "10 pictures, 1 skipped" in watch.lines
    assert read_checkpoint(tmp_path / "run" / "final.safetensors")[0].training["pictures"] == 10


class Steady(TrainingClock):
    """A clock on which every lap takes two milliseconds, however busy the machine is."""

    def lap(self, most=schedule.SUSPENDED):
        self.spent += 0.002
        return self.spent


def test_a_run_bounded_by_time_ends_annealed_in_every_phase(pictures, tmp_path, without_plots, monkeypatch):
    monkeypatch.setattr(trainer_module, "TrainingClock", Steady)
    endless = ONE_PHASE.replace("steps = 12", "steps = 1000000")
    trainer = train(pictures, tmp_path / "run", tiny_recipe(endless, endless), minutes=0.01, every=10**6)
    rows = read_log(tmp_path / "run")
    assert [row["phase"] for row in rows] == [1, 2]
    assert all(row["learning_rate"] == pytest.approx(1e-2 * 0.005, rel=1e-3) for row in rows)
    assert 0 < trainer.position.steps < 2_000_000


def test_a_run_bounded_by_time_stays_so_when_resumed(pictures, tmp_path, without_plots):
    endless = ONE_PHASE.replace("steps = 12", "steps = 1000000")
    watch = Listener(5, lambda: trainer.stop())
    options = {"data": pictures, "out": tmp_path / "run", "every": 10**6, "device": "cpu"}
    trainer = Trainer(tiny_recipe(endless), TrainOptions(minutes=0.02, **options), watch)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    resumed = Trainer(tiny_recipe(endless), TrainOptions(resume=True, **options))
    resumed.run()
    assert resumed.position.done
    assert read_log(tmp_path / "run")[-1]["learning_rate"] == pytest.approx(1e-2 * 0.005, rel=1e-3)


def test_minutes_count_from_the_first_step_and_what_is_prepared_is_said(
    pictures, tmp_path, without_plots, monkeypatch
):
    shown, now, later = PictureStore.pairs, time.perf_counter, []

    def pairs(self, scale, size=1.0):
        later.append(500)  # reading takes far longer than the run may last
        return shown(self, scale, size)

    monkeypatch.setattr(PictureStore, "pairs", pairs)
    monkeypatch.setattr(time, "perf_counter", lambda: now() + sum(later))
    endless = ONE_PHASE.replace("steps = 12", "steps = 1000000")
    watch = Listener()
    trainer = train(pictures, tmp_path / "run", tiny_recipe(endless), watch, minutes=0.01, every=10**6)
    assert later
    assert trainer.position.steps > 1
    assert 0.6 <= trainer.position.seconds < 60
    assert [line.split(",")[0] for line in watch.lines if line.startswith("preparing")] == [
        f"preparing: decoding the pictures in {pictures}", "preparing: shrinking 10 pictures by 2",
    ]  # fmt: skip


def test_the_first_look_at_quality_comes_early_and_bicubic_is_told(pictures, tmp_path, without_plots):
    watch = Listener()
    longer = ONE_PHASE.replace("steps = 12", "steps = 60")
    train(pictures, tmp_path / "run", tiny_recipe(longer), watch, every=500)
    assert [row["step"] for row in read_log(tmp_path / "run")] == [50, 60]
    (told,) = (line for line in watch.lines if line.startswith("held out: "))
    assert float(told.split()[-2]) == pytest.approx(_bicubic(pictures), abs=0.3)  # `eval` rounds Y


def _bicubic(pictures):
    """The PSNR of bicubic at scale 2 on the two pictures that are held out, as `eval` computes it."""
    held_out = split_validation(PictureStore(pictures, overflow=pictures).pairs(2), 2)[1]
    large = [imresize(pair.small, 2) for pair in held_out]
    return np.mean(
        [
            psnr(shave(luma(got), 2), shave(luma(pair.large), 2))
            for got, pair in zip(large, held_out, strict=True)
        ]
    )


def test_suspended_time_is_not_counted(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(schedule.time, "perf_counter", lambda: now[0])
    clock = TrainingClock()
    now[0] += 2.0
    clock.lap()
    now[0] += 3600.0  # the machine was suspended for an hour
    assert clock.lap() == 2.0 + schedule.SUSPENDED


def test_one_cycle_warms_up_and_anneals():
    assert one_cycle(0.0) < one_cycle(0.03) < one_cycle(0.05) == pytest.approx(1.0)
    assert one_cycle(0.05) > one_cycle(0.5) > one_cycle(0.9) > one_cycle(1.0) == pytest.approx(0.005)


def test_the_first_steps_are_small_however_short_a_run_is():
    assert limit_early_rate(1.0, 9) == pytest.approx(0.01)
    assert limit_early_rate(1.0, 5000) == 1.0
    assert limit_early_rate(0.005, 9) == 0.005


def tiny_vgg_file(path):
    generator = torch.Generator().manual_seed(1)
    weights = {
        "features.0.weight": torch.randn(64, 3, 3, 3, generator=generator) * 0.2,
        "features.0.bias": torch.zeros(64),
    }
    save_file(weights, path)
    return path


def test_a_perceptual_phase_logs_its_terms_and_keeps_by_its_loss(pictures, tmp_path, without_plots):
    text = (
        'name = "tiny"\nprecision = "bf16"\nvalidation = 2\nperceptual = { layers = { relu1_1 = 1.0 } }\n'
        f'[net]\narchitecture = "rt"\nfeatures = 4\ndepth = 1\n[[phase]]\n{ONE_PHASE}\n'
        "loss = { l1 = 0.1, feature = 1.0, gram = 2.0, tv = 0.01 }"
    )
    vgg = tiny_vgg_file(tmp_path / "vgg.safetensors")
    watch = Listener()
    trainer = train(pictures, tmp_path / "run", parse_recipe(text.encode()), watch, vgg=vgg)
    row = read_log(tmp_path / "run")[-1]
    parts = 0.1 * row["l1"] + row["feature"] + 2 * row["gram"] + 0.01 * row["tv"]
    assert row["loss"] == pytest.approx(parts, rel=1e-3)
    assert any("sha256" in line for line in watch.lines)
    qualities = [quality for quality, _ in trainer.position.kept]
    assert qualities == sorted(qualities, reverse=True)
    assert {round(-q, 9) for q in qualities} == {
        round(r["validation_loss"], 9) for r in read_log(tmp_path / "run")
    }


def test_only_the_best_checkpoints_are_kept(tmp_path):
    kept = BestCheckpoints(tmp_path, 2)
    for quality, name in [(30.0, "a"), (31.0, "b"), (29.0, "c"), (32.0, "d")]:
        kept.offer(quality, name, lambda path, name=name: path.write_text(name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "best.safetensors", "d"]
    assert (tmp_path / "best.safetensors").read_text() == "d"


@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_every_precision_takes_steps_that_lower_the_loss(precision):
    recipe = tiny_recipe(ONE_PHASE, precision=precision)
    torch.manual_seed(0)
    run = PhaseRun(recipe, recipe.phases[0], ComposedLoss({"l2": 1.0}))
    generator = torch.Generator().manual_seed(2)
    large = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    small = large[:, :, ::2, ::2]
    values = [run.step(small, large, 1e-3)[0].item() for _ in range(30)]
    assert values[-1] < values[0]


@pytest.mark.parametrize(
    ("wanted", "device", "features", "expected"),
    [
        ("bf16", "cpu", ["AVX2", "FMA"], False),
        ("bf16", "cpu", ["AVX2", "AVX-512", "AVX-512 BF16"], True),
        ("bf16", "cpu", ["NEON", "BF16"], True),
        ("bf16", "cuda", ["AVX2"], True),
        ("off", "cpu", [], True),
    ],
)
def test_only_a_cpu_without_its_instructions_lacks_bf16(wanted, device, features, expected):
    assert has_precision(wanted, torch.device(device), features) == expected


@pytest.mark.parametrize(("features", "computed"), [((), "fp32"), (("AVX-512 BF16",), "bf16")])
def test_a_run_trains_in_what_the_cpu_has_and_says_so_once(
    pictures, tmp_path, without_plots, monkeypatch, features, computed
):
    cpu_with(monkeypatch, *features)
    watch, casts = Listener(), set()
    forward = ComposedLoss.forward

    def seen(self, got, wanted):
        casts.add(torch.is_autocast_enabled("cpu"))
        return forward(self, got, wanted)

    monkeypatch.setattr(ComposedLoss, "forward", seen)
    train(pictures, tmp_path / "run", tiny_recipe(ONE_PHASE, X4, precision="bf16"), watch)
    said = [line for line in watch.lines if line.startswith("precision: fp32, because no bf16 instructions")]
    assert len(said) == (computed == "fp32")
    assert (computed == "bf16") == (True in casts)  # evaluations are never cast
    info, _ = read_checkpoint(tmp_path / "run" / "final.safetensors")
    assert info.training["precision"] == computed
    assert info.recipe_sha256 == tiny_recipe(ONE_PHASE, X4, precision="bf16").sha256


def test_a_run_that_goes_on_in_another_precision_says_so(pictures, tmp_path, without_plots, monkeypatch):
    recipe, watch = tiny_recipe(ONE_PHASE, precision="bf16"), Listener()
    cpu_with(monkeypatch, "BF16")
    stopped(pictures, tmp_path / "run", 5, recipe)
    cpu_with(monkeypatch)
    train(pictures, tmp_path / "run", recipe, watch, resume=True)
    assert "the run began in bf16 and continues in fp32" in watch.lines


def test_the_average_follows_the_weights_by_its_decay():
    recipe = tiny_recipe(ONE_PHASE)
    run = PhaseRun(recipe, recipe.phases[0], ComposedLoss({"l1": 1.0}))
    expected = run.net.head.weight.detach().clone()
    small = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    large = torch.full((2, 3, 16, 16), 120, dtype=torch.uint8)
    for step in range(1, 5):
        run.step(small, large, 1e-2)
        decay = min(recipe.ema, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * run.net.head.weight.detach()
    assert torch.allclose(run.average.head.weight, expected, atol=1e-7)


def test_the_fused_optimiser_computes_what_the_plain_one_does():
    recipe = tiny_recipe(ONE_PHASE)
    torch.manual_seed(0)
    run = PhaseRun(recipe, recipe.phases[0], ComposedLoss({"l1": 1.0}))
    plain = copy.deepcopy(run.net)
    optimiser = torch.optim.AdamW(
        plain.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0, foreach=False
    )
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):
        large = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=generator)
        small = large[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        run.step(small, large, 1e-2)
        optimiser.zero_grad()
        torch.nn.functional.l1_loss(plain(small.float() / 255), large.float() / 255).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), recipe.clip)
        optimiser.step()
    for ours, theirs in zip(run.net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_crop_that_the_net_cannot_take_is_refused_before_training(pictures, tmp_path):
    text = 'name = "u"\nvalidation = 2\n[net]\narchitecture = "unet"\n[[phase]]\n' + ONE_PHASE.replace(
        "crop = 8", "crop = 9"
    )
    with pytest.raises(UsageError, match=r"crop = 9 does not fit unet"):
        train(pictures, tmp_path / "run", parse_recipe(text.encode()))


def test_a_device_that_is_not_there_or_unknown_is_refused(pictures, tmp_path):
    with pytest.raises(UsageError, match="expected auto, cpu"):
        train(pictures, tmp_path / "run", device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(MissingRuntimeError, match="--device cpu"):
            train(pictures, tmp_path / "run", device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_training_on_a_gpu_ends_with_a_checkpoint(pictures, tmp_path, without_plots, precision):
    train(pictures, tmp_path / "run", tiny_recipe(ONE_PHASE, X4, precision=precision), device="cuda")
    assert load_net(tmp_path / "run" / "final.safetensors")[1].scale == 4


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM handlers there")
def test_a_run_can_be_stopped_from_a_signal_handler(pictures, tmp_path, without_plots):
    watch = Listener(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    options = TrainOptions(data=pictures, out=tmp_path / "run", every=5, device="cpu")
    trainer = Trainer(tiny_recipe(ONE_PHASE), options, watch)
    before = signal.signal(signal.SIGTERM, lambda *_: trainer.stop())
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "stopped after step 3; continue with --resume" in watch.lines
