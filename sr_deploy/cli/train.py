"""`sr-deploy train`: train the network of a recipe on a folder of photographs.

Progress goes to stderr, the result to stdout. This module parses and prints; `sr_deploy.training` does the work.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.progress import ProgressDisplay, clock

if TYPE_CHECKING:
    from sr_deploy.training.run.session import PhaseStatus
    from sr_deploy.training.run.trainer import Trainer

_SECONDS_BETWEEN_LINES = 30.0
"""Shortest time between two lines of progress in seconds, where no bar is drawn."""
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
_EXAMPLES = """\b
Examples:
  sr-deploy train rt-x4.toml --data photos/ --out run
  sr-deploy train rt-x4.toml --data photos/ --out run --resume
  sr-deploy train --new mine --architecture rt --scale 4 > mine.toml
  torchrun --nproc-per-node 2 --no-python sr-deploy train rt-x4.toml --data photos/ --out run
"""


@click.command("train", epilog=_EXAMPLES)
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--data", type=_FOLDER, help="Folder of photographs, searched with its subfolders; required.")
@click.option(
    "--out",
    type=_NEW_FOLDER,
    help="Folder for checkpoints, log and curves; created if missing; required.",
)
@click.option("--resume", is_flag=True, help="Continue the run in --out if there is one.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Minutes of training, instead of the steps in the recipe. Preparing and measuring quality come on top.",
)
@click.option(
    "--init", type=_FILE, help="Checkpoint of the same architecture whose weights the run starts from."
)
@click.option(
    "--phase",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Phase of the recipe to start with, counted from 1; needs --init. A resumed run keeps its phase.",
)
@click.option(
    "--vgg",
    type=_FILE,
    help="File with VGG weights (.pth, .safetensors). [default: the weights of torchvision]",
)
@click.option(
    "--teacher", type=_FILE, help="Checkpoint whose output is the training target of phases with a teacher."
)
@click.option(
    "--cache",
    type=_NEW_FOLDER,
    help="Folder that keeps decoded pictures for later runs. [default: none, pictures are kept in memory]",
)
@click.option(
    "--device", default="auto", show_default=True, help="Device to train on: cpu, cuda, cuda:N or auto."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Threads that cut crops. [default: one on a CPU, several with a GPU]",
)
@click.option(
    "--compile", "compiled", is_flag=True, help="Compile the network with torch.compile before training."
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Steps between two checkpoints; the quality is measured at each.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of best checkpoints to keep in each phase.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--explain", is_flag=True, help="Explain every key of a recipe, and train nothing.")
@click.option(
    "--new", "new", metavar="NAME", help="Write a new recipe with comments to stdout, and train nothing."
)
@click.option(
    "--architecture",
    type=click.Choice(["rt", "srresnet", "unet"]),
    default="rt",
    show_default=True,
    help="Net of the recipe of --new.",
)
@click.option(
    "--scale",
    type=click.Choice(["2", "3", "4", "8"]),
    default="4",
    show_default=True,
    help="Scale of the recipe of --new.",
)
def command(
    recipe: Path | None,
    as_json: bool,
    explain: bool,
    new: str | None,
    architecture: str,
    scale: str,
    **options: Any,
) -> None:
    """Train the network of RECIPE on the photographs in --data.

    RECIPE is a TOML file; --explain explains its keys, and --new writes one. The state of the run is saved every --every steps, and --resume continues from there, also
    after a crash. Ctrl-C saves before it stops. torchrun starts a run on several GPUs.
    """
    try:
        from sr_deploy.training import recipe_guide
        from sr_deploy.training.recipe import read_recipe
        from sr_deploy.training.run.session import TrainOptions
        from sr_deploy.training.run.trainer import Trainer
    except ModuleNotFoundError as error:
        from sr_deploy.errors import MissingRuntimeError

        raise MissingRuntimeError(
            f'training needs {error.name}, which is not installed; pip install "sr-deploy[train]"'
        ) from error
    if explain:
        click.echo(recipe_guide.explain())
        return
    if new is not None:
        click.echo(recipe_guide.new_recipe(new, architecture, int(scale)), nl=False)
        return
    for value, name in (
        (recipe, "argument 'RECIPE'"),
        (options["data"], "option '--data'"),
        (options["out"], "option '--out'"),
    ):
        if value is None:
            raise click.UsageError(f"Missing {name}.", click.get_current_context())
    assert recipe is not None  # for the type checker
    parsed = read_recipe(recipe)
    with _TrainingProgress() as watch:
        trainer = Trainer(
            parsed, TrainOptions(**options, command=_command_line(click.get_current_context())), watch
        )
        with _stopping_on_signals(trainer.stop):
            final = trainer.run()
    if trainer.leads:
        click.echo(_result(trainer, final, as_json))


def _command_line(context: click.Context) -> str:
    """The command line with the arguments that were given, as a shell reads it."""
    import shlex

    words = ["sr-deploy", "train"]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name == "DEFAULT" or value is None:
            continue
        words += [parameter.opts[0]] * isinstance(parameter, click.Option)
        words += [str(value)] * (value is not True)
    return shlex.join(words)


def _result(trainer: Trainer, final: Path, as_json: bool) -> str:
    """The result as a line of text or as JSON, for --json. It holds steps and minutes of all phases and the
    PSNR in dB on held-out photographs. The JSON adds the SHA-256 of checkpoint and recipe, so that a model
    can be traced to its training."""
    position = trainer.position
    if not as_json:
        return f"{final}: {position.steps:,} steps in {position.seconds / 60:.1f} minutes, held out {position.psnr:.3f} dB"
    import hashlib
    import json

    record = {
        "checkpoint": str(final),
        "sha256": hashlib.sha256(final.read_bytes()).hexdigest(),
        "recipe_sha256": trainer.recipe.sha256,
        "steps": position.steps,
        "minutes": round(position.seconds / 60, 2),
        "pictures": position.pictures,
        "psnr_held_out": position.psnr,
    }
    return json.dumps(record, indent=2)


class _TrainingProgress:
    """Shows a run on stderr: its lines, and on a terminal a bar of the present phase with rate and time left.

    It is a `sr_deploy.training.run.session.TrainingListener`; use it in a `with` statement.
    """

    def __init__(self) -> None:
        self._display = ProgressDisplay(
            "{task.percentage:>3.0f}%",
            "{task.fields[rate]}",
            "{task.fields[left]}",
            interval=_SECONDS_BETWEEN_LINES,
        )

    def __enter__(self) -> _TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def say(self, line: str) -> None:
        """Print a line of the run's log."""
        self._display.print(line)

    def step(self, status: PhaseStatus) -> None:
        """Show how far the phase is. After its last step nothing is shown: what comes then has a bar of its own."""
        if status.share >= 1:
            self._display.finish("phase")
            return
        name = f"phase {status.phase} of {status.phases}"
        rate = f"step {status.step:,}, {status.rate:.3g}/s"
        left = f"{clock(max(status.left, 1.0))} left"  # it is not over before the last step
        share = min(status.share, 0.99)
        self._display.show(
            share,
            1.0,
            name,
            task="phase",
            line=f"{name}: {share:.0%}, {rate}, {left}",
            rate=rate,
            left=left,
        )

    def work(self, what: str, done: int, total: int) -> None:
        """Show work between steps below the bar of the phase, until it is done."""
        if done >= total:
            self._display.finish(what)
        else:
            self._display.show(done, total, what, task=what, rate=f"{done} of {total}" * (total > 1), left="")


@contextmanager
def _stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on Ctrl-C and SIGTERM while the block runs, so that the run saves its state before it ends.

    The handlers from before are restored afterwards. Windows does not generate SIGTERM.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        """Signal handler: only ask the run to stop; it does so after the current step."""
        stop()

    names = [signal.SIGINT] if sys.platform == "win32" else [signal.SIGINT, signal.SIGTERM]
    before = {name: signal.signal(name, handle) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
