"""The options that `video` and `pipe` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from sr_deploy.cli.shared.model_options import model_options

_Function = TypeVar("_Function", bound=Callable[..., Any])


def frame_options(function: _Function) -> _Function:
    """Add the options that choose a model, a runtime and tiles, and `--streams`, to a command.

    `upscale` has no `--streams`: it overlaps reading and writing with computing, but computes one picture at a time.
    """
    streams = click.option(
        "--streams",
        type=click.IntRange(1, 64),
        default=2,
        show_default=True,
        help="Frames computed at once. Several keep the engine busy; each needs its own memory.",
    )
    return model_options(streams(function))
