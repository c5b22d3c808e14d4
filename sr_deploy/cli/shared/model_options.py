"""The options that choose a model, a runtime and tiles, and the Upscaler that they describe.

`upscale`, `video` and `pipe` share them, so that the same option means the same in each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sr_deploy.upscale import Upscaler

DEFAULT_SCALE = 4
"""Scale of the bundled model that is used if neither `--model` nor `--scale` is given."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _parse_tile(ctx: click.Context, param: click.Parameter, value: str) -> int | str:
    """Parse --tile: "auto", "none", or a side in input pixels of at least 1. Raises click.BadParameter."""
    text = value.lower()
    if text in ("auto", "none"):
        return text
    # No side of a picture has more than 9 digits, and int() raises ValueError for thousands of them.
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise click.BadParameter(f"'{value}' is not 'auto', 'none' or a number of pixels.", ctx, param)
    return int(text)


def _parse_scale(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Check --scale of pictures: a finite factor of at least 1; a whole one becomes an int."""
    if value is None:
        return None
    if not 1 <= value <= 1000:  # false for NaN, too
        raise click.BadParameter(f"{value:g} is not a factor from 1 to 1000.", ctx, param)
    return int(value) if value == int(value) else value


def _join_models(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Join the values of --model to the name of a chain; None if there is none. Refuses "auto"."""
    if values == ("auto",):
        raise click.BadParameter(
            "'auto' chooses a net for each picture, which only 'sr-deploy upscale' does; name a model, or leave --model out.",
            ctx,
            param,
        )
    return _join_or_auto(ctx, param, values)


def _join_or_auto(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Join the values of --model like `_join_models`, but take "auto" alone. Raises click.BadParameter."""
    joined = "+".join(values)
    if joined != "auto" and "auto" in joined.split("+") and not os.path.exists(joined):
        raise click.BadParameter(
            f"'{joined}': 'auto' cannot be part of a chain; give only 'auto', or name each model of the chain.",
            ctx,
            param,
        )
    return joined if values else None


_OPTIONS = (
    click.option(
        "-s",
        "--scale",
        type=click.IntRange(min=1),
        help="Scale factor; selects the bundled model for it. [default: 4]",
    ),
    click.option(
        "-m",
        "--model",
        metavar="NAME|FILE",
        multiple=True,
        callback=_join_models,
        help="Bundled model (see 'sr-deploy models') or .onnx file; several run one after the other. [default: the bundled "
        "model for --scale]",
    ),
    click.option(
        "--backend",
        default="auto",
        show_default=True,
        help="Runtime to use; 'sr-deploy doctor' lists the choices.",
    ),
    click.option(
        "--fast",
        is_flag=True,
        help="Use the bf16 or int8 form of the model where it is faster here; it costs at most 0.1 dB.",
    ),
    click.option(
        "--tile",
        metavar="auto|none|N",
        callback=_parse_tile,
        default="auto",
        show_default=True,
        help="Side of a tile in input pixels. 'auto' tiles only pictures that do not fit into memory; 'none' never tiles.",
    ),
    click.option(
        "--overlap",
        type=click.IntRange(min=0),
        help="Input pixels read around each tile. [default: the halo of the model, which leaves no seams]",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        help="Threads of the runtime. [default: one for every core this process may use]",
    ),
)


_ANY_SCALE = click.option(
    "-s",
    "--scale",
    type=float,
    metavar="FACTOR",
    callback=_parse_scale,
    help="Factor of enlargement; selects the bundled model for it. Other factors, such as 3 or 1.5, are made by the next "
    "larger model and one resize. [default: 4]",
)


def model_options(function: _Function) -> _Function:
    """Add the options that `model_name` and `open_upscaler` read to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_MODEL_OR_AUTO = click.option(
    "-m",
    "--model",
    metavar="auto|NAME|FILE",
    multiple=True,
    callback=_join_or_auto,
    help="Bundled model (see 'sr-deploy models') or .onnx file; several run one after the other. 'auto' chooses the clean or "
    "the photo net for each picture. [default: auto]",
)


def model_options_for_pictures(function: _Function) -> _Function:
    """Add the same options, with any factor as scale, since pictures can be resized after the net, and the model auto."""
    for option in reversed((_ANY_SCALE, _MODEL_OR_AUTO, *_OPTIONS[2:])):
        function = option(function)
    return function


def model_name(options: dict[str, Any], *, or_larger: bool = False) -> str:
    """The name or file of the chosen model: `--model`, else the bundled model for `--scale`.

    With `or_larger`, a model of the next larger scale serves as well. Raises UsageError if there is none.
    """
    from sr_deploy.models import model_for_scale

    if options["model"] is not None:
        return str(options["model"])
    return model_for_scale(options["scale"] or DEFAULT_SCALE, or_larger=or_larger)


def choose_form(model: str, options: dict[str, Any], say: Callable[[str], None]) -> str:
    """`model`, or with `--fast` the file of its fastest form here, whose backend the options then name.

    `say` gets what was measured. Raises the errors of `fast_form`.
    """
    if not options["fast"]:
        return model
    from sr_deploy.models.fast import fast_form

    found = fast_form(model, options["backend"], threads=options["threads"], say=say)
    options["backend"], options["fast"] = found.backend, False
    return model if found.precision == "fp32" else str(found.path)


def tile_size(options: dict[str, Any]) -> Any:
    """`--tile` in the form an Upscaler takes: "auto", a side in input pixels, or None for no tiles."""
    return None if options["tile"] == "none" else options["tile"]


def open_upscaler(
    model: str, options: dict[str, Any], say: Callable[[str], None], *, alternative: str = ""
) -> Upscaler:
    """Open the Upscaler of `model` with the runtime and tiles that the options choose.

    `say` receives notes for the user. Raises click.UsageError if `--scale` contradicts the model; the message ends
    with `alternative`, another way out. The caller closes the Upscaler.
    """
    from sr_deploy.upscale import Upscaler

    upscaler = Upscaler.open(
        model,
        backend=options["backend"],
        threads=options["threads"],
        tile=tile_size(options),
        overlap=options["overlap"],
        say=say,
    )
    try:
        check_scale(model, upscaler.spec.scale, options, alternative)
    except click.UsageError:
        upscaler.close()
        raise
    return upscaler


def check_scale(model: str, scale: int, options: dict[str, Any], alternative: str) -> None:
    """Raise click.UsageError if `--scale` is given and differs from the `scale` of the model."""
    if options["scale"] not in (None, scale):
        raise click.UsageError(
            f"model {model} has scale {scale} and --scale asks for {options['scale']:g}; leave one out{alternative}."
        )
