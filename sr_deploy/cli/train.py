"""`sr-deploy train`: run a recipe on a folder of pictures; progress on stderr, the result on stdout."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.bars import clock, print_above, stderr_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from sr_deploy.training.run.session import PhaseStatus
    from sr_deploy.training.run.trainer import Trainer

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("train")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--data", type=_FOLDER, required=True, help="Folder of photographs, searched with its subfolders."
)
@click.option("--out", type=_NEW_FOLDER, required=True, help="Folder for checkpoints, log and curves.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, if there is one.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Bound by time instead of the recipe's steps.",
)
@click.option("--init", type=_FILE, help="Checkpoint of the same net to take the first weights from.")
@click.option(
    "--phase",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="With --init: begin with this phase of the recipe; a resumed run keeps its own.",
)
@click.option("--vgg", type=_FILE, help="VGG weights (.pth, .safetensors) instead of torchvision's.")
@click.option("--teacher", type=_FILE, help="Checkpoint whose pictures phases with a teacher learn.")
@click.option("--cache", type=_NEW_FOLDER, help="Keep decoded pictures here, for the next run.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, or auto.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads that cut crops.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the net with torch.compile first.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Steps between two checkpoints, each with a look at quality.",
)
@click.option(
    "--keep", type=click.IntRange(min=1), default=3, show_default=True, help="Best checkpoints kept."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(recipe: Path, as_json: bool, **options: Any) -> None:
    """Train the net of RECIPE (TOML) on the pictures of --data.

    Every interval replaces the run's state as a whole, so that after a crash --resume goes on from there.
    Ctrl-C saves first. On several GPUs: torchrun --nproc-per-node 2 --no-python sr-deploy train ...
    """
    try:
        from sr_deploy.training.recipe import read_recipe
        from sr_deploy.training.run.session import TrainOptions
        from sr_deploy.training.run.trainer import Trainer
    except ModuleNotFoundError as error:
        from sr_deploy.errors import MissingRuntimeError

        raise MissingRuntimeError(
            f'training needs {error.name}, which is not installed; pip install "sr-deploy[train]"'
        ) from error
    parsed = read_recipe(recipe)
    with _progress() as watch:
        trainer = Trainer(parsed, TrainOptions(**options), watch)
        with _stopping(trainer.stop):
            final = trainer.run()
    if trainer.leads:
        click.echo(_result(trainer, final, as_json))


def _result(trainer: Trainer, final: Path, as_json: bool) -> str:
    at = trainer.position
    if not as_json:
        return f"{final}: {at.steps:,} steps in {at.seconds / 60:.1f} minutes, held out {at.psnr:.3f} dB"
    import hashlib
    import json

    record = {
        "checkpoint": str(final),
        "sha256": hashlib.sha256(final.read_bytes()).hexdigest(),
        "recipe_sha256": trainer.recipe.sha256,
        "steps": at.steps,
        "minutes": round(at.seconds / 60, 2),
        "pictures": at.pictures,
        "psnr_held_out": at.psnr,
    }
    return json.dumps(record, indent=2)


class _TrainingBar:
    """Shows a run on stderr: its lines, and a bar with rate and time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[int, TaskID] = {}

    def say(self, line: str) -> None:
        print_above(self._progress, line)

    def step(self, status: PhaseStatus) -> None:
        if status.phase not in self._tasks:
            for task in self._tasks.values():
                self._progress.remove_task(task)
            name = f"phase {status.phase} of {status.phases}"
            self._tasks = {status.phase: self._progress.add_task(name, total=1.0, rate="", left="")}
        self._progress.update(
            self._tasks[status.phase],
            completed=status.share,
            rate=f"step {status.step:,}, {status.rate:.1f}/s",
            left=f"{clock(status.left)} left",
        )


class _Lines:
    """Shows a run on a stderr that is no terminal: its lines alone."""

    def say(self, line: str) -> None:
        click.echo(line, err=True)

    def step(self, status: PhaseStatus) -> None:
        pass


@contextmanager
def _progress() -> Iterator[_TrainingBar | _Lines]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    texts = ("{task.percentage:>3.0f}%", "{task.fields[rate]}", "{task.fields[left]}")
    with stderr_bar(*texts, left=False, stderr_above=True) as progress:
        yield _TrainingBar(progress)


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `stop` while this lasts."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    names = [signal.SIGINT] if sys.platform == "win32" else [signal.SIGINT, signal.SIGTERM]
    before = {name: signal.signal(name, handle) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
