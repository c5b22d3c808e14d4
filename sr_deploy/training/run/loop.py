"""The loop over the steps of one phase: learning rate, running means, evaluation, saving, and when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sr_deploy.errors import CheckFailedError, MissingRuntimeError
from sr_deploy.system.json_values import to_plain
from sr_deploy.training.data.loader import Batch
from sr_deploy.training.data.pictures import TrainingPair
from sr_deploy.training.recipe import PIXEL_TERMS
from sr_deploy.training.run.phase import PhaseRun
from sr_deploy.training.run.plots import plot_curves, write_png
from sr_deploy.training.run.schedule import TrainingClock, limit_early_rate, one_cycle
from sr_deploy.training.run.session import PhaseStatus, TrainingRun
from sr_deploy.training.run.state import STATE, BestCheckpoints, write_state
from sr_deploy.training.run.validate import HeldOutQuality, crop_sheet, measure

_FINITE_CHECK_STEPS = 25  # steps between two checks that the loss is finite, each of which makes a GPU wait
_FIRST_LOOK = 0.1  # share of the interval between evaluations after which the first one is made, so that a bad recipe shows early
_LEAST_STEPS = 50  # steps before the first evaluation; the average is still close to the first weights before
_MAX_EVALUATION_SECONDS = 900.0  # an evaluation counts as training time up to this limit
_PLOT_SECONDS = 60.0  # least time between two plots


class Loop:
    """Runs the steps of one phase. Call `go` once.

    `saved` is the record and the tensors of a state to continue from. `clock` counts the seconds of the whole
    run.
    """

    def __init__(
        self,
        session: TrainingRun,
        run: PhaseRun,
        held_out: Sequence[TrainingPair],
        clock: TrainingClock,
        kept: BestCheckpoints,
        saved: tuple[Mapping[str, Any], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self._session, self._run, self._held_out = session, run, held_out
        self._clock, self._kept = clock, kept
        self._sums = torch.zeros(1 + len(run.loss.names), dtype=torch.float64, device=run.device)
        self._count = 0
        self._steps_before = session.position.steps
        if saved:
            run.restore(saved[1], saved[0]["run"])
            self._sums.copy_(saved[1]["loop.sums"])
            self._count = saved[0]["count"]
            self._steps_before -= run.step_number
        self._first_step, self._step_seconds = run.step_number, 0.0
        self._spent_before, self._clock_at_start = session.position.spent, clock.spent
        self._last_plot = -math.inf

    def go(self, batches: Iterable[Batch]) -> None:
        """Train until the phase is finished.

        Raises CheckFailedError where the loss is not finite, OutputError where a file cannot be written,
        KeyboardInterrupt after the run was asked to stop.
        """
        self._clock.lap(0.0)  # what was prepared before the first step is no training time
        for small, large in batches:
            share = self._progress()
            rate = self._run.phase.learning_rate * limit_early_rate(one_cycle(share), self._run.step_number)
            self._run.set_progress(share)
            self._accumulate(self._run.step(small, large, rate))
            done = share >= 1
            if done or self._is_due(self._run.step_number):
                self._evaluate(rate, done)
            if done:
                return
            if self._session.stopping:
                self._stop()

    def _is_due(self, step: int) -> bool:
        """Is quality measured after `step`? It is after every `every` steps, and once soon after the start."""
        every = self._session.options.every
        return step % every == 0 or step == int(every * _FIRST_LOOK) >= _LEAST_STEPS

    def _progress(self) -> float:
        """Return the progress of the phase after the next step, 0..1. It is the same in every process."""
        budget = self._session.position.budget
        if budget is None:
            return (self._run.step_number + 1) / self._run.phase.steps
        return min(self._session.processes.agreed(self._session.position.spent / budget), 1.0)

    def _accumulate(self, values: Tensor) -> None:
        """Add the values of a step to the running means, and update the position and the clock."""
        at, clock, before = self._session.position, self._clock, self._clock.spent
        self._sums += values
        self._count += 1
        if self._count % _FINITE_CHECK_STEPS == 0:
            self._require_finite(self._sums)
        at.steps = self._steps_before + self._run.step_number
        at.seconds = clock.lap()
        self._step_seconds += at.seconds - before
        at.spent = self._spent_before + clock.spent - self._clock_at_start
        if self._session.processes.leads:
            self._session.listener.step(self._status())

    def _status(self) -> PhaseStatus:
        """Return the status that listeners get."""
        at, run = self._session.position, self._run
        rate = (run.step_number - self._first_step) / max(self._step_seconds, 1e-9)
        steps_left = (run.phase.steps - run.step_number) / rate
        return PhaseStatus(
            phase=at.phase + 1,
            phases=len(self._session.recipe.phases),
            step=run.step_number,
            share=run.step_number / run.phase.steps if at.budget is None else min(at.spent / at.budget, 1.0),
            rate=rate,
            left=steps_left if at.budget is None else max(at.budget - at.spent, 0.0),
        )

    def _require_finite(self, sums: Tensor) -> None:
        """Raise CheckFailedError that names the terms, unless all sums are finite."""
        finite = torch.isfinite(sums).tolist()
        if all(finite):
            return
        names = [name for name, fine in zip(self._run.loss.names, finite[1:], strict=True) if not fine]
        raise CheckFailedError(self._diverged(f"not a finite number in {', '.join(names) or 'the sum'}"))

    def _diverged(self, what: str) -> str:
        state = self._session.options.out / STATE
        good = f"the last good state is {state}" if state.exists() else "no earlier state was saved"
        return (
            f"training diverged: phase {self._session.position.phase + 1}, by step {self._run.step_number}, {what}; "
            f"{good}; lower the learning rate or that term's weight"
        )

    def _evaluate(self, rate: float, done: bool) -> None:
        """Measure, log, keep and save.

        Only the leader does this; the other processes wait in their next step.
        """
        means = self._session.processes.mean(self._sums / self._count)
        self._require_finite(means)
        self._sums.zero_()
        self._count = 0
        at, run = self._session.position, self._run
        at.done = done
        if not self._session.processes.leads:
            return
        quality = measure(run.average, run.loss, self._held_out, run.phase.scale)
        if math.isnan(quality.psnr) or not math.isfinite(quality.loss):
            raise CheckFailedError(self._diverged("the averaged weights give values that are not finite"))
        at.psnr = quality.psnr
        at.seconds = self._clock.lap(_MAX_EVALUATION_SECONDS)
        at.spent = self._spent_before + self._clock.spent - self._clock_at_start
        self._log(means.tolist(), quality, rate)
        self._keep(quality, done)
        self._plot(done)
        self._save_state()
        self._clock.lap(_MAX_EVALUATION_SECONDS)

    def _log(self, means: list[float], quality: HeldOutQuality, rate: float) -> None:
        """Write a row of the log and say the most important numbers."""
        at, run = self._session.position, self._run
        if self._session.log:
            self._session.log.append(
                {
                    "phase": at.phase + 1,
                    "step": run.step_number,
                    "steps": at.steps,
                    "seconds": round(at.seconds, 1),
                    "learning_rate": rate,
                    "loss": means[0],
                    **dict(zip(run.loss.names, means[1:], strict=True)),
                    "psnr": quality.psnr,
                    "validation_loss": quality.loss,
                }
            )
        self._session.say(
            f"phase {at.phase + 1} step {run.step_number:,} ({self._status().share:.1%}): loss {means[0]:.5f}, "
            f"held out {quality.psnr:.3f} dB, {self._status().rate:.1f} steps/s"
        )

    def _keep(self, quality: HeldOutQuality, done: bool) -> None:
        """Save the checkpoints of this interval."""
        session, run = self._session, self._run
        number, scale, out = session.position.phase + 1, run.phase.scale, session.options.out
        self._kept.offer(
            _rank(quality, run.loss.names),
            f"phase{number}-step{run.step_number:06d}.safetensors",
            lambda path: session.save(path, run.average, scale),
        )
        session.position.kept = [list(entry) for entry in self._kept.ranked]
        session.save(out / "last.safetensors", run.average, scale)
        if done:
            session.save(out / f"phase{number}.safetensors", run.average, scale)

    def _plot(self, done: bool) -> None:
        """Draw curves and crops for people, at most once a minute and at the end."""
        if not done and time.monotonic() - self._last_plot < _PLOT_SECONDS:
            return
        out, run = self._session.options.out, self._run
        write_png(out / "crops.png", crop_sheet(run.average, self._held_out, run.phase.scale))
        try:
            if self._session.log:
                plot_curves(self._session.log.rows, out / "curves.png")
        except MissingRuntimeError as error:
            if self._last_plot < 0:
                self._session.say(str(error))
        self._last_plot = time.monotonic()

    def _save_state(self) -> None:
        """Write the state from which a run is resumed."""
        session = self._session
        record = {
            "recipe_sha256": session.recipe.sha256,
            "at": to_plain(session.position, finite=False),  # a PSNR may be infinite
            "run": self._run.record(),
            "count": self._count,
        }
        write_state(session.options.out / STATE, record, self._run.tensors() | {"loop.sums": self._sums})

    def _stop(self) -> None:
        """Save the state, unless other processes would not stop at this step, and raise KeyboardInterrupt."""
        if self._session.processes.world == 1:
            self._require_finite(self._sums)
            self._save_state()
            self._session.say(f"stopped after step {self._session.position.steps:,}; continue with --resume")
        raise KeyboardInterrupt


def _rank(quality: HeldOutQuality, terms: Sequence[str]) -> float:
    """Return the number by which checkpoints are ranked, higher is better.

    It is PSNR, or the negative loss where the phase has terms other than pixel terms, which would lower PSNR.
    """
    return quality.psnr if set(terms) <= set(PIXEL_TERMS) else -quality.loss
