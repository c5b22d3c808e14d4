"""The trainer: it runs the phases of a recipe in order, and continues a run that was stopped.

A run is bounded by its recipe's steps or by `minutes`. In the second case every phase gets its share of the
time, and its schedule follows the clock, so that the learning rate is annealed at the end however fast the
machine is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sr_deploy.errors import UsageError
from sr_deploy.system.arrays import Uint8Array
from sr_deploy.system.json_values import from_plain
from sr_deploy.training.data.loader import CropSampler, Loader, default_workers, degraded_pairs, to_float
from sr_deploy.training.data.pictures import PictureStore, TrainingPair, quarter_of_memory, split_validation
from sr_deploy.training.nets import build_net, size_rule_of
from sr_deploy.training.nets.quantised import quantise
from sr_deploy.training.objective.losses import ComposedLoss
from sr_deploy.training.objective.teacher import Teacher
from sr_deploy.training.objective.vgg import VGGFeatures, load_vgg
from sr_deploy.training.recipe import TERMS, Recipe
from sr_deploy.training.run.allocator import keep_freed_memory
from sr_deploy.training.run.initial import check_same_recipe, initial_weights, is_finished, prolong
from sr_deploy.training.run.log import TrainingLog
from sr_deploy.training.run.loop import LOOKING, Loop
from sr_deploy.training.run.phase import PhaseRun, carry_weights
from sr_deploy.training.run.precision import NAMES, with_supported_precision
from sr_deploy.training.run.process_group import join_processes
from sr_deploy.training.run.schedule import REACHED, TrainingClock, highest_share
from sr_deploy.training.run.session import (
    RunPosition,
    SilentListener,
    TrainingListener,
    TrainingRun,
    TrainOptions,
    device_name,
)
from sr_deploy.training.run.state import (
    RECIPE,
    STATE,
    BestCheckpoints,
    keep_command,
    read_state,
    reading_state,
    write_atomically,
)
from sr_deploy.training.run.validate import SIDE, affordable_side, bicubic_psnr, centre_crop

_CALIBRATION_BATCHES = 4  # batches of crops on which the first ranges for int8 are chosen
_SHOWN = 6  # pictures held out that are drawn into crops.png
_SHOWN_SIDE = 192  # their side in large pixels
_A_LOOK = 0.3
"""Share of the seconds for evaluations that one of them may take: two of them, and what is written and drawn."""


class Trainer:
    """Runs `recipe` with `options`. Call `run` once.

    Its files are described in `state`, `log` and `plots`.
    """

    def __init__(
        self, recipe: Recipe, options: TrainOptions, listener: TrainingListener | None = None
    ) -> None:
        self.recipe, self.options = recipe, options
        self._listener: TrainingListener = listener or SilentListener()
        self._weights: Mapping[str, Tensor] = {}
        self._saved: tuple[dict[str, Any], dict[str, Tensor]] | None = None
        self._session: TrainingRun | None = None
        self._teacher: Teacher | None = None

    @property
    def position(self) -> RunPosition:
        """Progress of the run."""
        return self._session.position if self._session else RunPosition()

    @property
    def leads(self) -> bool:
        """True in the process that reports for the run."""
        return self._session is None or self._session.processes.leads

    def stop(self) -> None:
        """Ask the run to save after the current step and then raise KeyboardInterrupt. It may be called from
        a signal handler. A second call, or a call before the run has begun, raises KeyboardInterrupt at
        once."""
        if self._session is None or self._session.stopping:
            raise KeyboardInterrupt
        self._session.stopping = True

    def run(self) -> Path:
        """Run all phases and return the path of the finished checkpoint.

        Raises UsageError and InputError for input that cannot be trained on, CheckFailedError where the loss
        is not finite, OutputError where a checkpoint cannot be written, MissingRuntimeError for a missing
        device or missing VGG weights, KeyboardInterrupt after `stop`.
        """
        with join_processes(self.options.device) as (processes, device):
            session = TrainingRun(self.recipe, self.options, self._listener, processes, device)
            torch.manual_seed(self.recipe.seed)
            if device.type == "cpu":
                keep_freed_memory()
            else:  # all batches of a phase have one shape, so it pays to let cuDNN try its kernels
                torch.backends.cudnn.benchmark = True
            check_crops(self.recipe)
            self._check_rates(session)
            if self.options.phase > len(self.recipe.phases):
                raise UsageError(
                    f"phase = {self.options.phase}, but recipe {self.recipe.name} has {len(self.recipe.phases)} phases"
                )
            self._begin(session)
            self._session = session
            session.say(
                f"device: {device_name(device)}"
                + (f" in {processes.world} processes" if processes.world > 1 else "")
            )
            self._choose_precision(session)
            clock = TrainingClock(session.position.seconds)
            self._run_phases(session, clock)
            return self._finish(session)

    def _check_rates(self, session: TrainingRun) -> None:
        """Say which phases have too few steps to reach their learning rate. Of a run bounded by time that is told later."""
        for number, phase in enumerate(self.recipe.phases, start=1):
            share = highest_share(phase.steps)
            if share < REACHED and self.options.minutes is None:
                session.say(
                    f"phase {number}: {phase.steps:,} steps are too few for its learning rate of "
                    f"{phase.learning_rate:g}, which will peak at {share * phase.learning_rate:.2g}; give it more steps"
                )

    def _choose_precision(self, session: TrainingRun) -> None:
        """Change to fp32 where any process has no instructions for the recipe's precision, and say so."""
        mine = with_supported_precision(self.recipe, session.device)
        if session.processes.mean(torch.tensor([mine != self.recipe])) > 0:
            session.say(
                f"precision: fp32, because no {self.recipe.precision} instructions were found on this CPU "
                f'(precision = "off" in the recipe selects fp32 on every device)'
            )
            self.recipe = session.recipe = replace(self.recipe, precision="off")
        now, before = NAMES[self.recipe.precision], session.position.precision
        if before and before != now:
            session.say(f"the run began in {before} and continues in {now}")
        session.position.precision = now

    def _begin(self, session: TrainingRun) -> None:
        """Read the state of the run to resume, or the weights to start from, and open the log."""
        out = self.options.out
        out.mkdir(parents=True, exist_ok=True)
        self._saved = read_state(out / STATE)
        if self._saved and not self.options.resume:
            raise UsageError(
                f"{out} contains a run already; continue it with --resume, or name another --out"
            )
        if self._saved:
            with reading_state(out / STATE):
                self._resume(session, *self._saved)
        elif self.options.resume:
            session.say(f"nothing to resume in {out}: starting a new run")
        if self.options.minutes is not None:
            session.position.minutes = self.options.minutes
        if self.options.init and not self._saved:
            self._weights, session.position.init = initial_weights(
                self.recipe, self.options.init, self.options.phase
            )
            session.position.phase = self.options.phase - 1
        if session.processes.leads:
            self._keep_origin()
            used = {term for phase in self.recipe.phases for term, weight in phase.loss.items() if weight}
            session.log = TrainingLog(
                out, [term for term in TERMS if term in used], upto=session.position.steps
            )

    def _keep_origin(self) -> None:
        """Keep the recipe and the command line in the folder of the run. Raises OutputError."""
        if self.recipe.raw:
            write_atomically(self.options.out / RECIPE, self.recipe.raw)
        if self.options.command:
            keep_command(self.options.out, self.options.command)

    def _resume(self, session: TrainingRun, record: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take over position and weights of a saved run. Raises UsageError where the recipe differs in more than
        steps that are still to come, or where the first phase differs."""
        at = session.position = from_plain(RunPosition, record["at"], finite=False)
        check_same_recipe(self.options.out, record, at, self.recipe)
        finished = is_finished(at, self.recipe)
        prolong(at, self.recipe, self.options.minutes, record["run"]["step"])
        began = (session.position.init or {}).get("first_phase", 1)
        if self.options.phase not in (1, began):
            raise UsageError(
                f"{self.options.out} began with phase {began}, not with phase {self.options.phase}; resume it without "
                "--phase, or name another --out"
            )
        if session.position.done:
            average = {k: v for k, v in tensors.items() if k.startswith("average.")}
            self._weights = {k.removeprefix("average."): v for k, v in average.items()}
        if finished and at.done:
            session.say(
                f"the run in {self.options.out} is finished: nothing is left to train; to train further, raise the "
                f"{'steps of the last phase in the recipe' if at.budget is None else '--minutes'} and resume, or start "
                f"a new run with --init {self.options.out / 'final.safetensors'}"
            )
            return
        session.say(f"resuming after step {session.position.steps:,}, in phase {session.position.phase + 1}")

    def _run_phases(self, session: TrainingRun, clock: TrainingClock) -> None:
        """Load what the phases need, and run those that are not finished."""
        first = session.position.phase + session.position.done
        if first == len(self.recipe.phases):
            return
        vgg = self._load_vgg(session, first)
        self._teacher = self._load_teacher(session, first)
        store = self._read_pictures(session)
        if vgg and self.recipe.perceptual.normalise:
            vgg.normalise(_samples(store))
        for number in range(first, len(self.recipe.phases)):
            self._run_phase(number, session, store, vgg, clock)
            self._saved = None

    def _load_vgg(self, session: TrainingRun, first: int) -> VGGFeatures | None:
        """Load the VGG, or return None where no remaining phase needs it."""
        if not any(phase.perceptual for phase in self.recipe.phases[first:]):
            return None
        how = self.recipe.perceptual
        layers = [layer for layer, weight in how.layers.items() if weight]
        vgg, source = load_vgg(how.network, layers, self.options.vgg, pooling=how.pooling)
        session.say(source)
        return vgg

    def _load_teacher(self, session: TrainingRun, first: int) -> Teacher | None:
        """Load the teacher, or return None where no remaining phase needs it.

        Raises UsageError where none is given, InputError where it has another scale.
        """
        taught = [p.scale for p in self.recipe.phases[first:] if p.target == "teacher"]
        if not taught:
            return None
        if self.options.teacher is None:
            raise UsageError(
                f"recipe {self.recipe.name} learns from a teacher; name its checkpoint with --teacher"
            )
        teacher = Teacher(self.options.teacher, session.device)
        teacher.check_scale(taught[0])  # a recipe's phases with a teacher all have the same scale
        teacher.check_same(session.position.teacher)
        session.say(f"teacher: {self.options.teacher}, sha256 {teacher.sha256}")
        return teacher

    def _read_pictures(self, session: TrainingRun) -> PictureStore:
        """Decode the pictures and say which files were skipped.

        The processes on one host share the memory for pictures.
        """
        options = self.options
        session.say(f"preparing: decoding the pictures in {options.data}")
        memory = quarter_of_memory() // session.processes.local_world
        store = PictureStore(
            options.data,
            cache=options.cache,
            overflow=options.out / "pictures",
            memory=memory,
            progress=session.work,
        )
        session.position.pictures = len(store.pictures)
        for line in store.skipped:
            session.say(f"skipped: {line}")
        session.say(
            f"{len(store.pictures)} pictures" + f", {len(store.skipped)} skipped" * bool(store.skipped)
        )
        return store

    def _run_phase(
        self,
        number: int,
        session: TrainingRun,
        store: PictureStore,
        vgg: VGGFeatures | None,
        clock: TrainingClock,
    ) -> None:
        """Prepare and run one phase, from its start or from the saved state."""
        phase, recipe = self.recipe.phases[number], self.recipe
        saved = self._saved if self._saved and not session.position.done else None
        training, held_out = self._pairs(session, store, phase.scale)
        if self._teacher and phase.target == "teacher":
            training = self._taught(session, store, self._teacher, training)
        crops = self._crops(number, session, training)
        layers = {layer: weight for layer, weight in recipe.perceptual.layers.items() if weight}
        loss = ComposedLoss(
            phase.loss, vgg=vgg if phase.perceptual else None, layers=layers, period=phase.scale
        )
        run = PhaseRun(
            recipe,
            phase,
            loss,
            device=session.device,
            processes=session.processes,
            weights=self._weights,
            compiled=self.options.compiled,
            say=session.say,
        )
        if run.needs_ranges and not saved:
            session.say("preparing: choosing the first ranges for int8")
            run.calibrate(_first_small(crops))
        self._announce_phase(number, session, run, crops)
        with reading_state(self.options.out / STATE):
            kept = BestCheckpoints(self.options.out, self.options.keep, session.position.kept)
        if not saved:
            if session.processes.leads:
                kept.drop()
            session.position = self._start_of(number, session.position)
        held_out_crops = self._held_out_crops(session, run, held_out)
        with reading_state(self.options.out / STATE):
            loop = Loop(session, run, held_out_crops, clock, kept, saved, self._shown(run, held_out))
        workers = self.options.workers or default_workers(session.device.type)
        pin = session.device.type == "cuda"
        with Loader(crops, first=run.step_number, workers=workers, pin=pin) as batches:
            loop.go(batches)
        self._weights = run.average.state_dict()

    def _held_out_crops(
        self, session: TrainingRun, run: PhaseRun, held_out: list[TrainingPair]
    ) -> list[TrainingPair]:
        """Return the crops that quality is measured on, and say what bicubic reaches there.

        In a run bounded by time they are as large as fits into the share of the evaluations.
        """
        at, scale = session.position, run.phase.scale
        if not session.processes.leads:
            return []
        degrade = run.phase.degrade
        if not at.side and at.budget is not None:
            seconds = (
                _A_LOOK * LOOKING * at.budget / (2 if degrade else 1)
            )  # degraded crops are measured twice
            at.side = affordable_side(run.average, run.loss, held_out, scale, seconds)
        at.side = at.side or SIDE
        multiple = size_rule_of(run.net).multiple_of
        crops = [centre_crop(pair, scale, at.side, multiple=multiple) for pair in held_out]
        if degrade:
            crops = degraded_pairs(crops, scale, degrade)
        bicubic = bicubic_psnr(crops, scale)
        at.bicubic = {**at.bicubic, str(at.phase + 1): bicubic}
        parts = f"centres of {at.side} pixels of " * (at.side < SIDE)
        how = ", degraded like the crops" if degrade else ""
        session.say(
            f"held out: {parts}{len(held_out)} pictures{how}, on which bicubic reaches {bicubic:.3f} dB"
        )
        return crops

    def _shown(self, run: PhaseRun, held_out: list[TrainingPair]) -> list[TrainingPair]:
        """Return the crops that are drawn into crops.png, degraded as those of the training are."""
        scale, multiple = run.phase.scale, size_rule_of(run.net).multiple_of
        crops = [centre_crop(pair, scale, _SHOWN_SIDE, multiple) for pair in held_out[:_SHOWN]]
        return degraded_pairs(crops, scale, run.phase.degrade, copies=1) if run.phase.degrade else crops

    def _taught(
        self, session: TrainingRun, store: PictureStore, teacher: Teacher, training: list[TrainingPair]
    ) -> list[TrainingPair]:
        """Replace the large pictures of `training` by the teacher's. The time is not counted as the run's.

        Raises KeyboardInterrupt after `stop`; pictures drawn before are kept.
        """

        def draw(small: Uint8Array) -> Uint8Array:
            if session.stopping:
                raise KeyboardInterrupt
            return teacher.draw(small)

        session.say(f"{teacher.info.name} draws {len(training)} pictures, except those kept from before")
        session.position.teacher = teacher.record
        return store.with_targets(training, teacher.key, draw)

    def _pairs(
        self, session: TrainingRun, store: PictureStore, scale: int
    ) -> tuple[list[TrainingPair], list[TrainingPair]]:
        """Return (training, held out).

        Training pictures come at every size of the recipe, plus the dead-leaves pictures and drawings; pictures
        held out only at their own size.
        """
        made = [
            f", drawing {count} {what}"
            for count, what in (
                (self.recipe.leaves, "dead-leaves pictures"),
                (self.recipe.drawings, "pictures of text, lines and screens"),
            )
            if count
        ]
        session.say(f"preparing: shrinking {len(store.pictures)} pictures by {scale}{''.join(made)}")
        whole = store.pairs(scale)
        training, held_out = split_validation(whole, self.recipe.validation)
        held_out_names = {pair.name for pair in held_out}
        shown = [training if size == 1 else store.pairs(scale, size) for size in self.recipe.sizes]
        photographs = [pair for pairs in shown for pair in pairs if pair.name not in held_out_names]
        synthetic = [
            *store.dead_leaves_pairs(scale, self.recipe.leaves),
            *store.drawn_pairs(scale, self.recipe.drawings),
        ]
        return photographs + synthetic, held_out

    def _crops(self, number: int, session: TrainingRun, training: list[TrainingPair]) -> CropSampler:
        """Return the sampler of a phase's crops, with this process's share of each batch."""
        phase = self.recipe.phases[number]
        return CropSampler(
            training,
            scale=phase.scale,
            crop=phase.crop,
            batch=phase.batch,
            seed=self.recipe.seed + number,
            degrade=phase.degrade,
            share=(session.processes.rank, session.processes.world),
            busiest_of=phase.busiest_of,
        )

    def _announce_phase(self, number: int, session: TrainingRun, run: PhaseRun, crops: CropSampler) -> None:
        """Say what the phase trains on, and which weights are new."""
        phase = run.phase
        loss = " + ".join(f"{weight:g} {term}" for term, weight in phase.loss.items() if weight)
        small = f", {crops.too_small} too small" if crops.too_small else ""
        session.say(
            f"phase {number + 1} of {len(self.recipe.phases)}: x{phase.scale}, {phase.batch} crops of {phase.crop} "
            f"small pixels, {len(crops.pairs)} pictures{small}, loss {loss}"
        )
        if self._weights:
            session.say(f"weights carried over; fresh: {', '.join(run.fresh) or 'none'}")

    def _start_of(self, number: int, at: RunPosition) -> RunPosition:
        """Return the position at the start of a phase.

        Of the time that is left, the phase gets a share in proportion to its steps.
        """
        start = replace(
            at,
            phase=number,
            done=False,
            spent=0.0,
            looked=0.0,
            budget=None,
            kept=[],
            psnr=None,
            side=0,
            highest_rate=0.0,
        )
        if at.minutes is None:
            return start
        left = max(at.minutes * 60 - at.seconds, 1.0)
        share = self.recipe.phases[number].steps / sum(p.steps for p in self.recipe.phases[number:])
        return replace(start, budget=left * share)

    def _finish(self, session: TrainingRun) -> Path:
        """Write the finished checkpoint and close the log."""
        final = self.options.out / "final.safetensors"
        if session.processes.leads:
            net = build_net(self.recipe.architecture, self.recipe.scale, self.recipe.parameters)
            if self.recipe.phases[-1].quantise:
                quantise(net)
            carry_weights(net, self._weights)
            session.save(final, net, self.recipe.scale)
        if session.log:
            session.log.close()
        return final


def check_crops(recipe: Recipe) -> None:
    """Build every phase's net, so that an impossible recipe fails before any work is done.

    Raises UsageError for an architecture, a parameter or a crop that does not fit.
    """
    for number, phase in enumerate(recipe.phases, start=1):
        multiple = size_rule_of(build_net(recipe.architecture, phase.scale, recipe.parameters)).multiple_of
        if phase.crop % multiple:
            near = max(phase.crop // multiple, 1) * multiple
            raise UsageError(
                f"phase {number}: crop = {phase.crop} does not fit {recipe.architecture}, which takes multiples "
                f"of {multiple}; try {near} or {near + multiple}"
            )


def _first_small(crops: CropSampler) -> Tensor:
    """Return the small crops of the first batches, uint8 [N, 3, S, S]."""
    return torch.cat([crops.batch(number)[0] for number in range(_CALIBRATION_BATCHES)])


def _samples(store: PictureStore, most: int = 48, side: int = 128) -> Tensor:
    """Return the centres of about `most` pictures, spread evenly: [N, 3, S, S] in 0..1.

    They are the same in a resumed run and in every process.
    """
    chosen = store.pictures[:: max(1, len(store.pictures) // most)]
    side = min(side, *(n for picture in chosen for n in picture.pixels.shape[:2]))
    middles = []
    for picture in chosen:
        top, left = ((n - side) // 2 for n in picture.pixels.shape[:2])
        middles.append(torch.from_numpy(np.array(picture.pixels[top : top + side, left : left + side])))
    return to_float(torch.stack(middles).permute(0, 3, 1, 2))
