"""`sr-deploy upscale`: pictures in, larger pictures out.

This module parses and prints; `sr_deploy.batch.jobs` plans the files and `sr_deploy.batch.run` does the work. Its
imports are deliberately few and late: the start-up time counts when a single small picture is upscaled.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.model_options import (
    check_scale,
    choose_form,
    model_name,
    model_options_for_pictures,
    open_upscaler,
    tile_size,
)
from sr_deploy.errors import ModelError, SrDeployError
from sr_deploy.images.codecs.formats import NAMES, formats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sr_deploy.batch.jobs import Existing, Job, Jobs
    from sr_deploy.batch.ledger import Ledger
    from sr_deploy.batch.nets import AutoNets, Kind
    from sr_deploy.batch.steps import Outcome, WriteSettings
    from sr_deploy.batch.survey import Look
    from sr_deploy.cli.shared.reporter import Reporter
    from sr_deploy.images.sizes import OutputSize
    from sr_deploy.upscale import Upscaler

_EXIT_SOME_FAILED = 5
"""Some pictures failed; the others were processed."""
_PREPARED_EARLY = ("onnxruntime", "openvino")
"""Backends that are prepared while the first picture is read. Other backends may compile an engine for 8-bit pixels,
which would be wasted if the pictures have 16 bits."""
_WRITTEN = ", ".join(kind.name for kind in formats())
_HELP = f"""Upscale pictures: files, folders or globs.

Reads {", ".join(list(NAMES.values())[:-1])} and, where libvips has a decoder, {NAMES["heic"]}. Writes {", ".join(NAMES[kind.name] for kind in formats())}, with 8 or 16 bits per
channel; alpha and metadata are kept. If a picture fails, the others are still upscaled and the exit code is 5. When a folder is
upscaled again, only missing or outdated results are made again. Several processes may work on one folder at once.
"""
_NO_INPUT = (
    "Missing argument 'INPUT...': name a picture, a folder or a glob, such as: sr-deploy upscale photo.jpg, "
    "or: sr-deploy upscale holiday/ -o large/"
)
_EXAMPLES = """\b
Examples:
  sr-deploy upscale photo.jpg
  sr-deploy upscale photo.jpg -o large.png --scale 2
  sr-deploy upscale holiday/ -o large/ --recursive --dry-run
  sr-deploy upscale holiday/ -o large/ --scale 1.5 --keep-dates --compare large/compare.html
  sr-deploy upscale scan.tif -o scan.png --fit 3840x2160
  sr-deploy upscale old/ -o new/ --model dejpeg.onnx --model rt-x4
"""

# Another way out of a wrong --scale: the end of an error message.
_SIZE_ALTERNATIVE = ", or ask for the size with --width, --height or --fit"


def parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Parse a size such as 1920x1080. Returns (width, height) in pixels, or None. Raises click.BadParameter."""
    if value is None:
        return None
    width, _, height = value.lower().partition("x")
    if not all(n.isdecimal() and len(n) < 9 and int(n) for n in (width, height)):
        raise click.BadParameter(f"'{value}' is not a size like 1920x1080.", ctx, param)
    return int(width), int(height)


def _parse_shard(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Parse --shard I/N with 1 <= I <= N. Returns (I, N), or None. Raises click.BadParameter."""
    if value is None:
        return None
    index, _, count = value.partition("/")
    if not all(n.isdecimal() and len(n) < 9 for n in (index, count)) or not 1 <= int(index) <= int(count):
        raise click.BadParameter(
            f"'{value}' is not a share like 1/4, where I of I/N goes from 1 to N.", ctx, param
        )
    return int(index), int(count)


@click.command("upscale", help=_HELP, epilog=_EXAMPLES)
@click.argument("inputs", metavar="INPUT...", nargs=-1)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="Output file (for one input file) or folder; created if missing. [default: beside each input, as photo-x4.jpg]",
)
@model_options_for_pictures
@click.option(
    "--recursive",
    "-r",
    is_flag=True,
    help="Search subfolders too, and keep the folder structure in the output.",
)
@click.option(
    "--format",
    "format_name",
    metavar="FORMAT",
    help=f"Format of the results: {_WRITTEN}. [default: the format of the input]",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 101),
    help="JPEG or WebP quality (101: lossless WebP). [default: JPEG 95, WebP 90]",
)
@click.option(
    "--alpha",
    type=click.Choice(["cutout", "straight"]),
    default="cutout",
    show_default=True,
    help="Meaning of opacity: the outline of a shape, or a channel of its own (masks, textures): colours are left as they are.",
)
@click.option(
    "--strip",
    is_flag=True,
    help="Leave out all metadata except colour profile and print density.",
)
@click.option(
    "--to-srgb",
    "profile",
    flag_value="srgb",
    help="Convert colours to sRGB by their colour profile, for pictures that go on the web.",
)
@click.option(
    "--keep-profile",
    "profile",
    flag_value="keep",
    help="Refuse CMYK with a colour profile instead of converting it to sRGB.",
)
@click.option(
    "--keep-damaged",
    is_flag=True,
    help="Use what can be read of damaged pictures instead of refusing them.",
)
@click.option(
    "--suffix",
    help="Text added to each file name. [default: beside the inputs the scale, as in -x4; in an output folder nothing]",
)
@click.option(
    "--width",
    type=click.IntRange(1, 1_000_000),
    help="Width of the result in pixels; without --height, the proportions are kept.",
)
@click.option(
    "--height",
    type=click.IntRange(1, 1_000_000),
    help="Height of the result in pixels; without --width, the proportions are kept.",
)
@click.option(
    "--fit",
    metavar="WxH",
    callback=parse_size,
    help="Make the largest result that fits into this size in pixels and keeps the proportions.",
)
@click.option(
    "--min-size",
    type=click.IntRange(1, 1_000_000),
    metavar="PIXELS",
    help="Leave out pictures whose longer side has fewer pixels.",
)
@click.option(
    "--max-size",
    type=click.IntRange(1, 1_000_000),
    metavar="PIXELS",
    help="Leave out pictures whose longer side has more pixels.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="List what would be done, with sizes and an estimate of the time. No results are written.",
)
@click.option(
    "--compare",
    metavar="PAGE",
    help="Write an HTML page that shows each picture before and after, with a slider; no server is needed.",
)
@click.option("--keep-dates", is_flag=True, help="Give each result the date of its picture.")
@click.option(
    "--skip-existing",
    is_flag=True,
    help="Skip a picture if its output file exists, whatever the file contains.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing output files.")
@click.option(
    "--check",
    is_flag=True,
    help="Read existing results of a folder whole, and make those again whose bytes have changed on the disk.",
)
@click.option(
    "--follow-links",
    is_flag=True,
    help="Write a result whose file is a link to where the link leads, instead of replacing the link.",
)
@click.option(
    "--shard",
    metavar="I/N",
    callback=_parse_shard,
    help="Upscale only the I-th of N equal shares of the pictures, as in an array job: --shard 3/8.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Upscale folders on a Ray cluster: 'auto', 'local', or its HOST:PORT. Needs sr-deploy[ray].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per picture on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print only errors.")
def command(inputs: tuple[str, ...], **options: Any) -> None:
    """Upscale pictures. The help is made from the lists of formats above."""
    _check_options(inputs, options)
    jobs, settings, model = _plan(inputs, options)
    if options["dry_run"]:
        _dry_run(inputs, jobs, settings, model, options)
        return
    from sr_deploy.cli.shared.reporter import Reporter

    count = len(jobs.todo) + len(jobs.skipped) + len(jobs.refused)
    alone = len(inputs) == 1 and count == 1
    with Reporter(
        count,
        alone=alone,
        quiet=options["quiet"],
        as_json=options["as_json"],
        left_out=jobs.left_out,
    ) as reporter:
        for note in jobs.notes:
            reporter.say(note)
        for refused in jobs.refused:
            reporter.refused(refused)
        for job in jobs.skipped:
            reporter.finished(_skipped(job))
        model = _choose_forms(model, options, reporter.say) if jobs.todo else model
        outcomes = _run(inputs, jobs, settings, model, options, reporter) if jobs.todo else []
        title = " or ".join(filter(None, (model, options["photo_model"])))
        _compare(options["compare"], jobs, outcomes, title, reporter)
    _exit_or_raise(outcomes, alone=alone, refused=bool(jobs.refused))


def _check_options(inputs: Sequence[str], options: dict[str, Any]) -> None:
    """Raise click.UsageError for a call without inputs and for options that contradict each other."""
    if not inputs:
        raise click.UsageError(_NO_INPUT)
    if options["skip_existing"] and options["overwrite"]:
        raise click.UsageError("--skip-existing and --overwrite contradict each other; choose one.")
    if options["ray"] is not None and _is_one_file(inputs):
        raise click.UsageError("--ray upscales folders, but a single picture was given; leave --ray out.")
    if options["ray"] is not None and options["fast"]:
        raise click.UsageError(
            "--fast measures this machine, and --ray uses others; leave one out, or name a form with --model and --backend."
        )
    if options["ray"] is not None and options["dry_run"]:
        raise click.UsageError("--dry-run measures on this machine and knows no cluster; leave --ray out.")
    if (options["min_size"] or 1) > (options["max_size"] or 1_000_000):
        raise click.UsageError(
            f"--min-size {options['min_size']} is above --max-size {options['max_size']}, which leaves no picture."
        )


def _dry_run(
    inputs: Sequence[str], jobs: Jobs, settings: WriteSettings, model: str, options: dict[str, Any]
) -> None:
    """Show what a run would do. The model is opened only if there is something to do."""
    from sr_deploy.cli.shared.console import complain
    from sr_deploy.cli.shared.dry_run import show_looks, summary

    looks, rate, backend, made_by = (
        _looks(inputs, jobs, settings, model, options) if jobs.todo else ([], None, "", None)
    )
    for refused in jobs.refused:
        complain(str(refused.error))
    if not options["quiet"] or options["as_json"]:
        show_looks(looks, rate, as_json=options["as_json"], model=made_by)
    if not options["quiet"]:
        for note in jobs.notes:
            complain(f"note: {note}", prefix=False)
        if options["compare"] is not None:
            complain("note: --dry-run does not write the page of --compare", prefix=False)
        complain(summary(jobs, looks, rate, backend), prefix=False)
    _exit_or_raise(
        [], alone=False, refused=bool(jobs.refused) or any(look.do in ("fail", "foreign") for look in looks)
    )


def _looks(
    inputs: Sequence[str], jobs: Jobs, settings: WriteSettings, model: str, options: dict[str, Any]
) -> tuple[list[Look], float | None, str, str | None]:
    """Return what a run would do with each picture, the seconds for each pixel as measured, the backend, and the name
    of the model; None if each picture has a choice of its own."""
    from sr_deploy.batch.survey import look_at, seconds_per_pixel
    from sr_deploy.cli.shared.console import complain

    def say(message: str) -> None:
        """Print a note unless quiet."""
        if not options["quiet"]:
            complain(f"note: {message}", prefix=False)

    model = _choose_forms(model, options, say)
    with _open(inputs, jobs, model, options, say) as (upscaler, nets):
        ledger = _ledger(inputs, upscaler, settings, model, options, say)
        looks = look_at(jobs.todo, scale=upscaler.spec.scale, settings=settings, ledger=ledger, nets=nets)
        rate = seconds_per_pixel(nets or upscaler, looks, settings, _digest(model, options))
        return looks, rate, upscaler.engine.backend, None if nets is not None else _shown(model)


def _ledger(
    inputs: Sequence[str],
    upscaler: Upscaler,
    settings: WriteSettings,
    model: str,
    options: dict[str, Any],
    say: Callable[[str], None],
) -> Ledger | None:
    """The records of a run on `inputs`; None for a single picture, which is not recorded."""
    if _is_one_file(inputs):
        return None
    from sr_deploy.batch.ledger import open_ledger

    return open_ledger(upscaler, settings, _digest(model, options), say=say)


def _digest(model: str, options: dict[str, Any]) -> str:
    """The digest of the model's file, or of all files of a chain, or of the nets of `auto` and its rule."""
    from sr_deploy.models import find_chain
    from sr_deploy.system.chains import chain_digest

    digest = chain_digest(find_chain(model))
    if options["photo_model"] is None:
        return digest
    from sr_deploy.batch.nets import auto_digest

    photo = chain_digest(find_chain(options["photo_file"]))
    return auto_digest(digest, photo, options["photo_backend"])


def _compare(
    page: str | None, jobs: Jobs, outcomes: Sequence[Outcome], model: str, reporter: Reporter
) -> None:
    """Write the page of --compare about the pictures whose result is there, made by this run or an earlier one."""
    if page is None:
        return
    from sr_deploy.batch.compare import Pair, write_page

    done = [
        outcome.job for outcome in outcomes if outcome.status in ("done", "skipped") and not outcome.taken
    ]
    pairs = [Pair(job.source, job.target) for job in (*jobs.skipped, *done) if os.path.exists(job.target)]
    if not pairs:
        reporter.say(f"{page} is not written: there is no result to show")
        return
    write_page(Path(page), pairs, model)
    reporter.say(f"{page} shows {len(pairs)} before and after; open it in a browser")


def _run(
    inputs: Sequence[str],
    jobs: Jobs,
    settings: WriteSettings,
    model: str,
    options: dict[str, Any],
    reporter: Reporter,
) -> list[Outcome]:
    """Upscale the planned jobs on this machine or on a Ray cluster. Returns the outcome of each job.

    Folders and globs get a ledger, which records what each result was made from; only then can a later run tell
    which results are outdated. A single picture has none.
    """
    from sr_deploy.cli import collect_as_usual

    if options["ray"] is not None:
        collect_as_usual()
        return _run_on_ray(jobs, settings, model, options, reporter)
    with _open(inputs, jobs, model, options, reporter.say) as (upscaler, nets):
        reporter.backend = upscaler.engine.backend
        reporter.model = "" if nets is not None else _shown(model)
        if upscaler.engine.backend in _PREPARED_EARLY:
            upscaler.prepare()
        ledger = _ledger(inputs, upscaler, settings, model, options, reporter.say)
        from sr_deploy.batch.run import (
            run_jobs,
        )  # imported late: its import takes time, with the decoders of pictures

        collect_as_usual()
        return run_jobs(jobs.todo, nets or upscaler, settings=settings, watcher=reporter, ledger=ledger)


def _run_on_ray(
    jobs: Jobs, settings: WriteSettings, model: str, options: dict[str, Any], reporter: Reporter
) -> list[Outcome]:
    """Upscale the jobs on a Ray cluster. Returns the outcome of each job.

    A model given as a file is passed with its absolute path and its digest, so that every machine of the cluster
    can check that it uses the same model. The scale is checked as soon as a worker reports it.
    """
    if options["photo_model"] is not None:
        reporter.say(
            f"--ray does not choose nets: {model} makes all pictures; for {options['photo_model']}, name it by --model"
        )
    from sr_deploy.batch.ray_driver import run_on_ray
    from sr_deploy.batch.ray_worker import ModelInfo, WorkerConfig
    from sr_deploy.models import find_model
    from sr_deploy.system.files import digest_of

    path = find_model(model)  # a chain is refused: the workers know single files

    def check(info: ModelInfo) -> None:
        """Take over the backend that a worker reports, and check the scale of its model."""
        reporter.backend, reporter.model = info.backend, _shown(model)
        check_scale(model, info.scale, options, _SIZE_ALTERNATIVE)

    config = WorkerConfig(
        model=os.path.abspath(model) if os.fspath(path) == os.path.normpath(model) else model,
        digest=digest_of(path),
        settings=settings,
        backend=options["backend"],
        threads=options["threads"],
        tile=tile_size(options),
        overlap=options["overlap"],
    )
    address = options["ray"]
    return run_on_ray(jobs.todo, config, address=address, watcher=reporter, say=reporter.say, check=check)


def _plan(inputs: Sequence[str], options: dict[str, Any]) -> tuple[Jobs, WriteSettings, str]:
    """Turn the inputs and options into jobs, settings for writing, and the name of the model. Raises UsageError."""
    from sr_deploy.batch.jobs import check_quality, plan_jobs
    from sr_deploy.batch.steps import WriteSettings
    from sr_deploy.images.sizes import OutputSize

    if options["compare"] is not None:
        from sr_deploy.batch.compare import check_page

        check_page(Path(options["compare"]))
    model, options["photo_model"] = _models(options)
    size = OutputSize(width=options["width"], height=options["height"], fit=options["fit"])
    if size == OutputSize() and (factor := _factor_below_scale(model, options["scale"])):
        size = OutputSize(factor=factor)
    if size.factor is not None or (size != OutputSize() and options["model"] is None):
        options["scale"] = None  # it has done its part: choosing the model or the size of the results
    existing: Existing = "refuse" if _is_one_file(inputs) else "resume"
    if options["skip_existing"] or options["overwrite"]:
        existing = "skip" if options["skip_existing"] else "overwrite"
    jobs = plan_jobs(
        inputs,
        options["output"],
        recursive=options["recursive"],
        format=options["format_name"],
        suffix=options["suffix"],
        beside_suffix=_suffix_beside_input(model, size),
        existing=existing,
        shard=options["shard"],
        follow_links=options["follow_links"],
    )
    check_quality(jobs.todo, options["quality"])
    if options["min_size"] or options["max_size"]:
        from sr_deploy.batch.survey import within_sizes

        jobs = within_sizes(jobs, options["min_size"], options["max_size"])
    settings = WriteSettings(
        quality=options["quality"],
        size=size,
        existing=existing,
        alpha=options["alpha"],
        strip=options["strip"],
        check=options["check"],
        keep_damaged=options["keep_damaged"],
        keep_dates=options["keep_dates"],
        profile=options["profile"] or "auto",
    )
    return jobs, settings, model


def _is_one_file(inputs: Sequence[str]) -> bool:
    """True if the only input is a file.

    Folders and globs may be upscaled in part already, so runs on them are resumed; for a single file an existing
    result is refused.
    """
    return len(inputs) == 1 and os.path.isfile(inputs[0])


def _factor_below_scale(model: str, scale: float | None) -> float | None:
    """`scale` if it is smaller than that of the model, so that a resize has to follow; else None."""
    if scale is None:
        return None
    from sr_deploy.models import find_chain, read_spec

    spec = read_spec(find_chain(model))
    return scale if spec is not None and scale < spec.scale else None


def _suffix_beside_input(model: str, size: OutputSize) -> str:
    """The suffix that distinguishes a result from its input in the same folder, such as "-x4". It is
    "-upscaled" if the scale is not known beforehand: the result has a size of its own (--width and others),
    or the model has no spec."""
    if size.factor is not None:
        return f"-x{size.factor:g}"
    from sr_deploy.engines.registry import ENGINE_SUFFIXES
    from sr_deploy.images.sizes import OutputSize
    from sr_deploy.models import find_chain, read_spec

    path = find_chain(model)
    try:
        spec = read_spec(path) if size == OutputSize() else None
    except ModelError:
        if path.suffix.lower() in ENGINE_SUFFIXES:  # the sidecar is missing or damaged, as the error says
            raise
        from sr_deploy.graph.onnx_file import load_model

        load_model(path)  # its error says what the file is instead of a model
        raise
    return "-upscaled" if spec is None else f"-x{spec.scale}"


def _models(options: dict[str, Any]) -> tuple[str, str | None]:
    """The model, and for `--model auto` the photo net beside it; None for another model, or where none is bundled."""
    automatic = options["model"] in (None, "auto")
    if automatic:
        options["model"] = None
    model = model_name(options, or_larger=True)
    if not automatic:
        return model, None
    from sr_deploy.models import photo_model

    return model, photo_model(model)


def _choose_forms(model: str, options: dict[str, Any], say: Callable[[str], None]) -> str:
    """The model, or with `--fast` its fastest form. That of the photo net beside it goes to the options with its backend."""
    if options["photo_model"] is not None and options["ray"] is None:
        own = dict(options)
        options["photo_file"] = choose_form(options["photo_model"], own, say)
        options["photo_backend"] = own["backend"]
    return choose_form(model, options, say)


@contextmanager
def _open(
    inputs: Sequence[str], jobs: Jobs, model: str, options: dict[str, Any], say: Callable[[str], None]
) -> Iterator[tuple[Upscaler, AutoNets | None]]:
    """Open the model, and for `auto` the choice between it and the photo net, which is opened when needed.

    A single picture opens the net first that its name suggests, which saves opening two. A folder always opens the clean
    net first: its backend is part of the records. The photo net of a folder is checked before.
    """

    def open_net(kind: Kind) -> Upscaler:
        """Open one of the two nets."""
        chosen = {**options, "backend": options["photo_backend"]} if kind == "photo" else options
        return open_upscaler(names[kind], chosen, say, alternative=_SIZE_ALTERNATIVE)

    if options["photo_model"] is None:
        with open_upscaler(model, options, say, alternative=_SIZE_ALTERNATIVE) as upscaler:
            yield upscaler, None
        return
    from sr_deploy.batch.nets import AutoNets, likely_kind

    names: dict[Kind, str] = {"clean": model, "photo": options["photo_file"]}
    alone = _is_one_file(inputs)
    if not alone:
        _settle_photo_net(model, options, say)
    first = likely_kind(jobs.todo[0].source) if alone else "clean"
    with AutoNets(names, open_net, first) as nets:
        yield nets.upscaler, nets


def _settle_photo_net(model: str, options: dict[str, Any], say: Callable[[str], None]) -> None:
    """Check the photo net without opening it, and choose its backend, which is part of the records of a folder.

    The choice is measured once for each machine and then kept in the cache folder. Raises ModelError for a file that
    cannot be read or has another scale than `model`, and the errors of `check_tile` and `choose_backend`.
    """
    from sr_deploy.engines.registry import choose_backend
    from sr_deploy.models import find_model, read_spec
    from sr_deploy.upscale import check_tile

    path = find_model(options["photo_file"])
    spec, clean = read_spec(path), read_spec(find_model(model))
    if spec is None or clean is None or spec.scale != clean.scale:
        raise ModelError(f"model {path}: it does not have the scale of {model}; name one of them by --model")
    check_tile(spec, tile_size(options), options["overlap"])
    options["photo_backend"] = choose_backend(
        options["photo_backend"], path, threads=options["threads"], say=say
    )


def _shown(model: str) -> str:
    """The name of a model in the records of --json: without folder and suffix; a chain as it was given."""
    return model if "+" in model else Path(model).name.removesuffix(".onnx")


def _skipped(job: Job) -> Outcome:
    """The outcome of a job whose result exists already."""
    from sr_deploy.batch.steps import Outcome

    return Outcome(job, "skipped")


def _exit_or_raise(outcomes: Sequence[Outcome], *, alone: bool, refused: bool) -> None:
    """Exit with code 5 if some pictures failed.

    The error of a picture that was the only one is raised again, and so is an unexpected error, which is a bug.
    """
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    expected = (SrDeployError, OSError, MemoryError)
    for error in errors:
        if alone or not isinstance(error, expected):
            raise error
    if errors or refused:
        click.get_current_context().exit(_EXIT_SOME_FAILED)
