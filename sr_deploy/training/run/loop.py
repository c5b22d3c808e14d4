"""The loop over the steps of one phase: learning rate, running means, evaluation, saving, and when to stop."""

from __future__ import annotations

import math
import time
from collections import deque
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
from sr_deploy.training.run.schedule import REACHED, TrainingClock, rate_share, warmup_of
from sr_deploy.training.run.session import PhaseStatus, TrainingRun
from sr_deploy.training.run.state import STATE, BestCheckpoints, write_state
from sr_deploy.training.run.validate import HeldOutQuality, crop_sheet, measure

_FINITE_CHECK_STEPS = 25  # steps between two checks that the loss is finite, each of which makes a GPU wait
_FIRST_LOOK = 0.1  # share of the interval between evaluations after which the first one is made, so that a bad recipe shows early
_LEAST_STEPS = 50  # steps before the first evaluation; the average is still close to the first weights before
_FIRST_LOOK_SECONDS = 10.0
"""Seconds of training after which the first evaluation of a phase begins at the latest.

It is shown before 15 s have passed, unless a step or the evaluation itself takes seconds.
"""
_LOOK = "measuring the quality"
LOOKING = 0.1
"""Share of the time of a phase bounded by time that evaluations may take beside it."""
_PLOT_SECONDS = 60.0  # least time between two plots
_SLOW_PLOT = 3.0
"""Seconds that the first plot is expected to take; matplotlib is imported for it."""
_MOST_RATES = 4000
"""Learning rates of a phase that are remembered for its curve; beyond that, every second one is forgotten."""
_RECENT_STEPS = 20
"""Steps whose mean time tells how long the next one takes. A machine's load changes within minutes."""


class Loop:
    """Runs the steps of one phase. Call `go` once.

    Quality is measured on `held_out`, and `shown` is drawn. `saved` is the record and the tensors of
    a state to continue from. `clock` counts the seconds of the whole run.
    """

    def __init__(
        self,
        session: TrainingRun,
        run: PhaseRun,
        held_out: Sequence[TrainingPair],
        clock: TrainingClock,
        kept: BestCheckpoints,
        saved: tuple[Mapping[str, Any], Mapping[str, Tensor]] | None = None,
        shown: Sequence[TrainingPair] = (),
    ) -> None:
        self._session, self._run, self._held_out, self._shown = session, run, held_out, shown
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
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._share_before = 1.0 if saved else 0.0
        self._spent_before, self._clock_at_start = session.position.spent, clock.spent
        self._last_plot, self._plot_seconds, self._look_seconds = -math.inf, _SLOW_PLOT, 0.0
        phase = session.position.phase + 1
        self._looked = any(row["phase"] == phase for row in session.log.rows) if session.log else False

    def go(self, batches: Iterable[Batch]) -> None:
        """Train until the phase is finished.

        Raises CheckFailedError where the loss is not finite, OutputError where a file cannot be written,
        KeyboardInterrupt after the run was asked to stop.
        """
        self._clock.skip()  # what was prepared before the first step is no training time
        self._session.work("the first step", 0, 1)
        for small, large in batches:
            share = self._progress()
            rate = self._run.phase.learning_rate * self._rate_share(share)
            self._run.set_progress(share)
            values = self._run.step(small, large, rate)
            if self._run.step_number == self._first_step + 1:
                self._session.work("the first step", 1, 1)
            done = share >= 1
            self._accumulate(values, rate, done)
            if done or self._is_due(self._run.step_number):
                self._evaluate(rate, done)
            elif self._run.step_number % self._session.options.every == 0 and self._session.processes.leads:
                self._save_state()
                self._clock.skip()
            if done:
                self._tell_lower_rate()
                return
            if self._session.stopping:
                self._stop()

    def _is_due(self, step: int) -> bool:
        """Return whether quality is measured after `step`. It is the same in every process.

        It is measured after every `every` steps, and once soon after the start: after a share of these steps or
        some seconds. In a phase bounded by time it is not, where the evaluations would take more than their share.
        """
        options, at = self._session.options, self._session.position
        due = step % options.every == 0 or step == int(options.every * _FIRST_LOOK) >= _LEAST_STEPS
        early = at.spent - self._spent_before + self._mean_step() > _FIRST_LOOK_SECONDS and not self._looked
        if at.budget is None and due:
            return True
        wanted = due or early
        if at.budget is not None:  # the last evaluation of the phase has to be affordable too
            wanted = wanted and at.looked + 2 * self._look_seconds <= LOOKING * at.budget
            wanted = wanted and at.budget - at.spent > _FIRST_LOOK_SECONDS / 2
        return self._session.processes.agreed(float(wanted)) > 0

    def _progress(self) -> float:
        """Return the progress of the phase after the next step, 0..1. It is the same in every process.

        A phase bounded by time ends with the step whose end is nearest to its time.
        """
        at, step = self._session.position, self._mean_step()
        if at.budget is None:
            return (self._run.step_number + 1) / self._run.phase.steps
        done = at.budget - at.spent < 1.5 * step
        share = 1.0 if done else (at.spent + step) / at.budget
        return min(self._session.processes.agreed(share), 1.0)

    def _mean_step(self) -> float:
        """Return the mean seconds of the last steps; 0 before the first one."""
        return sum(self._recent) / len(self._recent) if self._recent else 0.0

    def _rate_share(self, share: float) -> float:
        """Return the learning rate of the next step as a share of its peak; `share` is the progress at its end.

        In a phase bounded by time the number of steps is estimated, and the step that passes the end of the warm-up
        has the peak, because few slow steps would miss it.
        """
        step = self._run.step_number
        if self._session.position.budget is None:
            return rate_share(share, step, self._run.phase.steps)
        steps = (step + 1) / share if share > 0 else math.inf
        before, self._share_before = self._share_before, share
        warmup = warmup_of(steps)
        return rate_share(warmup if before < warmup < share < 1 else share, step, steps)

    def _accumulate(self, values: Tensor, rate: float, done: bool) -> None:
        """Add the values of a step to the running means, and update the position and the clock."""
        at, before = self._session.position, self._clock.spent
        self._sums += values
        self._count += 1
        if self._count % _FINITE_CHECK_STEPS == 0:
            self._require_finite(self._sums)
        at.steps = self._steps_before + self._run.step_number
        at.highest_rate = max(at.highest_rate, rate)
        known = self._session.rates.setdefault(at.phase + 1, [])
        known.append((self._run.step_number, rate))
        if len(known) > _MOST_RATES:
            del known[::2]
        self._count_time()
        self._recent.append(self._clock.spent - before)
        self._step_seconds += self._recent[-1]
        if self._session.processes.leads:
            self._session.listener.step(self._status(done))

    def _count_time(self) -> None:
        """Count the time since the last lap as training."""
        at, clock = self._session.position, self._clock
        at.seconds = clock.lap()
        at.spent = self._spent_before + clock.spent - self._clock_at_start

    def _status(self, done: bool) -> PhaseStatus:
        """Return the status that listeners get. A phase that is `done` has a share of 1, whatever its clock says."""
        at, run = self._session.position, self._run
        rate = (run.step_number - self._first_step) / max(self._step_seconds, 1e-9)
        steps_left = (run.phase.steps - run.step_number) / rate
        return PhaseStatus(
            phase=at.phase + 1,
            phases=len(self._session.recipe.phases),
            step=run.step_number,
            share=1.0 if done else self._done_share(),
            rate=rate,
            left=steps_left if at.budget is None else max(at.budget - at.spent, 0.0),
        )

    def _done_share(self) -> float:
        """Return the progress of the phase so far, 0..1."""
        at, run = self._session.position, self._run
        if at.budget is None:
            return run.step_number / run.phase.steps
        return min(at.spent / at.budget, 1.0)

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
        self._looked = True
        if not self._session.processes.leads:
            return
        self._count_time()  # a GPU has finished its steps only now
        everything = len(self._held_out) + 1  # what is written and drawn counts as one picture more
        quality = measure(run.average, run.loss, self._held_out, run.phase.scale, self._tell_look)
        if math.isnan(quality.psnr) or not math.isfinite(quality.loss):
            raise CheckFailedError(self._diverged("the averaged weights give values that are not finite"))
        at.psnr = quality.psnr
        self._log(means.tolist(), quality, rate)
        self._keep(quality, done)
        self._look_seconds = self._clock.skip()
        at.looked += self._look_seconds
        self._plot(done)
        at.looked += self._clock.skip()
        self._save_state()
        self._clock.skip()
        self._session.work(_LOOK, everything, everything)

    def _tell_look(self, done: int) -> None:
        """Tell the listener how many pictures are measured."""
        self._session.work(_LOOK, done, len(self._held_out) + 1)

    def _tell_lower_rate(self) -> None:
        """Say that the phase was too short for its learning rate, if it was."""
        at, phase = self._session.position, self._run.phase
        if at.highest_rate < REACHED * phase.learning_rate:
            longer = "give it more steps" if at.budget is None else "give the run more --minutes"
            self._session.say(
                f"phase {at.phase + 1}: {self._run.step_number:,} steps are too few for its learning rate of "
                f"{phase.learning_rate:g}, which peaked at {at.highest_rate:.2g}; {longer}"
            )

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
        status = self._status(at.done)
        self._session.say(
            f"phase {at.phase + 1} step {run.step_number:,} ({status.share:.1%}): loss {means[0]:.5f}, "
            f"held out {quality.psnr:.3f} dB, {status.rate:.3g} steps/s"
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
        start = time.monotonic()
        if not done and (start - self._last_plot < _PLOT_SECONDS or not self._can_afford_plot()):
            return
        session, run = self._session, self._run
        out, name = session.options.out, session.recipe.name
        write_png(out / "crops.png", crop_sheet(run.average, self._shown, run.phase.scale, name))
        try:
            if session.log:
                plot_curves(session.log.rows, out / "curves.png", session.position.bicubic, session.rates)
        except MissingRuntimeError as error:
            if self._last_plot < 0:
                session.say(str(error))
        self._last_plot = time.monotonic()
        self._plot_seconds = self._last_plot - start

    def _can_afford_plot(self) -> bool:
        """Return whether there is time for a plot now, and for the evaluation and the plot at the end of the phase."""
        at = self._session.position
        if at.budget is None:
            return True
        return at.looked + self._look_seconds + 2 * self._plot_seconds <= LOOKING * at.budget

    def _save_state(self) -> None:
        """Write the state from which a run is resumed."""
        session = self._session
        record = {
            "recipe_sha256": session.recipe.sha256,
            "recipe": session.recipe.raw.decode("utf-8", "replace"),
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
