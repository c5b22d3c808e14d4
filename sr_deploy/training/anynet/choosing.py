"""Try both exporters on growing demands, run what they give, and keep the best that is right.

The demands are tried from the freest: any size; one picture a call; multiples of 2 to 128; one fixed size. At the first demand
that an export meets, the one with the fewest nodes is kept. An export meets it if ONNX Runtime agrees with torch on
crops of at least five sizes, odd ones where the demand allows them.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import inliner
from torch import nn

from sr_deploy.errors import CheckFailedError, InputError, ModelError, SrDeployError, one_line
from sr_deploy.graph.rewrites.depth_to_space import recover_depth_to_space
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.training.anynet.exporters import EXPORTERS, AxesRequest, ExportRefusedError, export_with
from sr_deploy.training.anynet.source import SourceNet
from sr_deploy.training.export.cleaning import clean_graph
from sr_deploy.training.export.parity import (
    CROPS,
    CropReference,
    CropSource,
    Parity,
    compare_crops,
    run_crops,
)

_MULTIPLES = (8, 16, 32, 64, 128)
"""Multiples that are tried where a net does not export for any size: the windows and strides that nets have."""
_LARGEST_STEP = 256
_WINDOW_NAMES = ("window_size", "win_size", "split_size", "stripe_size", "padder_size", "split_size_1")
"""Names of attributes under which published nets keep the sides of their windows."""
_LARGEST_WINDOW = 64
_FIXED_SIDE = 128
"""Side in pixels of the fixed size, the last demand: a tile that suits most nets."""
_FEWEST_SIZES = 5
_DATA_DEPENDENT = re.compile(r"data-dependent|DataDependent|_local_scalar_dense|aten.item", re.IGNORECASE)
"""torch.export's refusals of a net that takes a decision from values (torch 2.6 to 2.14)."""


@dataclass(frozen=True, kw_only=True)
class ExportChoice:
    """The export that was kept."""

    model: onnx.ModelProto
    """The cleaned graph in fp32, without a spec."""
    spec: ModelSpec
    """The spec so far; the halo is not measured yet."""
    exporter: str
    """"dynamo" or "torchscript"."""
    parity: Parity | None
    """The comparison with torch; None if the caller asked for none."""
    tried: tuple[str, ...]
    """One line for each export that was not kept: what was asked, and why it was not taken."""
    references: Sequence[CropReference] = ()
    """The crops that were compared, for comparisons with the same model in other precisions."""


@dataclass(frozen=True)
class _Attempt:
    """One export that is right."""

    exporter: str
    model: onnx.ModelProto
    parity: Parity

    @property
    def nodes(self) -> int:
        return len(self.model.graph.node)


def choose_export(
    source: SourceNet,
    spec: ModelSpec,
    opset: int,
    pictures: Sequence[CropSource],
    *,
    tolerance: float,
    say: Callable[[str], None],
) -> ExportChoice:
    """Export `source` with the freest axes that work.

    `spec` has all but the halo and the final size rule. `say` is called with one line for each demand.
    Raises ModelError where nothing works, with the reasons of both exporters at the freest demand; CheckFailedError
    where exports exist but none agrees with torch.
    """
    tried: list[str] = []
    wrong: CheckFailedError | None = None
    for axes in _demands(source):
        asked = replace_rule(spec, axes)
        try:
            references = _references(source, asked, pictures)
        except _SizeNotTakenError as error:
            tried.append(f"{axes.describe()}: torch itself fails ({error})")
            continue
        attempts: list[_Attempt] = []
        for exporter in EXPORTERS:
            say(f"exporting with {exporter} for {axes.describe()}")
            try:
                attempts.append(_attempt(exporter, source, asked, axes, opset, references, tolerance))
            except ExportRefusedError as refusal:
                tried.append(f"{exporter}, {axes.describe()}: {refusal}")
                say(f"not taken: {tried[-1]}")
                if _DATA_DEPENDENT.search(str(refusal)):
                    raise _undecided(source, refusal) from refusal
            except CheckFailedError as error:
                tried.append(f"{exporter}, {axes.describe()}: {one_line(error, 200)}")
                say(f"not taken: {tried[-1]}")
                wrong = error
        if attempts:
            best = min(attempts, key=lambda attempt: attempt.nodes)
            tried += [
                f"{other.exporter}, {axes.describe()}: {other.nodes} nodes, {best.exporter} needs {best.nodes}"
                for other in attempts
                if other is not best
            ]
            return ExportChoice(
                model=best.model,
                spec=asked,
                exporter=best.exporter,
                parity=best.parity,
                tried=tuple(tried),
                references=references,
            )
    raise _failure(source, tried, wrong)


def _undecided(source: SourceNet, refusal: ExportRefusedError) -> ModelError:
    """Return the error for a net whose operations depend on the picture.

    The other exporter would record the one way that an example takes. On pictures that take another way the file would
    be wrong, and a check on a few pictures might not show it.
    """
    return ModelError(
        f"{source.name}: what it computes depends on the values of the picture, not only on its size ({one_line(refusal, 200)}); "
        "replace the if or the int() by operations on tensors, such as torch.where"
    )


def _failure(source: SourceNet, tried: Sequence[str], wrong: CheckFailedError | None) -> SrDeployError:
    """Return the error for a net that no exporter exports: the first reason of each, in one line."""
    if wrong is not None:
        return CheckFailedError(f"{one_line(wrong, 400)}; no other export of {source.name} was right either")
    return ModelError(
        f"{source.name}: torch cannot export this net; {'; '.join(tried[: len(EXPORTERS)])}; docs/models/bring-your-model.md "
        "says what to change in a net so that it exports"
    )


def _demands(source: SourceNet) -> Iterator[AxesRequest]:
    """Yield the demands, the freest first. Every one keeps to the size rule that is known of the net."""
    rule = source.rule
    free = AxesRequest(
        channels=source.channels, step=rule.multiple_of, minimum=rule.minimum, fixed=rule.fixed
    )
    if not (source.square or rule.fixed):
        yield free
        hint = math.lcm(rule.multiple_of, inner_multiple(source.net))
        if hint != rule.multiple_of:
            yield replace(free, step=hint, batch=False)
        yield replace(free, batch=False)
        steps = {math.lcm(rule.multiple_of, multiple) for multiple in _MULTIPLES} - {rule.multiple_of, hint}
        yield from (replace(free, step=step, batch=False) for step in sorted(steps) if step <= _LARGEST_STEP)
    fixed = rule.fixed or rule.padded(_FIXED_SIDE, _FIXED_SIDE)
    yield replace(free, fixed=fixed, batch=False)


def inner_multiple(net: nn.Module) -> int:
    """Return the multiple that the windows inside a net suggest, by the names of attributes that hold them.

    Nets with windows pad their input to multiples of them. At a multiple that padding is nothing, which exporters
    follow more easily. It is a hint about what to try early; a wrong one costs time only.
    """
    found = {1}
    for module in net.modules():
        for name in _WINDOW_NAMES:
            value = getattr(module, name, None)
            for size in value if isinstance(value, tuple | list) else (value,):
                if isinstance(size, int) and not isinstance(size, bool) and 1 < size <= _LARGEST_WINDOW:
                    found.add(size)
    multiple = math.lcm(*found)
    return multiple if multiple <= _LARGEST_STEP else max(found)


def replace_rule(spec: ModelSpec, axes: AxesRequest) -> ModelSpec:
    """Return `spec` with the size rule of a demand."""
    return spec.with_(
        size_rule=SizeRule(
            minimum=1 if axes.fixed else axes.minimum,
            multiple_of=1 if axes.fixed else axes.step,
            fixed=axes.fixed,
        )
    )


class _SizeNotTakenError(Exception):
    """The net itself does not run at a size that its rule allows. The message is its reason. Never leaves here."""


def _references(source: SourceNet, spec: ModelSpec, pictures: Sequence[CropSource]) -> list[CropReference]:
    """Run the net on crops of at least five sizes that the rule of `spec` allows."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated calls in the net, which are its author's business
            references = run_crops(source.net, spec, pictures, _crop_sizes(spec.size_rule), own_scale=True)
    except Exception as error:  # a net may raise anything at a size it does not take
        raise _SizeNotTakenError(f"{type(error).__name__}: {one_line(error, 120)}") from error
    for reference in references:
        (height, width), scale = reference.pixels.shape[1:3], spec.scale
        if reference.wanted.shape[1:] != (spec.channels, height * scale, width * scale):
            shape = list(reference.wanted.shape)
            raise InputError(
                f"{source.name}: gives {shape} for [1, {spec.channels}, {height}, {width}], expected scale {scale} and "
                f"{spec.channels} channels; state the --scale it has, or correct the net"
            )
    return references


def _crop_sizes(rule: SizeRule) -> list[tuple[int, int]]:
    """Return (height, width) of the crops to compare: those of our own nets, and more where the rule merges them."""
    if rule.fixed:
        return [rule.fixed]
    sizes = dict.fromkeys(rule.padded(*size) for size in CROPS)
    low, step = rule.padded(1, 1)[0], rule.multiple_of
    extra = ((0, 1), (1, 0), (2, 1), (1, 3), (3, 2), (0, 2))
    for tall, wide in extra:
        if len(sizes) >= _FEWEST_SIZES:
            break
        sizes.setdefault((low + tall * step, low + wide * step))
    return list(sizes)


def _attempt(
    exporter: str,
    source: SourceNet,
    spec: ModelSpec,
    axes: AxesRequest,
    opset: int,
    references: Sequence[CropReference],
    tolerance: float,
) -> _Attempt:
    """Export once and compare with torch. Raises ExportRefusedError, or CheckFailedError if it is wrong."""
    exported = export_with(exporter, source.net, axes, opset)
    exported = inliner.inline_local_functions(exported) if exported.functions else exported
    if len(exported.graph.input) != 1 or len(exported.graph.output) != 1:
        raise ExportRefusedError(
            f"the graph has {len(exported.graph.input)} inputs and {len(exported.graph.output)} outputs"
        )
    shuffled = recover_depth_to_space(exported)
    try:
        return _checked(exporter, shuffled, spec, axes, references, tolerance)
    except CheckFailedError:
        if shuffled is exported:
            raise
        return _checked(exporter, exported, spec, axes, references, tolerance)


def _checked(
    exporter: str,
    model: onnx.ModelProto,
    spec: ModelSpec,
    axes: AxesRequest,
    references: Sequence[CropReference],
    tolerance: float,
) -> _Attempt:
    """Clean `model` and compare it. Raises CheckFailedError if it is wrong or does not run."""
    count: int | str = "n" if axes.batch else 1
    tall, wide = axes.fixed or ("h", "w")
    large: tuple[int | str, int | str] = (
        (axes.fixed[0] * spec.scale, axes.fixed[1] * spec.scale) if axes.fixed else ("H", "W")
    )
    if spec.scale == 1 and not axes.fixed:
        large = ("h", "w")
    clean_graph(model, [count, spec.channels, tall, wide], [count, spec.channels, *large])
    try:
        parity = compare_crops(references, model, spec, tolerance)
    except CheckFailedError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class but this one
        raise CheckFailedError(
            f"{spec.name}: ONNX Runtime cannot run the export ({one_line(error)})"
        ) from error
    if not parity.passed:
        raise CheckFailedError(
            f"{spec.name}: ONNX Runtime differs from torch by {parity.largest}; expected at most {tolerance:.1e}"
        )
    return _Attempt(exporter, model, parity)
