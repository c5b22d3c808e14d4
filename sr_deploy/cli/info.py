"""`sr-deploy info`: show what a model file says of itself, or what probing finds out about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from sr_deploy.graph.onnx_file import FileFacts
    from sr_deploy.spec import ModelSpec, SizeRule


@click.command("info")
@click.argument("file", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(file: str, as_json: bool) -> None:
    """Describe a model: scale, input sizes, halo, licence, checksum.

    NAME|FILE is a bundled model, an ONNX file or a checkpoint. Of a checkpoint the architecture, its sizes and its
    precisions are shown, which needs sr-deploy[train], or sr-deploy[community] for checkpoints of others. An ONNX file without sr-deploy's spec is probed: the model is run on
    small pictures to find its scale, layout, value range and halo. Properties that remain undecided are listed.
    Nothing is written.
    """
    from sr_deploy.graph.onnx_file import file_facts, load_model, read_spec
    from sr_deploy.models import card_of, find_model
    from sr_deploy.training.anynet.suffixes import CHECKPOINT_SUFFIXES

    path = find_model(file)
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        _show_checkpoint(path, as_json=as_json)
        return
    model = load_model(path)
    facts, spec = file_facts(path, model), read_spec(model)
    card = card_of(path, facts.sha256)
    parameters = card.parameters if card else None
    stamped = spec is not None
    evidence: dict[str, str] = {}
    if spec is None:
        from sr_deploy.cli.shared.probing import examined
        from sr_deploy.graph.onnx_file import lost_spec

        click.echo(
            f"{path} carries no sr-deploy spec{lost_spec(model)}; probing it (this takes minutes for a large network)",
            err=True,
        )
        found = examined(model, path)
        spec, evidence = found.spec, found.evidence
    if as_json:
        import json

        record = _record(facts, spec, parameters, stamped=stamped) | (
            {"evidence": evidence} if evidence else {}
        )
        click.echo(json.dumps(record, indent=2))
    else:
        click.echo("\n".join(_lines(facts, spec, parameters, evidence, stamped=stamped)))


def _show_checkpoint(path: Path, *, as_json: bool) -> None:
    """Print what a checkpoint says of itself. Raises MissingRuntimeError without torch, or spandrel where it is needed."""
    from sr_deploy.errors import MissingRuntimeError
    from sr_deploy.training.anynet.suffixes import install_line

    try:
        from sr_deploy.training.anynet.describing import describe_checkpoint
    except ModuleNotFoundError as error:
        raise MissingRuntimeError(
            f"{path} is a checkpoint, which needs {error.name} to be read; {install_line(path)}"
        ) from error
    facts = {"path": str(path), **describe_checkpoint(path)}
    if as_json:
        import json

        click.echo(json.dumps({"checkpoint": facts}, indent=2))
        return
    shown = {
        key: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in facts.items()
    }
    click.echo(
        "\n".join([str(facts["name"]), *_rows(*((key, shown[key]) for key in shown if key != "name"))])
    )
    click.echo(f"a checkpoint; to make a model of it: sr-deploy export {path} -o {path.stem}.onnx")


def _record(facts: FileFacts, spec: ModelSpec, parameters: int | None, *, stamped: bool) -> dict[str, Any]:
    """Spec and file facts as JSON values, for --json. "stamped" is false if the spec was found by probing.

    "parameters" counts what training set, from the card of a bundled model (else null); "constants" all numbers in
    the graph, fixed kernels included.
    """
    from dataclasses import asdict

    file = {**asdict(facts), "path": str(facts.path), "parameters": parameters}
    return {"stamped": stamped, "spec": asdict(spec), "file": file}


def _lines(
    facts: FileFacts, spec: ModelSpec, parameters: int | None, evidence: dict[str, str], *, stamped: bool
) -> Iterator[str]:
    """Spec and file facts as lines of text. A file without a spec gets advice on how to write one into it."""
    yield from spec_lines(spec, evidence)
    yield "file"
    yield from _rows(
        ("path", str(facts.path)),
        ("size", f"{facts.size:,} bytes"),
        ("sha256", facts.sha256),
        ("opset", str(facts.opset)),
        ("nodes", f"{facts.nodes:,}"),
        *([] if parameters is None else [("parameters", f"{parameters:,}")]),
        ("constants", f"{facts.constants:,}"),
        ("producer", facts.producer),
    )
    if not stamped:
        yield f"found by probing; to write it into the file: sr-deploy stamp {facts.path}"


def spec_lines(spec: ModelSpec, evidence: dict[str, str] | None = None) -> Iterator[str]:
    """A spec as lines of text, one property each.

    `evidence` says what the answers of a probe rest on. Undecided properties are listed at the end.
    """
    low, high = spec.value_range
    outputs = ", output {:g}..{:g}".format(*spec.output_range) if spec.output_range else ""
    yield spec.name
    yield from _rows(
        ("scale", f"x{spec.scale}"),
        ("channels", f"3 ({spec.channel_order})" if spec.channels == 3 else "1 (grey)"),
        ("layout", spec.layout),
        ("value range", f"{low:g}..{high:g}{outputs}"),
        ("sizes", _sizes(spec.size_rule)),
        ("halo", "global: the whole picture" if spec.halo is None else f"{spec.halo} px"),
        *([("inset", f"{spec.inset} px of the result on every side")] if spec.inset else []),
        ("precision", spec.precision),
        ("architecture", spec.architecture),
        *((f"  {key}", str(value)) for key, value in sorted(spec.parameters.items())),
        ("licence", spec.licence or "unknown"),
        ("checkpoint", spec.checkpoint_sha256 or "unknown"),
        ("recipe", spec.recipe_sha256 or "unknown"),
    )
    if evidence:
        yield "what this rests on"
        yield from _rows(*evidence.items())
    if spec.undecided:
        yield "undecided"
    for sentence in spec.undecided:
        yield f"  {sentence}"


def _sizes(rule: SizeRule) -> str:
    """The rule for input sizes in words: "multiples of 4, at least 16", or "640x480 only" (width x height)."""
    step = f"multiples of {rule.multiple_of}" if rule.multiple_of > 1 else "any"
    tiles = f", tiles at multiples of {rule.step}" if rule.step > 1 and (rule.fixed or rule.tile_step) else ""
    if rule.fixed:  # (height, width) of the only size
        return f"{rule.fixed[1]}x{rule.fixed[0]} only{tiles}"
    return (f"{step}, at least {rule.minimum}" if rule.minimum > 1 else step) + tiles


def _rows(*rows: tuple[str, str]) -> Iterator[str]:
    """Lines of two columns: keys, padded to 14 characters, and values."""
    return (f"  {key:<14} {value}" for key, value in rows)
