"""`sr-deploy doctor`: show what works on this machine, what does not, and the command that repairs it.

This module prints; `sr_deploy.doctor` finds out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sr_deploy.doctor import Diagnosis

_EXIT_NO_MODEL, _EXIT_NO_BACKEND = 3, 4  # the codes of ModelError and MissingRuntimeError
_STATES = {True: "works", False: "does not work", None: "not tried"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(as_json: bool) -> None:
    """Show what is installed and which backends work.

    Each backend upscales a small picture; if one fails, the reason is shown. Exit code 4: no backend works.
    Exit code 3: there is no bundled model to try the backends with.
    """
    from sr_deploy.doctor import diagnose
    from sr_deploy.gstreamer.check import gstreamer_state

    diagnosis = diagnose()
    state, detail = gstreamer_state()
    if as_json:
        import json

        facts = {**diagnosis.to_dict(), "gstreamer": {"works": state, "detail": detail}}
        click.echo(json.dumps(facts, indent=2))
    else:
        hosts = ("plugins of other programs", f"  {'gstreamer':<20} {_STATES[state]}: {detail}")
        click.echo("\n".join([*_lines(diagnosis), *hosts]))
    if not diagnosis.can_upscale:
        code = _EXIT_NO_BACKEND if diagnosis.lacks_runtime else _EXIT_NO_MODEL
        click.get_current_context().exit(code)


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The diagnosis as lines of text: versions, backends, models, machine, packages, and advice if there is any."""
    yield f"sr-deploy {diagnosis.version}"
    yield f"  python     {diagnosis.python}"
    yield f"  platform   {diagnosis.platform}"
    yield "backends"
    for backend in diagnosis.backends:
        yield f"  {backend.name:<20} {_STATES[backend.works]}: {backend.detail}"
    yield "models"
    yield f"  {diagnosis.models_problem or ', '.join(diagnosis.models) or 'none is bundled with this installation'}"
    yield "machine"
    yield from _machine(diagnosis)
    yield "packages"
    for name, version in diagnosis.packages.items():
        yield f"  {name:<27} {version or 'not installed'}"
    if diagnosis.advice:
        yield "what else could be installed"
    for line in diagnosis.advice:
        yield f"  {line}"


def _machine(diagnosis: Diagnosis) -> Iterator[str]:
    """Lines about processor, memory and GPUs. Memory is in GiB, GPU memory in MiB.

    If no GPU is found, the line says what the search for one reported.
    """
    cpu = diagnosis.cpu
    yield f"  processor  {cpu.name} ({cpu.architecture}), {cpu.usable_cores} of {cpu.cores} cores usable"
    yield f"  features   {', '.join(cpu.features) or 'none known'}"
    free = diagnosis.memory_available
    yield f"  memory     {'unknown' if free is None else f'{free / 2**30:.1f} GiB available'}"
    for gpu in diagnosis.gpus:
        memory = "" if gpu.memory_mib is None else f", {gpu.memory_mib} MiB"
        yield f"  gpu        {gpu.name}{memory}, driver {gpu.driver or 'unknown'}"
    if not diagnosis.gpus:
        yield f"  gpu        none: {diagnosis.gpu_detail}"
