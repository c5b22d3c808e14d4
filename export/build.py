"""Rebuild every bundled model from its checkpoint, check it, and write its card.

    python export/build.py                 # writes sr_deploy/models/<name>.onnx and <name>.md, and the files in forms/
    python export/build.py rt-x4           # builds this one only
    python export/build.py --check         # writes nothing; exit code 1 if a file would change

A model is made from a recipe `export/<name>.toml` and the averaged weights `export/checkpoints/<name>.safetensors`
that `sr-deploy train` made with it. Equal checkpoints give equal files, byte for byte. The quality on the card is
taken from the committed results of `benchmarks/quality.py`, and only from results for exactly these bytes. A model also gets
the form `forms/<name>-bf16.onnx`, if that is small, and after a training for int8 `forms/<name>-int8.onnx`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

try:
    from sr_deploy.errors import InputError, SrDeployError
    from sr_deploy.graph.onnx_file import load_model, save_model
    from sr_deploy.models import read_spec
    from sr_deploy.models.fast import FORMS
    from sr_deploy.precision.convert import convert
    from sr_deploy.training.checkpoint import CheckpointInfo, read_checkpoint
    from sr_deploy.training.data.degrade import Degradation
    from sr_deploy.training.export.to_onnx import ExportResult, export_onnx
    from sr_deploy.training.recipe import Recipe, read_recipe

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
except ModuleNotFoundError as error:
    print(
        f"error: building the models needs {error.name}, which is not installed; run in the checkout: "
        f'{sys.executable} -m pip install ".[cpu,train]"',
        file=sys.stderr,
    )
    sys.exit(4)

HERE = Path(__file__).resolve().parent
_LARGEST_FORM = 1_000_000
"""Most bytes of a form. The larger ones, of nets for looks rather than for speed, are left to `sr-deploy convert`."""


@dataclass(frozen=True)
class Places:
    """Folders of recipes (with checkpoints), results and finished models."""

    recipes: Path
    models: Path
    results: Path

    def checkpoint(self, name: str) -> Path:
        return self.recipes / "checkpoints" / f"{name}.safetensors"


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def released(places: Places) -> list[str]:
    """Return the names that have a checkpoint, sorted, except teachers (`<name>-teacher`), which are not bundled."""
    checkpoints = (places.recipes / "checkpoints").glob("*.safetensors")
    return sorted(p.stem for p in checkpoints if not p.stem.endswith("-teacher"))


def check_recipe(recipe: Recipe, info: CheckpointInfo, checkpoint: Path) -> None:
    """Raise InputError where the checkpoint was not made by the recipe."""
    if info.recipe_sha256 != recipe.sha256:
        raise InputError(
            f"{checkpoint}: trained with recipe {info.recipe_sha256[:12]}, but {recipe.name}.toml is "
            f"{recipe.sha256[:12]}; train again, or restore the recipe it was trained with"
        )


def check_record(built: ExportResult, recipe: Recipe, checkpoint: Path) -> None:
    """Raise InputError where the spec in the written file does not agree with the recipe and the checkpoint."""
    spec = read_spec(built.path)
    says = spec and (spec.scale, spec.precision, spec.recipe_sha256, spec.checkpoint_sha256, spec.licence)
    how = recipe.export
    wanted = (recipe.scale, how.precision, recipe.sha256, sha256_of(checkpoint), how.licence)
    if says != wanted:
        raise InputError(f"{built.path.name}: its spec says {says}, expected {wanted}; export it again")


def quality_of(name: str, sha256: str, results: Path) -> dict[str, dict[str, float]]:
    """Return data set -> {psnr_y, ssim_y} from the results for exactly this file; empty where there are none."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted(results.glob("quality-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for row in record["results"]:
            if row["model"] == name and row.get("sha256") == sha256:
                mean = row["mean"]
                found[record["set"].capitalize()] = {k: round(mean[k], 4) for k in ("psnr_y", "ssim_y")}
    return found


def losses_of(forms: Mapping[str, Path], sha256: str, results: Path) -> dict[str, dict[str, Any]]:
    """Return precision -> card entry of the forms of the model with digest `sha256`.

    The loss is the change of the mean PSNR on Y in the committed results, of the set with the largest loss. A form that
    was not measured has no loss, and is not used by `--fast`.
    """
    rows = [
        (record["set"], row["sha256"], row["mean"]["psnr_y"], len(row.get("pictures", ())))
        for path in sorted(results.glob("quality-*.json"))
        for record in [json.loads(path.read_text(encoding="utf-8"))]
        for row in record["results"]
        if row.get("sha256")
    ]
    found: dict[str, dict[str, Any]] = {}
    for precision, file in forms.items():
        digest = sha256_of(file)
        changes = [
            (round(psnr - whole, 4), count)
            for name, sha, psnr, count in rows
            for other, base, whole, _ in rows
            if (name, sha, base) == (other, digest, sha256)
        ]
        if changes:
            change, count = min(changes)
            found[precision] = {"sha256": digest, "psnr_change": change, "photographs": count}
    return found


def _trained(info: CheckpointInfo, recipe: Recipe) -> list[str]:
    lines = [f"Trained for {_run(info.training)}:", ""]
    if recipe.sizes != (1.0,):
        sizes = ", ".join(f"{size:g}" for size in recipe.sizes)
        lines[:0] = [f"Every photograph was shown at {sizes} times its size.", ""]
    if recipe.leaves:
        lines[:0] = [f"{recipe.leaves} pictures of the dead-leaves model were trained on as well.", ""]
    if damage := recipe.phases[-1].degrade:
        lines[:0] = [*_made_for(damage), ""]
    first = info.training.get("init", {}).get("first_phase", 1)
    run = recipe.phases[first - 1 :]
    for number, phase in enumerate(run, start=first):
        loss = " + ".join(f"{weight:g} {term}" for term, weight in phase.loss.items())
        busiest = f", each the busiest of {phase.busiest_of}" * (phase.busiest_of > 1)
        rounded = ", rounded as int8 rounds" * bool(phase.quantise)
        taught = " against a teacher's pictures" * (phase.target == "teacher")
        lines.append(
            f"{number}. scale {phase.scale}, batches of {phase.batch} crops of {phase.crop} small pixels{busiest}{rounded}, loss "
            f"{loss}{taught}, {recipe.optimiser} at a rate of up to {phase.learning_rate:g}, {phase.steps / sum(p.steps for p in run):.0%} of the run"
        )
    before, teacher = info.training.get("init"), info.training.get("teacher")
    if before:
        text = "It began with the weights of these runs, each from those of the one above:"
        lines += ["", text, "", *_runs_to(before)]
    if teacher:
        same = before and before["training"] == teacher["training"]
        made = "It is the net whose weights this one began with." if same else "It was trained by these runs:"
        lines += [
            "",
            f"The teacher's pictures are the mean of what `{teacher['name']}` makes of a small picture in all flips and "
            f"quarter turns (SHA-256 of its checkpoint `{teacher['sha256']}`). {made}",
        ]
        if not same:
            lines += ["", *_runs_to(teacher)]
    return lines


def _made_for(damage: Degradation) -> list[str]:
    """Describe the pictures that a net for photographs was trained on."""
    formats = [
        f"{name.upper()} of quality {low:g} to {high:g}" for name, (low, high) in damage.formats.items()
    ]
    noise = [
        f"{name} up to {span[1]:g} steps of 255"
        for name, span in (("noise", damage.noise), ("a camera's noise", damage.camera))
        if span
    ]
    return [
        f"Made for photographs as they are. The small pictures were damaged as cameras and the web do: {', '.join(formats)}, "
        f"{damage.twice:.0%} of the JPEGs twice; each with a probability of {damage.chance:.0%} also {', '.join(noise)}, blur, sharpening and "
        f"shifted colours; {len(set(damage.kernels))} kernels of resampling. {damage.clean:.0%} were clean."
    ]


def _runs_to(last: Mapping[str, Any]) -> list[str]:
    """Return a line for `last` and for each run that led to it by its weights, oldest first."""
    training = last["training"]
    before = _runs_to(training["init"]) if training.get("init") else []
    return [*before, f"- `{last['name']}`: {_run(training)}"]


def _run(training: Mapping[str, Any]) -> str:
    """Describe a run: its length, its device, and its teacher where it had one."""
    device = f" on {training['device']}" if training.get("device") else ""
    precision = f", {training['precision']}" if training.get("precision") else ""
    text = f"{training['steps']:,} steps in {training['minutes']:g} minutes{device}{precision}"
    if training.get("teacher"):
        text += f", against pictures of `{training['teacher']['name']}`"
    return text


def _pictures(table: Mapping[str, Any], held_out: int) -> list[str]:
    lines = [
        f"Trained on {table['count'] - held_out} of these {table['count']} photographs ({table['megapixels']} "
        f"megapixels); {held_out}, chosen by the hash of their names, were held out. None of them is in Set5, Set14, "
        "BSD100 or Urban100.",
        "",
        "| photographs | source | licence |",
        "|---:|---|---|",
    ]
    return lines + [f"| {p['count']} | {p['source']} | {p['licence']} |" for p in table["part"]]


def _measured(quality: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not quality:
        return ["Not measured yet for this file."]
    lines = ["| set | PSNR, Y (dB) | SSIM, Y |", "|---|---:|---:|"]
    return lines + [f"| {k} | {v['psnr_y']:.2f} | {v['ssim_y']:.4f} |" for k, v in quality.items()]


def _forms(forms: Mapping[str, Path], losses: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the section about the forms for `--fast`; empty without any."""
    if not forms:
        return []
    lines = [
        "## Forms",
        "",
        "`--fast` chooses among these and fp32.",
        "",
        "| file | bytes | PSNR, Y, against fp32 (dB) |",
    ]
    lines += ["|---|---:|---:|"]
    for precision, file in forms.items():
        told = losses.get(precision)
        change = f"{told['psnr_change']:+.3f}" if told else "not measured yet"
        lines.append(f"| `forms/{file.name}` | {file.stat().st_size:,} | {change} |")
    return [*lines, ""]


def card_of(
    recipe: Recipe,
    info: CheckpointInfo,
    built: ExportResult,
    checkpoint: Path,
    quality: Mapping[str, Mapping[str, float]],
    forms: Mapping[str, Path],
    losses: Mapping[str, Mapping[str, Any]],
    photographs: Mapping[str, Any],
) -> str:
    """Return the card: front matter in JSON, as `sr_deploy.models` reads it, then the text for people."""
    how, digest = recipe.export, sha256_of(built.path)
    front = {"licence": how.licence, "parameters": built.parameters, "quality": quality, "sha256": digest}
    front |= {"forms": losses} if losses else {}
    tolerance = built.parity.tolerance if built.parity else float("nan")
    text = [
        *("---", json.dumps(front, indent=2, sort_keys=True), "---", "", f"# {recipe.name}", ""),
        f"Scale {recipe.scale}, architecture `{recipe.architecture}`, {built.parameters:,} parameters, "
        f"{how.precision}. Licence: {how.licence}.",
        *("", "## Training", "", *_trained(info, recipe), ""),
        *("## Photographs", "", *_pictures(photographs, recipe.validation), ""),
        *("## Quality", "", *_measured(quality), ""),
        *_forms(forms, losses),
        *("## Identity", "", f"- recipe: `export/{recipe.name}.toml`, SHA-256 `{recipe.sha256}`"),
        f"- checkpoint: `export/checkpoints/{recipe.name}.safetensors`, SHA-256 `{sha256_of(checkpoint)}`",
        f"- file: `{recipe.name}.onnx`, SHA-256 `{digest}`, made by `python export/build.py {recipe.name}`, which "
        f"found it within {tolerance:.0e} of full scale of the trained net",
    ]
    return "\n".join(text) + "\n"


def build(name: str, places: Places, out: Path) -> list[Path]:
    """Write `<name>.onnx` and `<name>.md` into `out`. Raises SrDeployError for files that do not fit together."""
    recipe, checkpoint = read_recipe(places.recipes / f"{name}.toml"), places.checkpoint(name)
    info, _ = read_checkpoint(checkpoint)
    check_recipe(recipe, info, checkpoint)
    model, card, how = out / f"{name}.onnx", out / f"{name}.md", recipe.export
    built = export_onnx(
        checkpoint,
        model,
        precision=how.precision,
        io=how.io,
        licence=how.licence,
        data=HERE.parent / "examples",
    )
    check_record(built, recipe, checkpoint)
    forms = make_forms(model, info, out / "forms")
    quality = quality_of(name, sha256_of(model), places.results)
    losses = losses_of(forms, sha256_of(model), places.results)
    photographs = tomllib.loads((HERE / "photographs.toml").read_text(encoding="utf-8"))
    text = card_of(recipe, info, built, checkpoint, quality, forms, losses, photographs)
    card.write_text(text, encoding="utf-8", newline="\n")
    return [model, card, *forms.values()]


def make_forms(model: Path, info: CheckpointInfo, folder: Path) -> dict[str, Path]:
    """Write the forms of `model` into `folder`: precision -> file. There is none in int8 without learned ranges, and no large one."""
    found: dict[str, Path] = {}
    for precision in FORMS if info.ranges else ("bf16",):
        form = folder / f"{model.stem}-{precision}.onnx"
        folder.mkdir(exist_ok=True)
        save_model(convert(load_model(model), precision).model, form)
        if form.stat().st_size <= _LARGEST_FORM:
            found[precision] = form
        else:
            form.unlink()
    return found


def left_over(name: str, built: Sequence[Path], models: Path) -> list[Path]:
    """Return the forms of the model `name` in `models` that the build in `built` does not have."""
    made = {path.name for path in built}
    return [
        path
        for path in ((models / "forms" / f"{name}-{precision}.onnx") for precision in FORMS)
        if path.is_file() and path.name not in made
    ]


def compare(built: Sequence[Path], out: Path, models: Path) -> list[str]:
    """Return one line for every file built in `out` that differs from the one in `models`."""
    lines = []
    for path in built:
        there = models / path.relative_to(out)
        if not there.exists():
            lines.append(f"{there}: missing")
        elif there.read_bytes() != path.read_bytes():
            lines.append(f"{there}: {sha256_of(there)[:12]}, rebuilt {sha256_of(path)[:12]}")
    return lines


def run(names: Sequence[str], places: Places, *, check: bool) -> int:
    """Build in a temporary folder, then compare or move into place. Returns the exit code."""
    known = released(places)
    if unknown := sorted(set(names) - set(known)):
        raise InputError(
            f"{unknown[0]}: no such checkpoint in {places.recipes / 'checkpoints'}; name one of {', '.join(known)}"
        )
    differences: list[str] = []
    with TemporaryDirectory() as folder:
        for name in names or known:
            built = build(name, places, Path(folder))
            old = left_over(name, built, places.models)
            differences += compare(built, Path(folder), places.models)
            differences += [f"{path}: its checkpoint gives no such form" for path in old]
            print(f"{name}: {sha256_of(built[0])[:12]} {built[0].stat().st_size:,} bytes", flush=True)
            for path in [] if check else old:
                path.unlink()
            for path in [] if check else built:
                target = places.models / path.relative_to(folder)
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(path.read_bytes())
    if check and differences:
        print(*differences, "to write the new files, run: python export/build.py", sep="\n", file=sys.stderr)
        return 1
    if check:
        print(f"{len(names or known)} models: every file is what its checkpoint gives, byte for byte")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="models to build; default: all")
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 on a difference")
    parser.add_argument("--recipes", type=Path, default=HERE)
    parser.add_argument("--models", type=Path, default=HERE.parent / "sr_deploy" / "models")
    parser.add_argument("--results", type=Path, default=HERE.parent / "benchmarks" / "results")
    args = parser.parse_args(arguments)
    try:
        return run(args.names, Places(args.recipes, args.models, args.results), check=args.check)
    except SrDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
